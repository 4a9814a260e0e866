"""A video file read once, in order: pictures and when they are shown; see `Source`."""

import collections
import contextlib
import dataclasses
import fractions
import heapq
import math
import os
import re
from collections.abc import Container, Iterator
from typing import Any, TypeVar

import av
import numpy as np

from vmae_jax import special
from vmae_jax.data.fields import Fields
from vmae_jax.data.timeline import Packets, Timeline, trace
from vmae_jax.data.upright import Upright, VideoError

T = TypeVar("T")

SHORT_SIDE = 256  # pixels of a record, unless the builder is told otherwise
MAX_PIXELS = 1 << 26  # of a source frame, twice 8K
_MOST_HELD = 16  # pictures that wait for an earlier time; H.264 and HEVC reorder no more
# Playlists open other files, the rest are not videos.
_REFUSED_FORMATS = {"hls", "dash", "concat", "concatf", "image2", "tty", "lavfi", "sdp", "webvtt"}
# Such files have times of presentation only; those of decoding are FFmpeg's.
_NO_DECODING_TIMES = {"matroska", "nut"}
# The beginning of a file that was joined to another, whose demuxer ends before it.
_NEXT_FILE = re.compile(rb"ftyp(isom|iso\d|mp4\d|avc1|qt  |M4V |3gp)|FLV\x01[\x01\x05]\0\0\0\x09")
_NEXT_WITHIN = 1 << 20  # bytes behind the last picture
_LOST = 0.03  # of the pictures without a word from the decoder, from which on it is said


@dataclasses.dataclass
class Pace:
    """What a constant rate made of the pictures of a file."""

    frames: int = 0
    dropped: int = 0  # pictures that no frame shows
    repeated: int = 0  # frames that show the picture of the frame before


