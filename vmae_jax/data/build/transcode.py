"""One video of any kind in, clips out: constant rate, closed groups of pictures, times from 0.

Frames stream through one at a time (decode, scale, place in time, encode), so memory depends on the
size of a frame and of an encoded clip, not on how long the video is.
"""

import contextlib
import dataclasses
import fractions
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from vmae_jax.data.build.items import Cut
from vmae_jax.data.clips import Record
from vmae_jax.data.source import MAX_PIXELS, SHORT_SIDE, Source, constant_rate

KEY_FRAME_EVERY = 16  # frames: a training clip decodes at most 15 frames that it does not use
JPEG_QUALITY = 90

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


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How clips are written, and what a source may cost."""

    codec: str = "h264"
    short_side: int = SHORT_SIDE  # pixels; a smaller video keeps its size
    segment_seconds: float = 0.0  # 0 = a video is one clip
    max_pixels: int = MAX_PIXELS  # of a source frame
    max_frames: int = 18_000  # of a clip, 10 minutes at 30 fps


def transcode(
    file: str,
    encoding: Encoding,
    cuts: Sequence[Cut] = (),
    told: Callable[[dict[str, Any]], None] = lambda time: None,
) -> Iterator[Record]:
    """Clips of a video file as records without name and label.

    With `cuts` one record for each, and nothing behind the last is looked at. Else a last segment
    shorter than half of `segment_seconds` is left out, unless it is the only one.

    Args:
      told: hears in the end what became of the times of what was read, see `_time`.

    Raises:
      VideoError: at the end, after what could be decoded was given, where the video breaks midway
        or ends before a cut; or at once where it cannot be decoded or exceeds a limit.
    """
    with (
        Source(file, encoding.short_side, encoding.max_pixels) as source,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(lambda: told(_time(source)))
        rate = source.rate
        stretches = _stretches(rate, encoding.segment_seconds, cuts)
        first, end = next(stretches)
        clip, clips = None, 0
        for tick, picture in enumerate(constant_rate(source, rate, source.pace)):
            if tick < first:
                continue
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
            if tick + 1 == end:
                yield _record(clip, encoding.codec, rate, start)
                clip, clips = None, clips + 1
                first, end = next(stretches, (math.inf, math.inf))
                if first == math.inf:
                    return
        tail = clip.num_frames if clip else 0
        if tail > 1 and not cuts and (clips == 0 or tail >= (end - first) / 2):
            yield _record(clip, encoding.codec, rate, start)
            clips += 1
        if source.broken:
            raise source.broken
        if clips < len(cuts):
            raise source.error("too short", f"it ends before second {cuts[clips].end:.2f}")
        if not clips:
            raise source.error("too short", "a single picture" if tail else "no frame in it")


def _time(source: Source) -> dict[str, Any]:
    """Rates stated, measured and taken; pictures read, and what became of them; what was amiss."""
    line, pace = source.timeline, source.pace
    return {
        "fps_stated": round(float(line.stated), 3) if line.stated else None,
        "fps_measured": round(line.measured, 3),
        "fps": round(float(line.rate), 3),
        "pictures": source.frames,
        "frames": pace.frames,
        "dropped": pace.dropped,
        "repeated": pace.repeated,
        "notes": list(source.notes),
    }


def _stretches(
    rate: fractions.Fraction, segment_seconds: float, cuts: Sequence[Cut]
) -> Iterator[tuple[float, float]]:
    """First frame of each clip and the frame behind its last."""
    if cuts:
        yield from ((round(cut.start * rate), round(cut.end * rate)) for cut in cuts)
    elif not segment_seconds:
        yield 0, math.inf
    else:
        length = max(2, round(segment_seconds * rate))
        yield from ((start, start + length) for start in itertools.count(step=length))


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
