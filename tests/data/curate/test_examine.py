"""One pass over any file: what it keeps, what it refuses, and how much that may cost."""

import hashlib
import struct
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from curate_videos import moving, write

from vmae_jax.data.curate import hashes
from vmae_jax.data.curate.examine import ExamineSettings, examine
from vmae_jax.data.curate.items import CurationError, Examined, Item
from vmae_jax.data.curate.scenes import ClipRules
from vmae_jax.data.curate.store import from_line, to_line
from vmae_jax.data.videos import open_video

ITEM = Item("v", "v.mp4")


def look(file, **settings) -> Examined:
    return examine(ITEM, str(file), ExamineSettings(**settings))


@pytest.fixture(scope="module")
def three_scenes(tmp_path_factory) -> str:
    parts = [moving(seed, frames) for seed, frames in enumerate((60, 90, 50))]
    return write(tmp_path_factory.mktemp("videos") / "v.mp4", np.concatenate(parts))


def test_what_is_kept(three_scenes):
    video = look(three_scenes, clips=ClipRules(mode="all"))
    assert (video.item, video.reason, video.detail) == ("v", "", "")
    assert (video.width, video.height, video.fps, video.seconds) == (426, 240, 24.0, 8.333)
    assert video.digest == hashlib.sha256(Path(three_scenes).read_bytes()).hexdigest()
    assert video.cuts == (2.5, 6.25)
    assert [clip.id for clip in video.clips] == ["v#0", "v#1", "v#2"]
    assert [len(clip.hashes) for clip in video.clips] == [10, 15, 9]
    assert [clip.start for clip in video.clips] == [0, 2.5, 6.25]
    # The frame before a cut was not looked at, and may already be of the next scene.
    ends = [clip.end for clip in video.clips]
    assert ends == pytest.approx([2.5 - 1 / 24, 6.25 - 1 / 24, 200 / 24], abs=1e-6)
    for clip in video.clips:
        assert len(clip.thumbnails) == 3
        sizes = {cv2.imdecode(np.frombuffer(j, np.uint8), -1).shape for j in clip.thumbnails}
        assert sizes == {(90, 160, 3)}
        assert all(value == round(value, 4) for value in clip.scores.values())
    (longest,) = look(three_scenes).clips
    assert (longest.start, longest.number) == (2.5, 0)


def test_hashes_are_those_of_the_frames_shown(three_scenes):
    (clip,) = look(three_scenes, thumbnails=0).clips
    assert clip.thumbnails == ()
    frames = open_video(three_scenes).frames([60, 72, 120], 240)
    bits = [
        int(clip.hashes[i] ^ hashes.frame_hash(frame)).bit_count()
        for i, frame in zip((0, 2, 10), frames, strict=True)
    ]
    assert max(bits) <= 4


def test_a_line_of_text_and_back(three_scenes):
    for video in (look(three_scenes, clips=ClipRules(mode="all")), look(three_scenes + "?")):
        line = to_line(video)
        assert "\n" not in line
        assert line.isascii()
        assert to_line(from_line(line)) == line
        again = from_line(line)
        assert [c.scores for c in again.clips] == [c.scores for c in video.clips]
        assert [c.thumbnails for c in again.clips] == [c.thumbnails for c in video.clips]
        for old, new in zip(video.clips, again.clips, strict=True):
            np.testing.assert_array_equal(old.hashes, new.hashes)
            assert new.hashes.dtype == np.uint64
        assert to_line(look(three_scenes)) == to_line(look(three_scenes))
    for bad in ("", "[]", "{}", line[:-5]):
        with pytest.raises(CurationError, match="not a line of examined videos"):
            from_line(bad)


def test_a_rotated_video_is_measured_as_it_is_shown(shared):
    video = look(shared / "videos/odd/rotated.mp4")
    assert (video.width, video.height) == (270, 480)


@pytest.mark.parametrize("size", [(2, 2), (16, 2), (6, 8), (30, 30)])
def test_tiny_pictures_are_no_trouble(tmp_path, size):
    video = look(write(tmp_path / "v.mp4", moving(0, 24, (64, 64))[:, : size[1], : size[0]]))
    assert video.reason == ""
    assert (video.width, video.height) == size


# ---- Broken and hostile ----


