"""Transformer layers as plain pytrees: modules hold parameters and static sizes, nothing else.

Shapes: B samples, N tokens, D width, H heads, K head width, P values per patch.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vmae_jax.config import ModelConfig, Tower
from vmae_jax.models import attention
from vmae_jax.sharding import BATCH

# ImageNet statistics; the model's input is normalised with them (the targets are not).
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

xavier = nnx.initializers.xavier_uniform()


def uniform(fan_in: int) -> nnx.Initializer:
    """Uniform in +-1/sqrt(fan_in), kernels and biases alike: what PyTorch's layers start with.

    The reference leaves the patch embedding and the map to the decoder at it.
    """
    bound = fan_in**-0.5

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def truncated(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal of deviation 0.02, truncated at +-0.02: the reference's tokens in pre-training."""
    return 0.02 * jax.random.truncated_normal(key, -1.0, 1.0, shape)


REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def layer_norm(dim: int, config: ModelConfig, rngs: nnx.Rngs, eps: float = 0.0) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, epsilon=eps or config.norm_eps, dtype=config.dtype, rngs=rngs)


def on_batch(x: jax.Array) -> jax.Array:
    """Keeps activations split along the batch, where a mesh is set.

    Left to itself, XLA may follow a split kernel instead and move activations between devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """How an encoder and its blocks start, and what fine-tuning adds to them."""

    init: nnx.Initializer = xavier  # of kernels
    table: nnx.Initializer = truncated  # of learned positions
    lora_rank: int = 0  # of trainable low-rank updates of attention's kernels; 0 = none
    lora_scale: float = 1.0  # factor of those updates


class LowRank(nnx.Module):
    """The update x A B of a frozen kernel (LoRA, arXiv 2106.09685). B starts at zero."""

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        style: BlockStyle,
        dtype: DTypeLike,
        *,
        rngs: nnx.Rngs,
    ):
        self.axes, self.scale, self.dtype = len(inputs), style.lora_scale, dtype
        a_shape = (math.prod(inputs), style.lora_rank)
        a = nnx.initializers.he_uniform()(rngs.params(), a_shape)
        self.a = nnx.Param(a.reshape(*inputs, style.lora_rank))
        self.b = nnx.Param(jnp.zeros((style.lora_rank, *outputs)))

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = self.a[...].astype(self.dtype), self.b[...].astype(self.dtype)
        return self.scale * jnp.tensordot(jnp.tensordot(x, a, self.axes), b, 1)


class Attention(nnx.Module):
    """Multi-head self-attention with a bias on queries and values, none on keys.

    Heads are an axis of their own, so that tensor parallelism can split them.
    """

    def __init__(self, tower: Tower, config: ModelConfig, style: BlockStyle, *, rngs: nnx.Rngs):
        heads = (tower.heads, tower.dim // tower.heads)
        self.setting = config.attention
        self.qkv = nnx.LinearGeneral(
            tower.dim, (3, *heads), use_bias=False, kernel_init=style.init, dtype=config.dtype,
            rngs=rngs,
        )  # fmt: skip
        self.q_bias = nnx.Param(jnp.zeros(heads))
        self.v_bias = nnx.Param(jnp.zeros(heads))
        self.proj = nnx.LinearGeneral(
            heads, tower.dim, axis=(-2, -1), kernel_init=style.init, dtype=config.dtype, rngs=rngs
        )
        low_rank = functools.partial(LowRank, style=style, dtype=config.dtype, rngs=rngs)
        self.qkv_lora = low_rank((tower.dim,), (3, *heads)) if style.lora_rank else None
        self.proj_lora = low_rank(heads, (tower.dim,)) if style.lora_rank else None

    def __call__(self, x: jax.Array) -> jax.Array:  # [B, N, D] -> [B, N, D]
        out = attention.attention(*self._heads(x), self.setting).swapaxes(1, 2)
        return self.proj(out) if self.proj_lora is None else self.proj(out) + self.proj_lora(out)

    def received(self, x: jax.Array) -> jax.Array:
        """[B, N, D] -> [B, N]: the share of attention that each token gets; the sum is 1.

        The mean over heads and over the tokens that attend: whoever pools them sees this much.
        """
        q, k, _ = self._heads(x)
        return attention.weights(q, k).mean((1, 2))

    def _heads(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """[B, N, D] -> queries, which are scaled, keys and values, [B, H, N, K] each."""
        qkv = self.qkv(x) if self.qkv_lora is None else self.qkv(x) + self.qkv_lora(x)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # 3 x [B, H, N, K]
        q = (q + self.q_bias[:, None].astype(q.dtype)) * q.shape[-1] ** -0.5
        return q, k, v + self.v_bias[:, None].astype(v.dtype)


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, tower: Tower, config: ModelConfig, style: BlockStyle, *, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear, kernel_init=style.init, dtype=config.dtype, rngs=rngs
        )
        self.norm1 = layer_norm(tower.dim, config, rngs)
        self.attn = Attention(tower, config, style, rngs=rngs)
        self.norm2 = layer_norm(tower.dim, config, rngs)
        self.fc1 = linear(tower.dim, tower.mlp_dim)
        self.fc2 = linear(tower.mlp_dim, tower.dim)

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """[B, N, D] -> [B, N, D]; `keep` [2, B] multiplies the two branches (see `drop_path`)."""

        def branch(i: int, y: jax.Array) -> jax.Array:
            return y if keep is None else y * keep[i, :, None, None].astype(y.dtype)

        x = x + branch(0, self.attn(self.norm1(x)))
        hidden = jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False)
        return x + branch(1, self.fc2(hidden))


class Blocks(nnx.Module):
    """A stack of blocks: every parameter has a leading layer axis, and one block is compiled."""

    def __init__(
        self, tower: Tower, config: ModelConfig, style: BlockStyle | None = None, *, rngs: nnx.Rngs
    ):
        self.remat, self.depth = config.remat, tower.depth

        def make(key: jax.Array) -> Block:
            return Block(tower, config, style or BlockStyle(), rngs=nnx.Rngs(key))

        self.blocks = jax.vmap(make)(jax.random.split(rngs.params(), tower.depth))

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """[B, N, D] -> [B, N, D]; `keep`: [layers, 2, B] of `drop_path`, or None."""
        return self._run(self.blocks, x, keep)

    def received(self, x: jax.Array) -> jax.Array:
        """[B, N, D] -> [B, N], the last block's attention; see `Attention.received`."""
        last = jax.tree.map(lambda leaf: leaf[-1], self.blocks)
        x = self._run(jax.tree.map(lambda leaf: leaf[:-1], self.blocks), x, None)
        return last.attn.received(last.norm1(x))

    def _run(self, blocks: Block, x: jax.Array, keep: jax.Array | None) -> jax.Array:
        def step(x: jax.Array, layer: tuple[Block, jax.Array | None]) -> tuple[jax.Array, None]:
            block, keep = layer
            return on_batch(block(x, keep)), None

        if self.remat != "none":
            step = jax.checkpoint(step, policy=REMAT_POLICIES[self.remat])
        return jax.lax.scan(step, x, (blocks, keep))[0]


