"""Any video file to upright RGB frames: whatever its container, codec, depth and timing.

`Source` reads it once, in order; `open_video` gives frames by number, at a constant rate, as the
builder of data sets would count them.
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

from vmae_jax.data import augment
from vmae_jax.data.clips import MAX_ASPECT, MAX_SIDE
from vmae_jax.data.upright import Upright, VideoError

T = TypeVar("T")

SHORT_SIDE = 256  # pixels of a record, unless the builder is told otherwise
MAX_PIXELS = 1 << 26  # of a source frame, twice 8K
_MAX_FRAMES = 1 << 20  # of a file, 9 hours at 30 fps
_MIN_FPS, _MAX_FPS = 1, 60
_MAX_PAUSE = 60.0  # seconds that one picture may stand still
_REORDER = 4  # frames whose times may be out of order (AVI and raw streams store decoding times)
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
        return stream_video(self.path, short_side)

    def _source(self, short_side: int, wanted: Container[int] | None = None) -> "Source":
        # By way of the size of a record, so that a video and its record look alike.
        return Source(self.path, max(short_side, SHORT_SIDE), wanted=wanted)


def open_video(
    path: str | os.PathLike, max_seconds: float = math.inf, max_pixels: float = math.inf
) -> VideoFile:
    """Reads a video file through once; see `VideoFile`.

    Args:
      max_seconds, max_pixels: of all its frames; no more of it are read.

    Raises:
      VideoError: where it is missing, no video, damaged, a single picture, too large or too long.
    """
    path, size, shown = os.fspath(path), None, array.array("q")
    with _named(path), Source(path, MAX_SIDE, wanted=(0,)) as source:

        def numbered() -> Iterator[tuple[float, int]]:
            nonlocal size
            for number, (time, picture) in enumerate(source):
                if source.pixels > max_pixels:
                    raise source.error("too large", f"more than {max_pixels:.3g} pixels in all")
                size = picture.shape[:2] if picture is not None else size
                yield time, number

        for number in constant_rate(numbered(), source.rate):
            shown.append(number)
            if len(shown) > _MAX_FRAMES:
                raise source.error("too long", f"more than {_MAX_FRAMES} frames")
            if len(shown) > max_seconds * source.rate:
                raise source.error("too long", f"more than {max_seconds:g} seconds")
        if source.broken:
            raise source.broken
        if len(shown) < 2:
            raise source.error("too short", "a single picture" if shown else "no frame in it")
        _check_aspect(source, *size)
        return VideoFile(path, float(source.rate), *size, np.array(shown, np.int64))


def stream_video(path: str | os.PathLike, short_side: int) -> Iterator[np.ndarray]:
    """All frames of a file in order and in one pass, scaled as those of `VideoFile.frames`.

    Args:
      short_side: in pixels; 0 = not scaled at all, nor made square where pixels are not.

    Yields:
      u8[H, W, 3] each; those before a break come before its error.

    Raises:
      VideoError: where it is missing, no video, damaged, or too large.
    """
    path = os.fspath(path)
    with _named(path), Source(path, max(short_side, SHORT_SIDE) if short_side else 0) as source:

        def scaled() -> Iterator[tuple[float, np.ndarray]]:
            for time, picture in source:
                _check_aspect(source, *picture.shape[:2])
                if short_side:
                    picture = augment.resize_short_side(picture, short_side)
                yield time, picture

        yield from constant_rate(scaled(), source.rate)
        if source.broken:
            raise source.broken


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
    ):
        self._short_side, self._max_pixels, self._wanted = short_side, max_pixels, wanted
        self.frames, self.pixels, self.seconds, self._start = 0, 0, 0.0, None
        self.size: tuple[int, int] = (0, 0)
        self.broken: VideoError | None = None
        try:
            # As 'file:', a name with a colon is no protocol; and nothing may reach the network.
            self._container = av.open(
                f"file:{file}", options={"protocol_whitelist": "file"}, metadata_errors="ignore"
            )
        except Exception as error:
            why = "a folder without videos" if os.path.isdir(file) else _brief(error)
            raise VideoError("cannot be opened", why) from error
        try:
            self._stream = self._pick_stream()
            self.rate = _rate(self._stream)
        except Exception:
            self._container.close()
            raise

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_) -> None:
        self._container.close()

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
        pictures, times = collections.deque(), []
        for time, picture in self._decode():
            pictures.append(picture)
            heapq.heappush(times, time)
            if len(pictures) > _REORDER:
                yield heapq.heappop(times), pictures.popleft()
        while pictures:
            yield heapq.heappop(times), pictures.popleft()

    def _decode(self) -> Iterator[tuple[float, np.ndarray | None]]:
        upright = Upright(self._short_side)
        last = -1 / self.rate
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt and packet.size:
                    raise VideoError("stream breaks", "a damaged or incomplete packet")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise VideoError("stream breaks", "a damaged frame")
                    wanted = self._wanted is None or self.frames in self._wanted
                    picture = upright(frame, self._stream) if wanted else None
                    self.size = upright.shown if picture is not None else self.size
                    last = last + 1 / self.rate if frame.pts is None else float(frame.time)
                    self.pixels += frame.width * frame.height
                    self._count(last)
                    yield last, picture
            self._check_complete()
        except VideoError as error:
            self.broken = self.error(error.reason, error.detail)
        except Exception as error:  # bytes from anywhere: FFmpeg's bindings raise many types
            reason = "stream breaks" if self.frames else "cannot be decoded"
            self.broken = self.error(reason, _brief(error))

    def _count(self, time: float) -> None:
        if self._start is None:
            self._start = time
        elapsed = time - self._start
        if abs(elapsed - self.seconds) > _MAX_PAUSE:
            raise VideoError("stream breaks", f"its time jumps to {elapsed:.1f} seconds")
        self.frames += 1
        self.seconds = max(self.seconds, elapsed + float(1 / self.rate))

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
        short = promised - self.seconds - max(0.0, self._start or 0.0)
        all_there = 0 < stream.frames <= self.frames  # a slide show's last picture stands for long
        if self.frames and short > max(1.0, 0.1 * promised) and not all_there:
            raise VideoError(
                "stream breaks", f"it ends early: {promised:.1f} seconds were promised"
            )


def _rate(stream: Any) -> fractions.Fraction:
    """Frames per second of the clips: the stream's average, within sane bounds."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or 30
    rate = min(max(fractions.Fraction(rate), _MIN_FPS), _MAX_FPS)
    return fractions.Fraction(rate).limit_denominator(1001)


def _brief(error: Exception) -> str:
    """FFmpeg's own last words where it has any, else the error's."""
    log = getattr(error, "log", None)
    text = log[2] if log else getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def constant_rate(timed: Iterator[tuple[float, T]], rate: fractions.Fraction) -> Iterator[T]:
    """One picture (or its number) per 1/rate seconds from the first on: the latest whose time has
    come.

    Times are rounded to the nearest tick, so a source of this very rate passes through unchanged.
    """
    start, shown, ticks = None, None, 0
    for time, picture in timed:
        start = time if start is None else start
        place = math.floor((time - start) * float(rate) + 0.5)
        while ticks < place:
            yield shown
            ticks += 1
        shown = picture
    if shown is not None:
        yield shown
