"""Random access to the records of a data set, checked at every read.

Shards, their indexes and how they are written: `shards.py`.
"""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
import os
from collections.abc import Sequence

import fsspec

from vmae_jax import lists
from vmae_jax.data.shards import (
    FOOTER_SIZE,
    HEADER_SIZE,
    ShardError,
    footer,
    header,
    masked_crc,
    open_file,
    read_index,
)

_MAX_OPEN_FILES = 256


class DatasetError(ValueError):
    """A dataset directory, or a split of it, cannot be used."""


class RecordError(ValueError):
    """One record cannot be used; `shard` (its path) and `record` (its place there) say which."""

    def __init__(self, reason: str, shard: str = "", record: int = -1):
        super().__init__(reason)
        self.reason, self.shard, self.record = reason, shard, record

    def __str__(self) -> str:
        return f"{self.shard}[{self.record}]: {self.reason}" if self.shard else self.reason


class RecordSource:
    """Random access to the records of many shards; safe in threads, can be pickled.

    Records are numbered through all shards in the order of `paths`. Every read checks the record's
    length and payload against their checksums.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]):
        self.paths = tuple(os.fspath(path) for path in paths)
        self.indexes = tuple(read_index(path) for path in self.paths)
        self._ends = list(itertools.accumulate(map(len, self.indexes)))
        self._file = functools.lru_cache(_MAX_OPEN_FILES)(open_file)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_file"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _file=functools.lru_cache(_MAX_OPEN_FILES)(open_file))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"RecordSource({len(self)} records in {len(self.paths)} shards)"

    def locate(self, i: int) -> tuple[str, int]:
        """Path of the shard that holds record `i`, and its place there."""
        shard, record = self._place(i)
        return self.paths[shard], record

    def name(self, i: int) -> str:
        """Record `i` in words: FILE[place in it]."""
        path, place = self.locate(i)
        return f"{os.path.basename(path)}[{place}]"

    def _place(self, i: int) -> tuple[int, int]:
        i = operator.index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"record {i}: there are {len(self)}")
        shard = bisect.bisect_right(self._ends, i)
        return shard, i - (self._ends[shard] - len(self.indexes[shard]))

    def __getitem__(self, i: int) -> bytes:
        """Payload of record `i`.

        Raises:
          RecordError: where the record's bytes are not those that were written.
          ShardError: where the shard cannot be read at all.
        """
        shard, record = self._place(i)
        path, index = self.paths[shard], self.indexes[shard]
        offset, length = int(index.offsets[record]), int(index.lengths[record])
        start, end = offset - HEADER_SIZE, offset + length + FOOTER_SIZE
        try:
            data = self._file(path).read(start, end)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read: {error}") from error
        if len(data) != end - start:
            raise RecordError(f"cut at byte {start + len(data)} of {end}", path, record)
        if data[:HEADER_SIZE] != header(length):
            raise RecordError(f"its length is not the {length} bytes of the index", path, record)
        payload = data[HEADER_SIZE:-FOOTER_SIZE]
        crc = masked_crc(payload)
        if crc != int(index.crcs[record]) or data[-FOOTER_SIZE:] != footer(crc):
            raise RecordError(f"its {length} bytes fail their checksum", path, record)
        return payload


def fingerprint(source: RecordSource) -> str:
    """16 hex digits that change with the name, layout or content of any shard, not with the folder.

    They rest on the payload checksums in the indexes: no payload is read.
    """
    digest = hashlib.sha256()
    for path, index in zip(source.paths, source.indexes, strict=True):
        digest.update(os.path.basename(path).encode() + b"\0" + index.to_bytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a dataset directory, opened. `label_names` is empty for unlabelled videos."""

    path: str
    name: str
    split: str
    source: RecordSource
    fingerprint: str
    label_names: tuple[str, ...]


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"


_HOW_TO_BUILD = "build one with: python -m vmae_jax.data.build --videos=FOLDER --out={path}"


def _read_text(path: str) -> str:
    with fsspec.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def _read_info(path: str) -> dict:
    try:
        return json.loads(_read_text(_join(path, "dataset_info.json")))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: no dataset here (dataset_info.json is missing); "
            + _HOW_TO_BUILD.format(path=path)
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path}: dataset_info.json is damaged ({error})") from error


def open_dataset(path: str | os.PathLike, split: str = "train") -> Dataset:
    """Opens a split of a TFDS directory whose shards have indexes; or several, as in 'a+b'.

    Raises:
      DatasetError: where there is no such dataset or split, or the split is empty.
      ShardError: where a shard is missing, cut, or does not match the metadata.
    """
    path = os.fspath(path).rstrip("/")
    info = _read_info(path)
    try:
        name = info["name"]
        suffix = info.get("fileFormat", "tfrecord")
        # JSON of protocol buffers writes 64-bit numbers as strings.
        splits = {s["name"]: [int(n) for n in s.get("shardLengths", ())] for s in info["splits"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: dataset_info.json lacks {error}") from error
    paths, lengths = [], []
    for part in split.split("+"):
        if part not in splits:
            found = ", ".join(sorted(splits)) or "none"
            raise DatasetError(f"{path}: no split '{part}'; there are: {found}")
        count, stem = len(splits[part]), f"{name}-{part}.{suffix}"
        paths += [_join(path, f"{stem}-{i:05d}-of-{count:05d}") for i in range(count)]
        lengths += splits[part]
    if not sum(lengths):
        raise DatasetError(f"{path}: split '{split}' is empty; " + _HOW_TO_BUILD.format(path=path))
    source = RecordSource(paths)
    for shard, index, expected in zip(paths, source.indexes, lengths, strict=True):
        if len(index) != expected:
            raise ShardError(
                f"{shard}: found {len(index)} records, dataset_info.json says {expected}; build "
                "the dataset again"
            )
    return Dataset(path, name, split, source, fingerprint(source), label_names(path))


def label_names(path: str) -> tuple[str, ...]:
    """The classes of a dataset directory in their order; () where its videos have no labels.

    Raises:
      DatasetError: where they are not as many as features.json says.
    """
    try:
        names = tuple(
            lists.lines(_read_text(_join(path, "label.labels.txt")).removeprefix("\ufeff"))
        )
    except FileNotFoundError:
        return ()
    try:
        label = json.loads(_read_text(_join(path, "features.json")))["featuresDict"]["features"]
        count = int(label["label"]["classLabel"]["numClasses"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return names
    if len(names) != count:
        raise DatasetError(
            f"{path}: label.labels.txt names {len(names)} classes, features.json has {count}: a "
            "name holds a line break; rename the class and build the dataset again"
        )
    return names


def class_order(path: str) -> str:
    """Where the classes' numbers come from, in words; '' where the builder did not note it."""
    try:
        return str(json.loads(_read_text(_join(path, "metadata.json"))).get("class_order", ""))
    except (OSError, ValueError, AttributeError):  # none, or not the builder's
        return ""
