"""One video of any kind in, clips out: constant rate, closed groups of pictures, times from 0.

Frames stream through one at a time (decode, scale, place in time, encode), so memory depends on the
size of a frame and of an encoded clip, not on how long the video is.
"""

import collections
import dataclasses
import fractions
import heapq
import io
import math
import struct
from collections.abc import Iterator
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vmae_jax.data.build import hdr
from vmae_jax.data.clips import MAX_SIDE, Record

KEY_FRAME_EVERY = 16  # frames: a training clip decodes at most 15 frames that it does not use
JPEG_QUALITY = 90
_MIN_FPS, _MAX_FPS = 1, 60
_MAX_PAUSE = 60.0  # seconds that one picture may stand still
_REORDER = 4  # frames whose times may be out of order (AVI and raw streams store decoding times)
_ANAMORPHIC = 0.02  # pixel aspect ratios nearer to 1 than this are rounding, not intent
# Playlists open other files, the rest are not videos.
_REFUSED_FORMATS = {"hls", "dash", "concat", "concatf", "image2", "tty", "lavfi", "sdp", "webvtt"}

# The same bytes on every run: a single thread, and no macroblock tree, whose AVX2 code was seen to
# give 6 different files in 12 runs (25 of 25 equal without it, at 1 % more bytes).
_X264 = {
    "preset": "medium",
    "crf": "23",
    "tune": "fastdecode",
    "g": str(KEY_FRAME_EVERY),
    "keyint_min": str(KEY_FRAME_EVERY),
    "sc_threshold": "0",
    "flags": "+cgop",
    "mbtree": "0",
    "threads": "1",
}


class VideoError(Exception):
    """A video that gives no clip, or breaks: why (`reason`, `detail`) and how far it got."""

    def __init__(self, reason: str, detail: str, frames: int = 0, seconds: float = 0.0):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.frames, self.seconds = reason, detail, frames, seconds


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How clips are written, and what a source may cost."""

    codec: str = "h264"
    short_side: int = 256  # pixels; a smaller video keeps its size
    segment_seconds: float = 0.0  # 0 = a video is one clip
    max_pixels: int = 1 << 26  # of a source frame, twice 8K
    max_frames: int = 18_000  # of a clip, 10 minutes at 30 fps


def transcode(file: str, encoding: Encoding) -> Iterator[Record]:
    """Clips of a video file as records without name and label.

    A last segment shorter than half of `segment_seconds` is left out, unless it is the only one.

    Raises:
      VideoError: at the end, after what could be decoded was given, where the video breaks midway;
        or at once where it cannot be decoded or exceeds a limit.
    """
    with _Source(file, encoding) as source:
        rate = source.rate
        length = math.inf
        if encoding.segment_seconds:
            length = max(2, round(encoding.segment_seconds * rate))
        clip, clips = None, 0
        for tick, picture in enumerate(_constant_rate(source, rate)):
            if clip is None:
                start = tick / rate
                clip = (_Jpegs if encoding.codec == "jpeg" else _Mp4)(picture, rate)
            clip.add(picture)
            if clip.num_frames > encoding.max_frames:
                raise source.error(
                    "too long",
                    f"more than {encoding.max_frames} frames in one clip; use --segment_seconds or "
                    "raise --max_frames",
                )
            if clip.num_frames == length:
                yield _record(clip, encoding.codec, rate, start)
                clip, clips = None, clips + 1
        tail = clip.num_frames if clip else 0
        if tail > 1 and (clips == 0 or tail >= length / 2):
            yield _record(clip, encoding.codec, rate, start)
            clips += 1
        if source.broken:
            raise source.broken
        if not clips:
            raise source.error("too short", "a single picture" if tail else "no frame in it")


def _record(clip: Any, codec: str, rate: fractions.Fraction, start: fractions.Fraction) -> Record:
    return Record(
        id="",
        codec=codec,
        num_frames=clip.num_frames,
        fps=float(rate),
        height=clip.height,
        width=clip.width,
        start=float(start),
        **clip.finish(),
    )


# ---- In: any container, codec, orientation, depth and timing ----


class _Source:
    """Iterates over (seconds, u8[H, W, 3]) in display order: upright, square pixels, final size.

    A break ends the iteration; `broken` then says why.
    """

    def __init__(self, file: str, encoding: Encoding):
        self._encoding = encoding
        self.frames, self.seconds, self._start = 0, 0.0, None
        self.broken: VideoError | None = None
        try:
            # As 'file:', a name with a colon is no protocol; and nothing may reach the network.
            self._container = av.open(
                f"file:{file}", options={"protocol_whitelist": "file"}, metadata_errors="ignore"
            )
        except Exception as error:
            raise VideoError("cannot be opened", _brief(error)) from error
        try:
            self._stream = self._pick_stream()
            self.rate = _rate(self._stream)
        except Exception:
            self._container.close()
            raise

    def __enter__(self) -> "_Source":
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
        stream.codec_context.options = {"max_pixels": str(self._encoding.max_pixels)}
        stream.codec_context.thread_count = 1  # one video per core is faster, and never differs
        return stream

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._encoding.max_pixels:
            raise VideoError(
                "too large",
                f"frames of {width}x{height} pixels, more than {self._encoding.max_pixels} "
                "(--max_pixels)",
            )

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        pictures, times = collections.deque(), []
        for time, picture in self._decode():
            pictures.append(picture)
            heapq.heappush(times, time)
            if len(pictures) > _REORDER:
                yield heapq.heappop(times), pictures.popleft()
        while pictures:
            yield heapq.heappop(times), pictures.popleft()

    def _decode(self) -> Iterator[tuple[float, np.ndarray]]:
        upright = _Upright(self._encoding.short_side)
        last = -1 / self.rate
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt and packet.size:
                    raise VideoError("stream breaks", "a damaged or incomplete packet")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise VideoError("stream breaks", "a damaged frame")
                    picture = upright(frame, self._stream)
                    last = last + 1 / self.rate if frame.pts is None else float(frame.time)
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

    def _check_complete(self) -> None:
        """A file that was cut short may end without an error: how long did it say it is?"""
        stream, container = self._stream, self._container
        if stream.duration is not None:
            promised = float(stream.duration * stream.time_base)
        elif container.duration is not None and len(container.streams) == 1:
            promised = container.duration / av.time_base
        else:
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


class _Upright:
    """Turns decoded frames into upright RGB pictures u8[H, W, 3] of one size, set by the first."""

    def __init__(self, short_side: int):
        self._short_side = short_side
        self._scaler = VideoReformatter()  # keeps its tables from frame to frame
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame, stream: Any) -> np.ndarray:
        if self._size is None:
            self._size = _target_size(frame, stream.sample_aspect_ratio, self._short_side)
            if max(self._size) > MAX_SIDE:
                width, height = self._size
                raise VideoError("too large", f"{width}x{height} pixels; sides up to {MAX_SIDE}")
            self._turn = _orientation(frame)
        width, height = self._size
        curve = hdr.CURVES.get(int(frame.color_trc))
        scaled = self._scaler.reformat(
            frame,
            width,
            height,
            format="rgb48le" if curve else "rgb24",
            src_colorspace=_colorspace(frame),
            src_color_range=frame.color_range or ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
            threads=1,
        )
        picture = scaled.to_ndarray()
        if curve:
            picture = hdr.to_sdr(picture, curve)
        transpose, flip_rows, flip_columns = self._turn
        if transpose:
            picture = picture.transpose(1, 0, 2)
        picture = picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return np.ascontiguousarray(picture)


def _colorspace(frame: av.VideoFrame) -> int:
    """The frame's own matrix; untagged video is BT.709 from HD on, as players assume."""
    if int(frame.colorspace) in (1, 4, 5, 6, 7, 9, 10):
        return 9 if int(frame.colorspace) == 10 else int(frame.colorspace)
    return 1 if frame.height >= 720 else 5


