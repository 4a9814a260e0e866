"""RandAugment of whole clips, as timm names it: rand-m7-n4-mstd0.5-inc1 and its like.

Of 15 operations some are drawn, with replacement, and each is applied with probability 1/2, the
same to all frames of a clip. The pixels come out as Pillow's would, on which the published recipes
rest: equal where a table of 256 values decides, within rounding elsewhere.
"""

import dataclasses
import math
import re
from collections.abc import Callable

import cv2
import numpy as np

from vmae_jax.config import RANDAUGMENT

_PROBABILITY = 0.5  # of each operation that was drawn
_MAX_LEVEL = 10.0
_FILL = 128  # outside of a moved frame: the video recipes keep timm's grey
_CODES = np.arange(256)
_GRAY = np.array([0.299, 0.587, 0.114])
_TRUNCATE = -0.499  # added to what OpenCV rounds to nearest: Pillow drops the fraction


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """The operations of a name that `config.RANDAUGMENT` admits."""

    magnitude: float  # 0 to 10
    layers: int  # operations drawn for a clip
    std: float  # of the magnitude
    increasing: bool  # a higher level always changes more

    @classmethod
    def parse(cls, name: str) -> "RandAugment":
        match = re.fullmatch(RANDAUGMENT, name)
        if match is None:
            raise ValueError(f"{name!r}: expected a name such as 'rand-m7-n4-mstd0.5-inc1'")
        return cls(
            float(match["magnitude"]),
            int(match["layers"]),
            float(match["std"] or 0),
            match["inc"] == "1",
        )

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes a clip u8[T, H, W, 3]; returns a new one, or the same where nothing was drawn."""
        for name in rng.choice(list(OPERATIONS), self.layers):
            applied = rng.random() < _PROBABILITY
            level = np.clip(rng.normal(self.magnitude, self.std), 0, _MAX_LEVEL) / _MAX_LEVEL
            sign = 1 if rng.random() < 0.5 else -1
            if applied:
                frames = OPERATIONS[name](frames, float(level), sign, self.increasing)
        return frames


# ---- Operations: (clip u8[T, H, W, 3], level in [0, 1], sign, increasing) -> clip ----


def _auto_contrast(frames: np.ndarray, *_) -> np.ndarray:
    return _by_histogram(frames, _stretched)


def _equalize(frames: np.ndarray, *_) -> np.ndarray:
    return _by_histogram(frames, _equalized)


def _invert(frames: np.ndarray, *_) -> np.ndarray:
    return _look_up(frames, 255 - _CODES)


def _posterize(frames: np.ndarray, level: float, sign: int, increasing: bool) -> np.ndarray:
    bits = 4 - int(4 * level) if increasing else int(4 * level)
    return _look_up(frames, _CODES & (256 - (1 << (8 - bits))))


def _solarize(frames: np.ndarray, level: float, sign: int, increasing: bool) -> np.ndarray:
    threshold = 256 - int(256 * level) if increasing else int(256 * level)
    return _look_up(frames, np.where(threshold > _CODES, _CODES, 255 - _CODES))


def _solarize_add(frames: np.ndarray, level: float, *_) -> np.ndarray:
    return _look_up(frames, np.where(_CODES < 128, _CODES + int(110 * level), _CODES))


def _factor(level: float, sign: int, increasing: bool) -> float:
    """How far a picture is from its plain version: 1 = as it is, 0 = plain."""
    return 1 + sign * 0.9 * level if increasing else 0.1 + 1.8 * level


def _color(frames: np.ndarray, level: float, sign: int, increasing: bool) -> np.ndarray:
    factor = _factor(level, sign, increasing)
    matrix = factor * np.eye(3) + (1 - factor) * _GRAY
    matrix = np.column_stack([matrix, np.full(3, _TRUNCATE)])
    return _each(frames, lambda frame, out: cv2.transform(frame, matrix, dst=out))


def _contrast(frames: np.ndarray, level: float, sign: int, increasing: bool) -> np.ndarray:
    factor = _factor(level, sign, increasing)

    def change(frame: np.ndarray, out: np.ndarray) -> None:
        mean = int(cv2.mean(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))[0] + 0.5)
        cv2.LUT(frame, _blend(mean, factor), dst=out)

    return _each(frames, change)


def _brightness(frames: np.ndarray, level: float, sign: int, increasing: bool) -> np.ndarray:
    return _look_up(frames, _blend(0, _factor(level, sign, increasing)))


def _sharpness(frames: np.ndarray, level: float, sign: int, increasing: bool) -> np.ndarray:
    factor = _factor(level, sign, increasing)
    kernel = np.ones((3, 3))
    kernel[1, 1] = 5
    kernel *= (1 - factor) / kernel.sum()
    kernel[1, 1] += factor

    def change(frame: np.ndarray, out: np.ndarray) -> None:
        cv2.filter2D(frame, -1, kernel, dst=out, delta=_TRUNCATE)
        for edge in ((0,), (-1,), (slice(None), 0), (slice(None), -1)):  # have no neighbours
            out[edge] = frame[edge]

    return _each(frames, change)


def _rotate(frames: np.ndarray, level: float, sign: int, *_) -> np.ndarray:
    height, width = frames.shape[1:3]
    angle = math.radians(-30 * level * sign)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return _warp(frames, [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]])


def _shear_x(frames: np.ndarray, level: float, sign: int, *_) -> np.ndarray:
    return _warp(frames, [[1, 0.3 * level * sign, 0], [0, 1, 0]])


def _shear_y(frames: np.ndarray, level: float, sign: int, *_) -> np.ndarray:
    return _warp(frames, [[1, 0, 0], [0.3 * level * sign, 1, 0]])


def _translate_x(frames: np.ndarray, level: float, sign: int, *_) -> np.ndarray:
    return _shift(frames, 0.45 * level * sign * frames.shape[2], axis=2)


def _translate_y(frames: np.ndarray, level: float, sign: int, *_) -> np.ndarray:
    return _shift(frames, 0.45 * level * sign * frames.shape[1], axis=1)


Operation = Callable[[np.ndarray, float, int, bool], np.ndarray]
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}


# ---- What they are made of ----


def _each(frames: np.ndarray, change: Callable[[np.ndarray, np.ndarray], object]) -> np.ndarray:
    out = np.empty(frames.shape, np.uint8)
    for frame, target in zip(frames, out, strict=True):
        change(frame, target)
    return out


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _look_up(frames: np.ndarray, table: np.ndarray) -> np.ndarray:
    time, height, width, _ = frames.shape
    return cv2.LUT(frames.reshape(time * height, width, 3), _table(table)).reshape(frames.shape)


def _blend(plain: int, factor: float) -> np.ndarray:
    """For each code, the value `factor` of the way from `plain` to it, truncated: u8[256]."""
    return _table(plain + np.float32(factor) * (_CODES - plain).astype(np.float32))


def _by_histogram(frames: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Each channel of each frame through the table of its own histogram."""

    def change(frame: np.ndarray, out: np.ndarray) -> None:
        counts = [cv2.calcHist([frame], [c], None, [256], [0, 256]).ravel() for c in range(3)]
        tables = [table_of(count.astype(np.int64)) for count in counts]
        cv2.LUT(frame, _table(np.stack(tables, axis=-1)[None]), dst=out)

    return _each(frames, change)


