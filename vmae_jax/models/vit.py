"""The vision transformer over video patches that pre-training and fine-tuning share."""

import jax
import jax.numpy as jnp
from flax import nnx

from vmae_jax.config import ModelConfig
from vmae_jax.models import layers


class PatchEmbed(nnx.Module):
    """One dense layer on flattened patches: a 3-D convolution whose stride is its kernel.

    Kernel and bias start uniform in +-1/sqrt(fan_in), the convolution's default in PyTorch, which
    the reference leaves as it is.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        bound = config.patch_dim**-0.5

        def uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        self.linear = nnx.Linear(
            config.patch_dim,
            config.encoder.dim,
            kernel_init=uniform,
            bias_init=uniform,
            dtype=config.dtype,
            rngs=rngs,
        )

    def __call__(self, patches: jax.Array) -> jax.Array:
        """uint8 [B, N, P] -> [B, N, D]."""
        return self.linear(layers.normalize_pixels(patches))


class Encoder(nnx.Module):
    """Patch embedding, positions and blocks over the tokens that are shown, with a final norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.tower = layers.Blocks(config.encoder, config.dtype, config.remat, rngs=rngs)
        self.norm = layers.layer_norm(config.encoder.dim, config.dtype, rngs)

    def __call__(self, patches: jax.Array, positions: jax.Array, num_tokens: int) -> jax.Array:
        """Patches uint8 [B, M, P] at token indices [B, M] of num_tokens -> [B, M, D]."""
        x = self.patch_embed(patches)
        x = x + positions_at(positions, num_tokens, x.shape[-1]).astype(x.dtype)
        return self.norm(self.tower(x))


def positions_at(positions: jax.Array, num_tokens: int, dim: int) -> jax.Array:
    """Rows of the fixed position table at token indices [B, M] -> [B, M, dim]."""
    return jnp.asarray(layers.position_table(num_tokens, dim))[positions]