def test_broken_files_have_a_reason(tmp_path, shared):
    whole = Path(write(tmp_path / "v.mp4", moving(0, 48))).read_bytes()
    cases = {
        "missing.mp4": (None, "cannot be opened"),
        "empty.mp4": (b"", "cannot be opened"),
        "notes.txt": (b"these are my notes\n" * 50, "not a video"),
        "half.mp4": (whole[: len(whole) // 2], "cannot be opened"),
    }
    for name, (content, reason) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        video = look(tmp_path / name)
        assert (video.reason, video.clips) == (reason, ())
        assert video.detail
        assert bool(video.digest) == (content is not None)
    assert look(tmp_path).reason == "cannot be opened"
    assert look(shared / "videos/odd/corrupt_stream.mp4").reason == "stream breaks"
    one = write(tmp_path / "one.mp4", moving(0, 1))
    assert look(one).reason == "too short"
    assert look(write(tmp_path / "narrow.mp4", moving(0, 10, (320, 16)))).reason == "too narrow"


def avi(path: Path, codec: str = "libx264") -> bytes:
    """An AVI file of 24 frames of 64x48 pixels."""
    return Path(write(path, moving(0, 24, (64, 48)), container="avi", codec=codec)).read_bytes()


@pytest.mark.parametrize(
    ("side", "reason"), [(100_000, ("cannot be decoded", "too large")), (9_000, ("too large",))]
)
def test_a_header_of_very_many_pixels(tmp_path, side, reason):
    data = avi(tmp_path / "v.avi", codec="rawvideo")  # nothing but the header knows its size
    old, new = struct.pack("<II", 64, 48), struct.pack("<II", side, side)
    assert data.count(old) == 2
    (tmp_path / "v.avi").write_bytes(data.replace(old, new))
    video, peak = measured(tmp_path / "v.avi")
    assert video.reason in reason  # FFmpeg itself refuses the larger one
    assert video.clips == ()
    assert peak < 32 << 20


def test_the_bound_on_pixels_is_a_setting(tmp_path):
    video = look(write(tmp_path / "v.mp4", moving(0, 4, (640, 360))), max_pixels=100_000)
    assert video.reason == "too large"
    assert "640x360 pixels, more than 100000" in video.detail


def test_a_file_that_claims_a_billion_frames(tmp_path):
    data = bytearray(avi(tmp_path / "v.avi"))
    place = data.index(b"strh") + 8 + 32  # dwLength of the stream
    assert struct.unpack_from("<I", data, place) == (24,)
    struct.pack_into("<I", data, place, 10**9)
    (tmp_path / "v.avi").write_bytes(data)
    video, peak = measured(tmp_path / "v.avi")
    assert video.reason == "too long"
    assert video.detail == "41666667 seconds, more than 900 (--max_length)"
    assert peak < 32 << 20


def test_a_small_file_of_many_hours(tmp_path):
    still = [np.zeros((16, 16, 3), np.uint8)] * 4000
    file = write(tmp_path / "v.mp4", still, fps=1)
    assert Path(file).stat().st_size < 200_000
    video, _ = measured(file)
    assert video.reason == "too long"
    assert video.detail == "4000 seconds, more than 900 (--max_length)"
    # Without any promise it is decoded, as far as the bounds allow.
    file = write(tmp_path / "v.h264", still, container="h264")
    for bound, named in (
        ({"max_seconds": 20}, "20 seconds, more than 20 (--max_length)"),
        ({"max_frames": 500}, "more than 500 frames (--max_frames)"),
        ({"max_decoded": 256 * 500}, "more than 128000 pixels in all (max_decoded)"),
    ):
        video, peak = measured(file, **bound)
        assert (video.reason, video.detail) == ("too long", named)
        assert peak < 32 << 20
    assert look(file, max_bytes=1000).reason == "too large"


def test_memory_does_not_grow_with_the_video(tmp_path):
    pictures = moving(0, 24, (320, 240))
    peaks = []
    for repeats in (4, 24):
        file = write(tmp_path / "v.mp4", np.tile(pictures, (repeats, 1, 1, 1)))
        peaks.append(measured(file)[1])
    assert peaks[1] - peaks[0] < 2 << 20  # thumbnails, hashes and numbers of 20 seconds more


def measured(file, **settings) -> tuple[Examined, int]:
    """What was found, and the most memory that Python held meanwhile."""
    tracemalloc.start()
    try:
        return look(file, **settings), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("settings", [{"max_bytes": 0}, {"max_seconds": -1}, {"thumbnails": 99}])
def test_settings_are_checked(settings):
    with pytest.raises(CurationError, match=next(iter(settings))):
        ExamineSettings(**settings)