def _stretched(counts: np.ndarray) -> np.ndarray:
    """The darkest code becomes 0, the lightest 255."""
    found = np.flatnonzero(counts)
    low, high = int(found[0]), int(found[-1])
    if low == high:
        return _CODES
    scale = 255 / (high - low)
    return (_CODES * scale + -low * scale).astype(np.int64)


def _equalized(counts: np.ndarray) -> np.ndarray:
    """All codes become about equally frequent."""
    found = np.flatnonzero(counts)
    step = int(counts.sum() - counts[found[-1]]) // 255
    if len(found) == 1 or step == 0:
        return _CODES
    before = np.cumsum(counts) - counts
    return (step // 2 + before) // step


def _warp(frames: np.ndarray, source: list[list[float]]) -> np.ndarray:
    """Every pixel (x, y) shows what lies at `source` @ (x, y, 1); (0, 0) is the frame's corner."""
    matrix = np.array(source)
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV's origin: the first pixel's middle
    height, width = frames.shape[1:3]
    x, y = np.arange(width), np.arange(height)[:, None]
    from_x, from_y = (a * x + b * y + c + 0.5 for a, b, c in matrix)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    outside = np.where(inside, 0, 255).astype(np.uint8)
    plain = np.full((height, width, 3), _FILL, np.uint8)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP

    def change(frame: np.ndarray, out: np.ndarray) -> None:
        size, border = (width, height), cv2.BORDER_REPLICATE
        cv2.warpAffine(frame, matrix, size, dst=out, flags=flags, borderMode=border)
        cv2.copyTo(plain, outside, out)

    return _each(frames, change)


def _shift(frames: np.ndarray, offset: float, axis: int) -> np.ndarray:
    """Every pixel shows what lies `offset` pixels further along an axis.

    By whole pixels: a fraction of one would cost a resampling and tell the model nothing.
    """
    size, pixels = frames.shape[axis], round(offset)
    moved = np.full(frames.shape, _FILL, np.uint8)
    source, target = np.moveaxis(frames, axis, 0), np.moveaxis(moved, axis, 0)
    target[max(0, -pixels) : size - max(0, pixels)] = source[max(0, pixels) : size + min(0, pixels)]
    return moved
