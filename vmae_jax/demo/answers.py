"""What the page shows of a clip, as probabilities and pictures; knows nothing of the page."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from vmae_jax import predict, viz
from vmae_jax.config import Config, MaskConfig
from vmae_jax.convert.load import Weights
from vmae_jax.data.videos import VideoError, VideoFile, open_video
from vmae_jax.data.views import EvalViews
from vmae_jax.model import Model, ModelError
from vmae_jax.tasks.pretrain import Pretrain


class BadClipError(ValueError):
    """A clip that is not answered, and why: one line for the person who dropped it."""


# Of all frames of a clip, two minutes of 1920x1080 pixels at 30 frames a second, so that none keeps
# the others waiting for more than about half a minute.
MAX_PIXELS = 8e9


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of a clip; of a frame see `source.MAX_PIXELS`."""

    megabytes: float
    seconds: float

    @functools.cached_property
    def open(self):
        """The last files, as a slider asks for the same again and again."""
        return functools.lru_cache(16)(self._open)

    def _open(self, path: str) -> VideoFile:
        try:
            return open_video(path, self.seconds, MAX_PIXELS)
        except VideoError as error:  # without the name that the server gave it
            raise BadClipError(f"{error.reason}: {error.detail}") from None


def frames(views: EvalViews, video: VideoFile) -> np.ndarray:
    """The views of a clip, uint8 [V, T, S, S, 3]."""
    try:
        return views.of_file(video)
    except VideoError as error:
        raise BadClipError(f"{error.reason}: {error.detail}; drop it again") from None


@dataclasses.dataclass(frozen=True)
class Answer:
    """Of one clip."""

    probabilities: dict[str, float]  # of the most probable classes; empty without a head
    frames: np.ndarray  # pictures, uint8 [height, width, 3]
    attention: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """A model that says what a clip shows and where it looked."""

    model: Model
    names: Sequence[str]  # of its classes; () without a head
    views: EvalViews

    def __call__(self, video: VideoFile) -> Answer:
        """Raises BadClipError where the file is no longer what it was."""
        views = frames(self.views, video)
        numbers = self.views.indices(video.num_frames).repeat(self.views.crops, axis=0)
        params = self.model.params
        found = {}
        if self.names:
            logits = np.concatenate([self.model.apply(params, view[None]) for view in views])
            probabilities = np.asarray(jax.nn.softmax(logits).mean(0))
            best = predict.top(probabilities, self.names)
            found = {b["label"]: b["probability"] for b in best}
        looked = np.asarray(self.model.attention(params, views[:1]))[0]
        first, last = int(numbers.min()), int(numbers.max())
        caption = f"frames {first} to {last} of {video.num_frames}, {video.fps:.3g} a second"
        return Answer(
            found,
            viz.frames_sheet(views, numbers, caption),
            viz.frames_sheet(
                viz.attention_over(views[0], looked)[None], numbers[:1],
                "last block: yellow much, grey least",
            ),
        )  # fmt: skip


class Guesses:
    """A pre-trained model that guesses what is hidden of a clip."""

    def __init__(self, weights: Weights, dtype: str = "float32"):
        """Raises ModelError where the weights have no decoder."""
        if weights.kind != "pretrain":
            raise ModelError(
                f"{weights.source}: is of kind '{weights.kind}', only a pre-trained model with its "
                "decoder guesses what is hidden"
            )
        model = dataclasses.replace(weights.model, dtype=dtype, remat="none", attention="auto")
        self._config = dataclasses.replace(
            weights.run or Config(), model=model, normalize_target=weights.normalize_target
        )
        self._params = jax.device_put(weights.params)
        data = self._config.data
        self._views = EvalViews(
            1, 1, model.num_frames, model.image_size, data.sampling, data.stride
        )
        self._compiled = functools.cache(self._compile)  # once for each ratio

    def __call__(self, video: VideoFile, ratio: float) -> np.ndarray:
        """The clip, what is left of it, and the guess: a picture, uint8 [height, width, 3].

        The same patches are hidden every time, and more of them with a higher ratio.
        """
        clip = frames(self._views, video)
        masked, guess = self._compiled(ratio)(self._params, clip, jax.random.key(0))
        restored = "; brightness and contrast of guessed patches are true"
        caption = f"{ratio:.0%} of the patches hidden{restored * self._config.normalize_target}"
        return viz.reconstruction_sheet(clip, np.asarray(masked), np.asarray(guess), caption)

    def _compile(self, ratio: float):
        kind = self._config.mask.encoder.replace("none", "tube")
        mask = MaskConfig(encoder=kind, encoder_ratio=ratio, decoder="none")
        return jax.jit(Pretrain(dataclasses.replace(self._config, mask=mask)).reconstruct)
