"""The embedded data set: one frame does not tell the class, the motion does."""

import itertools
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vmae_jax.data import synthetic
from vmae_jax.data.clips import Record, decode_frames
from vmae_jax.data.records import DatasetError, open_dataset

CLIPS = 24


@pytest.fixture(scope="module")
def videos() -> np.ndarray:
    """u8[class, clip, 8, H, W, 3]: short clips, each seeded differently."""
    return np.stack(
        [
            np.stack(
                [
                    synthetic.render(
                        name, np.random.default_rng([7, c, i]), size=(128, 96), num_frames=8
                    )
                    for i in range(CLIPS)
                ]
            )
            for c, name in enumerate(synthetic.CLASSES)
        ]
    )


def _accuracy(features: np.ndarray) -> float:
    """Of the nearest class mean, learned from half of the clips; features [class, clip, D]."""
    flat = features.reshape(-1, features.shape[-1])
    features = (features - flat.mean(0)) / (flat.std(0) + 1e-6)
    half = features.shape[1] // 2
    means = features[:, :half].mean(1)
    distances = np.linalg.norm(features[:, half:, None] - means, axis=-1)
    return float((distances.argmin(-1) == np.arange(len(means))[:, None]).mean())


def _flow_statistics(clip: np.ndarray) -> np.ndarray:
    """Flow relative to the camera: mean, share along each axis, divergence, curl and its change."""
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    rows = []
    for a, b in itertools.pairwise(gray):
        flow = cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 2, 9, 3, 5, 1.1, 0)
        flow -= np.median(flow, axis=(0, 1))
        dx, dy = np.gradient(flow[..., 0], axis=1), np.gradient(flow[..., 1], axis=0)
        curl = np.gradient(flow[..., 1], axis=1) - np.gradient(flow[..., 0], axis=0)
        energy = np.abs(flow).mean((0, 1))
        weight = np.linalg.norm(flow, axis=-1)
        moving = weight > 0.5 * np.quantile(weight, 0.98)
        rows.append(
            [
                *flow[moving].mean(0),
                *energy,
                dx[moving].mean() + dy[moving].mean(),
                curl[moving].mean(),
            ]
        )
    return np.median(rows, axis=0)


def test_one_frame_does_not_tell_the_class(videos):
    frames = videos[:, :, 3]
    small = np.stack(
        [[cv2.resize(f, (8, 6), interpolation=cv2.INTER_AREA) for f in c] for c in frames]
    )
    chance = 1 / len(synthetic.CLASSES)
    # 120 trials: a standard deviation is 0.027.
    assert _accuracy(small.reshape(*small.shape[:2], -1).astype(float)) < chance + 0.1


def test_motion_tells_the_class(videos):
    features = np.array([[_flow_statistics(clip) for clip in clips] for clips in videos])
    assert _accuracy(features) > 0.6


def test_opposite_classes_share_their_first_look():
    """With the same draw, classes of one kind differ in nothing but the direction."""
    for one, other in [
        ("move_left", "move_right"),
        ("rotate_clockwise", "rotate_counterclockwise"),
        ("zoom_in", "zoom_out"),
    ]:
        a, b = (synthetic.render(n, np.random.default_rng(1), num_frames=3) for n in (one, other))
        np.testing.assert_array_equal(a[0], b[0])
        assert (a[2] != b[2]).any()


def test_directions_are_what_the_names_say():
    """A moving shape's picture of the next frame lies further along its direction."""
    for name, (dx, dy) in {"move_left": (-1, 0), "move_down": (0, 1)}.items():
        shape = synthetic._Shape(name, np.random.default_rng(0), (400, 400), 1.0)
        shape._center = np.array([200.0, 200.0])
        step = shape._pose(1)[0] - shape._pose(0)[0]
        np.testing.assert_allclose(step, shape._speed * np.array([dx, dy]), atol=1e-9)


def test_files_depend_on_the_seed_alone(tmp_path):
    few = {"clips_per_class": 1, "num_frames": 4, "size": (32, 24)}
    runs = {}
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        paths = synthetic.write_videos(tmp_path / run, seed=seed, **few)
        runs[run] = [Path(path).read_bytes() for path in paths]
    assert runs["a"] == runs["b"]
    assert all(x != y for x, y in zip(runs["a"], runs["c"], strict=True))
    with av.open(paths[0]) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (32, 24, 4)


def records_of(directory: str, split: str) -> list[Record]:
    source = open_dataset(directory, split).source
    return [Record.parse(source[i]) for i in range(len(source))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("synthetic")
    return synthetic.prepare(folder, clips_per_class=1, val_clips_per_class=1)


def test_prepare_makes_a_labelled_dataset_once(prepared):
    dataset = open_dataset(prepared)
    assert dataset.label_names == tuple(sorted(synthetic.CLASSES))
    splits = {split: records_of(prepared, split) for split in ("train", "val")}
    for records in splits.values():
        assert sorted(r.label_name for r in records) == sorted(synthetic.CLASSES)
        assert {r.label: r.label_name for r in records} == dict(enumerate(dataset.label_names))
        assert decode_frames(records[0], [0, 63]).shape == (2, 96, 128, 3)
    assert not {r.video for r in splits["train"]} & {r.video for r in splits["val"]}
    again = synthetic.prepare(Path(prepared).parent, clips_per_class=1, val_clips_per_class=1)
    assert again == prepared
    assert open_dataset(prepared).fingerprint == dataset.fingerprint


def test_a_larger_set_holds_the_smaller_one_and_lies_beside_it(prepared):
    larger = synthetic.prepare(Path(prepared).parent, clips_per_class=2, val_clips_per_class=0)
    assert larger != prepared
    train, more = ({r.video for r in records_of(path, "train")} for path in (prepared, larger))
    assert train < more
    assert len(more) == 2 * len(synthetic.CLASSES)
    with pytest.raises(DatasetError, match="no split 'val'; there are: train"):
        open_dataset(larger, "val")


def test_a_study_has_nested_subsets_and_raw_ones_with_stills(tmp_path):
    path = synthetic.prepare_study(tmp_path, (10, 20), clips_per_class=1, val_clips_per_class=1)
    splits = {name: records_of(path, name) for name in ("train", "val", "raw_20")}
    nested = [records_of(path, name) for name in ("curated_10", "curated_10+curated_20")]
    assert [len(records) for records in nested] == [10, 20]
    assert {r.video for r in nested[0]} < {r.video for r in nested[1]}
    assert sorted(r.label_name for r in nested[1]) == sorted(2 * synthetic.CLASSES)
    assert len({r.video for records in (*splits.values(), nested[1]) for r in records}) == 50

    def moves(record: Record) -> float:
        first, last = decode_frames(record, [0, 8]).astype(float)
        return np.abs(first - last).mean()

    assert max(map(moves, splits["raw_20"])) < 1 < min(map(moves, nested[1]))
    assert min(map(moves, records_of(path, "raw_10"))) > 1
    assert synthetic.prepare_study(
        tmp_path, (10, 20), clips_per_class=1, val_clips_per_class=1
    ) == path  # fmt: skip


def test_unknown_class_is_named():
    with pytest.raises(ValueError, match=r"'jump'.*move_left"):
        synthetic.render("jump", np.random.default_rng(0))
