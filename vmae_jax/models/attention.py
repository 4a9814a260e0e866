"""Attention, computed in the way that suits the device. All ways agree up to rounding.

Shapes: B samples, H heads, N tokens, K head width.

  pallas  a flash kernel for TPUs: the [N, N] weights never leave the chip
  cudnn   cuDNN's flash attention for GPUs, in bfloat16
  xla     two einsums, whose backward pass computes the weights again; everywhere

`choose` decides by the setting model.attention, the device and the size. The choice of auto:

  device                                                     tokens         way
  TPU                                                        1024 and more  pallas
  GPU of compute capability 9.x, 10.x (H100, H200, B200)     any            cudnn
  other GPUs from 8.0 on (A100, A10G, L40S, RTX 30 to 50)    512 and more   cudnn
  all others, and inputs that a kernel does not support      any            xla

Why: against the FlashAttention-2 of PyTorch, cuDNN is 1.7 to 2.3 times as fast on an H100, as fast
on an L40S (8.9), and slower on an A10G (8.6; 0.93), an RTX PRO 6000 (12.0; 0.88) and an A100 (8.0;
0.82) [1]; others found 0.87 on 8.0, 1.04 on 8.6 and 1.16 on 8.9 for forward and backward [2]. It
makes whole training steps 1.12 times as fast on a B200 (10.0) [3]. JAX has no FlashAttention-2, and
its Triton kernel for GPUs is deprecated. So cuDNN is the fastest choice for long sequences on all
GPUs: two plain products reach a quarter of FlashAttention-2's speed on an RTX 3090 (1024 tokens,
heads of 64, forward) [4]. For short sequences, as in the encoder of pre-training, the weights are
small and a flash kernel's blocks are half empty, so the slower cuDNN kernels do not pay. The bound
of 512 is an estimate; `python -m vmae_jax.bench --attention=cudnn` and `=xla` measure it.

  [1] github.com/huggingface/transformers/pull/48163  [2] github.com/pytorch/pytorch/pull/192799
  [3] github.com/pytorch/torchtitan/pull/1196         [4] github.com/nshepperd/flash_attn_jax, 5
"""

import functools
import logging

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

log = logging.getLogger(__name__)

LONG = 1024  # tokens from which the TPU kernel is worth its padding
_LANES = 128  # a TPU kernel's heads are as wide as a vector register
_BLOCK = 256  # tokens; sequences are padded to a multiple of it
_CUDNN_FROM = (8, 0)  # compute capability
_CUDNN_FASTEST = (9, 10)  # major compute capabilities
_CUDNN_TOKENS = 512  # from this number on it pays on other GPUs
_CUDNN_WIDTHS = range(8, 129, 8)  # of heads, that it takes on all such devices

HEADS = P(("data", "fsdp"), "tensor")  # how [B, H, N, K] is split

# The way of each number of tokens, of the programs that this process traced.
taken: dict[int, str] = {}


def attention(q: jax.Array, k: jax.Array, v: jax.Array, setting: str = "auto") -> jax.Array:
    """softmax(q k^T) v for [B, H, N, K] -> [B, H, N, K]; q comes scaled, the softmax is float32.

    Args:
      setting: model.attention.
    """
    way = choose(setting, _platform(), _capability(), q.shape[2], k.shape[2], q.shape[3], q.dtype)
    if setting not in ("auto", way):
        _say_once(setting, way, q.shape[2], q.shape[3], str(q.dtype))
    taken[q.shape[2]] = way
    if way == "pallas":
        return _on_shards(flash_tpu)(q, k, v)
    return flash_gpu(q, k, v) if way == "cudnn" else plain(q, k, v)


def said() -> str:
    """Which attention the programs of this process use, for the terminal."""
    return "attention: " + ", ".join(f"{taken[n]} for {n} tokens" for n in sorted(taken))


def choose(
    setting: str,
    platform: str,
    capability: tuple[int, int] | None,
    queries: int,
    keys: int,
    width: int,
    dtype: jax.typing.DTypeLike,
) -> str:
    """pallas, cudnn or xla, by the table above.

    Args:
      setting: auto; cudnn: wherever it has a kernel; or xla.
      platform: tpu, gpu or cpu.
      capability: CUDA's compute capability of the GPU; None if it has none.
      queries, keys: how many tokens.
      width: of a head.
    """
    if setting == "xla":
        return "xla"
    if platform == "tpu":
        return "pallas" if queries == keys >= LONG else "xla"
    even = queries % 2 == 0 and keys % 2 == 0
    fits = even and width in _CUDNN_WIDTHS and jnp.dtype(dtype) == jnp.bfloat16
    if platform != "gpu" or capability is None or capability < _CUDNN_FROM or not fits:
        return "xla"
    worth = capability[0] in _CUDNN_FASTEST or min(queries, keys) >= _CUDNN_TOKENS
    return "cudnn" if worth or setting == "cudnn" else "xla"


def _platform() -> str:
    """The platform of the mesh that is set, which may be another machine's; else of this one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


@functools.cache
def _capability() -> tuple[int, int] | None:
    """The compute capability of this machine's GPUs; AMD's have none, but say gfx942 or so."""
    major, _, minor = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


@functools.cache
def _say_once(setting: str, way: str, tokens: int, width: int, dtype: str) -> None:
    log.warning(
        "config.model.attention = %r: no such kernel here for %d tokens, heads of %d, in %s; "
        "%s is used instead", setting, tokens, width, dtype, way,
    )  # fmt: skip


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
