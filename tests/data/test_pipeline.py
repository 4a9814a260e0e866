"""The stream of clips: one order for any number of processes, exact resume, bad records."""

import collections
import dataclasses
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_dataset import clip, numbers_of, write_dataset

from vmae_jax.config import (
    AugmentConfig,
    Config,
    ConfigError,
    DataConfig,
    MaskConfig,
    ModelConfig,
)
from vmae_jax.data import clips
from vmae_jax.data.pipeline import ClipStream, TooManyBadRecords, open_clips
from vmae_jax.data.records import DatasetError, ShardError, open_dataset

VIDEOS, BATCH, VIEWS, FRAMES, SIZE = 23, 8, 2, 4, 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    payloads = [dataclasses.replace(clip(), id=f"clip{i}").serialize() for i in range(VIDEOS)]
    return write_dataset(tmp_path_factory.mktemp("videos") / "set", payloads)


@pytest.fixture
def damaged(tmp_path) -> str:
    """The same videos, but 3, 4 and 11 fail: two by their checksum, one with a broken MP4."""
    payloads = [dataclasses.replace(clip(), id=f"clip{i}").serialize() for i in range(VIDEOS)]
    payloads[11] = dataclasses.replace(clip(), video=b"\0" * 999).serialize()
    path = write_dataset(tmp_path / "set", payloads)
    source = open_dataset(path).source
    for i in (3, 4):
        shard, place = source.locate(i)
        data = bytearray(Path(shard).read_bytes())
        data[int(source.indexes[source.paths.index(shard)].offsets[place]) + 50] ^= 4
        Path(shard).write_bytes(data)
    return path


def config(dataset: str, seed: int = 0, task: str = "pretrain", **data) -> Config:
    return Config(
        seed=seed,
        task=task,
        model=ModelConfig("tiny", image_size=SIZE, num_frames=FRAMES),
        mask=MaskConfig(decoder="none"),
        data=DataConfig(dataset, **{"batch_size": BATCH, "views": VIEWS, "stride": 2, **data}),
    )


def places(process: int, processes: int) -> range:
    """A contiguous part of every batch."""
    each = BATCH // processes
    return range(process * each, (process + 1) * each)


def take(stream: ClipStream, count: int) -> dict[str, np.ndarray]:
    """`count` batches as one."""
    with stream:
        batches = [next(stream) for _ in range(count)]
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() == {"video", "label", "record", "bad"}
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_a_batch(dataset):
    with open_clips(config(dataset)) as stream:
        batch = next(stream)
        assert stream.num_videos == VIDEOS
        assert stream.fingerprint == open_dataset(dataset).fingerprint
    assert batch["video"].shape == (BATCH * VIEWS, FRAMES, SIZE, SIZE, 3)
    assert batch["video"].dtype == np.uint8
    assert batch["record"].shape == batch["bad"].shape == (BATCH,)
    assert batch["record"].dtype == batch["bad"].dtype == np.int64
    views = batch["video"].reshape(BATCH, VIEWS, -1)
    assert (views[:, 0] != views[:, 1]).any(axis=1).sum() > BATCH // 2  # a box may be drawn twice
    # The grey level tells the frame: views of a video show the same frames.
    levels = batch["video"].mean(axis=(2, 3, 4)).reshape(BATCH, VIEWS, FRAMES)
    np.testing.assert_allclose(levels[:, 0], levels[:, 1], atol=3)


def test_each_epoch_shows_every_video_once_in_another_order(dataset):
    records = take(open_clips(config(dataset, batch_size=VIDEOS)), 3)["record"].reshape(3, VIDEOS)
    for epoch in records:
        assert sorted(epoch) == list(range(VIDEOS))
    assert len({tuple(epoch) for epoch in records}) == 3
    other = take(open_clips(config(dataset, batch_size=VIDEOS, seed=1)), 1)["record"]
    assert tuple(other) != tuple(records[0])


@pytest.mark.parametrize("processes", [2, 4])
def test_order_does_not_depend_on_the_number_of_processes(dataset, damaged, processes):
    for path, bad in ((dataset, 0.0), (damaged, 0.2)):
        settings = config(path, max_bad_fraction=bad)
        alone = take(open_clips(settings), 7)
        parts = [
            take(open_clips(settings, places=places(i, processes)), 7) for i in range(processes)
        ]
        together = {
            key: np.concatenate(
                [part[key].reshape(7, -1, *part[key].shape[1:]) for part in parts], axis=1
            ).reshape(alone[key].shape)
            for key in alone
        }
        assert_equal(together, alone)


def test_resume_at_any_position_equals_an_uninterrupted_run(dataset):
    settings = config(dataset, threads=3)
    whole = take(open_clips(settings), 8)
    for start in (1, BATCH, 13, VIDEOS, 3 * BATCH, 47):
        rest = take(open_clips(settings, start=start), 2)
        end = start + 2 * BATCH
        expected = {
            key: value[start * each : end * each]
            for key, value in whole.items()
            for each in [VIEWS if key in ("video", "label") else 1]
        }
        assert_equal(rest, expected)


