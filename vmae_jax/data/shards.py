"""Shards on disk: TFRecord files, each with an index beside it.

A shard is a plain TFRecord file, so any TFRecord reader understands it:

    u64 length | u32 masked CRC-32C of the length | payload | u32 masked CRC-32C of the payload

Its index `<shard>.idx` makes every record reachable without a scan (all numbers little-endian):

    magic | u32 CRC-32C of all that follows | u64 count | u64 shard size
    | u64 payload offsets | u64 payload lengths | u32 masked payload CRCs

The index is written after its shard, so a shard with an index is whole. Shards lie on a local path
or at any URL that `fsspec` knows (gs://, s3://, memory://).
"""

import contextlib
import dataclasses
import os
import struct
import tempfile
from collections.abc import Sequence

import fsspec
import google_crc32c
import numpy as np

_MAGIC = b"VMAEIDX1"
_INDEX_CRC = struct.Struct("<8sI")
_INDEX_COUNTS = struct.Struct("<QQ")
_INDEX_ROW_SIZE = 8 + 8 + 4
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_SIZE = _LENGTH.size + _CRC.size
FOOTER_SIZE = _CRC.size
_FRAMING_SIZE = HEADER_SIZE + FOOTER_SIZE


class ShardError(ValueError):
    """A shard or its index cannot be used."""


def index_path(shard: str) -> str:
    return f"{shard}.idx"


def is_url(path: str) -> bool:
    return "://" in path