class Source:
    """Iterates over (seconds, u8[H, W, 3]) in display order: upright, square pixels, final size.

    Frames whose number is not in `wanted` come as None, which saves their conversion. A break ends
    the iteration; `broken` then says why. `frames`, `pixels` and `seconds` say how much was decoded
    so far, `size` the first frame's height and width as it would be shown without scaling.
    """

    def __init__(
        self,
        file: str,
        short_side: int,
        max_pixels: int = MAX_PIXELS,
        wanted: Container[int] | None = None,
        *,
        timeline: Timeline | None = None,
        skip_damage: bool = False,
    ):
        """Reads the times of all packets, unless the `timeline` of the file is known.

        Args:
          skip_damage: goes on after damage, which `notes` count, and with what there is of a file
            that ends early.
        """
        self._file, self._short_side, self._max_pixels = file, short_side, max_pixels
        self._wanted, self._skip_damage = wanted, skip_damage
        self.frames, self.pixels, self.seconds, self.pace = 0, 0, 0.0, Pace()
        self._first: float | None = None  # seconds at which the first picture is shown
        self._start: float | None = None  # likewise, as the file has it
        self._reached = 0.0  # seconds from there
        self.size: tuple[int, int] = (0, 0)
        self.broken: VideoError | None = None
        self._damage: list[VideoError] = []
        self._lost, self._ends_before_next = 0, False
        self._open()
        self.timeline = timeline or self._trace()
        self.rate = self.timeline.rate

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_) -> None:
        self._container.close()

    def _open(self) -> None:
        if kind := special.kind(self._file):
            raise VideoError("cannot be opened", kind)
        try:
            # As 'file:', a name with a colon is no protocol; and nothing may reach the network.
            self._container = av.open(
                f"file:{self._file}",
                options={"protocol_whitelist": "file"},
                metadata_errors="ignore",
            )
        except Exception as error:
            why = "a folder without videos" if os.path.isdir(self._file) else _brief(error)
            raise VideoError("cannot be opened", why) from error
        try:
            self._stream = self._pick_stream()
        except Exception:
            self._container.close()
            raise

    def _trace(self) -> Timeline:
        """One pass over the packets, without decoding; then the file is opened anew."""
        stream, form, packets = self._stream, self._container.format, Packets()
        rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
        if form.flags & av.format.Flags.no_timestamps.value:  # FFmpeg takes raw streams for 25
            rates.insert(0, stream.codec_context.framerate)
        stated = [fractions.Fraction(rate) for rate in rates if rate and rate < 1000]
        time_base = stream.time_base
        times = {
            # Such files have times of presentation only.
            "guessed": bool(_NO_DECODING_TIMES & set(form.name.split(","))),
            "may_jump": bool(form.flags & av.format.Flags.ts_discont.value),
        }
        end = 0
        with contextlib.suppress(Exception):  # what is wrong with the file, decoding says
            for packet, begins in self._demuxed():
                end = max(end, (packet.pos or 0) + packet.size)
                if begins:
                    # AVI has no times of presentation: what FFmpeg gives as such are guesses.
                    pts = packet.dts if form.name == "avi" else packet.pts
                    packets.add(pts, packet.dts, packet.is_keyframe, packet.is_discard)
        self._container.close()
        self._open()
        with open(self._file, "rb") as file:
            file.seek(end)
            self._ends_before_next = bool(_NEXT_FILE.search(file.read(_NEXT_WITHIN)))
        return trace(packets, time_base, stated, **times)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was put right in the times, skipped, or is missing in the end."""
        notes = list(self.timeline.notes)
        if self._ends_before_next:
            notes.append("another file was joined to it, and is not read")
        if self._lost > _LOST * len(self.timeline.times):
            notes.append(f"{self._lost} of {len(self.timeline.times)} pictures did not decode")
        if self._damage:
            first = self._damage[0]
            notes.append(
                f"{len(self._damage)} damaged pictures skipped, the first after {first.frames} "
                f"frames, {first.seconds:.1f} s ({first.detail})"
            )
        if self._skip_damage and self.broken:
            notes.append(
                f"it breaks after {self.frames} frames, {self.seconds:.1f} s ({self.broken.detail})"
            )
        return tuple(notes)

    def check(self) -> None:
        """Raises where a pass at constant rate ended in a break, or gave fewer than two frames."""
        frames = self.pace.frames
        if self.broken and not (self._skip_damage and frames > 1):
            raise self.broken
        if frames < 2:
            if self._damage:
                raise self._damage[0]
            raise self.error("too short", "a single picture" if frames else "no frame in it")

    def error(self, reason: str, detail: str) -> VideoError:
        return VideoError(reason, detail, self.frames, round(self.seconds, 3))

    def _pick_stream(self) -> Any:
        name = self._container.format.name
        if name.endswith("_pipe") or _REFUSED_FORMATS & set(name.split(",")):
            raise VideoError("not a video", f"a file of format {name}")
        cover = av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & cover]
        if not streams:
            raise VideoError("not a video", f"no video stream in it ({name})")
        stream = max(
            streams, key=lambda s: (s.disposition & av.stream.Disposition.default, -s.index)
        )
        if stream.codec_context is None:
            raise VideoError("cannot be decoded", "its codec is unknown")
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        # The decoder refuses larger frames before it allocates them, also midway.
        stream.codec_context.options = {"max_pixels": str(self._max_pixels)}
        stream.codec_context.thread_count = 1  # one video per core is faster, and never differs
        return stream

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise VideoError(
                "too large",
                f"frames of {width}x{height} pixels, more than {self._max_pixels} (--max_pixels)",
            )

    def __iter__(self) -> Iterator[tuple[float, np.ndarray | None]]:
        # Pictures come in the order of display, their times need not: the n-th has the n-th.
        times, due = self.timeline.times, 0
        pictures, ranks = collections.deque(), []
        for rank, picture in self._decode():
            pictures.append(picture)
            heapq.heappush(ranks, rank)
            while ranks and (ranks[0] <= due or len(ranks) > _MOST_HELD):
                due = ranks[0] + 1
                yield float(times[heapq.heappop(ranks)]), pictures.popleft()
        while ranks:
            yield float(times[heapq.heappop(ranks)]), pictures.popleft()

    def _decode(self) -> Iterator[tuple[int, np.ndarray | None]]:
        upright = Upright(self._short_side)
        rank = -1
        try:
            for packet in self._packets():
                for frame in self._decoded(packet):
                    rank = (
                        min(rank + 1, len(self.timeline.times) - 1)
                        if frame.pts is None
                        else frame.pts
                    )
                    if rank < 0:
                        continue
                    wanted = self._wanted is None or self.frames in self._wanted
                    picture = upright(frame, self._stream) if wanted else None
                    self.size = upright.shown if picture is not None else self.size
                    self.pixels += frame.width * frame.height
                    self._count(rank)
                    yield rank, picture
            self._check_complete()
            self._lost = len(self.timeline.times) - self.frames - len(self._damage)
        except VideoError as error:
            self.broken = self.error(error.reason, error.detail)
        except Exception as error:  # bytes from anywhere: FFmpeg's bindings raise many types
            reason = "stream breaks" if self.frames else "cannot be decoded"
            self.broken = self.error(reason, _brief(error))

    def _demuxed(self) -> Iterator[tuple[Any, bool]]:
        """The packets of the stream, and whether each begins a picture."""
        fields = Fields(self._stream.codec_context)
        for packet in self._container.demux(self._stream):
            yield packet, packet.size > 0 and not fields.is_second(packet)

    def _packets(self) -> Iterator[Any]:
        """Those of the stream; instead of a time each has the rank of its picture."""
        ranks, number = self.timeline.ranks, 0
        # Where files were joined, their counters need not fit.
        joints = {seam + near for seam in self.timeline.seams for near in range(-3, 2)}
        for packet, begins in self._demuxed():
            if packet.size:
                if begins and number == len(ranks):
                    raise VideoError("stream breaks", "it changed while it was read")
                if packet.is_corrupt and number not in joints:
                    self._damaged("stream breaks", "a damaged or incomplete packet")
                number += begins
                packet.pts = int(ranks[number - 1])
            yield packet

    def _decoded(self, packet: Any) -> Iterator[Any]:
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            self._damaged("stream breaks" if self.frames else "cannot be decoded", _brief(error))
            return
        for frame in frames:
            if frame.is_corrupt:
                self._damaged("stream breaks", "a damaged frame")
            else:
                yield frame

    def _damaged(self, reason: str, detail: str) -> None:
        """Ends the pass, or takes note."""
        error = self.error(reason, detail)
        if not self._skip_damage:
            raise error
        self._damage.append(error)

    def _count(self, rank: int) -> None:
        one = float(1 / self.rate)
        time, stored = float(self.timeline.times[rank]), float(self.timeline.stored[rank])
        self.frames += 1
        self._first = time if self._first is None else self._first
        self.seconds = max(self.seconds, time - self._first + one)
        if not math.isnan(stored):
            self._start = stored if self._start is None else self._start
            self._reached = max(self._reached, stored - self._start + one)

    @property
    def promised(self) -> float | None:
        """Seconds that the file says it lasts, where it says so of its pictures."""
        stream, container = self._stream, self._container
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None and len(container.streams) == 1:
            return container.duration / av.time_base
        return None

    def _check_complete(self) -> None:
        """A file that was cut short may end without an error: how long did it say it is?"""
        promised, stream = self.promised, self._stream
        if promised is None:
            return
        # Some containers count from 0, not from the first frame; rates and edits are never exact.
        reached = self.seconds if self._start is None else self._reached
        short = promised - reached - max(0.0, self._start or 0.0)
        all_there = 0 < stream.frames <= self.frames  # a slide show's last picture stands for long
        if self.frames and short > max(1.0, 0.1 * promised) and not all_there:
            raise VideoError(
                "stream breaks", f"it ends early: {promised:.1f} seconds were promised"
            )


def _brief(error: Exception) -> str:
    """FFmpeg's own last words where it has any, else the error's."""
    log = getattr(error, "log", None)
    text = log[2] if log else getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def constant_rate(
    timed: Iterator[tuple[float, T]], rate: fractions.Fraction, pace: Pace
) -> Iterator[T]:
    """One picture (or its number) per 1/rate seconds from the first on: the latest whose time has
    come. What became of the pictures is added to `pace`.

    Times are rounded to the nearest tick, so a source of this very rate passes through unchanged.
    """
    start, shown, fresh = None, None, False

    def frame() -> T:
        nonlocal fresh
        pace.frames += 1
        pace.repeated += not fresh
        fresh = False
        return shown

    for time, picture in timed:
        start = time if start is None else start
        place = math.floor((time - start) * float(rate) + 0.5)
        while pace.frames < place:
            yield frame()
        pace.dropped += fresh
        shown, fresh = picture, True
    if shown is not None:
        yield frame()
