"""Shards: what is written is read back, and nothing else ever is."""

import collections
import concurrent.futures
import pickle
import shutil
import struct
import tracemalloc
from pathlib import Path

import google_crc32c
import grain
import numpy as np
import pytest
from tensorboardX.record_writer import RecordWriter
from tiny_dataset import write_dataset

from vmae_jax.data import records
from vmae_jax.data.records import (
    DatasetError,
    RecordError,
    RecordSource,
    fingerprint,
    open_dataset,
)
from vmae_jax.data.shards import ShardError, ShardWriter, masked_crc, read_index

PAYLOADS = [bytes([i]) * (i * 37 % 101) for i in range(12)]


def write(path: Path, payloads=PAYLOADS) -> Path:
    with ShardWriter(path) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def index_of(path: Path) -> Path:
    return path.with_name(path.name + ".idx")


def test_reads_back_what_was_written_through_all_shards(tmp_path):
    paths = [
        write(tmp_path / "a", PAYLOADS[:5]),
        write(tmp_path / "b", []),
        write(tmp_path / "c", PAYLOADS[5:]),
    ]
    source = RecordSource(paths)
    assert [source[i] for i in range(len(source))] == PAYLOADS
    assert source.locate(4) == (str(paths[0]), 4)
    assert source.locate(5) == (str(paths[2]), 0)
    for outside in (-1, len(PAYLOADS)):
        with pytest.raises(IndexError, match="there are 12"):
            source[outside]


def test_other_tfrecord_writers_and_readers_agree(tmp_path):
    ours = write(tmp_path / "ours")
    theirs = RecordWriter(str(tmp_path / "theirs"))
    for payload in PAYLOADS:
        theirs.write(payload)
    theirs.close()
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert list(grain.experimental.TFRecordIterDataset(str(ours))) == PAYLOADS


def test_a_shard_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "shard"
    with ShardWriter(path) as writer:
        writer.write(b"x" * 100_000)
        assert not path.exists()
    with pytest.raises(TypeError), ShardWriter(tmp_path / "broken") as writer:
        writer.write("not bytes")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard", "shard.idx"]


def test_rewriting_a_shard_replaces_its_index(tmp_path):
    path = write(tmp_path / "shard")
    write(path, [b"new"])
    assert RecordSource([path])[0] == b"new"
    assert len(RecordSource([path])) == 1


def test_without_an_index_the_shard_is_scanned(tmp_path):
    path = write(tmp_path / "shard")
    before = fingerprint(RecordSource([path]))
    index_of(path).unlink()
    source = RecordSource([path])
    assert [source[i] for i in range(len(source))] == PAYLOADS
    assert fingerprint(source) == before


def test_unusable_shards_are_named(tmp_path):
    with pytest.raises(ShardError, match="nowhere: no such shard"):
        read_index(tmp_path / "nowhere")
    path = write(tmp_path / "shard")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ShardError, match=f"shard: found {len(whole) - 1} bytes, .* {len(whole)}"):
        read_index(path)
    index_of(path).unlink()
    with pytest.raises(ShardError, match="record 11 at byte"):
        read_index(path)


def test_a_record_changed_on_disk_is_named(tmp_path):
    path = write(tmp_path / "shard")
    source = RecordSource([path])
    data = bytearray(path.read_bytes())
    data[int(source.indexes[0].offsets[3]) + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"shard\[3\]: its 10 bytes fail their checksum") as found:
        source[3]
    assert (found.value.shard, found.value.record) == (str(path), 3)
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)
    assert source[4] == PAYLOADS[4]


def test_another_shard_of_the_same_layout_is_not_mistaken_for_this_one(tmp_path):
    path, changed = write(tmp_path / "a"), write(tmp_path / "b", [bytes(len(p)) for p in PAYLOADS])
    source = RecordSource([path])
    shutil.copyfile(changed, path)
    with pytest.raises(RecordError, match="checksum"):
        source[3]


def test_source_survives_pickling_and_threads_that_evict_each_others_files(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_MAX_OPEN_FILES", 1)
    paths = [write(tmp_path / str(i), [b"%d" % i * 1000]) for i in range(8)]
    source = pickle.loads(pickle.dumps(RecordSource(paths)))
    order = np.random.default_rng(0).integers(8, size=2000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, order)) == [b"%d" % i * 1000 for i in order]


def test_shards_behind_a_url():
    url = "memory://records/shard"
    with ShardWriter(url) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    source = pickle.loads(pickle.dumps(RecordSource([url])))
    assert [source[i] for i in range(len(source))] == PAYLOADS
    with pytest.raises(ShardError, match="memory://records/none: no such shard"):
        RecordSource(["memory://records/none"])


# ---- Fuzzing ----

_NUMBERS = (0, 1, 11, 13, 255, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 17, 2**64 - 1)


def _flip(data: bytearray, rng) -> None:
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def _cut(data: bytearray, rng) -> None:
    del data[rng.integers(len(data)) :]


