"""Time and memory of finding duplicates among clips that are made up.

One clip in ten is a copy of another one: shifted, with wrong bits, every second one mirrored.

  python -m vmae_jax.data.curate.unique_bench --records=10000,30000,100000
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np
from absl import app, flags

from vmae_jax import command
from vmae_jax.data.curate import unique
from vmae_jax.data.curate.hashes import mirrored
from vmae_jax.data.curate.items import HASHES_PER_SECOND, Clip

_RECORDS = flags.DEFINE_list("records", ["10000", "30000", "100000"], "Numbers of clips to try.")
_BEAM = flags.DEFINE_string(
    "beam_options", None, "Through Beam, as in runner=DirectRunner,direct_num_workers=2."
)
_SECONDS = 10  # of a clip
_COPIES = 10  # one clip in so many is a copy of one that is none
_NOISE = 0.05  # of a copy's bits are wrong: a little more than after a crop of 5 %
_CHANGE = 0.1  # of the bits change from one frame to the next
_SHIFT = 2  # steps that a copy begins later
_CHUNK = 1000  # clips


def records(number: int, seed: int = 0) -> Iterator[list[Clip]]:
    """Chunks of clips; those whose number ends in 9 are copies of the one 9 before."""
    rng, steps = np.random.default_rng(seed), _SECONDS * HASHES_PER_SECOND
    for first in range(0, number, _CHUNK):
        chunk = []
        for i in range(first, min(first + _CHUNK, number)):
            if i % _COPIES != _COPIES - 1:
                hashes = np.bitwise_xor.accumulate(
                    np.append(rng.integers(0, 2**64, 1, np.uint64), _noise(rng, steps - 1, _CHANGE))
                )
            else:
                hashes = chunk[-_COPIES + 1].hashes[_SHIFT:] ^ _noise(rng, steps - _SHIFT, _NOISE)
                hashes = mirrored(hashes) if i // _COPIES % 2 else hashes
            chunk.append(Clip(f"{i:09d}", 0, 0.0, len(hashes) / HASHES_PER_SECOND, {}, hashes))
        yield chunk


def _noise(rng: np.random.Generator, number: int, share: float) -> np.ndarray:
    return np.packbits(rng.random((number, 64)) < share, axis=1).view(np.uint64)[:, 0]


def measure(number: int, beam_options: str | None) -> tuple[float, float, float, float]:
    """Seconds, peak memory of the process in bytes, recall and precision."""
    chunks = list(records(number))
    start = time.perf_counter()
    groups = unique.find_groups(chunks, {}, beam_options=beam_options)
    seconds = time.perf_counter() - start
    found = {(match.a, match.b) for group in groups for match in group.matches}
    true = {(f"{i:09d}#0", f"{i - 9:09d}#0") for i in range(_COPIES - 1, number, _COPIES)}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    right = len(found & true)
    return seconds, peak, right / max(1, len(true)), right / max(1, len(found))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    wrong = [number for number in _RECORDS.value if not number.isdecimal()]
    if wrong:
        raise app.UsageError(f"--records: {wrong[0]!r}: expected numbers, as in 10000,30000")
    print(f"{os.cpu_count()} cores, clips of {_SECONDS} s, 1 of {_COPIES} a copy")
    print("    clips   seconds   clips/s   peak MB   recall  precision")
    for number in map(int, _RECORDS.value):
        with multiprocessing.get_context("spawn").Pool(1) as fresh:  # its peak is its own
            seconds, peak, recall, precision = fresh.apply(measure, (number, _BEAM.value))
        print(
            f"{number:>9,} {seconds:>9.1f} {number / seconds:>9,.0f} {peak / 1e6:>9,.0f} "
            f"{recall:>8.2%} {precision:>10.2%}",
            flush=True,
        )


if __name__ == "__main__":
    command.run(main)
