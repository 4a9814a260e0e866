"""Evaluation reads every video once, whatever the number of processes, in the reference's views."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_dataset import clip, numbers_of, write_dataset

from vmae_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from vmae_jax.data import clips
from vmae_jax.data.evaluation import EvalStream, open_eval
from vmae_jax.data.pipeline import TooManyBadRecords
from vmae_jax.data.records import DatasetError, open_dataset
from vmae_jax.data.views import EvalViews, evaluation_views

VIDEOS, BATCH, FRAMES, SIZE = 11, 4, 4, 16
LABELS = ("a", "b", "c")


def payloads(**changes: dict) -> list[bytes]:
    """Numbered videos of different lengths; `changes` by their number."""
    records = [
        dataclasses.replace(clip(20 + 3 * (i % 3)), id=f"{i}.mp4", label=i % len(LABELS))
        for i in range(VIDEOS)
    ]
    for i, change in changes.items():
        records[int(i)] = dataclasses.replace(records[int(i)], **change)
    return [record.serialize() for record in records]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return write_dataset(tmp_path_factory.mktemp("videos") / "set", payloads(), labels=LABELS)


def config(dataset: str, sampling: str = "dense", bad: float = 0.0, **data) -> Config:
    return Config(
        task="finetune",
        model=ModelConfig("tiny", image_size=SIZE, num_frames=FRAMES),
        data=DataConfig(
            dataset, batch_size=BATCH, stride=2, sampling=sampling, max_bad_fraction=bad, **data
        ),
        eval=EvalConfig(split="train", clips=2, crops=3, batch_size=BATCH),
    )


def places(process: int, processes: int) -> range:
    """A contiguous part of every batch."""
    each = BATCH // processes
    return range(process * each, (process + 1) * each)


def take(stream: EvalStream) -> dict[str, np.ndarray]:
    """All batches, with a leading axis for their number."""
    with stream:
        batches = list(stream)
    return {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}


@pytest.mark.parametrize("sampling", ["dense", "sparse"])
def test_batches(dataset, sampling):
    stream = open_eval(config(dataset, sampling))
    assert (stream.num_videos, stream.label_names) == (VIDEOS, LABELS)
    assert stream.fingerprint == open_dataset(dataset).fingerprint
    found = take(stream)
    assert found["video"].shape == (3, BATCH, 6, FRAMES, SIZE, SIZE, 3)
    assert (found["video"].dtype, found["label"].dtype) == (np.uint8, np.int32)
    record, label = found["record"].ravel(), found["label"].ravel()
    assert record.tolist() == [*range(VIDEOS), -1]
    assert label.tolist() == [i % len(LABELS) for i in range(VIDEOS)] + [-1]
    assert not found["video"][-1, -1].any()
    assert [stream.id(i) for i in range(VIDEOS)] == [f"{i}.mp4" for i in range(VIDEOS)]


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() == {"video", "label", "record"}
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch(dataset, processes):
    alone = take(open_eval(config(dataset)))
    parts = [
        take(open_eval(config(dataset), places=places(i, processes))) for i in range(processes)
    ]
    together = {key: np.concatenate([part[key] for part in parts], axis=1) for key in alone}
    assert_equal(together, alone)


def test_threads_and_worker_processes_change_nothing(dataset):
    alone = take(open_eval(config(dataset, threads=1)))
    assert_equal(take(open_eval(config(dataset, threads=5))), alone)
    assert_equal(take(open_eval(config(dataset, threads=1, workers=2))), alone)


def test_it_can_start_anywhere(dataset):
    alone = take(open_eval(config(dataset)))
    for start in (BATCH, 5, VIDEOS - 1):
        rest = take(open_eval(config(dataset), start=start))
        kept = rest["record"].ravel() >= 0
        assert rest["record"].ravel()[kept].tolist() == list(range(start, VIDEOS))
        videos = rest["video"].reshape(-1, *rest["video"].shape[2:])[kept]
        expected = alone["video"].reshape(-1, *videos.shape[1:])[start:VIDEOS]
        np.testing.assert_array_equal(videos, expected)
    assert list(open_eval(config(dataset), start=VIDEOS)) == []


def test_a_bad_record_is_left_out_and_named(tmp_path):
    path = write_dataset(tmp_path / "set", payloads(**{"5": {"video": b"\0" * 99}}), labels=LABELS)
    stream = open_eval(config(path, bad=0.1))
    found = take(stream)
    assert found["record"].ravel().tolist() == [0, 1, 2, 3, 4, -1, 6, 7, 8, 9, 10, -1]
    assert found["label"].ravel()[5] == -1
    assert list(stream.bad_records) == [5]
    assert "does not decode" in stream.bad_records[5]
    with pytest.raises(TooManyBadRecords, match=r"1 of 11 records.*00001-of-00003\[2\]: the MP4"):
        take(open_eval(config(path)))


def test_what_cannot_work_is_refused(dataset, tmp_path):
    missing = dataclasses.replace(config(dataset), eval=EvalConfig(split="val"))
    with pytest.raises(DatasetError, match="no split 'val'; there are: train"):
        open_eval(missing)
    assert open_eval(missing, split="train").num_videos == VIDEOS
    with pytest.raises(ValueError, match="views 'all': expected 'test' or 'center'"):
        open_eval(config(dataset), views="all")
    with pytest.raises(ValueError, match="start = 12"):
        open_eval(config(dataset), start=12)
    unlabelled = write_dataset(tmp_path / "unlabelled", payloads())
    with pytest.raises(DatasetError, match=r"no labels.*--labels=folders"):
        open_eval(config(unlabelled))


@pytest.mark.parametrize(("label", "words"), [(-1, "no label"), (3, "label 3")])
def test_a_record_without_a_label_is_named(tmp_path, label, words):
    path = write_dataset(tmp_path / "set", payloads(**{"4": {"label": label}}), labels=LABELS)
    with pytest.raises(DatasetError, match=rf"record 4 \(.*00001.*\[1\]\) has {words}"):
        take(open_eval(config(path, bad=1.0)))


# ---- Which frames and crops ----


def golden(goldens: Path, group: str) -> dict[str, object]:
    return json.loads((goldens / "frame_sampling.json").read_text())[group]


def test_dense_test_clips_are_the_references_windows(goldens):
    frames = golden(goldens, "cls_dense")
    for n in (1, 15, 64, 100, 300):
        reached = frames[f"test_n{n}_T16_sr4"]
        found = EvalViews(5, 3, 16, 224, "dense", 4).indices(n)
        assert found.shape == (5, 16)
        starts = [int(k * max(0, len(reached) - 16) / 4) for k in range(5)]
        assert found.tolist() == [reached[s : s + 16] for s in starts]


def test_sparse_test_clips_take_turns(goldens):
    frames = golden(goldens, "cls_sparse")
    for n in (1, 15, 64, 300):
        spread = frames[f"test_n{n}_seg16_tseg2"]
        found = EvalViews(2, 3, 16, 224, "sparse", 4).indices(n)
        assert found.tolist() == [spread[0::2], spread[1::2]]


def test_the_central_view_is_the_references_validation(goldens, dataset):
    for n in (1, 15, 64, 300):
        center = EvalViews(1, 1, 16, 224, "dense", 4, validation=True)
        assert center.indices(n).tolist() == [
            golden(goldens, "cls_dense")[f"validation_n{n}_T16_sr4"]
        ]
    center = EvalViews(1, 1, 16, 224, "sparse", 4, validation=True)
    assert center.indices(64).tolist() == [
        golden(goldens, "cls_sparse")["validation_n64_seg16_tseg2"]
    ]
    found = take(open_eval(config(dataset), views="center"))
    assert found["video"].shape == (3, BATCH, 1, FRAMES, SIZE, SIZE, 3)
    expected = clips.dense_indices(20, FRAMES, 2)
    assert numbers_of(found["video"][0, 0, 0]) == expected.tolist()


def test_the_central_crop_and_frames_of_pictures_are_the_references():
    one = EvalViews(1, 1, 1, 224, "sparse", 1)
    validation = dataclasses.replace(one, validation=True)
    # Python's round, as the reference: half to even, where a test's single crop rounds down.
    for width, left, single in ((298, 37, 37), (299, 38, 37), (301, 38, 38), (303, 40, 39)):
        frames = np.broadcast_to(np.arange(width, dtype=np.uint16)[:, None], (1, 224, width, 3))
        assert validation.cut(frames.astype(np.uint8))[0, 0, 0, 0, 0] == left
        assert one.cut(frames.astype(np.uint8))[0, 0, 0, 0, 0] == single
    halves = EvalViews(1, 1, 2, 16, "sparse", 1, validation=True)
    for frames, video, pictures in ((8, [1, 5], [2, 6]), (10, [2, 7], [2, 7]), (2, [0, 1], [0, 1])):
        assert halves.indices(frames).tolist() == [video]
        assert halves.indices(frames, of_pictures=True).tolist() == [pictures]
    video = clip(8)
    assert numbers_of(halves(video)[0]) == [1, 5]
    files = tuple(
        cv2.imencode(".jpg", f)[1].tobytes() for f in clips.decode_frames(video, range(8))
    )
    pictures = dataclasses.replace(video, codec="jpeg", video=b"", frames=files)
    assert numbers_of(halves(pictures)[0]) == [2, 6]


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (48, 48), (20, 90)])
def test_crops_lie_along_the_longer_side(shape):
    record = clip(8, *shape)
    views = EvalViews(2, 3, FRAMES, 16, "dense", 1)
    found = views(record).reshape(2, 3, FRAMES, 16, 16, 3)
    indices = views.indices(8)
    frames = clips.decode_frames(record, indices.ravel(), short_side=16)
    height, width = frames.shape[1:3]
    assert min(height, width) == 16
    assert (height, width) == (16 * shape[0] // min(shape), 16 * shape[1] // min(shape))
    long = max(height, width) - 16
    for i, start in enumerate((0, long // 2, long)):
        rows, columns = (slice(start, start + 16), slice(16))[:: 1 if height > width else -1]
        expected = frames.reshape(2, FRAMES, height, width, 3)[:, :, rows, columns]
        np.testing.assert_array_equal(found[:, i], expected)


def test_a_single_crop_is_the_middle_one(dataset):
    record = clip(8, 48, 96)
    one = EvalViews(1, 1, FRAMES, 48, "dense", 1)(record)
    three = EvalViews(1, 3, FRAMES, 48, "dense", 1)(record)
    np.testing.assert_array_equal(one[0], three[1])
    assert evaluation_views(config(dataset), "test").count == 6
