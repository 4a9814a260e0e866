"""Transformer layers as plain pytrees: modules hold parameters and static sizes, nothing else.

Shapes: B samples, N tokens, D width, H heads, K head width, P values per patch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vmae_jax.config import Tower

LAYER_NORM_EPS = 1e-6
# ImageNet statistics; the model's input is normalised with them (the targets are not).
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

xavier = nnx.initializers.xavier_uniform()

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def layer_norm(dim: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, dtype=dtype, rngs=rngs)


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.einsum("bhnk,bhmk->bhnm", q, k, preferred_element_type=jnp.float32)


@jax.custom_vjp
def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v for [B, H, N, K] -> [B, H, N, K]; q comes scaled, the softmax is float32.

    The backward pass computes the [N, M] weights again from each row's log-sum-exp, so that none
    are kept, and takes softmax's inner product from the output (as FlashAttention does, arXiv
    2205.14135, appendix B.2).
    """
    return _attention_forward(q, k, v)[0]


def _attention_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    scores = _scores(q, k)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum("bhnm,bhmk->bhnk", weights.astype(v.dtype), v) / total
    out = out.astype(v.dtype)
    return out, (q, k, v, out, highest + jnp.log(total))


def _attention_backward(saved: tuple, grad: jax.Array) -> tuple[jax.Array, ...]:
    q, k, v, out, log_total = saved
    weights = jnp.exp(_scores(q, k) - log_total)
    inner = (grad.astype(jnp.float32) * out).sum(-1, keepdims=True)
    grad_scores = weights * (_scores(grad, v) - inner)
    weights, grad_scores = weights.astype(v.dtype), grad_scores.astype(q.dtype)
    return (
        jnp.einsum("bhnm,bhmk->bhnk", grad_scores, k),
        jnp.einsum("bhnm,bhnk->bhmk", grad_scores, q),
        jnp.einsum("bhnm,bhnk->bhmk", weights, grad),
    )


attention.defvjp(_attention_forward, _attention_backward)


class Attention(nnx.Module):
    """Multi-head self-attention with a bias on queries and values, none on keys.

    Heads are an axis of their own, so that tensor parallelism can split them.
    """

    def __init__(self, tower: Tower, dtype: DTypeLike, *, rngs: nnx.Rngs):
        heads = (tower.heads, tower.dim // tower.heads)
        self.qkv = nnx.LinearGeneral(
            tower.dim, (3, *heads), use_bias=False, kernel_init=xavier, dtype=dtype, rngs=rngs
        )
        self.q_bias = nnx.Param(jnp.zeros(heads))
        self.v_bias = nnx.Param(jnp.zeros(heads))
        self.proj = nnx.LinearGeneral(
            heads, tower.dim, axis=(-2, -1), kernel_init=xavier, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:  # [B, N, D] -> [B, N, D]
        q, k, v = self.qkv(x).transpose(2, 0, 3, 1, 4)  # 3 x [B, H, N, K]
        q = (q + self.q_bias[:, None].astype(q.dtype)) * q.shape[-1] ** -0.5
        v = v + self.v_bias[:, None].astype(v.dtype)
        return self.proj(attention(q, k, v).swapaxes(1, 2))


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, tower: Tower, dtype: DTypeLike, *, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.norm1 = layer_norm(tower.dim, dtype, rngs)
        self.attn = Attention(tower, dtype, rngs=rngs)
        self.norm2 = layer_norm(tower.dim, dtype, rngs)
        self.fc1 = linear(tower.dim, tower.mlp_dim)
        self.fc2 = linear(tower.mlp_dim, tower.dim)

    def __call__(self, x: jax.Array) -> jax.Array:  # [B, N, D] -> [B, N, D]
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


class Blocks(nnx.Module):
    """A stack of blocks: every parameter has a leading layer axis, and one block is compiled."""

    def __init__(self, tower: Tower, dtype: DTypeLike, remat: str, *, rngs: nnx.Rngs):
        self.remat = remat

        def make(key: jax.Array) -> Block:
            return Block(tower, dtype, rngs=nnx.Rngs(key))

        self.blocks = jax.vmap(make)(jax.random.split(rngs.params(), tower.depth))

    def __call__(self, x: jax.Array) -> jax.Array:  # [B, N, D] -> [B, N, D]
        def step(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
            return block(x), None

        if self.remat != "none":
            step = jax.checkpoint(step, policy=REMAT_POLICIES[self.remat])
        return jax.lax.scan(step, x, self.blocks)[0]


@functools.cache
def position_table(n: int, dim: int) -> np.ndarray:
    """Sine-cosine positions [n, dim]: angle = pos / 10000^(2 (j // 2) / dim), sine on even j."""
    j = np.arange(dim)
    angle = np.arange(n)[:, None] / np.power(10000, 2 * (j // 2) / dim)
    return np.where(j % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


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
