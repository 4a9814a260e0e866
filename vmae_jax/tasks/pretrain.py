"""Masked pre-training: reconstruct the hidden patches that the decoder is asked for."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vmae_jax import checkpoint, sharding, viz
from vmae_jax.config import Config, MaskConfig, for_platform, from_config_dict
from vmae_jax.data import pipeline
from vmae_jax.models import layers, mae, masking
from vmae_jax.tasks import initial

PICTURE_CLIPS = 4


class Pretrain:
    """The task of VideoMAE V2's first stage; see `program.Task` for the interface."""

    inputs = ("video",)
    teacher = None
    meta: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, config: Config):
        self.config = config = for_platform(config, jax.default_backend())
        self.report_every = config.train.picture_every
        model = nnx.eval_shape(lambda: mae.MaskedAutoencoder(config.model, rngs=nnx.Rngs(0)))
        self._graphdef, _ = nnx.split(model)
        # The backward pass has two products for each of the forward's.
        self.flops_per_clip = 3 * mae.forward_flops(config.model, config.mask)
        self._compiled: dict[Mesh | None, Callable] = {}

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters as a nested dict of float32 arrays."""
        model = mae.MaskedAutoencoder(self.config.model, rngs=nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.split(model)[1])

    def model(self, params: dict[str, Any]) -> mae.MaskedAutoencoder:
        return nnx.merge(self._graphdef, params)

    def patches(self, video: jax.Array) -> jax.Array:
        """uint8 [B, T, height, width, 3] -> uint8 [B, N, P]."""
        return layers.patchify(video, self.config.model.tubelet_size, self.config.model.patch_size)

    def loss_fn(
        self, params: dict[str, Any], batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """batch["video"]: uint8 [B, T, height, width, 3] -> mean loss, tokens it is the mean of."""
        patches = self.patches(batch["video"])
        masks = masking.draw(key, patches.shape[0], self.config.model.grid, self.config.mask)
        return mae.reconstruction_loss(
            self.model(params), patches, masks, self.config.normalize_target
        )

    def data(self, start: int = 0, places: Sequence[int] | None = None) -> pipeline.ClipStream:
        return pipeline.open_clips(self.config, places=places, start=start)

    def reconstruct(
        self, params: dict[str, Any], video: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What the encoder sees of uint8 videos [B, T, height, width, 3], and the model's guess.

        Every hidden token is decoded, whatever the decoder's mask in training. Normalised
        predictions get the true patch's mean and deviation back: the picture shows the guessed
        structure, not guessed brightness.

        Returns:
          Two float32 videos in [0, 1]: hidden patches grey, hidden patches guessed.
        """
        config = self.config.model
        patches = self.patches(video)
        everything = MaskConfig(self.config.mask.encoder, self.config.mask.encoder_ratio, "none")
        masks = masking.draw(key, video.shape[0], config.grid, everything)
        guess = self.model(params)(patches, masks).astype(jnp.float32)
        tokens = mae.predicted_tokens(masks)
        pixels = mae.targets(patches, normalize=False)
        if self.config.normalize_target:
            mean, std = mae.patch_statistics(layers.gather_tokens(pixels, tokens))
            guess = (guess.reshape(*guess.shape[:-1], -1, 3) * (std + 1e-6) + mean).reshape(
                guess.shape
            )

        def with_hidden(values: jax.Array | float) -> jax.Array:
            filled = jax.vmap(lambda p, t, v: p.at[t].set(v))(
                pixels, tokens, jnp.broadcast_to(values, guess.shape)
            )
            return layers.unpatchify(filled, config.grid, config.tubelet_size, config.patch_size)

        return with_hidden(0.5), jnp.clip(with_hidden(guess), 0, 1)

    def is_frozen(self, path: str) -> bool:
        return False

    def initial_weights(self, like: dict[str, Any]) -> dict[str, np.ndarray]:
        return initial.weights(self.config, like)

    def report(
        self, params: dict[str, Any], stream: pipeline.ClipStream, mesh: Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        return {}, self.pictures(params, stream, mesh)

    def pictures(
        self, params: dict[str, Any], stream: pipeline.ClipStream, mesh: Mesh | None = None
    ) -> dict[str, np.ndarray]:
        """Reconstructions of the same clips with the same masks at every call: a sheet, a film."""
        video = np.stack([stream.example(i)[0] for i in range(PICTURE_CLIPS)])
        if mesh not in self._compiled:  # on every device, because each host can read its own only
            everywhere = None if mesh is None else sharding.replicated(mesh)
            self._compiled[mesh] = jax.jit(self.reconstruct, out_shardings=everywhere)
        run = self._compiled[mesh]
        masked, guess = jax.device_get(run(params, video, jax.random.key(self.config.seed)))
        restored = (
            "guessed patches carry the true patch's mean and deviation"
            if self.config.normalize_target
            else "guessed patches are as predicted"
        )
        visible = masking.counts(self.config.model.grid, self.config.mask).visible
        caption = (
            f"{1 - visible / self.config.model.num_tokens:.0%} of the patches hidden "
            f"({self.config.mask.encoder} masking); {restored}"
        )
        return {
            "film": viz.reconstruction_film(video, masked, guess),
            "reconstruction": viz.reconstruction_sheet(video, masked, guess, caption),
        }


def load(workdir: str) -> tuple[Pretrain, dict[str, Any]]:
    """The task and the parameters of a run's last checkpoint (averaged ones where it kept them).

    Raises:
      CheckpointError: if the run has none.
    """
    meta, params = checkpoint.load_params(workdir)
    return Pretrain(from_config_dict(meta["config"])), params