def drop_path(key: jax.Array, rate: float, depth: int, batch: int) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): factors [depth, 2, batch] of each sample's branches.

    A branch is dropped with a probability that grows linearly from 0 at the first block to `rate`
    at the last; those that stay are scaled up, so that the mean remains.
    """
    kept = 1 - jnp.linspace(0, rate, depth)[:, None, None]
    return jax.random.bernoulli(key, kept, (depth, 2, batch)) / kept


@functools.cache
def position_table(n: int, dim: int) -> np.ndarray:
    """Sine-cosine positions [n, dim]: angle = pos / 10000^(2 (j // 2) / dim), sine on even j."""
    j = np.arange(dim)
    angle = np.arange(n)[:, None] / np.power(10000, 2 * (j // 2) / dim)
    return np.where(j % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def tower_macs(tower: Tower, n: int) -> int:
    """Multiply-adds of a stack of blocks over n tokens: matrix products only."""
    each = 4 * tower.dim**2 + 2 * tower.dim * tower.mlp_dim + 2 * n * tower.dim
    return tower.depth * n * each


def patchify(video: jax.Array, tubelet_size: int, patch_size: int) -> jax.Array:
    """Video [B, T, height, width, 3] -> patches [B, N, P].

    Tokens run over (t, h, w); the values of a patch over (frame, row, column, channel).
    """
    b, t, h, w, c = video.shape
    x = video.reshape(
        b, t // tubelet_size, tubelet_size, h // patch_size, patch_size, w // patch_size,
        patch_size, c,
    )  # fmt: skip
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(
        b, t * h * w // (tubelet_size * patch_size**2), tubelet_size * patch_size**2 * c
    )


def unpatchify(
    patches: jax.Array, grid: tuple[int, int, int], tubelet_size: int, patch_size: int
) -> jax.Array:
    """Patches [B, N, P] -> video [B, T, height, width, 3]: the inverse of `patchify`."""
    b, (t, h, w) = patches.shape[0], grid
    x = patches.reshape(b, t, h, w, tubelet_size, patch_size, patch_size, 3)
    return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(
        b, t * tubelet_size, h * patch_size, w * patch_size, 3
    )


def gather_tokens(x: jax.Array, index: jax.Array) -> jax.Array:
    """[B, N, D], [B, M] -> [B, M, D]. `take_along_axis` needs no collective on a sharded batch."""
    return jnp.take_along_axis(x, index[..., None], axis=1)


def normalize_pixels(patches: jax.Array) -> jax.Array:
    """uint8 patches [..., P] -> float32 of zero mean and unit variance over ImageNet."""
    x = patches.reshape(*patches.shape[:-1], -1, 3).astype(jnp.float32) / 255
    return ((x - MEAN) / STD).reshape(patches.shape)
