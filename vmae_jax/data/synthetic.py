"""A small embedded data set: procedural videos whose class lies in the motion alone.

Bright textured shapes over a dark textured background that drifts with the camera. Class, colours,
sizes, speeds, phases and drift are drawn independently, so any single frame is equally likely in
every class; only what happens between frames tells them apart.
"""

import concurrent.futures
import csv
import fractions
import itertools
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from vmae_jax.data.build import build
from vmae_jax.data.cores import cores

CLASSES = (
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "rotate_clockwise",
    "rotate_counterclockwise",
    "zoom_in",
    "zoom_out",
    "oscillate_horizontally",
    "oscillate_vertically",
)
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x, y downwards
_DRAWING = 2  # goes up whenever a video would look different; part of the folders' names
_NUM_SHAPES = 12
_DARK, _BRIGHT = (0, 64), (128, 255)  # of the background and of the shapes
_ZOOM_SPAN = 2.5  # a zoom runs through this factor, over and over


def write_videos(
    directory: str | os.PathLike,
    *,
    clips_per_class: int = 8,
    size: tuple[int, int] = (128, 96),
    num_frames: int = 64,
    fps: int = 24,
    seed: int = 0,
    prefix: str = "",
    stills: int = 0,
) -> list[str]:
    """Writes MP4 files into one folder per class, leaving those that exist.

    Args:
      size: width and height in pixels, even.
      prefix: of the file names; another prefix gives other videos.
      stills: every so many-th video of a class shows its first frame all the time; 0 = none.

    Returns:
      Their paths, the same for the same arguments; contents depend on the seed, the prefix, the
      class and the clip's number.
    """
    drawn_from = [seed, zlib.crc32(prefix.encode())] if prefix else [seed]

    def write(video: tuple[str, int]) -> str:
        name, i = video
        path = Path(directory, name, f"{prefix}{name}_{i:03d}.mp4")
        if not path.exists():
            rng = np.random.default_rng([*drawn_from, zlib.crc32(name.encode()), i])
            drawn = 1 if stills and i % stills == stills - 1 else num_frames
            frames = render(name, rng, size=size, num_frames=drawn)
            _write_mp4(path, frames.repeat(num_frames // drawn, axis=0), fps)
        return str(path)

    for name in CLASSES:
        Path(directory, name).mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(write, itertools.product(CLASSES, range(clips_per_class))))


def prepare(
    directory: str | os.PathLike,
    *,
    clips_per_class: int = 8,
    val_clips_per_class: int = 2,
    seed: int = 0,
) -> str:
    """Makes the embedded data set below `directory`, or finishes or finds it there.

    The clips of split 'val' are others than those of 'train', however many there are of either.

    Returns:
      The dataset directory, ready for training. 80 and 20 clips of 2.7 seconds by default.
    """
    drawn = f"drawing{_DRAWING}_seed{seed}"
    videos = Path(directory, f"videos_{drawn}")
    name = f"dataset_{clips_per_class}_{val_clips_per_class}_{drawn}"
    dataset, labels = Path(directory, name), Path(directory, f"{name}.csv")
    if (dataset / "dataset_info.json").exists():  # written last
        return str(dataset)
    splits = {
        "train": write_videos(videos, clips_per_class=clips_per_class, seed=seed),
        "val": write_videos(videos, clips_per_class=val_clips_per_class, seed=seed, prefix="val_"),
    }
    _build_splits(videos, dataset, labels, splits)
    return str(dataset)


def prepare_study(
    directory: str | os.PathLike,
    sizes: Sequence[int],
    *,
    clips_per_class: int = 40,
    val_clips_per_class: int = 40,
    seed: int = 0,
) -> str:
    """Makes a data set for a study of scale below `directory`, or finishes or finds it there.

    Its splits are 'train' and 'val', with other videos than the rest, and for each of the rising
    `sizes` 'curated_N' and 'raw_N': what a nested subset of N videos has beyond the one before, so
    that the subset itself is 'curated_a+...+curated_N'. Every second raw video is a still, such as
    curation leaves out. Each subset holds the classes in equal shares, as near as can be.

    Returns:
      The dataset directory. Videos of 1.3 seconds.
    """
    drawn = f"drawing{_DRAWING}_seed{seed}"
    videos = Path(directory, f"study_videos_{drawn}")
    counts = "_".join(map(str, (*sizes, clips_per_class, val_clips_per_class)))
    name = f"study_{counts}_{drawn}"
    dataset, labels = Path(directory, name), Path(directory, f"{name}.csv")
    if (dataset / "dataset_info.json").exists():  # written last
        return str(dataset)

    def write(prefix: str, count: int, stills: int = 0) -> list[str]:
        return write_videos(
            videos, clips_per_class=count, num_frames=32, seed=seed, prefix=prefix, stills=stills
        )

    splits = {"train": write("train_", clips_per_class), "val": write("val_", val_clips_per_class)}
    for kind, stills in (("curated", 0), ("raw", 2)):
        per_class = -(-max(sizes) // len(CLASSES))
        by_class = write(f"{kind}_", per_class, stills)
        ranked = [path for i in range(per_class) for path in by_class[i::per_class]]
        for start, end in itertools.pairwise((0, *sizes)):
            splits[f"{kind}_{end}"] = ranked[start:end]
    _build_splits(videos, dataset, labels, splits)
    return str(dataset)


def _build_splits(
    videos: Path, dataset: Path, labels: Path, splits: Mapping[str, Sequence[str]]
) -> None:
    """Builds the dataset of some of the videos; writes the list of its labels and splits."""
    with open(labels, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "split"))
        for split, paths in splits.items():
            for path in map(Path, paths):
                rows.writerow((path.relative_to(videos), path.parent.name, split))
    build(videos, dataset, labels=str(labels), name="synthetic", short_side=96)


def render(
    name: str, rng: np.random.Generator, *, size: tuple[int, int] = (128, 96), num_frames: int = 64
) -> np.ndarray:
    """Draws one video of class `name`: u8[T, H, W, 3]."""
    if name not in CLASSES:
        raise ValueError(f"class {name!r}: expected one of {', '.join(CLASSES)}")
    width, height = size
    scale = min(size) / 96
    world = _texture(rng, 2 * height, 2 * width, _DARK)
    drift = rng.uniform(-0.1, 0.1, 2) * scale  # pixels per frame
    corner = rng.uniform(0.25, 0.75, 2) * (width, height)
    shapes = [_Shape(name, rng, size, scale) for _ in range(_NUM_SHAPES)]
    frames = []
    for t in range(num_frames):
        x, y = corner + drift * (t - num_frames / 2)
        view = np.float32([[1, 0, -x], [0, 1, -y]])
        frame = cv2.warpAffine(
            world, view, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        for shape in shapes:
            shape.draw(frame, t)
        frames.append(frame)
    return np.stack(frames)


class _Shape:
    """One textured figure, and where it is, how large and how turned at each time."""

    def __init__(self, name: str, rng: np.random.Generator, size: tuple[int, int], scale: float):
        self._size = size
        self._radius = rng.uniform(6, 11) * scale
        side = 2 * int(self._radius) + 1
        self._texture = _texture(rng, side, side, _BRIGHT)
        self._mask = _outline(rng, side)
        self._margin = 1.5 * self._radius  # out of sight on every side
        self._span = np.add(size, 2 * self._margin)
        self._center = rng.uniform((0, 0), self._span)
        self._angle = rng.uniform(0, 360)
        self._phase = rng.uniform()
        self._motion, _, self._way = name.partition("_")
        self._speed = {
            "move": rng.uniform(1.2, 2.4) * scale,  # pixels per frame
            "rotate": rng.uniform(8, 14),  # degrees per frame
            "zoom": rng.uniform(1 / 32, 1 / 20),  # runs per frame
            "oscillate": rng.uniform(1 / 20, 1 / 12),  # swings per frame
        }[self._motion]
        self._reach = rng.uniform(8, 14) * scale  # of an oscillation, pixels
        self._arm = rng.uniform(0.6, 1.2) * self._radius  # from a rotation's pivot, pixels

    def draw(self, frame: np.ndarray, t: int) -> None:
        """Blends the shape into the frame at time `t` (frames)."""
        center, angle, factor = self._pose(t)
        half = (self._texture.shape[0] - 1) / 2
        matrix = cv2.getRotationMatrix2D((half, half), angle, factor)
        matrix[:, 2] += center - half
        # Only the part of the frame that it can reach.
        reach = factor * (half + 2) + 1
        left, top = np.maximum(0, np.floor(center - reach)).astype(int)
        right, bottom = np.minimum(self._size, np.ceil(center + reach)).astype(int)
        if right <= left or bottom <= top:
            return
        matrix[:, 2] -= left, top
        size = (int(right - left), int(bottom - top))
        alpha = cv2.warpAffine(self._mask, matrix, size)[..., None]
        picture = cv2.warpAffine(self._texture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        part = frame[top:bottom, left:right]
        part[:] = np.rint(part * (1 - alpha) + picture * alpha)

    def _pose(self, t: int) -> tuple[np.ndarray, float, float]:
        """Center (x, y), angle in degrees (counter-clockwise is positive) and size factor.

        Every shape has a random angle, and a size drawn as a zoom would leave it, in every class.
        """
        center, angle = self._center, self._angle
        run = self._phase
        if self._motion == "move":
            center = center + t * self._speed * np.array(_DIRECTIONS[self._way])
        elif self._motion == "rotate":
            angle += t * self._speed * (-1 if self._way == "clockwise" else 1)
            turned = np.deg2rad(angle)
            center = center + self._arm * np.array((np.cos(turned), -np.sin(turned)))
        elif self._motion == "zoom":
            run = (self._phase + t * self._speed * (1 if self._way == "in" else -1)) % 1
        else:
            swing = self._reach * np.sin(2 * np.pi * (self._phase + t * self._speed))
            center = center + swing * np.array((1, 0) if self._way == "horizontally" else (0, 1))
        # What leaves on one side comes back on the other: centers stay uniform at all times, in
        # every class.
        return center % self._span - self._margin, angle, _ZOOM_SPAN ** (run - 0.5)


def _texture(
    rng: np.random.Generator, height: int, width: int, brightness: tuple[int, int]
) -> np.ndarray:
    """Random blotches between two random colours of some brightness, u8[height, width, 3]."""
    noise = np.zeros((height, width), np.float32)
    for cells, weight in ((4, 1.0), (9, 0.7), (20, 0.4)):
        coarse = rng.random((cells, cells), np.float32)
        noise += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = noise.min(), noise.max()
    mix = ((noise - low) / (high - low))[..., None]
    colors = rng.uniform(*brightness, (2, 3))
    return np.rint(colors[0] * (1 - mix) + colors[1] * mix).astype(np.uint8)


def _outline(rng: np.random.Generator, side: int) -> np.ndarray:
    """Mask of a rounded, irregular polygon with 3 to 6 corners, f32[side, side] in 0..1."""
    corners = rng.integers(3, 7)
    angles = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.2, 0.2, corners)) / corners
    half = (side - 1) / 2
    points = half + half * 0.95 * np.stack([np.cos(angles), np.sin(angles)], -1)
    mask = np.zeros((side, side), np.float32)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1.0)
    return cv2.GaussianBlur(mask, (3, 3), 0)


def _write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    """Writes frames u8[T, H, W, 3]; the file appears whole or not at all."""
    draft = path.with_suffix(".incomplete")
    options = {"preset": "veryfast", "crf": "18", "mbtree": "0", "threads": "1"}
    with av.open(str(draft), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fractions.Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, fractions.Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    os.replace(draft, path)
