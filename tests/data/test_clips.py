"""Clips: frame numbers equal to the reference's, exact decoding, and hostile records."""

import dataclasses
import io
import json
import os
import time
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from tiny_dataset import clip, encode, numbered_frames, numbers_of

from vmae_jax.data import clips
from vmae_jax.data.clips import Record, decode_frames
from vmae_jax.data.records import RecordError


def jpeg_clip(count: int = 6, height: int = 48, width: int = 64) -> Record:
    files = [
        cv2.imencode(".jpg", frame)[1].tobytes() for frame in numbered_frames(count, height, width)
    ]
    return Record("clip", "jpeg", b"", tuple(files), count, 10.0, height, width)


# ---- Frame numbers ----


def entries(goldens: Path, group: str) -> dict[tuple, object]:
    """Golden entries by the numbers and words in their names: n5_T16_sr4 -> ('', 5, 16, 4)."""
    table = json.loads((goldens / "frame_sampling.json").read_text())[group]
    assert table
    parsed = {}
    for key, value in table.items():
        parts = key.split("_")
        word = parts.pop(0) if parts[0].isalpha() else ""
        parsed[(word, *(int(part.lstrip("abcdefghijklmnopqrstuvwxyzT")) for part in parts))] = value
    assert len(parsed) == len(table)
    return parsed


def test_pretraining_frames_equal_the_reference(goldens):
    for (_, n, length, stride, seed), golden in entries(goldens, "pretrain_seeded").items():
        starts = clips.num_starts(n, length, stride)
        start = int(np.random.RandomState(seed).randint(starts, size=1)[0])
        assert start == golden["offset"]
        assert clips.clip_indices(n, length, stride, start).tolist() == golden["frames"]


def test_dense_frames_equal_the_reference(goldens):
    functions = {"validation": clips.dense_indices, "test": clips.dense_test_indices}
    for (mode, n, length, stride), golden in entries(goldens, "cls_dense").items():
        assert functions[mode](n, length, stride).tolist() == golden


def test_training_frames_of_the_classifier_equal_the_reference(goldens):
    for (_, n, length, stride, seed), golden in entries(goldens, "cls_train_seeded").items():
        window = length * stride
        # The reference draws where the window ends.
        end = np.random.RandomState(seed).randint(window, n) if n > window else window
        assert clips.dense_indices(n, length, stride, int(end) - window).tolist() == golden


def test_sparse_frames_equal_the_reference(goldens):
    for (mode, n, segments, times), golden in entries(goldens, "cls_sparse").items():
        if mode == "test":
            assert clips.sparse_test_indices(n, segments, times).tolist() == golden
        elif golden == "ERR AssertionError":  # a video with fewer frames than segments
            assert len(golden_spread := clips.sparse_indices(n, segments)) == segments
            assert set(golden_spread) == set(range(n))
        else:
            assert clips.sparse_indices(n, segments).tolist() == golden


def test_starts_of_test_views_equal_the_reference(goldens):
    for group in ("test_temporal_start", "test_spatial_start"):
        for (_, extent, size, places, place), golden in starts(goldens, group).items():
            assert clips.test_start(extent, size, place, places) == golden


def starts(goldens: Path, group: str) -> dict[tuple, int]:
    """Like `entries`, for keys whose every part carries a word (len16_T16_segs5_ck0)."""
    table = json.loads((goldens / "frame_sampling.json").read_text())[group]
    return {
        ("", *(int("".join(filter(str.isdigit, part))) for part in key.split("_"))): value
        for key, value in table.items()
    }


def test_every_start_stays_inside_the_video():
    for n in range(1, 90):
        starts = clips.num_starts(n, 16, 4)
        for start in {0, starts - 1}:
            indices = clips.clip_indices(n, 16, 4, start)
            assert indices.min() >= 0
            assert indices.max() < n


# ---- Records ----


def test_record_round_trip():
    record = dataclasses.replace(
        clip(),
        label=3,
        label_name="läuft",
        path="a/b.mp4",
        start=2.5,
        metadata='{"hashtags": ["x"]}',
    )
    assert Record.parse(record.serialize()) == record
    assert record.serialize() == record.serialize()
    assert Record.parse(jpeg_clip().serialize()) == jpeg_clip()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"codec": "vp9"}, "codec 'vp9': expected one of h264, jpeg"),
        ({"num_frames": 0}, "num_frames 0: expected at least 1"),
        ({"height": -4}, "64x-4 pixels: expected sides of 1 to 8192"),
        ({"video": b""}, "without any video bytes"),
        ({"codec": "jpeg"}, "0 JPEG frames: expected 40"),
    ],
)
def test_contradictions_are_found_when_parsing(changes, reason):
    with pytest.raises(RecordError, match=reason):
        Record.parse(dataclasses.replace(clip(), **changes).serialize())


