"""From a clip to the views that a model sees: which frames, which part of them, how changed."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from vmae_jax.config import Config
from vmae_jax.data import augment, clips
from vmae_jax.data.randaugment import RandAugment
from vmae_jax.data.videos import VideoFile, open_video, stream_video


class TrainViews(Protocol):
    """Random views of a record, u8[V, T, S, S, 3]; may raise RecordError."""

    def __call__(self, record: clips.Record, rng: np.random.Generator) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class PretrainViews:
    """Multi-scale crops of one random clip, as masked pre-training takes them."""

    views: int
    length: int  # frames
    size: int  # pixels
    stride: int
    antialias: bool  # of crops that shrink

    def __call__(self, record: clips.Record, rng: np.random.Generator) -> np.ndarray:
        start = rng.integers(clips.num_starts(record.num_frames, self.length, self.stride))
        indices = clips.clip_indices(record.num_frames, self.length, self.stride, int(start))
        frames = clips.decode_frames(record, indices)
        views = np.empty((self.views, self.length, self.size, self.size, 3), np.uint8)
        for view in views:
            augment.multi_scale_crop(frames, self.size, rng, out=view, antialias=self.antialias)
        return views


@dataclasses.dataclass(frozen=True)
class FinetuneViews:
    """Augmented views of one random clip, as fine-tuning takes them: same frames in all views."""

    views: int
    length: int  # frames
    size: int  # pixels
    sampling: str
    stride: int
    min_area: float
    flip: float
    randaugment: RandAugment | None

    def __call__(self, record: clips.Record, rng: np.random.Generator) -> np.ndarray:
        frames = clips.decode_frames(record, self._indices(record.num_frames, rng))
        return np.stack([self._view(frames, rng) for _ in range(self.views)])

    def _indices(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        if self.sampling == "sparse":
            return clips.sparse_indices(num_frames, self.length, rng)
        starts = max(1, num_frames - self.length * self.stride)
        return clips.dense_indices(
            num_frames, self.length, self.stride, start=int(rng.integers(starts))
        )

    def _view(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.randaugment is not None:
            frames = self.randaugment(frames, rng)
        box = augment.random_resized_box(*frames.shape[1:3], self.min_area, rng)
        view = augment.resized_crop(frames, box, self.size)
        return view[:, :, ::-1] if rng.random() < self.flip else view


def training_views(config: Config) -> TrainViews:
    """The views of the training clips of a recipe."""
    model, data = config.model, config.data
    if config.task == "pretrain":
        size = model.image_size
        return PretrainViews(data.views, model.num_frames, size, data.stride, data.antialias)
    change = config.augment
    return FinetuneViews(
        data.views,
        model.num_frames,
        model.image_size,
        data.sampling,
        data.stride,
        min_area=change.min_area,
        flip=change.flip,
        randaugment=RandAugment.parse(change.randaugment) if change.randaugment else None,
    )


@dataclasses.dataclass(frozen=True)
class EvalViews:
    """The fixed views of a video that decide its class: temporal clips x crops.

    The frames come with their short side scaled to `size` pixels; crops lie along the longer side.
    A single clip or crop lies in the middle, where the reference's formula divides by zero.
    """

    clips: int
    crops: int
    length: int  # frames of a clip
    size: int  # pixels
    sampling: str
    stride: int
    validation: bool = False  # the reference's while training: training's frames, in the middle

    @property
    def count(self) -> int:
        return self.clips * self.crops

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all views of a video: (V, T, S, S, 3)."""
        return self.count, self.length, self.size, self.size, 3

    def indices(self, num_frames: int, of_pictures: bool = False) -> np.ndarray:
        """Frames of each clip of a video of `num_frames`, i64[clips, T].

        Args:
          of_pictures: see `clips.sparse_indices`.
        """
        if self.validation:
            if self.sampling == "sparse":
                found = clips.sparse_indices(num_frames, self.length, of_pictures=of_pictures)
                return found[None]
            return clips.dense_indices(num_frames, self.length, self.stride)[None]
        if self.sampling == "sparse":
            spread = clips.sparse_test_indices(num_frames, self.length, self.clips)
            return spread.reshape(self.length, self.clips).T
        reached = clips.dense_test_indices(num_frames, self.length, self.stride)
        starts = [
            clips.test_start(len(reached), self.length, clip, self.clips)
            for clip in range(self.clips)
        ]
        return np.stack([reached[start : start + self.length] for start in starts])

    def cut(self, frames: np.ndarray) -> np.ndarray:
        """Crops of u8[clips * T, H, W, 3], the frames of `indices` flattened, short side `size`.

        Returns:
          u8[clips * crops, T, size, size, 3], the crops of a clip one after the other.
        """
        height, width = frames.shape[1:3]
        by_clip = frames.reshape(self.clips, self.length, height, width, 3)
        views = np.empty((self.clips, self.crops, self.length, self.size, self.size, 3), np.uint8)
        for crop in range(self.crops):
            top, left = self._start(height, crop), self._start(width, crop)
            views[:, crop] = by_clip[:, :, top : top + self.size, left : left + self.size]
        return views.reshape(self.shape)

    def _start(self, extent: int, crop: int) -> int:
        if self.validation:
            return clips.validation_start(extent, self.size)
        return clips.test_start(extent, self.size, crop, self.crops)

    def __call__(self, record: clips.Record) -> np.ndarray:
        """All views of a record, u8[V, T, S, S, 3]; one of JPEG frames counts as pictures.

        Raises:
          RecordError: where it does not decode.
        """
        indices = self.indices(record.num_frames, of_pictures=record.codec == "jpeg").ravel()
        return self.cut(clips.decode_frames(record, indices, short_side=self.size))

    def of_file(self, video: VideoFile) -> np.ndarray:
        """All views of a video file, u8[V, T, S, S, 3], as of its record.

        Raises:
          VideoError: where it is no longer what it was when opened.
        """
        indices = self.indices(video.num_frames).ravel()
        return self.cut(video.frames(indices, short_side=self.size))


