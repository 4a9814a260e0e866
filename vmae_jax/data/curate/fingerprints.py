"""What a set remembers of its clips, in one small file: to find the same clips in later sets."""

import dataclasses
import struct
from collections.abc import Iterable, Mapping, Sequence

import google_crc32c
import numpy as np
from etils import epath

from vmae_jax import special
from vmae_jax.data.curate.items import Clip, CurationError

_MAGIC = b"vmae_jax fingerprints 1\n"  # the number goes up with the layout, or what a hash means
_HEAD = struct.Struct("<IQQQ")  # CRC-32C of all that follows; clips, hashes, bytes of their ids
_DIGEST = 32  # bytes of a SHA-256


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """Clips of another set: `ids` as in `Clip.id`, u64[N] `hashes` of each, SHA-256 by item."""

    name: str  # of the set
    ids: tuple[str, ...]
    hashes: tuple[np.ndarray, ...]
    digests: Mapping[str, str]  # hexadecimal


def item_of(clip: str) -> str:
    """The item of a clip's id."""
    return clip.rpartition("#")[0]


def save_fingerprints(
    path: str, chunks: Iterable[Sequence[Clip]], digests: Mapping[str, str]
) -> None:
    """Writes a file for `load_fingerprints`: the same bytes for the same clips in any order.

    Args:
      path: local, or any URL that etils.epath writes.
      chunks: the clips that the set holds.
      digests: SHA-256 of the files in hexadecimal, by item; '' or none where it is unknown.
    """
    clips = sorted((clip for chunk in chunks for clip in chunk), key=lambda clip: clip.id)
    ids = [clip.id.encode("utf-8", "surrogateescape") for clip in clips]
    known = [bytes.fromhex(digests.get(clip.item, "")) for clip in clips]
    columns = (
        np.array([len(name) for name in ids], "<u4").tobytes(),
        np.array([len(clip.hashes) for clip in clips], "<u4").tobytes(),
        b"".join(digest or bytes(_DIGEST) for digest in known),
        *(np.asarray(clip.hashes, "<u8").tobytes() for clip in clips),
        *ids,
    )
    body = b"".join(columns)
    counts = (len(clips), sum(len(clip.hashes) for clip in clips), sum(map(len, ids)))
    checked = _HEAD.pack(0, *counts)[4:] + body
    data = _MAGIC + struct.pack("<I", google_crc32c.value(checked)) + checked
    target = epath.Path(path)
    draft = target.with_name(f"{target.name}.incomplete")
    draft.write_bytes(data)
    draft.replace(target)


def load_fingerprints(path: str) -> Fingerprints:
    """Reads a file of `save_fingerprints`; the set is named as the file, without its ending.

    Raises:
      CurationError: where it is missing, of another kind or version, or damaged.
    """
    file = epath.Path(path)
    try:
        special.check(path)
        data = file.read_bytes()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise CurationError(f"{path}: the fingerprints cannot be read ({why})") from error
    start = len(_MAGIC) + _HEAD.size
    if not data.startswith(_MAGIC):
        kind = data[: len(_MAGIC)].split(b"\n")[0]
        raise CurationError(
            f"{path}: begins with {kind!r}, not with {_MAGIC[:-1].decode()!r}: no fingerprints, or "
            "of another version; make them again from the set's clips"
        )
    remedy = "copy it again, or make it again from the set's clips"
    if len(data) < start:
        raise CurationError(f"{path}: cut short after {len(data)} bytes; {remedy}")
    crc, clips, hashes, letters = _HEAD.unpack_from(data, len(_MAGIC))
    size = start + clips * (8 + _DIGEST) + hashes * 8 + letters
    if len(data) != size:
        raise CurationError(f"{path}: {len(data)} bytes where it says {size}; {remedy}")
    if google_crc32c.value(data[len(_MAGIC) + 4 :]) != crc:
        raise CurationError(f"{path}: fails its checksum; {remedy}")
    return _parse(file.stem, data, start, clips, hashes)


def _parse(name: str, data: bytes, start: int, clips: int, hashes: int) -> Fingerprints:
    lengths = np.frombuffer(data, "<u4", 2 * clips, start).astype(np.int64)
    place = start + lengths.size * 4
    digests = [data[place + i * _DIGEST :][:_DIGEST] for i in range(clips)]
    place += clips * _DIGEST
    every = np.frombuffer(data, "<u8", hashes, place).astype(np.uint64)
    place += hashes * 8
    ends = place + np.cumsum(lengths[:clips])
    ids = tuple(
        data[end - size : end].decode("utf-8", "surrogateescape")
        for end, size in zip(ends.tolist(), lengths[:clips].tolist(), strict=True)
    )
    parts = np.split(every, np.cumsum(lengths[clips:])[:-1]) if clips else []
    known = {item_of(i): d.hex() for i, d in zip(ids, digests, strict=True) if any(d)}
    return Fingerprints(name, ids, tuple(parts), known)