def _grow(data: bytearray, rng) -> None:
    data += rng.bytes(int(rng.integers(1, 40)))


def _forge_length(data: bytearray, rng) -> None:
    """A record's length field, with a checksum that fits in half of the cases."""
    position = 0
    for _ in range(rng.integers(len(PAYLOADS))):
        position += 16 + struct.unpack_from("<Q", data, position)[0]
    length = struct.pack("<Q", _NUMBERS[rng.integers(len(_NUMBERS))])
    data[position : position + 8] = length
    if rng.integers(2):
        data[position + 8 : position + 12] = struct.pack("<I", masked_crc(length))


def _forge_index(data: bytearray, rng) -> None:
    """Any number of the index, with a checksum that fits."""
    position = 12 + 8 * int(rng.integers((len(data) - 12) // 8))
    data[position : position + 8] = struct.pack("<Q", _NUMBERS[rng.integers(len(_NUMBERS))])
    data[8:12] = struct.pack("<I", google_crc32c.value(bytes(data[12:])))


def _read_all(directory: str) -> list[str]:
    """What reading a mutated shard ends in; any other exception or payload fails the test."""
    try:
        source = open_dataset(directory).source
    except ShardError as error:
        return ["ShardError" if directory in str(error) else f"ShardError without a name: {error}"]
    outcomes = []
    for i, payload in enumerate(PAYLOADS):
        try:
            outcomes.append("right" if source[i] == payload else f"record {i} is wrong")
        except RecordError as error:
            named = error.shard in source.paths and error.record == i
            outcomes.append("RecordError" if named else f"RecordError without a name: {error}")
    return outcomes


def test_two_thousand_mutations_end_in_the_right_record_or_a_named_error(tmp_path):
    directory = write_dataset(tmp_path / "set", PAYLOADS, shards=1)
    path = tmp_path / "set" / "videos-train.tfrecord-00000-of-00001"
    shard, index = path.read_bytes(), index_of(path).read_bytes()
    on_shard, on_index = (_flip, _cut, _grow, _forge_length), (_flip, _cut, _grow, _forge_index)
    rng = np.random.default_rng(0)
    outcomes, most = collections.Counter(), 0
    tracemalloc.start()
    for _ in range(2000):
        data, table = bytearray(shard), bytearray(index)
        if rng.integers(2):
            on_shard[rng.integers(4)](data, rng)
        else:
            on_index[rng.integers(4)](table, rng)
        path.write_bytes(data)
        index_of(path).write_bytes(table)
        if rng.integers(4) == 0:
            index_of(path).unlink()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        outcomes.update(_read_all(directory))
        most = max(most, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert outcomes.keys() == {"right", "RecordError", "ShardError"}
    assert min(outcomes.values()) > 100, outcomes
    # Some copies of these small files, and the objects of the interpreter around them.
    assert most < 4 * (len(shard) + len(index)) + 100_000


# ---- Data sets ----


def test_open_dataset(tmp_path):
    path = write_dataset(tmp_path / "set", PAYLOADS, labels=("jump", "run"))
    dataset = open_dataset(path, "train")
    assert [dataset.source[i] for i in range(len(dataset.source))] == PAYLOADS
    assert (dataset.name, dataset.split, dataset.label_names) == (
        "videos",
        "train",
        ("jump", "run"),
    )


def test_what_cannot_be_opened_is_explained(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset here.*vmae_jax\.data\.build --videos="):
        open_dataset(tmp_path / "none", "train")
    path = write_dataset(tmp_path / "set", PAYLOADS)
    with pytest.raises(DatasetError, match="no split 'test'; there are: train"):
        open_dataset(path, "test")
    with pytest.raises(DatasetError, match="split 'train' is empty"):
        open_dataset(write_dataset(tmp_path / "empty", []), "train")
    write(tmp_path / "set" / "videos-train.tfrecord-00001-of-00003", PAYLOADS[:2])
    with pytest.raises(ShardError, match=r"00001-of-00003: found 2 records, .* says 4"):
        open_dataset(path, "train")
    (tmp_path / "set" / "dataset_info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"dataset_info\.json is damaged"):
        open_dataset(path, "train")


def test_fingerprint_follows_the_data_not_the_folder(tmp_path):
    def mark(name: str, payloads, **options) -> str:
        return open_dataset(write_dataset(tmp_path / name, payloads, **options)).fingerprint

    first = mark("a", PAYLOADS)
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    assert open_dataset(tmp_path / "elsewhere").fingerprint == first
    one_bit = [*PAYLOADS[:-1], bytes([PAYLOADS[-1][0] ^ 1]) + PAYLOADS[-1][1:]]
    others = [
        mark("b", one_bit),
        mark("c", PAYLOADS[::-1]),
        mark("d", PAYLOADS[:-1]),
        mark("e", PAYLOADS, shards=2),
    ]
    assert len({first, *others}) == 5
