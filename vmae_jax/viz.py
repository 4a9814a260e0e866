"""Pictures of what a model sees and guesses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FRAMES = 4  # shown of each clip
NAMED_CLASSES = 40  # more would not be legible in a confusion matrix
ROWS = ("original", "masked", "reconstructed")


def reconstruction_sheet(
    video: np.ndarray, masked: np.ndarray, guess: np.ndarray, caption: str
) -> np.ndarray:
    """Clips under one another, each as original | masked | reconstructed over several frames.

    Args:
      video: uint8 [B, T, height, width, 3].
      masked: float [B, T, height, width, 3] in [0, 1], hidden patches grey.
      guess: the same with hidden patches guessed.
      caption: one line on how to read it.

    Returns:
      The sheet as RGB uint8 [height, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = np.linspace(0, video.shape[1] - 1, FRAMES).round().astype(int)
    clips = [[v[b, shown] for v in (video / 255, masked, guess)] for b in range(len(video))]
    figure = Figure(figsize=(2.2 * FRAMES * len(ROWS) / 2, 1.2 * len(clips) + 0.9), dpi=110)
    canvas = FigureCanvasAgg(figure)
    columns = figure.subplots(
        len(clips), len(ROWS), squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.05}
    )
    for row, clip in zip(columns, clips, strict=True):
        for axis, frames in zip(row, clip, strict=True):
            axis.imshow(np.concatenate(list(frames), axis=1), interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(columns[0], ROWS, strict=True):
        axis.set_title(title, fontsize=10)
    figure.text(0.5, 0.03, f"{caption}. Frames {', '.join(map(str, shown))}.", ha="center", size=8)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.08)
    return _pixels(canvas)


def reconstruction_film(video: np.ndarray, masked: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The clips of `reconstruction_sheet` to be played, every frame at its own size.

    Returns:
      RGBA uint8 [T, height, width, 4], transparent between the clips.
    """
    shown = [(255 * v).round().astype(np.uint8) for v in (video / 255, masked, guess)]
    clips, frames, height, width, _ = video.shape
    gap = max(1, width // 24)
    film = np.zeros((frames, clips, height + gap, len(shown), width + gap, 4), np.uint8)
    for column, part in enumerate(shown):
        film[:, :, :height, column, :width, :3] = part.swapaxes(0, 1)
        film[:, :, :height, column, :width, 3] = 255
    return film.reshape(frames, clips * (height + gap), -1, 4)[:, :-gap, :-gap]


def mask_sheet(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Named masks under one another, one square per temporal slot, True drawn dark.

    Args:
      masks: name -> bool [t, h, w], a value per token.

    Returns:
      The sheet as RGB uint8 [height, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    slots = max(len(mask) for mask in masks.values())
    figure = Figure(figsize=(1.1 * slots, 1.4 * len(masks)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows = figure.subfigures(len(masks), 1, squeeze=False)[:, 0]
    for row, (name, mask) in zip(rows, masks.items(), strict=True):
        row.suptitle(f"{name}: {mask.mean():.0%}", fontsize=10)
        for axis, slot in zip(row.subplots(1, slots, squeeze=False)[0], mask, strict=False):
            axis.pcolormesh(slot[::-1], cmap="binary", vmin=-0.1, vmax=1.3, edgecolors="white")
            axis.set(aspect="equal")
            axis.set_axis_off()
    return _pixels(canvas)


def confusion_sheet(confusion: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Share of each true class (rows) that was taken for each class (columns).

    Args:
      confusion: counts [C, C], true x predicted. Names and numbers are written up to 40 classes.

    Returns:
      The sheet as RGB uint8 [height, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(confusion)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    named = count <= NAMED_CLASSES
    side = 3 + 0.42 * count if named else 10
    figure = Figure(figsize=(side, side), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xlabel="predicted", ylabel="true class")
    axis.set_title(f"{confusion.trace()} of {confusion.sum()} videos right")
    if named:
        axis.set_xticks(range(count), names, rotation=90)
        axis.set_yticks(range(count), names)
        for i, j in np.argwhere(confusion):
            color = "white" if share[i, j] > 0.5 else "black"
            axis.text(j, i, confusion[i, j], ha="center", va="center", color=color, size=8)
    return _pixels(canvas)


def attention_over(video: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Grey frames, coloured where they are looked at: yellow much, violet less.

    Args:
      video: uint8 [T, height, width, 3].
      attention: [t, h, w], a value per token.

    Returns:
      uint8 [T, height, width, 3].
    """
    import cv2
    import matplotlib

    length, height, width = video.shape[:3]
    low, high = np.quantile(attention, [0.02, 0.98])  # a single token would darken all others
    heat = np.clip((attention - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    heat = np.stack([cv2.resize(h, (width, height), interpolation=cv2.INTER_CUBIC) for h in heat])
    heat = heat.clip(0, 1).repeat(length // len(heat), axis=0)
    colors = matplotlib.colormaps["inferno"](heat)[..., :3]
    grey, weight = video.mean(-1, keepdims=True) / 255, 0.8 * heat[..., None] ** 0.5
    return (255 * ((1 - weight) * grey + weight * colors)).astype(np.uint8)


def frames_sheet(
    views: np.ndarray, numbers: np.ndarray, caption: str, columns: int = 8
) -> np.ndarray:
    """The frames that a model was shown of a video, with their numbers.

    Args:
      views: uint8 [V, T, height, width, 3], one below the other.
      numbers: of the frames in their video, [V, T].
      caption: one line above them.

    Returns:
      The sheet as RGB uint8 [height, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, length, height, width = views.shape[:4]
    columns = min(columns, length)
    rows = count * -(-length // columns)
    inch = 1.25
    figure = Figure(figsize=(inch * columns, inch * rows * height / width + 0.35), dpi=110)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    sheet = np.full((rows, columns, height, width, 3), 255, np.uint8)
    for view, (clip, shown) in enumerate(zip(views, numbers, strict=True)):
        for i, (frame, number) in enumerate(zip(clip, shown, strict=True)):
            row, column = view * rows // count + i // columns, i % columns
            sheet[row, column] = frame
            axis.text(
                (column + 0.03) * width, (row + 0.05) * height, number, color="white", size=8,
                va="top", bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0},
            )  # fmt: skip
    axis.imshow(
        sheet.swapaxes(1, 2).reshape(rows * height, columns * width, 3),
        extent=(0, columns * width, rows * height, 0),
    )
    axis.set_axis_off()
    figure.text(0.01, 1 - 0.22 / figure.get_figheight(), caption, size=10, va="center")
    return _pixels(canvas)


def _pixels(canvas: Any) -> np.ndarray:
    from matplotlib.text import Text

    for text in canvas.figure.findobj(Text):
        text.set_parse_math(False)  # names of classes and files may hold any number of $
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
