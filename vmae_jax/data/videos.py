"""Any video file to upright RGB frames: whatever its container, codec, depth and timing.

`Source` reads it once, in order; `open_video` gives frames by number, at a constant rate, as the
builder of data sets would count them. When a picture is shown, and at which rate, says timeline.py.
"""

import array
import collections
import contextlib
import dataclasses
import fractions
import heapq
import math
import os
from collections.abc import Container, Iterator, Sequence
from typing import Any, TypeVar

import av
import numpy as np

from vmae_jax import special
from vmae_jax.data import augment
from vmae_jax.data.clips import MAX_ASPECT, MAX_SIDE
from vmae_jax.data.timeline import Packets, Timeline, trace
from vmae_jax.data.upright import Upright, VideoError

T = TypeVar("T")

SHORT_SIDE = 256  # pixels of a record, unless the builder is told otherwise
MAX_PIXELS = 1 << 26  # of a source frame, twice 8K
_MAX_FRAMES = 1 << 20  # of a file, 9 hours at 30 fps
_MOST_HELD = 16  # pictures that wait for an earlier time; H.264 and HEVC reorder no more
# Playlists open other files, the rest are not videos.
_REFUSED_FORMATS = {"hls", "dash", "concat", "concatf", "image2", "tty", "lavfi", "sdp", "webvtt"}


# ---- Frames by number ----


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video whose every frame was decoded once, so that it is known to be whole.

    Frames are counted as the builder counts those of a record: at the constant rate `fps`.
    """

    path: str
    fps: float
    height: int  # pixels, as it is shown
    width: int
    shown: np.ndarray  # i64[num_frames], number of the frame of the file that is on show
    notes: tuple[str, ...]  # what was put right in its times, or skipped as damaged
    _timeline: Timeline = dataclasses.field(repr=False)
    _keep_partial: bool

    @property
    def num_frames(self) -> int:
        return len(self.shown)

    def frames(self, indices: Sequence[int] | np.ndarray, short_side: int) -> np.ndarray:
        """Some frames, scaled so that the shorter side has `short_side` pixels: u8[T, H, W, 3].

        Decodes the file up to the last of them, and holds no other.

        Raises:
          VideoError: where the file is no longer what it was.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size == 0 or indices.min() < 0 or indices.max() >= self.num_frames:
            raise IndexError(f"frames {indices.tolist()[:20]}: expected 0 to {self.num_frames - 1}")
        needed, places = np.unique(self.shown[indices], return_inverse=True)
        found: list[np.ndarray] = []
        with _named(self.path), self._source(short_side, frozenset(needed.tolist())) as source:
            for _, picture in source:
                if picture is not None:
                    found.append(augment.resize_short_side(picture, short_side))
                if len(found) == len(needed):
                    return np.stack(found)[places]
            raise source.broken or source.error("stream breaks", "it changed while it was read")

    def stream(self, short_side: int) -> Iterator[np.ndarray]:
        """All frames in order, scaled as those of `frames`, u8[H, W, 3] each.

        Raises:
          VideoError: where the file is no longer what it was.
        """
        with _named(self.path), self._source(short_side) as source:
            yield from _stream(source, short_side)

    def _source(self, short_side: int, wanted: Container[int] | None = None) -> "Source":
        # By way of the size of a record, so that a video and its record look alike.
        return Source(
            self.path,
            max(short_side, SHORT_SIDE),
            wanted=wanted,
            timeline=self._timeline,
            skip_damage=self._keep_partial,
        )


def open_video(
    path: str | os.PathLike,
    max_seconds: float = math.inf,
    max_pixels: float = math.inf,
    *,
    keep_partial: bool = False,
) -> VideoFile:
    """Reads a video file through once; see `VideoFile`.

    Args:
      max_seconds, max_pixels: of all its frames; no more of it are read.
      keep_partial: skips damaged pictures, as a player does, and takes a file that ends early.

    Raises:
      VideoError: where it is missing, no video, damaged, a single picture, too large or too long.
    """
    path, size, shown = os.fspath(path), None, array.array("q")
    with _named(path), Source(path, MAX_SIDE, wanted=(0,), skip_damage=keep_partial) as source:

        def numbered() -> Iterator[tuple[float, int]]:
            nonlocal size
            for number, (time, picture) in enumerate(source):
                if source.pixels > max_pixels:
                    raise source.error("too large", f"more than {max_pixels:.3g} pixels in all")
                size = picture.shape[:2] if picture is not None else size
                yield time, number

        for number in constant_rate(numbered(), source.rate, source.pace):
            shown.append(number)
            if len(shown) > _MAX_FRAMES:
                raise source.error("too long", f"more than {_MAX_FRAMES} frames")
            if len(shown) > max_seconds * source.rate:
                raise source.error("too long", f"more than {max_seconds:g} seconds")
        source.check(len(shown))
        _check_aspect(source, *size)
        return VideoFile(
            path,
            float(source.rate),
            *size,
            np.array(shown, np.int64),
            source.notes,
            source.timeline,
            keep_partial,
        )


