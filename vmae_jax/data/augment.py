"""Crops of decoded clips: the same box for all frames of a view, on uint8."""

import cv2
import numpy as np

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


def multi_scale_crop(frames: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """One augmented view, u8[T, size, size, 3], of u8[T, H, W, 3]."""
    return resized_crop(frames, multi_scale_box(*frames.shape[1:3], size, rng), size)


def center_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """The largest square in the middle, u8[T, size, size, 3], of u8[T, H, W, 3]."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    return resized_crop(frames, ((width - short) // 2, (height - short) // 2, short, short), size)


def resized_crop(frames: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """The box (left, top, width, height) of every frame, resized to u8[T, size, size, 3]."""
    left, top, width, height = box
    # Bilinear looks at 2x2 pixels only: beyond half the size it would skip some, so average.
    shrinks = min(width, height) >= 2 * size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        crop = frame[top : top + height, left : left + width]
        cv2.resize(crop, (size, size), dst=target, interpolation=interpolation)
    return out
