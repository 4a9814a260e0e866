"""Crops of decoded clips: the same box for all frames of a view, on uint8."""

import cv2
import numpy as np
from PIL import Image

# Parallelism is over clips: threads inside OpenCV would only fight with it.
cv2.setNumThreads(0)

SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side
# Places of a crop, in quarters of what the crop leaves free: (right, down).
POSITIONS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)
# Width and height may differ by one step of the scales: a mild change of the aspect ratio.
_SIZE_PAIRS = tuple(
    (w, h) for w in range(len(SCALES)) for h in range(len(SCALES)) if abs(w - h) <= 1
)
_SNAP = 3  # pixels; a side this close to the output size is taken as it, so nothing is resampled


def multi_scale_box(
    height: int, width: int, size: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random box (left, top, width, height) in pixels, inside the frame.

    The sides are drawn from `SCALES` of the short side, the place from `POSITIONS`.
    """
    short = min(height, width)
    sides = [int(short * scale) for scale in SCALES]
    sides = [size if abs(side - size) < _SNAP and size <= short else side for side in sides]
    w, h = _SIZE_PAIRS[rng.integers(len(_SIZE_PAIRS))]
    right, down = POSITIONS[rng.integers(len(POSITIONS))]
    box_width, box_height = max(1, sides[w]), max(1, sides[h])
    left = right * ((width - box_width) // 4)
    top = down * ((height - box_height) // 4)
    return left, top, box_width, box_height


def multi_scale_crop(
    frames: np.ndarray,
    size: int,
    rng: np.random.Generator,
    out: np.ndarray | None = None,
    *,
    antialias: bool = False,
) -> np.ndarray:
    """One augmented view, u8[T, size, size, 3], of u8[T, H, W, 3]; written to `out` if given."""
    box = multi_scale_box(*frames.shape[1:3], size, rng)
    return resized_crop(frames, box, size, out, antialias=antialias)


def random_resized_box(
    height: int,
    width: int,
    min_area: float,
    rng: np.random.Generator,
    ratios: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """A random box (left, top, width, height) in pixels, inside the frame.

    Its area is a share of the frame drawn from [min_area, 1], its aspect ratio is drawn evenly on a
    logarithmic scale. Where ten draws do not fit, it is the largest box in the middle whose ratio
    is allowed.
    """
    low, high = ratios
    for _ in range(10):
        area = rng.uniform(min_area, 1) * height * width
        ratio = np.exp(rng.uniform(np.log(low), np.log(high)))
        box_width, box_height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(rng.integers(width - box_width + 1))
            top = int(rng.integers(height - box_height + 1))
            return left, top, box_width, box_height
    box_width, box_height = min(width, round(height * high)), min(height, round(width / low))
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def resized_crop(
    frames: np.ndarray,
    box: tuple[int, int, int, int],
    size: int,
    out: np.ndarray | None = None,
    *,
    antialias: bool = False,
) -> np.ndarray:
    """The box (left, top, width, height) of every frame, resized to u8[T, size, size, 3].

    Args:
      antialias: whether what shrinks is averaged as Pillow does, at some five times the cost.
    """
    left, top, width, height = box
    if out is None:
        out = np.empty((len(frames), size, size, 3), np.uint8)
    resize = _shrink if antialias and max(width, height) > size else _resize
    for target, frame in zip(out, frames, strict=True):
        resize(frame[top : top + height, left : left + width], target)
    return out


def short_side_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a frame scaled so that its shorter side is `size`; rounded down."""
    short = min(height, width)
    return size * height // short, size * width // short


def resize_short_side(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame u8[H, W, 3] scaled so that its shorter side is `size`."""
    shape = short_side_shape(*frame.shape[:2], size)
    return frame if frame.shape[:2] == shape else _resize(frame, np.empty((*shape, 3), np.uint8))


def squash(frame: np.ndarray, size: int) -> np.ndarray:
    """A whole frame u8[H, W, 3] as f32[size, size, 3] in [0, 1], whatever its aspect ratio.

    Bilinear on floats, without antialiasing: as the reference extracts features.
    """
    return cv2.resize(frame.astype(np.float32), (size, size)) / 255


def _resize(frame: np.ndarray, out: np.ndarray) -> np.ndarray:
    height, width = out.shape[:2]
    # Bilinear looks at 2x2 pixels only: beyond half the size it would skip some, as the reference
    # does in tests and fine-tuning, so average.
    shrinks = frame.shape[0] >= 2 * height and frame.shape[1] >= 2 * width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(frame, (width, height), dst=out, interpolation=interpolation)


def _shrink(frame: np.ndarray, out: np.ndarray) -> None:
    height, width = out.shape[:2]
    out[:] = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