def test_what_is_no_record_is_named():
    with pytest.raises(RecordError, match=r"not a tf\.train\.Example"):
        Record.parse(b"\xff\xff\xff")
    with pytest.raises(RecordError, match="feature 'id' is missing"):
        Record.parse(b"")


# ---- Decoding ----


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001), Fraction(12)])
def test_any_frames_equal_sequential_decoding(rate):
    record = clip(rate=rate)
    with av.open(io.BytesIO(record.video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == record.num_frames
    rng = np.random.default_rng(0)
    picks = [[i] for i in range(40)] + [rng.integers(40, size=6).tolist() for _ in range(40)]
    for indices in [*picks, list(range(40)), [39, 0, 39, 5, 5], [39, 1]]:
        decoded = decode_frames(record, indices)
        assert numbers_of(decoded) == indices
        np.testing.assert_array_equal(decoded, np.stack([frames[i] for i in indices]))


def test_frames_far_apart_do_not_cost_those_between():
    count = 960
    frames = np.repeat(numbered_frames(48, 48, 64), count // 48, axis=0)
    record = Record("long", "h264", encode(frames), (), count, 30.0, 48, 64)
    wanted = [0, 1, 400, 900, 404]
    expected = np.rint(np.array(wanted) // (count // 48)).tolist()
    assert numbers_of(decode_frames(record, wanted)) == expected

    def seconds(indices) -> float:
        start = time.perf_counter()
        decode_frames(record, indices)
        return time.perf_counter() - start

    assert min(seconds(wanted) for _ in range(5)) < min(seconds(range(900)) for _ in range(3)) / 3


def test_colours_keep_their_order():
    frames = np.zeros((4, 48, 64, 3), np.uint8)
    frames[..., 0] = 200
    mp4 = Record("red", "h264", encode(frames), (), 4, 30.0, 48, 64)
    jpeg = cv2.imencode(".jpg", frames[0][..., ::-1])[1].tobytes()
    for record in (mp4, Record("red", "jpeg", b"", (jpeg,) * 4, 4, 30.0, 48, 64)):
        np.testing.assert_allclose(decode_frames(record, [2])[0], frames[0], atol=6)


def test_jpeg_frames():
    record = jpeg_clip()
    decoded = decode_frames(record, [4, 1, 1])
    assert decoded.shape == (3, 48, 64, 3)
    assert numbers_of(decoded) == [4, 1, 1]


def test_frames_outside_the_clip_are_refused():
    for indices in ([40], [-1], []):
        with pytest.raises(RecordError, match="expected numbers below 40"):
            decode_frames(clip(), indices)


def short_jpeg(width: int) -> bytes:
    data = bytearray(jpeg_clip().frames[0])
    position = data.index(b"\xff\xc0")
    data[position + 7 : position + 9] = width.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "record",
    [
        dataclasses.replace(clip(), video=b"\0" * 1000),
        dataclasses.replace(clip(), video=clip().video[: len(clip().video) // 2]),
        dataclasses.replace(clip(), video=clip().video[:40]),
        dataclasses.replace(clip(), num_frames=2**40),
        dataclasses.replace(clip(), num_frames=39),
        dataclasses.replace(clip(), height=2**31),
        dataclasses.replace(clip(), width=2),
        dataclasses.replace(jpeg_clip(), width=2**40),
        dataclasses.replace(jpeg_clip(), frames=(short_jpeg(65500),) * 6),
        dataclasses.replace(jpeg_clip(), frames=(short_jpeg(65500),) * 6, width=65500),
        dataclasses.replace(
            jpeg_clip(), frames=(b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"x") * 2, num_frames=8
        ),
    ],
    ids=lambda record: f"{record.codec}-{record.width}x{record.height}-{record.num_frames}",
)
def test_hostile_records_end_in_an_error_and_take_no_memory(record):
    payload = record.serialize()
    tracemalloc.start()
    with pytest.raises(RecordError):
        decode_frames(Record.parse(payload), np.arange(4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_mutated_records_decode_or_end_in_an_error():
    payload = clip(20).serialize()
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(300):
        data = bytearray(payload)
        for _ in range(rng.integers(1, 30)):
            data[rng.integers(len(data))] = rng.integers(256)
        if rng.integers(2):
            del data[rng.integers(len(data)) :]
        try:
            record = Record.parse(bytes(data))
            frames = decode_frames(record, np.minimum([0, 7, 19], record.num_frames - 1))
            assert frames.shape == (3, record.height, record.width, 3)
        except RecordError:
            errors += 1
    assert 100 < errors < 300


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_stays_flat_over_many_clips():
    record = clip(40, 256, 340)
    broken = dataclasses.replace(record, video=record.video[: len(record.video) // 2])
    after_warm_up = 0
    for step in range(150):
        decode_frames(record, np.arange(0, 40, 4))
        with pytest.raises(RecordError):
            decode_frames(broken, [0])
        if step == 50:
            after_warm_up = resident_bytes()
    # One container that is not closed keeps 1 MB or more.
    assert resident_bytes() - after_warm_up < 30e6
