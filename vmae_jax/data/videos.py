"""Any video file to upright RGB frames: whatever its container, codec, depth and timing.

`Source` reads it once, in order; `open_video` gives frames by number, at a constant rate, as the
builder of data sets would count them. When a picture is shown, and at which rate, says timeline.py.
"""

import array
import contextlib
import dataclasses
import math
import os
from collections.abc import Container, Iterator, Sequence

import numpy as np

from vmae_jax.data import augment
from vmae_jax.data.clips import MAX_ASPECT, MAX_SIDE
from vmae_jax.data.source import SHORT_SIDE, Source, constant_rate
from vmae_jax.data.timeline import Timeline
from vmae_jax.data.upright import VideoError

_MAX_FRAMES = 1 << 20  # of a file, 9 hours at 30 fps


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

    def _source(self, short_side: int, wanted: Container[int] | None = None) -> Source:
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
        source.check()
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
      VideoError: where it is missing, no video, damaged, a single picture, or too large.
    """
    path = os.fspath(path)
    scaled_to = max(short_side, SHORT_SIDE) if short_side else 0
    with _named(path), Source(path, scaled_to, skip_damage=keep_partial) as source:
        yield from _stream(source, short_side)
        if notes is not None:
            notes += source.notes


def _stream(source: Source, short_side: int) -> Iterator[np.ndarray]:
    def scaled() -> Iterator[tuple[float, np.ndarray]]:
        for time, picture in source:
            _check_aspect(source, *picture.shape[:2])
            if short_side:
                picture = augment.resize_short_side(picture, short_side)
            yield time, picture

    yield from constant_rate(scaled(), source.rate, source.pace)
    source.check()


def _check_aspect(source: Source, height: int, width: int) -> None:
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise source.error("too narrow", f"{width}x{height} pixels")


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        error.file = path
        raise