def test_places_need_not_be_neighbours(dataset):
    whole = take(open_clips(config(dataset)), 3)["record"].reshape(3, BATCH)
    mine = [0, 3, BATCH - 1]
    part = take(open_clips(config(dataset), places=mine), 3)["record"]
    np.testing.assert_array_equal(part.reshape(3, -1), whole[:, mine])


def test_resume_with_other_processes(dataset):
    whole = take(open_clips(config(dataset)), 4)
    part = take(open_clips(config(dataset), places=places(1, 2), start=2 * BATCH), 2)
    half = BATCH // 2
    expected = np.concatenate(
        [whole["record"][2 * BATCH + half : 3 * BATCH], whole["record"][3 * BATCH + half :]]
    )
    np.testing.assert_array_equal(part["record"], expected)


def test_worker_processes_give_the_same_batches_and_end_with_the_stream(damaged):
    settings = config(damaged, max_bad_fraction=0.2, threads=2)
    expected = take(open_clips(settings, start=BATCH), 4)
    before = set(multiprocessing.active_children())
    stream = open_clips(config(damaged, max_bad_fraction=0.2, threads=1, workers=2), start=BATCH)
    first = next(stream)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker in workers:  # as a scheduler does that preempts the whole group
        os.kill(worker.pid, signal.SIGTERM)
    rest = take(stream, 3)
    assert set(multiprocessing.active_children()) <= before
    assert_equal({key: np.concatenate([first[key], rest[key]]) for key in rest}, expected)


_ENDLESS = """
import multiprocessing, sys
sys.path.insert(0, {tests!r})
from test_pipeline import config, open_clips
if __name__ == "__main__":
    stream = open_clips(config({dataset!r}, workers=2, threads=1))
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while True:
        next(stream)
"""


def _runs(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _shared_memory(process: int) -> set[str]:
    """Files of shared memory that a process has open."""
    maps = Path(f"/proc/{process}/maps").read_text()
    return {line.split()[-1] for line in maps.splitlines() if "/dev/shm/psm_" in line}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_workers_and_their_memory_go_with_a_killed_parent(dataset, tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS.format(tests=str(Path(__file__).parent), dataset=dataset))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in parent.stdout.readline().split()]
    parent.stdout.close()
    assert len(workers) == 2
    assert all(map(_runs, workers))
    memory = set()
    for _ in range(300):
        memory |= {m for process in (parent.pid, *workers) for m in _shared_memory(process)}
        if memory:
            break
        time.sleep(0.01)
    assert memory, "the workers hand over nothing in shared memory"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(300):  # until they are gone, however slow the machine
        if not any(map(_runs, workers)) and not any(map(os.path.exists, memory)):
            return
        time.sleep(0.1)
    pytest.fail(f"processes {workers}, or shared memory of theirs, outlive their parent")


def test_bad_records_are_counted_logged_once_and_replaced_by_the_next(dataset, damaged, caplog):
    with caplog.at_level(logging.WARNING), open_clips(config(damaged, max_bad_fraction=0.2)) as s:
        batches = [next(s) for _ in range(6)]
        bad_records = s.bad_records
    order = take(open_clips(config(dataset)), 6)["record"].tolist()
    replaced = {3: (5, 2), 4: (5, 1), 11: (12, 1)}  # record: who comes instead, how many were bad
    expected = [replaced.get(record, (record, 0)) for record in order]
    found = [(int(r), int(n)) for b in batches for r, n in zip(b["record"], b["bad"], strict=True)]
    assert found == expected
    assert set(bad_records) == {3, 4, 11}
    messages = [message for message in caplog.messages if "Bad record" in message]
    assert len(messages) == 3
    assert any("00000-of-00003[3]: its" in m and "checksum" in m for m in messages)
    assert any("00001-of-00003[4]: the MP4" in m for m in messages)


def test_too_many_bad_records_end_the_run(damaged):
    stream = open_clips(config(damaged, max_bad_fraction=0.1))
    with stream, pytest.raises(TooManyBadRecords) as error:
        collections.deque(stream, maxlen=0)
    message = str(error.value)
    assert "3 of 23 records are bad (13.04%)" in message
    assert "max_bad_fraction = 0.1 " in message
    for name in ("00000-of-00003[3]", "00000-of-00003[4]", "00001-of-00003[4]"):
        assert name in message


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_data_set_without_a_good_record_ends_the_run(tmp_path, fraction):
    path = write_dataset(tmp_path / "set", [b"no record"] * 6)
    stream = open_clips(config(path, max_bad_fraction=fraction))
    with stream, pytest.raises(TooManyBadRecords, match=r"of 6 records are bad.*\[0\]: not a tf"):
        next(stream)


def test_a_shard_that_vanishes_is_named(tmp_path):
    path = write_dataset(tmp_path / "set", [clip().serialize()] * 9)
    stream = open_clips(config(path))
    for shard in Path(path).glob("*.tfrecord-*"):
        shard.unlink()
    with stream, pytest.raises(ShardError, match="cannot be read"):
        next(stream)


