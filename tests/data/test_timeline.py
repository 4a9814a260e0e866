"""When pictures are shown: the sweep's slice, the table of rates, breaks, damage and the report."""

import fractions

import cv2
import numpy as np
import pytest
import time_sweep
from test_odd_videos import GREEN, RED, corners, quarters, write

from vmae_jax.data.build.report import make_report
from vmae_jax.data.build.transcode import Encoding, transcode
from vmae_jax.data.timeline import Packets, trace
from vmae_jax.data.videos import VideoError, open_video, stream_video

SLICE = (
    "h264-b7_*.avi", "mpeg4-b2_*.avi", "h264-b16_*_pause.mkv", "h264-b7_*_unsaid.flv",
    "h264-b2_*_trim.mkv", "h264-b2_*_trim.mp4", "h264-b2_*_spike.mp4", "vp9_*_spike.webm",
    "h264-b7_*_joined.mkv", "mpeg2-b2_*_joined.mpg", "h264-b2_*_jump.ts", "vp8_30_clock.webm",
    "h264_10_constant_stands.mp4", "h264-b2_*.h264", "h264-b2_*_film.mkv",
)  # fmt: skip


@pytest.mark.parametrize("pattern", SLICE)
def test_every_frame_is_the_one_that_the_rule_says(tmp_path, pattern):
    case = next(case for case in time_sweep.cases() if case.matches(pattern))
    assert time_sweep.complaint(case, tmp_path) == ""


def traced(seconds, tick=0.001, stated=(), **kind):
    """The time line of pictures that are shown at some times, in a container of a clock."""
    packets = Packets()
    for time in seconds:
        ticks = None if time is None else round(time / tick)
        packets.add(ticks, ticks, True, False)
    base = fractions.Fraction(tick).limit_denominator(10**6)
    return trace(packets, base, [fractions.Fraction(rate) for rate in stated], **kind)


def every(gaps, count=90):
    """Times of pictures whose gaps recur."""
    return np.cumsum([0, *np.resize(gaps, count)])


NTSC = fractions.Fraction(30000, 1001)


@pytest.mark.parametrize("tick", [1 / 90000, 0.001])
@pytest.mark.parametrize(
    ("gaps", "stated", "rate"),
    [
        ([1 / 30], [], 30),
        ([1 / 30], [1000, 60], 30),  # as FFmpeg has it of recorders that state nothing
        ([1 / 60], [60], 60),
        ([1001 / 30000], [NTSC], NTSC),
        ([1001 / 30000] * 10, [], NTSC),
        ([1 / 28], [], 28),
        ([1 / 30] * 20 + [2 / 30], [28.6], 30),  # a phone that leaves out some
        ([1 / 30] * 3 + [2 / 30] * 4, [19.1], 30),  # ... in the dark
        ([1 / 30] * 44 + [10.0], [8.0], 30),  # a pause
        ([1 / 60] * 10 + [0.2, 0.5, 1.0], [6.4], 60),  # a screen where little happens
        ([0.028, 0.039, 0.031, 0.036], [], 30),  # a clock that trembles
        ([2.0], [0.5], 1),  # a time lapse: as slow as clips get
        ([1 / 120], [120], 60),  # fast ones: every n-th picture
        ([1 / 90], [90], 90),
        ([1 / 30, 1 / 20], [30], 24),  # film, as television shows it: 2 fields, 3 fields
        ([1001 / 30000, 1001 / 20000], [NTSC], fractions.Fraction(24000, 1001)),
        ([1 / 30, 1 / 30, 1 / 20, 1 / 30, 1 / 20], [30], 25),
    ],
)
def test_the_rate_is_that_of_motion_in_any_container(gaps, stated, rate, tick):
    assert traced(every(gaps, 300), tick, stated).rate == rate


def test_times_go_on_where_they_start_anew_or_jump():
    once = list(every([0.04], 49))
    for second in (once, [time + 20_000 for time in once]):
        line = traced(once + second, stated=[25])
        np.testing.assert_allclose(line.times, every([0.04], 99), atol=1e-9)
        assert line.notes == ("its time starts anew after 50 pictures, 2.00 s",)
    assert traced(once + [time + 20 for time in once]).times[-1] == pytest.approx(21.96)
    assert traced([*once, 20.0], may_jump=True).times[-1] == pytest.approx(2)


def test_pictures_with_wild_or_without_times_are_shown_where_they_belong():
    times = list(every([0.04], 79))
    for spoilt in ({30: 9.0, 31: 9.04}, {30: 0.0}, {30: None, 31: None}):
        line = traced([spoilt.get(i, time) for i, time in enumerate(times)])
        np.testing.assert_allclose(line.times, times, atol=1e-9)
        assert list(line.ranks) == list(range(80))
        assert line.notes == (
            f"{len(spoilt)} pictures without a time of their own, or with a wrong one",
        )
    line = traced([None] * 3 + times)
    assert list(line.ranks[:5]) == [-1, -1, -1, 0, 1]
    assert line.notes == ("3 pictures before its first time left out",)


def test_any_times_give_a_time_line():
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 40) * 6:
        packets = Packets()
        for ticks in rng.integers(-(10**6), 10**6, (length, 2)).tolist():
            ticks = [None if rng.random() < 0.2 else tick for tick in ticks]
            packets.add(*ticks, key=rng.random() < 0.2, hidden=rng.random() < 0.1)
        for kind in ({}, {"guessed": True}, {"may_jump": True}):
            line = trace(packets, fractions.Fraction(1, 1000), [], **kind)
            assert (np.diff(line.times) >= 0).all()
            assert sorted(line.ranks[line.ranks >= 0]) == list(range(len(line.times)))
            assert line.rate >= 1


