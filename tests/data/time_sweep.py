"""Videos of numbered pictures in many containers, codecs and states of their times, and the rule.

Every frame that is read must show the picture that the rule of `timeline.py` asks for, or the file
is refused by name. A slice of these runs in the suite (test_timeline.py); all of them with

  python tests/data/time_sweep.py
"""

import bisect
import dataclasses
import fnmatch
import fractions
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from vmae_jax.data.build.transcode import Encoding, transcode
from vmae_jax.data.clips import decode_frames
from vmae_jax.data.videos import VideoError, open_video, stream_video

HEIGHT, WIDTH, BITS = 32, 64, 8


def picture(number: int) -> np.ndarray:
    """u8[HEIGHT, WIDTH, 3] whose bars are the bits of `number`."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bars, np.uint8), WIDTH // BITS)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(frame: np.ndarray) -> int:
    """The number of a `picture`, whatever became of its size and colours."""
    levels = frame[frame.shape[0] // 4 : -frame.shape[0] // 4].mean((0, 2))
    bars = levels.reshape(BITS, -1)
    bars = bars[:, bars.shape[1] // 4 : -bars.shape[1] // 4 or None].mean(1)
    return sum(1 << bit for bit in range(BITS) if bars[bit] > 125)


_X264 = "keyint={keyint}:scenecut=0:bframes={b}:b-adapt=0:ref=4:b-pyramid={pyramid}"


def _x264(b: int, pyramid: str = "none", keyint: int = 24) -> tuple[str, dict[str, str]]:
    return "libx264", {"x264-params": _X264.format(b=b, pyramid=pyramid, keyint=keyint)}


CODECS = {
    "h264": _x264(0),
    "h264-b2": _x264(2),
    "h264-b7": _x264(7, "normal"),
    "h264-b16": _x264(16, "normal", 60),
    "hevc": ("libx265", {"x265-params": "log-level=none:keyint=24:bframes=4:pools=none"}),
    "mpeg4": ("mpeg4", {"g": "12"}),
    "mpeg4-b2": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2-b2": ("mpeg2video", {"g": "12", "bf": "2"}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}),
    "vp8-alt": ("libvpx", {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mjpeg": ("mjpeg", {"q": "3"}),
    "ffv1": ("ffv1", {}),
    "wmv2": ("wmv2", {"g": "12"}),
}  # fmt: skip
_H264 = ("h264", "h264-b2", "h264-b7", "h264-b16")
# What each container takes, and which of its times may be touched.
CONTAINERS = {
    "mp4": (*_H264, "hevc", "mpeg4-b2", "vp9", "mjpeg"),
    "frag.mp4": ("h264-b2", "hevc"),
    "mov": ("h264-b7", "mjpeg"),
    "mkv": (*_H264, "hevc", "mpeg4-b2", "mpeg2-b2", "ffv1", "mjpeg"),
    "webm": ("vp8", "vp8-alt", "vp9"),
    "avi": (*_H264, "mpeg4", "mpeg4-b2", "mjpeg"),
    "flv": ("h264", "h264-b7"),
    "ts": (*_H264, "hevc", "mpeg2-b2"),
    "mpg": ("mpeg2-b2",),
    "wmv": ("wmv2",),
    "h264": _H264,
}
_FORMATS = {
    "frag.mp4": "mp4", "mkv": "matroska", "ts": "mpegts", "mpg": "mpeg", "wmv": "asf",
}  # fmt: skip
_ENDS_FIRST = ("mp4", "mov", "flv")  # of joined files, the first alone is read, as by players
_RATES = (10, 24, fractions.Fraction(24000, 1001), 25, 30, fractions.Fraction(30000, 1001), 50, 60)


@dataclasses.dataclass(frozen=True)
class Case:
    """A file: what it is, and what was done to its times."""

    container: str
    codec: str
    fps: fractions.Fraction
    pace: str = "constant"  # or pause, dim, clock, film
    fault: str = ""  # or offset, trim, joined, spike, jump, stands, unsaid
    pictures: int = 60

    @property
    def name(self) -> str:
        words = (self.codec, f"{float(self.fps):.5g}", self.pace, self.fault)
        return "_".join(filter(None, words)) + f".{self.container}"

    def matches(self, pattern: str) -> bool:
        """Whether the name is that of a pattern; its constant pace and rate need not be said."""
        return fnmatch.fnmatch(self.name, pattern)

    @property
    def places(self) -> list[float]:
        """When each picture is shown, in pictures of the rate."""
        n = self.pictures
        steps = np.ones(n)
        if self.pace == "pause":
            steps[n // 2] = 40
        if self.pace == "film":  # two fields, three fields
            steps = np.tile((0.8, 1.2), n)[:n]
        if self.pace == "dim":  # a phone in the dark takes every other picture
            steps[n // 3 : 2 * n // 3] = 2
        if self.fault == "stands":
            steps[n // 2] = 90 * float(self.fps)
        places = np.cumsum(steps)
        if self.pace == "clock":  # of a recorder in a browser
            places = places + np.random.default_rng(0).uniform(-0.2, 0.2, n).round(2)
        return [float(place) for place in places - places[0]]

    @property
    def trimmed(self) -> int:
        # In Matroska, FFmpeg gives other codecs' pictures before 0 their times.
        edited = self.container in ("mp4", "mov")
        lost = self.container == "mkv" and self.codec.startswith("h")
        return 7 if self.fault == "trim" and (edited or lost) else 0

    def frames(self, fps: float) -> list[int]:
        """The numbers of the pictures that the rule shows at a rate."""
        shown = list(enumerate(self.places))[self.trimmed :]
        if self.fault == "joined" and self.container in _ENDS_FIRST:
            shown = shown[: self.pictures // 2]  # what comes behind is only said
        starts = [(p - shown[0][1]) * fps / float(self.fps) for _, p in shown]
        ticks = [math.floor(start + 0.5 + 1e-6) for start in starts]
        return [shown[bisect.bisect(ticks, tick) - 1][0] for tick in range(ticks[-1] + 1)]

    @property
    def is_named(self) -> bool:
        """Whether what was done to the times must be said."""
        if self.container in ("avi", "h264"):
            return False
        if self.fault == "trim":
            return bool(self.trimmed) and self.container == "mkv"
        return self.fault in ("joined", "spike", "jump")


def cases() -> Iterator[Case]:
    """All of them, in an order that does not change."""
    rates = itertools.cycle(map(fractions.Fraction, _RATES))
    for container, codecs in CONTAINERS.items():
        for codec in codecs:
            b = codec != "vp8-alt"  # whose hidden pictures have times of their own
            yield Case(container, codec, next(rates))
            yield Case(container, codec, next(rates))
            if container not in ("h264", "avi", "mpg"):
                yield Case(container, codec, next(rates), pace="dim")
                yield Case(container, codec, next(rates), pace="pause")
                yield Case(container, codec, next(rates), fault="offset")
            if container in ("mp4", "mov", "mkv", "webm") and b:
                yield Case(container, codec, next(rates), fault="trim")
                yield Case(container, codec, fractions.Fraction(30), pace="clock")
            if container in ("mp4", "mkv", "ts") and codec == "h264-b2":
                yield Case(container, codec, fractions.Fraction(24000, 1001), pace="film")
            if container not in ("frag.mp4", "wmv"):
                yield Case(container, codec, next(rates), fault="joined")
            if container in ("mp4", "mkv", "webm", "ts") and b:
                yield Case(container, codec, next(rates), fault="spike")
            if container in ("mkv", "webm", "ts", "mp4") and b:
                yield Case(container, codec, next(rates), fault="jump")
            if container in ("mkv", "webm", "flv"):
                yield Case(container, codec, next(rates), fault="unsaid")
        if container in ("mp4", "mkv", "webm"):
            yield Case(container, codecs[0], fractions.Fraction(10), fault="stands")


# ---- The files ----


def write(case: Case, folder: Path) -> Path:
    """Makes the file of a case."""
    path = folder / case.name
    half = case.pictures // 2
    if case.fault == "joined":
        halves = [folder / f"{i}.{path.name}" for i in range(2)]
        _mux(halves[0], case, range(half))
        _mux(halves[1], case, range(half, case.pictures))
        path.write_bytes(b"".join(file.read_bytes() for file in halves))
    else:
        _mux(path, case, range(case.pictures))
    if case.fault == "unsaid":
        _take_back_rate(path)
    return path


def _take_back_rate(path: Path) -> None:
    """Makes a file state no rate, as those of browsers and screen recorders."""
    data = path.read_bytes()
    if path.suffix == ".flv":
        data = data.replace(b"framerate", b"framerat_")
    else:  # DefaultDuration of Matroska becomes Void
        at = data.index(b"\x23\xe3\x83")
        length = data[at + 3] & 0x7F
        void = bytes([0xEC, 0x80 | length + 2]) + bytes(length + 2)
        data = data[:at] + void + data[at + len(void) :]
    path.write_bytes(data)


def _mux(path: Path, case: Case, numbers: Sequence[int]) -> None:
    codec, options = CODECS[case.codec]
    flags = {"avoid_negative_ts": "disabled"} if case.fault == "trim" else {}
    if case.container == "frag.mp4":
        flags["movflags"] = "frag_keyframe+empty_moov"
    tick = 1 / (case.fps * 100)
    form = _FORMATS.get(case.container, case.container)
    places = case.places
    with av.open(str(path), "w", format=form, options=flags) as output:
        stream = output.add_stream(codec, rate=case.fps, options=dict(options))
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = (
            tick if codec.startswith("lib") and case.pace in ("clock", "film") else 1 / case.fps
        )
        stream.time_base = stream.codec_context.time_base
        packets = []
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            place = places[number] - places[numbers[0]]
            frame.pts = round(place / case.fps / stream.codec_context.time_base)
            frame.time_base = stream.codec_context.time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            _touch(packet, number, case)
            output.mux(packet)


def mux_packets(path: Path, codec: str, packets: Sequence[bytes], size: tuple[int, int]) -> None:
    """Writes packets that were encoded elsewhere, 25 a second."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p"
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, fractions.Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, True
            output.mux(packet)