def stream_video(
    path: str | os.PathLike,
    short_side: int,
    *,
    keep_partial: bool = False,
    notes: list[str] | None = None,
) -> Iterator[np.ndarray]:
    """All frames of a file in order and in one pass, scaled as those of `VideoFile.frames`.

    Args:
      short_side: in pixels; 0 = not scaled at all, nor made square where pixels are not.
      keep_partial: see `open_video`.
      notes: in the end takes those of the file, as `VideoFile.notes`.

    Yields:
      u8[H, W, 3] each; those before a break come before its error.

    Raises:
      VideoError: where it is missing, no video, damaged, or too large.
    """
    path = os.fspath(path)
    scaled_to = max(short_side, SHORT_SIDE) if short_side else 0
    with _named(path), Source(path, scaled_to, skip_damage=keep_partial) as source:
        yield from _stream(source, short_side)
        if notes is not None:
            notes += source.notes


def _stream(source: "Source", short_side: int) -> Iterator[np.ndarray]:
    def scaled() -> Iterator[tuple[float, np.ndarray]]:
        for time, picture in source:
            _check_aspect(source, *picture.shape[:2])
            if short_side:
                picture = augment.resize_short_side(picture, short_side)
            yield time, picture

    yield from constant_rate(scaled(), source.rate, source.pace)
    source.check()


def _check_aspect(source: "Source", height: int, width: int) -> None:
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise source.error("too narrow", f"{width}x{height} pixels")


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        error.file = path
        raise


# ---- One pass ----


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
            "guessed": bool({"matroska", "nut"} & set(form.name.split(","))),
            "may_jump": bool(form.flags & av.format.Flags.ts_discont.value),
        }
        with contextlib.suppress(Exception):  # what is wrong with the file, decoding says
            for packet in self._container.demux(stream):
                if packet.size:
                    # AVI has no times of presentation: what FFmpeg gives as such are guesses.
                    pts = packet.dts if form.name == "avi" else packet.pts
                    packets.add(pts, packet.dts, packet.is_keyframe, packet.is_discard)
        self._container.close()
        self._open()
        return trace(packets, time_base, stated, **times)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was put right in the times, skipped, or is missing in the end."""
        notes = list(self.timeline.notes)
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

    def check(self, frames: int | None = None) -> None:
        """Raises where the iteration ended in a break that counts, or gave too few `frames`."""
        usable = self.pace.frames > 1 if frames is None else frames > 1
        if self.broken and not (self._skip_damage and usable):
            raise self.broken
        if frames is not None and frames < 2:
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
        except VideoError as error:
            self.broken = self.error(error.reason, error.detail)
        except Exception as error:  # bytes from anywhere: FFmpeg's bindings raise many types
            reason = "stream breaks" if self.frames else "cannot be decoded"
            self.broken = self.error(reason, _brief(error))

    def _packets(self) -> Iterator[Any]:
        """Those of the stream; instead of a time each has the rank of its picture."""
        ranks, number = self.timeline.ranks, 0
        # Where files were joined, their counters need not fit.
        joints = {seam + near for seam in self.timeline.seams for near in range(-3, 2)}
        for packet in self._container.demux(self._stream):
            if packet.size:
                if number == len(ranks):
                    raise VideoError("stream breaks", "it changed while it was read")
                if packet.is_corrupt and number not in joints:
                    self._damaged("stream breaks", "a damaged or incomplete packet")
                packet.pts = int(ranks[number])
                number += 1
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
        self.frames += 1
        self._first = self.timeline.times[rank] if self._first is None else self._first
        self.seconds = max(self.seconds, self.timeline.times[rank] - self._first + one)
        stored = self.timeline.stored[rank]
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
