"""The search of `unique.py` as a Beam pipeline: the functions of `pairs.py` with shuffles between.

    pieces of clips -> rows of each band, by a share of the keys -> pairs of clips
    pairs -> with the hashes of the first clips -> with those of the second -> matches

What travels are numpy arrays of thousands of rows. No worker holds more than its share; the process
that asks holds all hashes once, 8 bytes each.
"""

import collections
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vmae_jax.data.build.beam import pipeline_options, runner_of
from vmae_jax.data.build.items import BuildError
from vmae_jax.data.curate import pairs
from vmae_jax.data.curate.items import CurationError
from vmae_jax.data.curate.pairs import Limits, Rows, Table

_PIECE = 20_000  # clips that a worker takes at a time
_KEYS = np.uint64(32)  # bits of a place below its key
_COUNTERS = "unique"


def compare(
    table: Table, limits: Limits, counts: collections.Counter, beam_options: str
) -> np.ndarray:
    """All matches of a table, pairs.MATCH[...], found where `beam_options` say.

    Raises:
      CurationError: where Beam is not installed, or other machines have no place to share files.
    """
    try:
        options = pipeline_options(beam_options)
    except BuildError as error:
        raise CurationError(str(error)) from error
    from apache_beam.io.filesystems import FileSystems

    shared = options.get_all_options().get("temp_location")
    if not shared and runner_of(options) not in ("DirectRunner", "BundleBasedDirectRunner"):
        raise CurationError(
            f"--beam_options: runner={runner_of(options)} may use other machines; add "
            "temp_location=, a folder that all of them reach"
        )
    with tempfile.TemporaryDirectory(prefix="vmae-jax-unique-") as local:
        folder = FileSystems.join(shared, os.path.basename(local)) if shared else local
        if shared:
            FileSystems.mkdirs(folder)
        try:
            return _run(table, limits, counts, options, folder)
        finally:
            if shared:
                FileSystems.delete([folder])


def _run(
    table: Table, limits: Limits, counts: collections.Counter, options: Any, folder: str
) -> np.ndarray:
    import apache_beam as beam
    from apache_beam.io.filesystems import FileSystems

    paths, pieces = [], max(1, -(-len(table.numbers) // _PIECE))
    for i, rows in enumerate(np.array_split(np.arange(len(table.numbers)), pieces)):
        paths.append(FileSystems.join(folder, f"clips-{i}.npz"))
        _write(paths[-1], **vars(table.take(rows)))
    pipeline = beam.Pipeline(runner_of(options), options)
    clips = pipeline | "Pieces" >> beam.Create(paths) | "Spread" >> beam.Reshuffle()
    clips |= "Read" >> beam.Map(_read)
    parts = clips | "By part" >> beam.FlatMap(_by_part)
    found = (
        clips
        | "Bands" >> beam.FlatMap(_band_rows, pieces)
        | "By key" >> beam.GroupByKey()
        | "Join" >> beam.FlatMap(_join, table.others, limits)
    )
    found = {"clips": parts, "pairs": found} | "With first" >> beam.CoGroupByKey()
    found |= "First" >> beam.FlatMap(_with_first)
    found = {"clips": parts, "pairs": found} | "With second" >> beam.CoGroupByKey()
    found |= "Verify" >> beam.FlatMap(_verify, limits)
    _ = found | "Write" >> beam.Map(_write_matches, folder)
    result = pipeline.run()
    result.wait_until_finish()
    for counter in result.metrics().query()["counters"]:
        if counter.key.metric.namespace == _COUNTERS:
            counts[counter.key.metric.name] += counter.result
    (listed,) = FileSystems.match([FileSystems.join(folder, "matches-*")])
    blocks = [_load(file.path)["matches"] for file in listed.metadata_list]
    matches = np.concatenate([np.empty(0, pairs.MATCH), *blocks])
    return matches[np.argsort(matches, order=("a", "b", "mirrored"))]


def _read(path: str) -> Table:
    arrays = _load(path)
    return Table(**{**arrays, "others": int(arrays["others"])})


def _by_part(table: Table) -> Iterator[tuple[int, Table]]:
    """Parts are the same for all: clips by their numbers, `_PIECE` each."""
    parts = table.numbers // _PIECE
    for part in np.unique(parts).tolist():
        yield part, table.take(np.flatnonzero(parts == part))


def _band_rows(table: Table, shares: int) -> Iterator[tuple[tuple[int, int], Rows]]:
    for band in range(pairs.NUM_BANDS):
        rows = pairs.band_rows(table, band)
        share = (rows.places >> _KEYS) % np.uint64(shares)
        for i in range(shares):
            mine = share == i
            if mine.any():
                yield (band, i), Rows(rows.places[mine], rows.hashes[mine])


def _join(
    element: tuple[Any, Iterable[Rows]], others: int, limits: Limits
) -> Iterator[tuple[int, np.ndarray]]:
    codes, counts = pairs.join(list(element[1]), others, limits)
    _count(counts)
    first, _, _ = pairs.unpack(codes)
    yield from _split(codes, first)


def _with_first(element: tuple[int, dict]) -> Iterator[tuple[int, tuple[np.ndarray, Table]]]:
    """Pairs, each once, with the hashes of their first clips; by the part of the second."""
    blocks = list(element[1]["pairs"])
    if blocks:
        codes = np.unique(np.concatenate(blocks))
        table = _merge(element[1]["clips"])
        for part, some in _split(codes, pairs.unpack(codes)[1]):
            needed = np.unique(pairs.unpack(some)[0])
            yield part, (some, table.take(np.searchsorted(table.numbers, needed)))


def _verify(element: tuple[int, dict], limits: Limits) -> Iterator[np.ndarray]:
    blocks = list(element[1]["pairs"])
    for codes, first in blocks:
        own = _merge(element[1]["clips"])
        matches, counts = pairs.verify(codes, _merge([first, own]), limits)
        _count(counts)
        if len(matches):
            yield matches


def _merge(tables: Iterable[Table]) -> Table:
    """The clips of several tables, each once, in the order of their numbers."""
    hashes = {n: h for table in tables for n, h in table.by_number().items()}
    numbers = sorted(hashes)
    return Table.of(numbers, [hashes[n] for n in numbers])


def _split(codes: np.ndarray, clips: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for part in np.unique(clips // _PIECE).tolist():
        yield part, codes[clips // _PIECE == part]


def _count(counts: collections.Counter) -> None:
    from apache_beam.metrics import Metrics

    for name, number in counts.items():
        Metrics.counter(_COUNTERS, name).inc(number)


def _write_matches(matches: np.ndarray, folder: str) -> None:
    from apache_beam.io.filesystems import FileSystems

    # Named by what is in it: a piece of work that is done twice writes the same file again.
    first = "-".join(map(str, matches[["a", "b", "mirrored"]][0].tolist()))
    _write(FileSystems.join(folder, f"matches-{first}.npz"), matches=matches)


def _write(path: str, **arrays: Any) -> None:
    from apache_beam.io.filesystems import FileSystems

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with FileSystems.create(path, compression_type="uncompressed") as file:
        file.write(buffer.getvalue())


def _load(path: str) -> dict[str, np.ndarray]:
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.open(path, compression_type="uncompressed") as file:
        return dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
