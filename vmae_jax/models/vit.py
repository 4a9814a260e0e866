"""The vision transformer over video patches that pre-training and fine-tuning share."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from vmae_jax.config import ModelConfig
from vmae_jax.models import layers


class PatchEmbed(nnx.Module):
    """One dense layer on flattened patches: a 3-D convolution whose stride is its kernel."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        uniform = layers.uniform(config.patch_dim)
        self.linear = nnx.Linear(
            config.patch_dim,
            config.encoder.dim,
            kernel_init=uniform,
            bias_init=uniform,
            dtype=config.dtype,
            rngs=rngs,
        )

    def __call__(self, patches: jax.Array) -> jax.Array:
        """Pixels uint8, or floats that are normalised already, [B, N, P] -> [B, N, D]."""
        if patches.dtype == jnp.uint8:
            patches = layers.normalize_pixels(patches)
        return self.linear(patches)


class Encoder(nnx.Module):
    """Patch embedding, positions and blocks over the tokens that are shown, with a final norm.

    Where only the last blocks are trained, the others are a stack of their own, `stem`, through
    which no gradient has to pass.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        norm: bool,
        train_blocks: int = -1,
        style: layers.BlockStyle | None = None,
        rngs: nnx.Rngs,
    ):
        tower = config.encoder
        last = tower.depth if train_blocks < 0 else train_blocks
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        style = style or layers.BlockStyle()
        learned = config.positions == "learned"
        table = (config.num_tokens, tower.dim)
        self.positions = nnx.Param(style.table(rngs.params(), table)) if learned else None

        def stack(depth: int) -> layers.Blocks | None:
            part = dataclasses.replace(tower, depth=depth)
            return layers.Blocks(part, config, style, rngs=rngs) if depth else None

        self.stem = stack(tower.depth - last)
        self.tower = stack(last)
        self.norm = layers.layer_norm(tower.dim, config, rngs) if norm else None

    def __call__(
        self,
        patches: jax.Array,
        positions: jax.Array,
        num_tokens: int,
        keep: jax.Array | None = None,
    ) -> jax.Array:
        """Patches [B, M, P] at token indices [B, M] of num_tokens -> [B, M, D].

        Args:
          keep: [layers, 2, B] of `layers.drop_path`, or None.
        """
        x, layer = self._embed(patches, positions, num_tokens), 0
        for stack in filter(None, (self.stem, self.tower)):
            part = None if keep is None else keep[layer : layer + stack.depth]
            x, layer = stack(x, part), layer + stack.depth
        return x if self.norm is None else self.norm(x)

    def received(self, patches: jax.Array) -> jax.Array:
        """All patches [B, N, P] -> [B, N]: what each gets of the last block's attention."""
        b, n = patches.shape[:2]
        x = self._embed(patches, jnp.broadcast_to(jnp.arange(n), (b, n)), n)
        *stacks, last = filter(None, (self.stem, self.tower))
        for stack in stacks:
            x = stack(x)
        return last.received(x)

    def _embed(self, patches: jax.Array, positions: jax.Array, num_tokens: int) -> jax.Array:
        x = self.patch_embed(patches)
        if self.positions is None:
            return x + positions_at(positions, num_tokens, x.shape[-1]).astype(x.dtype)
        return x + self.positions[...][positions].astype(x.dtype)


def positions_at(positions: jax.Array, num_tokens: int, dim: int) -> jax.Array:
    """Rows of the fixed position table at token indices [B, M] -> [B, M, dim]."""
    return jnp.asarray(layers.position_table(num_tokens, dim))[positions]
