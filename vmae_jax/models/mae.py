"""The masked autoencoder: encode what is visible, decode what is asked for, compare pixels."""

import jax
import jax.numpy as jnp
from flax import nnx

from vmae_jax.config import MaskConfig, ModelConfig
from vmae_jax.models import layers, masking, vit


class MaskedAutoencoder(nnx.Module):
    """VideoMAE V2 with dual masking.

    B samples, N tokens of P values; Nv visible, Nd decoded, Np predicted (see `masking.Masks`).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        encoder, decoder = config.encoder, config.decoder
        self.encoder = vit.Encoder(config, norm=config.encoder_norm, rngs=rngs)
        self.to_decoder = nnx.Linear(
            encoder.dim, decoder.dim, use_bias=False, kernel_init=layers.uniform(encoder.dim),
            dtype=config.dtype, rngs=rngs,
        )  # fmt: skip
        self.mask_token = nnx.Param(layers.truncated(rngs.params(), (decoder.dim,)))
        self.decoder = layers.Blocks(decoder, config, rngs=rngs)
        self.norm = layers.layer_norm(decoder.dim, config, rngs, config.head_norm_eps)
        self.head = nnx.Linear(
            decoder.dim, config.patch_dim, kernel_init=layers.xavier, dtype=config.dtype, rngs=rngs
        )

    def __call__(self, patches: jax.Array, masks: masking.Masks) -> jax.Array:
        """uint8 patches [B, N, P] -> predicted patches [B, Np, P]."""
        n = patches.shape[1]
        latent = self.encode(patches, masks.visible)
        x = self.decode(latent, masks.visible, masks.decoded, n)
        return layers.on_batch(self.head(self.norm(layers.gather_tokens(x, masks.predicted))))

    def encode(self, patches: jax.Array, visible: jax.Array) -> jax.Array:
        """uint8 [B, N, P], indices [B, Nv] -> [B, Nv, D]; hidden patches are never embedded."""
        return self.encoder(layers.gather_tokens(patches, visible), visible, patches.shape[1])

    def decode(
        self, latent: jax.Array, visible: jax.Array, decoded: jax.Array, num_tokens: int
    ) -> jax.Array:
        """Latent [B, Nv, D] -> decoder states [B, Nd, decoder width] before norm and head."""
        x = self.to_decoder(latent)
        dim, dtype = x.shape[-1], x.dtype
        x = x + vit.positions_at(visible, num_tokens, dim).astype(dtype)
        asked = self.mask_token[...] + vit.positions_at(decoded, num_tokens, dim)
        x = jnp.concatenate([x, asked.astype(dtype)], axis=1)
        return self.decoder(x)[:, visible.shape[1] :]


def patch_statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and unbiased deviation per patch and channel: [..., P] -> two of [..., 1, 3]."""
    x = patches.reshape(*patches.shape[:-1], -1, 3)
    return x.mean(-2, keepdims=True), x.std(-2, keepdims=True, ddof=1)


def targets(patches: jax.Array, normalize: bool) -> jax.Array:
    """uint8 patches [..., P] -> float32 pixels in [0, 1], or normalised per patch and channel."""
    pixels = patches.astype(jnp.float32) / 255
    if not normalize:
        return pixels
    mean, std = patch_statistics(pixels)
    x = pixels.reshape(*pixels.shape[:-1], -1, 3)
    return ((x - mean) / (std + 1e-6)).reshape(pixels.shape)


def predicted_tokens(masks: masking.Masks) -> jax.Array:
    """Token indices [B, Np] of what the head predicts."""
    return jnp.take_along_axis(masks.decoded, masks.predicted, axis=1)


def reconstruction_loss(
    model: MaskedAutoencoder, patches: jax.Array, masks: masking.Masks, normalize: bool
) -> tuple[jax.Array, jax.Array]:
    """Mean squared error over hidden and decoded tokens, and the number of those tokens."""
    predictions = model(patches, masks).astype(jnp.float32)
    wanted = targets(layers.gather_tokens(patches, predicted_tokens(masks)), normalize)
    error = jnp.square(predictions - wanted).mean(-1)
    tokens = masks.weight.sum()
    return (error * masks.weight).sum() / jnp.maximum(tokens, 1), tokens


def forward_flops(model: ModelConfig, mask: MaskConfig) -> int:
    """FLOPs of one clip's forward pass: matrix products only, two per multiply-add."""
    sizes = masking.counts(model.grid, mask)

    encoder, decoder = model.encoder, model.decoder
    macs = sizes.visible * encoder.dim * (model.patch_dim + decoder.dim)
    macs += layers.tower_macs(encoder, sizes.visible)
    macs += layers.tower_macs(decoder, sizes.visible + sizes.decoded)
    macs += sizes.predicted * decoder.dim * model.patch_dim
    return 2 * macs