def evaluation_views(config: Config, kind: str = "test") -> EvalViews:
    """The views of a recipe's evaluation.

    Args:
      kind: 'test' = clips x crops of `config.eval`, as the reference's final figures are made;
        'center' = one in the middle of the video and of the frame, for a look while training.
    """
    model, data, test = config.model, config.data, config.eval
    views = EvalViews(
        test.clips, test.crops, model.num_frames, model.image_size, data.sampling, data.stride
    )
    if kind == "test":
        return views
    if kind == "center":
        return dataclasses.replace(views, clips=1, crops=1, validation=True)
    raise ValueError(f"views {kind!r}: expected 'test' or 'center'")


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which parts of a video become a feature each."""

    views: EvalViews  # of a whole video, whose mean is its feature; one in a sliding window
    every: int = 0  # frames from one sliding window to the next; 0 = the whole video
    keep_partial: bool = False  # go on after damage, see `videos.open_video`
    preprocessing: str = "evaluation"  # of frames; reference = of the features it released

    @property
    def pixels(self) -> str:
        """Type of a window."""
        return "float32" if self.preprocessing == "reference" else "uint8"

    def __call__(self, path: str, notes: list[str] | None = None) -> Iterator[np.ndarray]:
        """The windows of a video file, [V, T, S, S, 3] of `pixels` each.

        Args:
          notes: in the end takes what was put right in its times, or skipped as damaged.

        Raises:
          VideoError: where it cannot be read to its end, after the windows before.
        """
        if self.every:
            yield from self._sliding(path, notes)
        else:
            video = open_video(path, keep_partial=self.keep_partial)
            if notes is not None:
                notes += video.notes
            yield self.views.of_file(video)

    def _frames(self, path: str, notes: list[str] | None) -> Iterator[np.ndarray]:
        """All frames of a video as the windows have them, [S, S, 3]."""
        size, middle = self.views.size, dataclasses.replace(self.views, length=1)
        squashed = self.preprocessing == "reference"
        short_side = 0 if squashed else size
        for frame in stream_video(path, short_side, keep_partial=self.keep_partial, notes=notes):
            yield augment.squash(frame, size) if squashed else middle.cut(frame[None])[0, 0]

    def _sliding(self, path: str, notes: list[str] | None) -> Iterator[np.ndarray]:
        length, stride = self.views.length, self.views.stride
        span = (length - 1) * stride + 1
        latest = collections.deque(maxlen=span)
        count = 0
        for frame in self._frames(path, notes):
            latest.append(frame)
            count += 1
            if count >= span and (count - span) % self.every == 0:
                yield np.stack([latest[i] for i in range(0, span, stride)])[None]
        if count < span:
            yield np.stack([latest[min(i, count - 1)] for i in range(0, span, stride)])[None]