def test_example_is_the_element_at_a_global_position(dataset):
    batches = take(open_clips(config(dataset)), 3)["video"]
    with open_clips(config(dataset), places=places(1, 2), start=BATCH) as stream:
        for i in (0, 9, 23):
            np.testing.assert_array_equal(stream.example(i), batches[i * VIEWS : (i + 1) * VIEWS])


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_decoded(dataset):
    huge = config(dataset, batch_size=10**10)
    with pytest.raises(ConfigError, match=r"data.batch_size = 10000000000: a batch has .* GB of"):
        open_clips(huge)
    open_clips(huge, places=range(8)).close()  # of very many hosts


def test_what_cannot_work_is_refused_before_any_work(dataset, tmp_path):
    with pytest.raises(ValueError, match="start = -1"):
        open_clips(config(dataset), start=-1)
    with pytest.raises(DatasetError, match=r"vmae_jax\.data\.build"):
        open_clips(config(str(tmp_path / "none")))


# ---- Fine-tuning ----

LABELS = ("left", "right", "still")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> str:
    payloads = [
        dataclasses.replace(clip(10 + 20 * (i % 2)), id=f"clip{i}", label=i % 3).serialize()
        for i in range(VIDEOS)
    ]
    return write_dataset(tmp_path_factory.mktemp("labelled") / "set", payloads, labels=LABELS)


def finetuning(dataset: str, augment: AugmentConfig, **data) -> Config:
    return dataclasses.replace(config(dataset, task="finetune", **data), augment=augment)


PLAIN = AugmentConfig(randaugment="", min_area=1.0, flip=0.0)


@pytest.mark.parametrize("sampling", ["dense", "sparse"])
def test_a_batch_for_finetuning(labelled, sampling):
    with open_clips(finetuning(labelled, PLAIN, sampling=sampling)) as stream:
        assert stream.label_names == LABELS
        batches = [next(stream) for _ in range(6)]
    starts = set()
    for batch in batches:
        assert batch["video"].shape == (BATCH * VIEWS, FRAMES, SIZE, SIZE, 3)
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], np.repeat(batch["record"] % 3, VIEWS))
        views = batch["video"].reshape(BATCH, VIEWS, FRAMES, SIZE, SIZE, 3)
        for record, (first, second) in zip(batch["record"], views, strict=True):
            shown = numbers_of(first)
            assert shown == numbers_of(second)  # the same frames in all views
            length = 10 + 20 * (int(record) % 2)
            assert 0 <= shown[0] < shown[-1] < length
            if sampling == "dense":
                assert shown in [
                    clips.dense_indices(length, FRAMES, 2, start).tolist()
                    for start in range(length - 2 * FRAMES)
                ]
            else:
                assert [n // (length // FRAMES) for n in shown] == list(range(FRAMES))
            starts.add((length, shown[0]))
    assert len(starts) > 5


def test_videos_shorter_than_a_clip_are_used(tmp_path):
    payloads = [dataclasses.replace(clip(n), label=0).serialize() for n in (1, 2, 3)]
    path = write_dataset(tmp_path / "set", payloads, labels=LABELS)
    for sampling in ("dense", "sparse"):
        settings = finetuning(path, PLAIN, sampling=sampling, batch_size=3)
        assert set(take(open_clips(settings), 2)["record"]) == {0, 1, 2}


def test_augmentation_of_finetuning(labelled):
    def videos(**change) -> np.ndarray:
        augment = dataclasses.replace(PLAIN, **change)
        return take(open_clips(finetuning(labelled, augment)), 2)["video"].astype(int)

    plain = videos()
    np.testing.assert_array_equal(videos(flip=1.0), plain[:, :, :, ::-1])
    some = (videos(flip=0.5) != plain).any(axis=(1, 2, 3, 4))
    assert 0.2 < some.mean() < 0.8
    changed = videos(randaugment="rand-m9-n4-mstd0.5-inc1")
    assert (changed != plain).any(axis=(1, 2, 3, 4)).mean() > 0.6
    crops = videos(min_area=0.08)
    assert (crops != plain).any(axis=(1, 2, 3, 4)).mean() > 0.9


def test_finetuning_does_not_depend_on_the_number_of_processes(labelled):
    settings = finetuning(labelled, AugmentConfig())
    alone = take(open_clips(settings), 3)
    parts = [take(open_clips(settings, places=places(i, 2)), 3) for i in range(2)]
    for key, value in alone.items():
        pair = [part[key].reshape(3, -1, *part[key].shape[1:]) for part in parts]
        np.testing.assert_array_equal(np.concatenate(pair, axis=1).reshape(value.shape), value)


def test_finetuning_needs_labels(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"have no labels.*--labels=folders"):
        open_clips(finetuning(dataset, PLAIN))
    payloads = [dataclasses.replace(clip(), label=[0, -1][i == 4]).serialize() for i in range(9)]
    path = write_dataset(tmp_path / "set", payloads, labels=LABELS)
    for workers in (0, 1):
        stream = open_clips(finetuning(path, PLAIN, max_bad_fraction=1.0, workers=workers))
        with stream, pytest.raises(DatasetError, match=r"record 4 \(.*\) has no label"):
            collections.deque(stream, maxlen=0)