def masked_crc(data: bytes) -> int:
    """TFRecord's CRC: rotated and offset, so that a CRC of data that holds CRCs stays strong."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header(length: int) -> bytes:
    """What stands before a payload of `length` bytes."""
    packed = _LENGTH.pack(length)
    return packed + _CRC.pack(masked_crc(packed))


def footer(payload_crc: int) -> bytes:
    """What stands behind a payload with this masked CRC."""
    return _CRC.pack(payload_crc)


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Where each record's payload lies in a shard of `shard_size` bytes, and its masked CRC.

    `offsets` and `lengths` are u64[N] in bytes, `crcs` is u32[N].
    """

    shard_size: int
    offsets: np.ndarray
    lengths: np.ndarray
    crcs: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)

    def to_bytes(self) -> bytes:
        columns = (self.offsets.astype("<u8"), self.lengths.astype("<u8"), self.crcs.astype("<u4"))
        body = _INDEX_COUNTS.pack(len(self), self.shard_size)
        body += b"".join(column.tobytes() for column in columns)
        return _INDEX_CRC.pack(_MAGIC, google_crc32c.value(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> "Index":
        """Parses and checks an index file.

        Raises:
          ShardError: unless it is whole and describes records that fill the shard without a gap.
        """
        remedy = f"delete {path} to have it rebuilt from its shard"
        head = _INDEX_CRC.size + _INDEX_COUNTS.size
        if len(data) < head or not data.startswith(_MAGIC):
            raise ShardError(f"{path}: not an index of a shard ({len(data)} bytes); {remedy}")
        _, crc = _INDEX_CRC.unpack_from(data)
        if google_crc32c.value(data[_INDEX_CRC.size :]) != crc:
            raise ShardError(f"{path}: the index fails its checksum; {remedy}")
        count, shard_size = _INDEX_COUNTS.unpack_from(data, _INDEX_CRC.size)
        if len(data) != head + count * _INDEX_ROW_SIZE:
            raise ShardError(
                f"{path}: {len(data)} bytes do not hold the {count} records it claims; {remedy}"
            )
        offsets = np.frombuffer(data, "<u8", count, head)
        lengths = np.frombuffer(data, "<u8", count, head + 8 * count)
        crcs = np.frombuffer(data, "<u4", count, head + 16 * count)
        index = cls(shard_size, offsets, lengths, crcs)
        if not index._fills_shard():
            raise ShardError(
                f"{path}: its records do not fill a shard of {shard_size} bytes one after the "
                f"other; {remedy}"
            )
        return index

    def _fills_shard(self) -> bool:
        # Each length is bounded first: the sums below then cannot wrap around in u64.
        if len(self) * _FRAMING_SIZE > self.shard_size or np.any(self.lengths > self.shard_size):
            return False
        ends = np.cumsum(self.lengths + np.uint64(_FRAMING_SIZE))
        starts = np.concatenate([np.zeros(1, np.uint64), ends])
        return int(starts[-1]) == self.shard_size and np.array_equal(
            starts[:-1] + np.uint64(HEADER_SIZE), self.offsets
        )


def _index_of(records: Sequence[tuple[int, int, int]], shard_size: int) -> Index:
    table = np.array(records, np.uint64).reshape(-1, 3)
    return Index(shard_size, table[:, 0], table[:, 1], table[:, 2].astype(np.uint32))


class ShardWriter:
    """Writes one shard and its index; used as a context manager.

    Both appear only when the block ends without an error, the index last: until then, and after
    an error or a kill, there is no file under either name. A shard that was there before is
    replaced.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self._records: list[tuple[int, int, int]] = []
        self._size = 0

    def __enter__(self) -> "ShardWriter":
        if is_url(self.path):
            # An object store shows a file only once it is complete: collect it here, upload once.
            handle, self._draft = tempfile.mkstemp(suffix=".incomplete")
            self._file = os.fdopen(handle, "wb")
        else:
            self._draft = f"{self.path}.incomplete"
            self._file = open(self._draft, "wb")
        return self

    def write(self, payload: bytes) -> None:
        crc = masked_crc(payload)
        self._file.write(header(len(payload)))
        self._file.write(payload)
        self._file.write(footer(crc))
        self._records.append((self._size + HEADER_SIZE, len(payload), crc))
        self._size += _FRAMING_SIZE + len(payload)

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            with self._file:
                if error_type is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if error_type is None:
                self._publish(_index_of(self._records, self._size).to_bytes())
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._draft)

    def _publish(self, index: bytes) -> None:
        target = index_path(self.path)
        if is_url(self.path):
            fs, remote = fsspec.core.url_to_fs(self.path)
            if fs.exists(index_path(remote)):
                fs.rm(index_path(remote))
            fs.put_file(self._draft, remote)
            fs.pipe_file(index_path(remote), index)
            return
        # An index of an older shard must never stand beside the new one.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        os.replace(self._draft, self.path)
        with open(f"{target}.incomplete", "wb") as file:
            file.write(index)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{target}.incomplete", target)


class LocalFile:
    """A descriptor that closes when its last user lets go, also while others are evicted."""

    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end) that exist."""
        return os.pread(self._descriptor, end - start, start)

    def __del__(self):
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class RemoteFile:
    """A file at a URL, read by ranges."""

    def __init__(self, url: str):
        self._fs, self._path = fsspec.core.url_to_fs(url)

    def size(self) -> int:
        return self._fs.size(self._path)

    def read(self, start: int, end: int) -> bytes:
        return self._fs.cat_file(self._path, start=start, end=end)


def open_file(path: str) -> LocalFile | RemoteFile:
    return RemoteFile(path) if is_url(path) else LocalFile(path)


def _scan(file: LocalFile | RemoteFile, path: str) -> Index:
    """Index of a shard without one, from its record headers."""
    size, position, records = file.size(), 0, []
    while position < size:
        head = file.read(position, position + HEADER_SIZE)
        where = f"{path}: record {len(records)} at byte {position}"
        if len(head) < HEADER_SIZE:
            raise ShardError(f"{where}: the shard ends within its header; build the shard again")
        (length,) = _LENGTH.unpack_from(head)
        if head != header(length):
            raise ShardError(f"{where}: its length fails its checksum; build the shard again")
        offset, end = position + HEADER_SIZE, position + _FRAMING_SIZE + length
        if end > size:
            raise ShardError(
                f"{where}: {length} bytes of payload, but the shard ends at byte {size}; build the "
                "shard again"
            )
        (payload_crc,) = _CRC.unpack(file.read(offset + length, end))
        records.append((offset, length, payload_crc))
        position = end
    return _index_of(records, size)


def read_index(path: str | os.PathLike) -> Index:
    """Index of the shard at `path`: from `<path>.idx`, or by a scan where there is none.

    Raises:
      ShardError: where the shard is missing or cut, or its index is damaged or of another shard.
    """
    path = os.fspath(path)
    try:
        file = open_file(path)
        size = file.size()
        try:
            index_file = open_file(index_path(path))
            data = index_file.read(0, index_file.size())
        except FileNotFoundError:
            return _scan(file, path)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: no such shard; build it again") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error}") from error
    index = Index.from_bytes(data, index_path(path))
    if index.shard_size != size:
        raise ShardError(
            f"{path}: found {size} bytes, its index describes {index.shard_size}: the shard was "
            "cut, replaced or is being written; build it again"
        )
    return index
