"""Decoded frames to upright RGB pictures: turned, of square pixels, scaled, of ordinary range."""

import fractions
import struct
import sys
from typing import Any

import av
import numpy as np
from av.sidedata import sidedata
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vmae_jax.data import hdr
from vmae_jax.data.clips import MAX_SIDE

# PyAV raises at kinds of side data that are newer than it (EXIF, the views of spatial video), even
# where another is asked for: let it take them for one that is of no use here.
sidedata.Type._missing_ = classmethod(lambda kinds, value: kinds.VIDEO_HINT)

_ANAMORPHIC = 0.02  # pixel aspect ratios nearer to 1 than this are rounding, not intent


class VideoError(Exception):
    """A video that cannot be used: which `file`, why (`reason`, `detail`) and how far it got."""

    def __init__(self, reason: str, detail: str, frames: int = 0, seconds: float = 0.0):
        super().__init__(reason, detail, frames, seconds)
        self.reason, self.detail, self.frames, self.seconds = reason, detail, frames, seconds
        self.file = ""

    def __str__(self) -> str:
        return f"{self.file}: " * bool(self.file) + f"{self.reason}: {self.detail}"


class Upright:
    """Turns decoded frames into upright RGB pictures u8[H, W, 3] of one size, set by the first.

    `short_side` in pixels is the most that they have; 0 = the stored pixels, square or not.
    """

    def __init__(self, short_side: int):
        self._short_side = short_side
        self._scaler = VideoReformatter()  # keeps its tables from frame to frame
        self._size: tuple[int, int] | None = None
        self.shown: tuple[int, int] = (0, 0)  # height and width, unscaled

    def __call__(self, frame: av.VideoFrame, stream: Any) -> np.ndarray:
        if self._size is None:
            self._size = _target_size(frame, stream.sample_aspect_ratio, self._short_side)
            if max(self._size) > MAX_SIDE:
                width, height = self._size
                raise VideoError("too large", f"{width}x{height} pixels; sides up to {MAX_SIDE}")
            self._turn = _orientation(frame)
            width, height = _target_size(frame, stream.sample_aspect_ratio, sys.maxsize)
            self.shown = (width, height) if self._turn[0] else (height, width)
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
    if not short_side:
        return width, height
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