def _target_size(
    frame: av.VideoFrame, aspect: fractions.Fraction | None, short_side: int
) -> tuple[int, int]:
    """Width and height before turning: square pixels, short side at most `short_side`, even."""
    width, height = frame.width, frame.height
    if aspect and abs(aspect - 1) > _ANAMORPHIC and 1 / 4 <= aspect <= 4:
        width, height = (width * aspect, height) if aspect > 1 else (width, height / aspect)
    scale = min(1, fractions.Fraction(short_side) / min(width, height))
    # Down to an even number, as 4:2:0 needs, but half a pixel more counts as whole.
    return tuple(
        max(2, int(side * scale + fractions.Fraction(1, 2)) // 2 * 2) for side in (width, height)
    )


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, flip rows, flip columns) that show the frame as its display matrix asks.

    The matrix [a b u; c d v; ...] maps x' = a*x + c*y, y' = b*x + d*y with y downwards; angles
    between quarter turns go to the nearest.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _constant_rate(
    timed: Iterator[tuple[float, np.ndarray]], rate: fractions.Fraction
) -> Iterator[np.ndarray]:
    """One picture per 1/rate seconds from the first on: the latest whose time has come.

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


# ---- Out: one clip in memory ----


class _Mp4:
    """An H.264 clip; `finish` gives the fields of its record."""

    def __init__(self, picture: np.ndarray, rate: fractions.Fraction):
        self.height, self.width = picture.shape[:2]
        self.num_frames = 0
        self._bytes = io.BytesIO()
        self._container = av.open(self._bytes, "w", format="mp4", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream("libx264", rate=rate, options=dict(_X264))
        self._stream.width, self._stream.height = self.width, self.height
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._tick = 1 / rate  # muxing replaces the stream's
        self._stream.codec_context.thread_count = 1
        self._scaler = VideoReformatter()

    def add(self, picture: np.ndarray) -> None:
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = self._scaler.reformat(frame, format="yuv420p", threads=1)
        frame.pts, frame.time_base = self.num_frames, self._tick
        self._container.mux(self._stream.encode(frame))
        self.num_frames += 1

    def finish(self) -> dict[str, Any]:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return {"video": self._bytes.getvalue(), "frames": ()}


class _Jpegs:
    """A clip as JPEG files: 8 times the bytes, but any frame alone decodes."""

    def __init__(self, picture: np.ndarray, rate: fractions.Fraction):
        self.height, self.width = picture.shape[:2]
        self._frames: list[bytes] = []

    @property
    def num_frames(self) -> int:
        return len(self._frames)

    def add(self, picture: np.ndarray) -> None:
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        self._frames.append(data.tobytes())

    def finish(self) -> dict[str, Any]:
        return {"video": b"", "frames": tuple(self._frames)}
