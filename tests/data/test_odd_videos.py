"""What one video may look like: orientation, timing, depth, breaks and hostile headers."""

import fractions
import io
import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vmae_jax.data.build.transcode import Encoding, transcode
from vmae_jax.data.clips import Record, decode_frames
from vmae_jax.data.videos import VideoError

# The four quarters of the test picture: red, green, blue, white (clockwise from top left: r g w b).
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, WHITE
    return picture


def write(
    path,
    pictures,
    *,
    fps=25,
    pts=None,
    container="mp4",
    codec="libx264",
    prepare=None,
    pix_fmt="yuv420p",
    options=None,
):
    """Writes a video with PyAV; `pts` counts in 1/fps, `prepare(stream)` tweaks it."""
    tick = fractions.Fraction(1, fps * 100)
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {"crf": "12"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = tick
        if prepare:
            prepare(stream)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = round(100 * (pts[i] if pts else i))
            frame.time_base = tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return str(path)


def one_clip(file, **options) -> Record:
    (record,) = transcode(file, Encoding(**options))
    return record


def frames_of(record: Record) -> np.ndarray:
    return decode_frames(record, range(record.num_frames))


def corners(picture: np.ndarray) -> list[tuple[int, int, int]]:
    """Colours of top left, top right, bottom left, bottom right, rounded to 0 or 255."""
    h, w = picture.shape[0] // 4, picture.shape[1] // 4
    found = [picture[y, x] for y in (h, -h) for x in (w, -w)]
    return [tuple(int(v > 127) * 255 for v in color) for color in found]


def numbered(count: int, size: int = 32) -> list[np.ndarray]:
    """Plain pictures whose brightness tells their number."""
    return [np.full((size, size, 3), 20 + 8 * i, np.uint8) for i in range(count)]


def numbers(record: Record) -> list[int]:
    return [round((frame.mean() - 20) / 8) for frame in frames_of(record)]


# ---- Orientation and size ----


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, [RED, GREEN, BLUE, WHITE]),
        (90, [GREEN, WHITE, RED, BLUE]),  # counter-clockwise, as FFmpeg counts
        (180, [WHITE, BLUE, GREEN, RED]),
        (-90, [BLUE, RED, WHITE, GREEN]),
    ],
)
def test_rotation_metadata_turns_the_picture(tmp_path, degrees, expected):
    file = write(
        tmp_path / "v.mp4",
        [quarters()] * 4,
        prepare=lambda stream: stream.set_display_rotation(degrees),
    )
    record = one_clip(file)
    assert corners(frames_of(record)[0]) == expected
    assert (record.width, record.height) == ((48, 64) if degrees % 180 else (64, 48))


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_downscale_keeps_the_aspect_and_antialiases(tmp_path, codec):
    stripes = np.zeros((240, 320, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide: without antialiasing they would alias, not turn grey
    record = one_clip(write(tmp_path / "v.mp4", [stripes] * 3), short_side=60, codec=codec)
    assert (record.width, record.height) == (80, 60)
    inner = frames_of(record)[0, 5:-5, 5:-5].astype(int)
    assert 110 < inner.mean() < 145
    assert inner.std() < 12


def test_small_and_odd_sizes_are_kept_even_and_never_enlarged(tmp_path):
    file = write(
        tmp_path / "v.mkv",
        [quarters(35, 51)] * 3,
        container="matroska",
        codec="ffv1",
        pix_fmt="yuv444p",
        options={},
    )
    record = one_clip(file)
    assert (record.width, record.height) == (50, 34)
    assert corners(frames_of(record)[0]) == [RED, GREEN, BLUE, WHITE]


def test_anamorphic_pixels_become_square(tmp_path):
    def prepare(stream):
        stream.sample_aspect_ratio = fractions.Fraction(4, 3)

    record = one_clip(write(tmp_path / "v.mp4", [quarters(48, 48)] * 3, prepare=prepare))
    assert (record.width, record.height) == (64, 48)


# ---- Time ----


def test_constant_rate_passes_through_frame_by_frame(tmp_path):
    record = one_clip(write(tmp_path / "v.mp4", numbered(24)))
    assert numbers(record) == list(range(24))
    assert record.fps == 25


def test_variable_rate_is_resampled_by_presentation_times(tmp_path):
    # A pause of 6 ticks after frame 2, then the rate goes on: 12 frames over 16 ticks.
    pts = [0, 1, 2, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    file = write(tmp_path / "v.mkv", numbered(12), pts=pts, container="matroska")
    record = one_clip(file)
    seconds = np.arange(record.num_frames) / record.fps
    expected = [
        max(i for i, p in enumerate(pts) if p <= s * 25 + 0.5 * 25 / record.fps + 1e-6)
        for s in seconds
    ]
    assert numbers(record) == expected
    assert record.num_frames / record.fps == pytest.approx(17 / 25, abs=1.5 / record.fps)


def test_time_starts_at_the_first_frame(tmp_path):
    file = write(
        tmp_path / "v.mkv", numbered(10), pts=[200 + i for i in range(10)], container="matroska"
    )
    record = one_clip(file)
    assert numbers(record) == list(range(10))
    assert record.start == 0


def test_segments_cover_the_video_and_drop_a_short_tail(tmp_path):
    file = write(tmp_path / "v.mp4", numbered(28))
    segments = list(transcode(file, Encoding(segment_seconds=8 / 25)))
    assert [numbers(s) for s in segments] == [
        list(range(k, min(k + 8, 28))) for k in (0, 8, 16, 24)
    ]
    assert [s.start for s in segments] == pytest.approx([0, 8 / 25, 16 / 25, 24 / 25])
    tail = list(transcode(file, Encoding(segment_seconds=12.5 / 25)))  # 12 + 12 + a tail of 4
    assert [s.num_frames for s in tail] == [12, 12]


def test_output_is_seekable_h264(tmp_path):
    record = one_clip(write(tmp_path / "v.mp4", numbered(28) + numbered(28)))
    with av.open(io.BytesIO(record.video)) as container:
        stream = container.streams.video[0]
        frames = [(f.pts * stream.time_base, f.key_frame) for f in container.decode(stream)]
    assert [t for t, _ in frames] == [fractions.Fraction(i, 25) for i in range(56)]
    assert [i for i, (_, key) in enumerate(frames) if key] == [0, 16, 32, 48]


# ---- Colour ----


def test_full_range_video_keeps_its_levels(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    file = write(tmp_path / "v.mp4", [ramp] * 3, pix_fmt="yuvj420p")
    np.testing.assert_allclose(frames_of(one_clip(file))[0].astype(int), ramp, atol=8)


def test_hdr_white_and_black_stay_apart(tmp_path):
    """PQ: 203 cd/m2 (code 0.58) is a white page, 1000 (0.75) the brightest; both fit 8 bits."""
    levels = np.array([0.0, 0.3, 0.58, 0.75, 1.0])
    row = np.repeat(levels * 65535, 16).astype(np.uint16)
    picture = np.broadcast_to(row[None, :, None], (48, 80, 3)).copy()

    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv444p10le"
        stream.codec_context.color_trc = 16
        stream.codec_context.color_primaries = 9
        stream.codec_context.colorspace = 9
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb48le")
            frame = frame.reformat(format="yuv444p10le", dst_colorspace=9)
            frame.color_trc, frame.color_primaries = 16, 9
            frame.pts = i
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    black, dark, page, bright, brightest = frames_of(one_clip(str(path)))[0, 24, 8::16].mean(-1)
    assert black < 12
    assert black + 15 < dark < page - 40
    assert 160 < page < bright - 20
    assert bright > 240
    assert brightest == pytest.approx(bright, abs=4)


# ---- Breaks and hostile input ----


def break_of(file, **options) -> tuple[VideoError, list[Record]]:
    """The error a video ends in, and the clips it gave before."""
    clips, stream = [], transcode(str(file), Encoding(**options))
    with pytest.raises(VideoError) as caught:
        clips.extend(stream)
    return caught.value, clips


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_a_file_cut_short_breaks_where_it_ends(tmp_path, container):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(100)]
    options = {"movflags": "+faststart"}
    path = tmp_path / "v"
    tick = fractions.Fraction(1, 25)
    with av.open(
        str(path), "w", format=container, options=options if container == "mp4" else {}
    ) as o:
        stream = o.add_stream("mpeg4", rate=25)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(noise):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, tick
            o.mux(stream.encode(frame))
        o.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    error, clips = break_of(path)
    assert error.reason == "stream breaks"
    assert 35 <= error.frames <= 60
    assert error.seconds == pytest.approx(error.frames / 25, abs=0.05)
    assert [clip.num_frames for clip in clips] == [error.frames]  # what --keep_partial keeps


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.txt", b"these are my notes\n" * 50, "not a video"),
        ("empty.mp4", b"", "cannot be opened"),
        ("noise.mp4", bytes(range(256)) * 40, "cannot be opened"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n", None),
        ("list.ffconcat", b"ffconcat version 1.0\nfile 'v.mp4'\n", None),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content, reason):
    write(tmp_path / "v.mp4", numbered(4))
    (tmp_path / name).write_bytes(content)
    error, clips = break_of(tmp_path / name)
    assert not clips
    assert error.reason in ((reason,) if reason else ("not a video", "cannot be opened"))


def test_still_pictures_and_sounds_are_not_videos(tmp_path):
    cv2.imwrite(str(tmp_path / "still.png"), quarters())
    sound = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + 8000,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        8000,
        16000,
        2,
        16,
        b"data",
        8000,
    ) + bytes(8000)
    (tmp_path / "sound.wav").write_bytes(sound)
    for name in ("still.png", "sound.wav"):
        error, _ = break_of(tmp_path / name)
        assert error.reason == "not a video"
    error, _ = break_of(write(tmp_path / "one.mp4", numbered(1)))
    assert error.reason == "too short"


def test_limits_name_their_flag(tmp_path):
    file = write(tmp_path / "v.mp4", numbered(20))
    error, _ = break_of(file, max_pixels=1000)
    assert error.reason == "too large"
    assert "32x32" in error.detail
    assert "--max_pixels" in error.detail
    error, clips = break_of(file, max_frames=10)
    assert error.reason == "too long"
    assert "--segment_seconds" in error.detail
    assert not clips
    assert len(list(transcode(file, Encoding(max_frames=10, segment_seconds=8 / 25)))) == 3


def test_a_jump_in_time_does_not_make_endless_frames(tmp_path):
    pts = [0, 1, 2, 3, 10**6, 10**6 + 1]
    record = one_clip(write(tmp_path / "v.mkv", numbered(6), pts=pts, container="matroska"))
    assert numbers(record) == list(range(6))


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_end_in_clips_or_a_reason(tmp_path, seed):
    data = Path(write(tmp_path / "v.mp4", [quarters()] * 12)).read_bytes()
    rng = np.random.default_rng(seed)
    reasons = []
    for i in range(30):
        mutant = bytearray(data)
        for position in rng.integers(0, len(data), 6):
            mutant[position] = rng.integers(0, 256)
        path = tmp_path / f"m{i}.mp4"
        path.write_bytes(mutant)
        try:
            for clip in transcode(str(path), Encoding(max_pixels=1 << 20, max_frames=1000)):
                assert clip.num_frames == len(frames_of(clip))
        except VideoError as error:
            reasons.append((error.reason, error.detail))
    assert all(reason and detail for reason, detail in reasons)
    assert reasons  # the damage was felt at all


def test_same_bytes_every_time(tmp_path):
    """Whatever memory held before: x264's defaults read some that they never wrote."""
    rng = np.random.default_rng(0)
    moving = []
    for width in (200, 320):
        blotches = cv2.resize(rng.integers(0, 255, (16, 16, 3), np.uint8), (width, 200))
        pictures = [np.roll(blotches, 3 * i, 1) for i in range(30)]
        moving.append(write(tmp_path / f"{width}.mp4", pictures))
    found = {file: set() for file in moving}
    for _ in range(8):
        for file in moving:
            found[file].add(one_clip(file).video)
            dirt = [rng.bytes(size) for size in rng.integers(1 << 10, 1 << 20, 50)]
            del dirt
    assert [len(videos) for videos in found.values()] == [1, 1]


# ---- The real ones ----


def test_real_rotated_videos_stand_upright(shared):
    """Seen with the eye: keys' white signs on the spacebar row at the bottom, mirror above lift."""
    record = one_clip(str(shared / "videos/odd/rotated_90_3_frames.mov"))
    assert (record.width, record.height) == (256, 454)
    record = one_clip(str(shared / "videos/odd/rotated.mp4"))
    picture = frames_of(record)[0].astype(int)
    assert picture.shape == (454, 256, 3)
    # The golden mirror fills the upper half, the small red lift hangs in the lower one.
    redness = picture[..., 0] - picture[..., 1]
    row, column = np.unravel_index(redness.argmax(), redness.shape)
    assert 270 < row < 380
    assert 80 < column < 170


def test_edit_lists_hide_what_they_should(shared):
    """30 frames are stored, the edit list shows 25."""
    assert one_clip(str(shared / "videos/odd/discard_first_keyframe.mp4")).num_frames == 25
