"""Attention, computed in the way that suits the device; every way gives the same to rounding.

Shapes: B samples, H heads, N tokens, K head width.

  TPU, long sequences   a Pallas flash kernel: the [N, N] weights never leave the chip
  GPU, bfloat16         cuDNN's flash attention
  everything else       two einsums, whose backward pass computes the weights again
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

LONG = 1024  # tokens from which the TPU kernel is worth its padding
_LANES = 128  # a TPU kernel's heads are as wide as a vector register
_BLOCK = 256  # tokens; sequences are padded to a multiple of it
_FLASH_CAPABILITY = 8.0  # of CUDA, from which cuDNN has flash attention
_FLASH_WIDTHS = range(8, 129, 8)  # of heads, that cuDNN takes on all such devices

HEADS = P(("data", "fsdp"), "tensor")  # how [B, H, N, K] is split


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v for [B, H, N, K] -> [B, H, N, K]; q comes scaled, the softmax is float32."""
    platform = _platform()
    if platform == "tpu" and q.shape[2] == k.shape[2] >= LONG:
        return _on_shards(flash_tpu)(q, k, v)
    if platform == "gpu" and q.dtype == jnp.bfloat16 and _has_flash(q, k):
        return flash_gpu(q, k, v)
    return plain(q, k, v)


def _platform() -> str:
    """Of the mesh that the program is made for, which need not be here; else of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def _has_flash(q: jax.Array, k: jax.Array) -> bool:
    """Whether cuDNN has kernels for such tokens, forward and backward, on the GPUs here."""
    even = q.shape[2] % 2 == 0 and k.shape[2] % 2 == 0
    return even and q.shape[3] in _FLASH_WIDTHS and _capability() >= _FLASH_CAPABILITY


@functools.cache
def _capability() -> float:
    return float(jax.local_devices()[0].compute_capability)


def _on_shards(kernel):
    """Runs a kernel, which XLA cannot split by itself, on each device's samples and heads."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return kernel
    return jax.shard_map(kernel, in_specs=HEADS, out_specs=HEADS, check_vma=False)


# ---- everywhere ----


def weights(q: jax.Array, k: jax.Array) -> jax.Array:
    """softmax(q k^T): float32 [B, H, N, M], to look at."""
    return jax.nn.softmax(_scores(q, k))


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.einsum("bhnk,bhmk->bhnm", q, k, preferred_element_type=jnp.float32)


@jax.custom_vjp
def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`attention` as two products.

    The backward pass computes the [N, M] weights again from each row's log-sum-exp, so that none
    are kept, and takes softmax's inner product from the output (as FlashAttention does, arXiv
    2205.14135, appendix B.2).
    """
    return _plain_forward(q, k, v)[0]


def _plain_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    scores = _scores(q, k)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum("bhnm,bhmk->bhnk", weights.astype(v.dtype), v) / total
    out = out.astype(v.dtype)
    return out, (q, k, v, out, highest + jnp.log(total))


def _plain_backward(saved: tuple, grad: jax.Array) -> tuple[jax.Array, ...]:
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


plain.defvjp(_plain_forward, _plain_backward)


# ---- TPU ----


def flash_tpu(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`attention` by JAX's Pallas kernel for TPUs; self-attention only.

    Heads are padded with zeros, which change no product, and tokens with ones of a segment of
    their own, which nobody attends to.
    """
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas

    b, _, n, width = q.shape
    size, lanes = -(-n // _BLOCK) * _BLOCK, -(-width // _LANES) * _LANES
    padding = ((0, 0), (0, 0), (0, size - n), (0, lanes - width))
    padded = (jnp.pad(x, padding) for x in (q, k, v))
    segments = None
    if size > n:
        real = jnp.broadcast_to((jnp.arange(size) < n).astype(jnp.int32), (b, size))
        segments = pallas.SegmentIds(q=real, kv=real)
    out = pallas.flash_attention(*padded, segment_ids=segments, block_sizes=_block_sizes(size))
    return out[:, :, :n, :width]


def _block_sizes(size: int):
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes

    block = 2 * _BLOCK if size % (2 * _BLOCK) == 0 else _BLOCK
    return BlockSizes(
        block_q=block, block_k_major=block, block_k=block, block_b=1,
        block_q_major_dkv=block, block_k_major_dkv=block, block_k_dkv=block, block_q_dkv=block,
        block_k_major_dq=block, block_k_dq=block, block_q_dq=block,
    )  # fmt: skip


# ---- GPU ----


def flash_gpu(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`attention` by cuDNN, which wants tokens before heads."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, scale=1.0, implementation="cudnn")
    return out.swapaxes(1, 2)