def _touch(packet: av.Packet, number: int, case: Case) -> None:
    """Does to the times of a packet what the case asks for."""
    shift = 0
    one = 1 / case.fps / packet.time_base
    if case.fault == "offset":
        shift = 5 / packet.time_base
    if case.fault == "trim":
        shift = -case.trimmed * one
    packet.pts, packet.dts = packet.pts + round(shift), packet.dts + round(shift)
    if case.fault == "jump":
        shift = round((1000 if case.container == "ts" else 20000) / packet.time_base)
        middle = case.pictures // 2 * one
        packet.pts += shift * (packet.pts >= middle)
        packet.dts += shift * (packet.dts >= middle)
    if case.fault == "spike" and number in (20, 21):
        packet.pts += round(22 / packet.time_base)


# ---- The check ----


def complaint(case: Case, folder: Path) -> str:
    """What is wrong with how the file of a case is read; '' = nothing."""
    path = write(case, folder)
    try:
        video = open_video(path)
    except VideoError as error:
        return f"refused: {error}"
    expected = case.frames(video.fps)
    ways = {
        "frames": [number_of(f) for f in video.frames(range(video.num_frames), HEIGHT)],
        "stream": [number_of(f) for f in stream_video(path, HEIGHT)],
        "record": [
            number_of(f)
            for record in transcode(str(path), Encoding())
            for f in decode_frames(record, range(record.num_frames))
        ],
    }
    for way, found in ways.items():
        if found != expected:
            return f"{way}: {video.fps:.5g} fps, {_runs(found)}; expected {_runs(expected)}"
    if case.pace != "clock" and abs(video.fps / float(case.fps) - 1) > 0.002:
        return f"{video.fps} fps"
    if bool(video.notes) != case.is_named:
        return f"said: {video.notes}"
    return ""


def _runs(numbers: Sequence[int]) -> str:
    """Numbers in words: 0-29 29x12 30-59."""
    words, start = [], 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            words.append(f"{numbers[start]}-{numbers[i - 1]}")
            start = i
    merged = [(word, len(list(same))) for word, same in itertools.groupby(words)]
    return f"{len(numbers)} frames " + " ".join(f"{w}x{n}" if n > 1 else w for w, n in merged)


def main() -> None:
    wrong, count = 0, 0
    only = sys.argv[1] if sys.argv[1:] else ""
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            if only not in case.name:
                continue
            try:
                found = complaint(case, Path(folder))
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            count += 1
            if found:
                wrong += 1
                print(f"{case.name}: {found}"[:400], flush=True)
    print(f"{count} videos, {count - wrong} as the rule says")


if __name__ == "__main__":
    main()
