"""Frames of any video file by number: the same that its record would give, or one clear line."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from test_odd_videos import BLUE, GREEN, RED, WHITE, corners, numbered, quarters, write

from vmae_jax.data.build.transcode import Encoding, transcode
from vmae_jax.data.clips import decode_frames
from vmae_jax.data.videos import VideoError, VideoFile, open_video
from vmae_jax.data.views import EvalViews


def numbers(frames: np.ndarray) -> list[int]:
    return [round((frame.mean() - 20) / 8) for frame in frames]


def test_frames_by_number(tmp_path):
    video = open_video(write(tmp_path / "v.mp4", numbered(20, 64)))
    assert (video.num_frames, video.fps, video.height, video.width) == (20, 25.0, 64, 64)
    frames = video.frames([17, 3, 3, 0, 19], short_side=32)
    assert frames.shape == (5, 32, 32, 3)
    assert numbers(frames) == [17, 3, 3, 0, 19]
    assert numbers(list(video.stream(32))) == list(range(20))
    for bad in ([20], [-1], []):
        with pytest.raises(IndexError, match="expected 0 to 19"):
            video.frames(bad, 32)


def test_the_rate_is_constant(tmp_path):
    pts = [0, 1, 2, 6, 7, 8, 9, 12]  # in 1/25 s; gaps show the frame before
    file = write(tmp_path / "v.mkv", numbered(8), pts=pts, container="matroska")
    video = open_video(file)
    (record,) = transcode(file, Encoding())
    assert (video.num_frames, video.fps) == (record.num_frames, record.fps)
    expected = numbers(decode_frames(record, range(record.num_frames)))
    assert numbers(video.frames(range(video.num_frames), 32)) == expected
    assert numbers(list(video.stream(32))) == expected
    assert expected == sorted(expected)
    assert expected != list(range(len(expected)))


def test_pictures_stand_upright_at_the_wanted_size(tmp_path):
    def turn(stream):
        stream.set_display_rotation(90)

    video = open_video(write(tmp_path / "v.mp4", [quarters(48, 64)] * 4, prepare=turn))
    assert (video.height, video.width) == (64, 48)
    for short_side in (24, 48, 100):
        (frame,) = video.frames([2], short_side)
        assert frame.shape == (short_side * 64 // 48, short_side, 3)
        assert corners(frame) == [GREEN, WHITE, RED, BLUE]


@pytest.mark.parametrize("shape", [(48, 64), (600, 480)])
def test_a_file_and_its_record_give_the_same_views(tmp_path, shape):
    rng = np.random.default_rng(0)
    pictures = [quarters(*shape) // 2 + rng.integers(0, 90, dtype=np.uint8) for _ in range(30)]
    file = write(tmp_path / "v.mp4", pictures, options={"crf": "4"})
    (record,) = transcode(file, Encoding())
    for views in (
        EvalViews(5, 3, 8, 40, "dense", 2),
        EvalViews(2, 3, 8, 40, "sparse", 2),
        EvalViews(1, 1, 8, 40, "dense", 2, validation=True),
    ):
        found = views.of_file(open_video(file))
        expected = views(record)
        assert found.shape == expected.shape == views.shape
        assert np.abs(found.astype(int) - expected).mean() < 2  # compressed once more


def test_memory_does_not_grow_with_the_video(tmp_path):
    file = write(tmp_path / "v.mp4", [quarters(240, 320)] * 200, options={"preset": "ultrafast"})
    video = open_video(file)
    tracemalloc.start()
    video.frames([0, 100, 199], 224)
    assert sum(1 for _ in video.stream(224)) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 240 * 320 * 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.mp4", None, "cannot be opened: No such file"),
        ("empty.mp4", b"", "cannot be opened"),
        ("text.mp4", b"hello world" * 200, "cannot be opened"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", "not a video|cannot be opened"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, content, reason):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(VideoError, match=reason) as error:
        open_video(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_other_things_are_named(tmp_path):
    with pytest.raises(VideoError, match="cannot be opened: a folder without videos"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match="too short: a single picture"):
        open_video(write(tmp_path / "one.mp4", numbered(1)))
    narrow = write(tmp_path / "narrow.mp4", [np.zeros((16, 400, 3), np.uint8)] * 3)
    with pytest.raises(VideoError, match="too narrow: 400x16 pixels"):
        open_video(narrow)


def test_a_video_that_breaks_is_refused(tmp_path):
    pictures = list(np.random.default_rng(0).integers(256, size=(60, 64, 64, 3), dtype=np.uint8))
    file = Path(write(tmp_path / "v.mkv", pictures, container="matroska"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"v\.mkv: stream breaks"):
        open_video(file)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    video = open_video(write(tmp_path / "v.mp4", numbered(20)))
    write(tmp_path / "v.mp4", numbered(5))
    with pytest.raises(VideoError, match=r"v\.mp4: stream breaks: it changed"):
        video.frames([15], 32)


def test_every_real_file_ends_in_frames_or_a_reason(shared):
    failures = {}
    for file in sorted((shared / "videos").glob("*/*")):
        try:
            video = open_video(file)
        except VideoError as error:
            failures[file.name] = str(error)
            continue
        assert isinstance(video, VideoFile)
        frames = video.frames([0, video.num_frames // 2, video.num_frames - 1], 64)
        assert frames.shape[0] == 3
        assert min(frames.shape[1:3]) == 64
        if file.parent.name == "odd":
            (record,) = transcode(str(file), Encoding(short_side=32))
            assert record.num_frames == video.num_frames
    assert set(failures) == {"corrupt_stream.mp4"}
    assert "stream breaks" in failures["corrupt_stream.mp4"]