# ---- Damage ----


@pytest.fixture
def damaged(tmp_path):
    """40 pictures, one of which was overwritten in part."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (32, 64, 3), np.uint8) for _ in range(40)]
    file = tmp_path / "v.avi"
    write(file, noise, container="avi", codec="mpeg4", options={})
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    file.write_bytes(data)
    return file


def test_damage_ends_a_video_or_is_skipped_and_said(damaged):
    with pytest.raises(VideoError, match="stream breaks") as error:
        open_video(damaged)
    before = error.value.frames
    assert 15 < before < 25
    video = open_video(damaged, keep_partial=True)
    assert video.num_frames == 40  # the picture before stands
    assert video.shown.tolist() == [*range(before), *range(before - 1, 39)]
    (note,) = video.notes
    assert note.startswith(f"1 damaged pictures skipped, the first after {before} frames, ")
    notes = []
    frames = list(stream_video(damaged, 32, keep_partial=True, notes=notes))
    np.testing.assert_array_equal(frames, video.frames(range(40), 32))
    assert notes == [note]


def test_a_video_that_was_cut_short_is_kept_up_to_there(damaged):
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 4])
    with pytest.raises(VideoError, match="stream breaks") as error:
        open_video(damaged)
    video = open_video(damaged, keep_partial=True)
    assert 1 < error.value.frames <= video.num_frames < 20
    assert video.notes


# ---- Side data that FFmpeg's bindings do not know ----


def test_pictures_with_exif_are_read_and_turned(tmp_path):
    """Motion JPEG as of compact cameras, here turned by a quarter."""
    file = tmp_path / "v.avi"
    write(file, [quarters()] * 3, container="avi", codec="mjpeg", pix_fmt="yuvj420p", options={})
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff
    _, jpeg = cv2.imencode(".jpg", quarters()[..., ::-1])
    packets = [jpeg.tobytes()[:2] + exif + jpeg.tobytes()[2:]] * 3
    time_sweep.mux_packets(file, "mjpeg", packets, (64, 48))
    video = open_video(file)
    assert (video.num_frames, video.height, video.width) == (3, 64, 48)
    assert corners(video.frames([1], 48)[0])[1] == RED
    assert corners(video.frames([1], 48)[0])[3] == GREEN


# ---- What the builder says ----


def test_the_report_says_what_was_done_to_time(tmp_path):
    cases = {case.name: case for case in time_sweep.cases()}
    kept = []
    for pattern in ("h264_*_constant.mp4", "h264_*_pause.mp4", "vp9_*_joined.webm"):
        case = next(case for case in cases.values() if case.matches(pattern))
        file, time = time_sweep.write(case, tmp_path), {}
        (record,) = transcode(str(file), Encoding(), told=time.update)
        assert time["pictures"] == 60
        assert time["frames"] == record.num_frames
        assert time["fps"] == pytest.approx(record.fps, abs=1e-3)
        entry = {"path": pattern, "clips": 1, "frames": 1, "seconds": 1.0}
        kept.append(entry | {"time": time})
    report = make_report("", [("train", "x", {"kept": kept, "rejected": []})], [], {"x": 1})
    pause, joined = report.times
    assert pause.startswith("h264_*_pause.mp4: 39 of 99 frames repeated (")
    assert joined.startswith("vp9_*_joined.webm: its time starts anew after 30 pictures")
    assert f"warning: {pause}" in report.table()
    assert report.to_dict()["times"] == report.times


# ---- Files of others ----


@pytest.mark.parametrize(
    ("name", "frames", "fps", "shown"),
    [
        ("01_fps_1000/exo_mkv_sample.mkv", 30, 30, 30),
        ("01_fps_1000/exo_flv_sample.flv", 30, 30, 30),
        ("01_fps_1000/chrome_30_j6_nofps.webm", 150, 30, 143),
        ("02_vfr_pause/pause.mp4", 1668, 1000 / 33, 155),
        ("02_vfr_pause/pause.mkv", 1668, 1000 / 33, 155),
        ("03_avi_bframes/bf5.avi", 100, 25, 100),
        ("03_avi_bframes/x264_veryslow.avi", 100, 25, 100),
        ("04_time_restarts/cat_vob.mpg", 200, 25, 200),
        ("04_time_restarts/twice.ts", 200, 25, 200),
        ("04_time_restarts/spike22.mp4", 100, 25, 100),
        ("04_time_restarts/trim_neg.mkv", 85, 25, 85),
        ("05_side_data/mjpeg_exif_o1.avi", 30, 25, 30),
        ("05_side_data/water_180_mvhevc_5frames.mov", 5, 90, 5),
    ],
)
def test_files_that_people_have(shared, name, frames, fps, shown):
    video = open_video(shared / "cases" / name)
    assert (video.num_frames, len(set(video.shown.tolist()))) == (frames, shown)
    assert video.fps == pytest.approx(fps)
    if name[:2] in ("03", "04"):
        first = 15 if "trim" in name else 0
        found = [time_sweep.number_of(frame) for frame in video.stream(64)]
        assert found == [(first + i) % 100 for i in range(frames)]
