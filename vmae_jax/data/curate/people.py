"""People in a picture, by an ONNX detector of the YOLO family that the user supplies.

Understood are outputs [1, N, 5 + C] (v5: box, objectness, classes), [1, 4 + C, N] (v8, v11: box,
classes) and [1, N, 6] (end to end: corners, confidence, class), in pixels of the model's input. The
models are trained on letterboxed RGB pictures in 0..1, whose class 0 is a person (COCO).
"""

import dataclasses
import functools
import hashlib
import os
from typing import Any

import cv2
import numpy as np

from vmae_jax import special
from vmae_jax.data.curate.items import CurationError

_DEFAULT_SIDE = 640  # pixels, where a model takes any size
_PADDING = 114  # grey level beside the picture, as in training
_STRIDES = (8, 16, 32)  # pixels per cell of the three grids of boxes
_MAX_END_TO_END = 1000  # detections; grids have more cells


@dataclasses.dataclass(frozen=True)
class PeopleModel:
    """Which detector looks for people, and whom it counts; made by `check_model`."""

    path: str
    digest: str  # SHA-256 of the file
    confidence: float = 0.5
    min_height: float = 0.1  # of a person, as a share of the picture's
    person_class: int = 0

    def __post_init__(self):
        for name in ("confidence", "min_height"):
            if not 0 <= getattr(self, name) <= 1:
                raise CurationError(f"{name} {getattr(self, name)}: expected 0 to 1")


def check_model(path: str | os.PathLike, **settings: Any) -> PeopleModel:
    """Opens a model file and runs it once.

    Args:
      settings: the other fields of `PeopleModel`.

    Raises:
      CurationError: where it is missing, no ONNX file, or no detector that is understood.
    """
    path = os.fspath(path)
    try:
        special.check(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CurationError(f"{path}: no model there ({error.strerror})") from error
    model = PeopleModel(path, digest, **settings)
    open_detector(model)
    return model


@functools.lru_cache(maxsize=2)
def open_detector(model: PeopleModel) -> "Detector":
    """The detector of a model, opened once per process."""
    return Detector(model)


class Detector:
    """Finds people in pictures of any size, one at a time."""

    def __init__(self, model: PeopleModel):
        try:
            import onnxruntime
        except ImportError as error:
            raise CurationError(
                "finding people needs onnxruntime: pip install 'vmae_jax[curate]'"
            ) from error
        self._model = model
        with open(model.path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != model.digest:
                raise CurationError(f"{model.path}: it changed since it was checked; start again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one video per core
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model.path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime raises types of its own
            raise self._error(f"it does not load as ONNX ({_brief(error)})") from error
        self._input, self._size, self._type = self._read_input()
        blank = np.full((*self._size, 3), _PADDING, np.uint8)
        self._layout = layout_of(self._run(blank).shape, self._size)
        if self._layout is None:
            raise self._error(
                f"output {self._run(blank).shape}: expected [1, N, 5 + classes], "
                "[1, 4 + classes, N] or [1, N, 6]; export it with batch 1 and without masks"
            )

    def __call__(self, picture: np.ndarray) -> float:
        """Confidence of the surest person in u8[H, W, 3] who is large enough; 0 = nobody."""
        boxes = self.boxes(picture)
        large = boxes[boxes[:, 3] - boxes[:, 1] >= self._model.min_height]
        return round(float(large[:, 4].max(initial=0.0)), 4)

    def boxes(self, picture: np.ndarray) -> np.ndarray:
        """People in u8[H, W, 3], surer than the model's setting, by falling confidence.

        Several boxes around one person are not merged.

        Returns:
          f32[N, 5]: left, top, right, bottom as shares of the picture, and confidence.
        """
        canvas, scale, (left, top) = letterbox(picture, self._size)
        found = to_boxes(self._run(canvas)[0], self._layout, self._model.person_class)
        found = found[found[:, 4] >= max(self._model.confidence, 1e-6)]
        found = found[np.argsort(-found[:, 4], kind="stable")]
        height, width = picture.shape[:2]
        corners = (found[:, :4] - (left, top, left, top)) / scale / (width, height, width, height)
        return np.concatenate([corners.clip(0, 1), found[:, 4:5]], 1).astype(np.float32)

    def _read_input(self) -> tuple[str, tuple[int, int], type]:
        inputs = self._session.get_inputs()
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        shape = inputs[0].shape if len(inputs) == 1 else None
        if shape is None or len(shape) != 4 or inputs[0].type not in types:
            found = ", ".join(f"{i.type} {i.shape}" for i in inputs)
            raise self._error(f"inputs {found}: expected one picture, float [1, 3, H, W]")
        batch, channels, *size = [d if isinstance(d, int) else None for d in shape]
        if batch not in (None, 1) or channels not in (None, 3):
            raise self._error(f"input {shape}: expected [1, 3, H, W]")
        height, width = (side or _DEFAULT_SIDE for side in size)
        return inputs[0].name, (height, width), types[inputs[0].type]

    def _run(self, canvas: np.ndarray) -> np.ndarray:
        """First output for u8[H, W, 3] of the input's size."""
        values = (canvas.transpose(2, 0, 1)[None] / np.float32(255)).astype(self._type)
        try:
            return np.asarray(self._session.run(None, {self._input: values})[0], np.float32)
        except Exception as error:  # the runtime raises types of its own
            raise self._error(f"it does not run ({_brief(error)})") from error

    def _error(self, what: str) -> CurationError:
        return CurationError(f"{self._model.path}: {what}")


def layout_of(shape: tuple[int, ...], size: tuple[int, int]) -> str | None:
    """'v5', 'v8' or 'end to end' for an output's shape and the input's height and width."""
    if len(shape) != 3 or shape[0] != 1:
        return None
    _, rows, columns = shape
    cells = sum((size[0] // s) * (size[1] // s) for s in _STRIDES)
    if columns == cells and rows >= 5:
        return "v8"
    if rows == 3 * cells and columns >= 6:
        return "v5"
    if columns == 6 and rows <= _MAX_END_TO_END:
        return "end to end"
    # Models with other grids: there are more boxes than numbers per box.
    if min(rows, columns) < 5 or rows == columns:
        return None
    return "v8" if columns > rows else "v5" if columns >= 6 else None


def to_boxes(output: np.ndarray, layout: str, person_class: int) -> np.ndarray:
    """All boxes of one class: f32[N, 5] of left, top, right, bottom in pixels, and confidence."""
    if layout == "end to end":
        return output[output[:, 5].round() == person_class, :5]
    rows = output.T if layout == "v8" else output
    first = 4 if layout == "v8" else 5
    if first + person_class >= rows.shape[1]:
        return np.empty((0, 5), np.float32)
    confidence = rows[:, first + person_class] * (1 if layout == "v8" else rows[:, 4])
    center, half = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate([center - half, center + half, confidence[:, None]], 1)


def letterbox(
    picture: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Fits u8[H, W, 3] into `size` (height, width), in the middle of grey.

    Returns:
      The canvas, the scale, and the picture's left and top on the canvas in pixels.
    """
    height, width = picture.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = cv2.resize(picture, new, interpolation=cv2.INTER_LINEAR)
    left, top = (size[1] - new[0]) // 2, (size[0] - new[1]) // 2
    canvas = np.full((*size, 3), _PADDING, np.uint8)
    canvas[top : top + new[1], left : left + new[0]] = scaled
    return canvas, scale, (left, top)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
