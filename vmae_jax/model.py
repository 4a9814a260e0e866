"""A checkpoint of any kind as functions of videos: what notebooks, predict and features use.

model = load("runs/mine")  # or a .pth or .safetensors file, or a Hugging Face directory
video = model.read("clip.mp4")  # uint8 [V, T, S, S, 3]
logits = model.apply(model.params, video)  # float32 [V, C]
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vmae_jax import tree
from vmae_jax.config import ClassifierConfig, DataConfig, ModelConfig
from vmae_jax.convert import load as weights_lib
from vmae_jax.convert.load import Weights
from vmae_jax.data.videos import open_video
from vmae_jax.data.views import EvalViews
from vmae_jax.models import classifier, layers, vit

Params = dict[str, Any]
Apply = Callable[[Params, jax.Array], jax.Array]


class ModelError(ValueError):
    """What a checkpoint cannot be used for, why, and what can: one line."""


class Backbone(nnx.Module):
    """The encoder of a checkpoint without a head, over all tokens."""

    def __init__(self, config: ModelConfig, *, pooled_norm: bool, rngs: nnx.Rngs):
        self.encoder = vit.Encoder(config, norm=config.encoder_norm, rngs=rngs)
        norm = layers.layer_norm(config.encoder.dim, config, rngs, config.head_norm_eps)
        self.norm = norm if pooled_norm else None

    def tokens(self, patches: jax.Array) -> jax.Array:
        """Patches [B, N, P] -> [B, N, D] after the encoder's norm, where it has one."""
        b, n = patches.shape[:2]
        return self.encoder(patches, jnp.broadcast_to(jnp.arange(n), (b, n)), n)

    def features(self, patches: jax.Array) -> jax.Array:
        """Patches [B, N, P] -> the mean token [B, D], after the head's norm where there is one."""
        pooled = self.tokens(patches).mean(1)
        return pooled if self.norm is None else self.norm(pooled)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint: its parameters, and compiled functions of parameters and a video.

    A video is uint8 [B, T, S, S, 3] with T = config.num_frames and S = config.image_size; results
    are float32. B samples, N tokens, D width, C classes.
    """

    kind: str  # classifier; or without a head: pretrain, encoder
    config: ModelConfig
    params: Params
    label_names: tuple[str, ...]  # () where unknown
    source: str  # the checkpoint's path, and what it is in words
    notes: tuple[str, ...]  # what was left out or assumed while it was read
    sampling: str  # of a video's frames, as the run that was loaded took them; of a file, dense
    stride: int  # likewise; of a file, 4
    _graphdef: nnx.GraphDef = dataclasses.field(repr=False)
    pixels: str = "uint8"  # of a video; float32 reaches the first layer as it is, not normalised

    def __str__(self) -> str:
        """One line on the model and where it runs, and one for each note on its checkpoint."""
        c, device = self.config, jax.devices()[0]
        classes = f"{self.num_classes} classes" if self.kind == "classifier" else self.kind
        line = (
            f"ViT {c.variant}, {classes}, {c.num_frames} frames of {c.image_size}x{c.image_size} "
            f"pixels, {c.dtype}, on {device.device_kind} ({self.source})"
        )
        return "\n".join([line, *(f"  {note}" for note in self.notes)])

    @property
    def num_classes(self) -> int:
        """C; a ModelError where the checkpoint has no head."""
        self._check_head()
        return self.params["head"]["bias"].shape[0]

    def _check_head(self) -> None:
        if self.kind != "classifier":
            raise ModelError(
                f"{self.source}: a checkpoint of kind '{self.kind}' has no head that names "
                "classes; fine-tune it (--config.init_from), or use its features"
            )

    @functools.cached_property
    def apply(self) -> Apply:
        """(params, video) -> logits [B, C].

        Raises:
          ModelError: where the checkpoint has no head.
        """
        self._check_head()
        return self._compiled(lambda module, patches: module(patches))

    @functools.cached_property
    def features(self) -> Apply:
        """(params, video) -> the mean token [B, D]; of a classifier normed, as its head sees it."""
        return self._compiled(lambda module, patches: module.features(patches))

    @functools.cached_property
    def tokens(self) -> Apply:
        """(params, video) -> the last block's tokens [B, N, D], over (t, h, w).

        Of a checkpoint with a norm after the encoder (a pre-trained one), normed.
        """
        return self._compiled(lambda module, patches: module.tokens(patches))

    @functools.cached_property
    def attention(self) -> Apply:
        """(params, video) -> where the model looks, [B, t, h, w] over tokens; the sum is 1.

        The last block's attention, mean over heads and over the tokens that are pooled.
        """
        grid = self.config.grid
        return self._compiled(lambda m, patches: m.encoder.received(patches).reshape(-1, *grid))

    def views(
        self, clips: int = 1, crops: int = 1, *, sampling: str = "", stride: int = 0
    ) -> EvalViews:
        """The views of a video that evaluation takes; by default its middle.

        Args:
          sampling, stride: how frames are taken; "" and 0 = as the model's own.
        """
        length, size = self.config.num_frames, self.config.image_size
        sampling, stride = sampling or self.sampling, stride or self.stride
        return EvalViews(clips, crops, length, size, sampling, stride)

    def read(
        self,
        path: str | os.PathLike,
        clips: int = 1,
        crops: int = 1,
        *,
        keep_partial: bool = False,
    ) -> np.ndarray:
        """Those views of a video file, uint8 [clips * crops, T, S, S, 3].

        Average the softmax over several views. `keep_partial`: see `data.videos.open_video`.

        Raises:
          VideoError: where it cannot be read.
        """
        return self.views(clips, crops).of_file(open_video(path, keep_partial=keep_partial))

    def _compiled(self, run: Callable[[Any, jax.Array], jax.Array]) -> Apply:
        def apply(params: Params, video: jax.Array) -> jax.Array:
            shape = (self.config.num_frames, self.config.image_size, self.config.image_size, 3)
            if video.shape[1:] != shape or video.dtype != self.pixels:
                raise ModelError(
                    f"video {video.dtype}{list(video.shape)}: expected {self.pixels} [B, "
                    f"{', '.join(map(str, shape))}]"
                )
            patches = layers.patchify(video, self.config.tubelet_size, self.config.patch_size)
            return run(nnx.merge(self._graphdef, params), patches).astype(jnp.float32)

        return jax.jit(apply)


def load(path: str | os.PathLike, *, dtype: str = "float32", **overrides: int | str) -> Model:
    """Reads a checkpoint of any kind: a run's workdir, a .pth, .bin or .safetensors file, or a
    Hugging Face directory.

    Args:
      dtype: of activations, float32 or bfloat16; parameters and results are float32.
      overrides: heads, image_size, num_frames and weights_key, where the file does not say (see
        `convert.load.load`).

    Raises:
      ConversionError, CheckpointError: where it cannot be read.
      ModelError: where it is no plain encoder or classifier.
    """
    weights = weights_lib.load(path, **overrides)
    named = dataclasses.replace(weights, source=f"{path}: {weights.source}")
    return from_weights(named, dtype=dtype)


def from_weights(weights: Weights, *, dtype: str = "float32") -> Model:
    """Weights on the host as a model on the default device; of a pre-training one, the encoder."""
    config = dataclasses.replace(weights.model, dtype=dtype, remat="none", attention="auto")
    params = weights.params
    if weights.kind == "pretrain":
        params = {"encoder": params["encoder"]}  # the other "norm" and "head" are the decoder's
    graphdef, like = nnx.split(nnx.eval_shape(lambda: _module(weights.kind, config, params)))
    _check_same(_shapes(params), _shapes(nnx.to_pure_dict(like)), weights)
    data = weights.run.data if weights.run else DataConfig()
    return Model(
        weights.kind, config, jax.device_put(params), weights.label_names, weights.source,
        weights.notes, data.sampling, data.stride, graphdef,
    )  # fmt: skip


def _module(kind: str, config: ModelConfig, params: Params) -> nnx.Module:
    rngs = nnx.Rngs(0)
    if kind == "classifier":
        classes = params.get("head", {}).get("bias", jnp.zeros(1)).shape[0]
        return classifier.Classifier(config, ClassifierConfig(), classes, rngs=rngs)
    return Backbone(config, pooled_norm="norm" in params, rngs=rngs)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {tree.path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


def _check_same(found: dict[str, tuple], expected: dict[str, tuple], weights: Weights) -> None:
    wrong = sorted(dict(found.items() ^ expected.items()))
    if wrong:
        raise ModelError(
            f"{weights.source}: its {weights.kind} differs from this package's in "
            f"{', '.join(wrong[:4])}{', ...' if len(wrong) > 4 else ''}"
        )
