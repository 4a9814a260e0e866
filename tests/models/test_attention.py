"""Every way of computing attention gives softmax(q k^T) v, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from vmae_jax import sharding
from vmae_jax.models import attention


def inputs(tokens, width, dtype=jnp.float32):
    """q (scaled), k, v and a gradient of the result, [2, 3, tokens, width]."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, grad = (jax.random.normal(key, (2, 3, tokens, width), dtype) for key in keys)
    return q * width**-0.5, k, v, grad


def written_out(q, k, v):
    scores = jnp.einsum("bhnk,bhmk->bhnm", *(x.astype(jnp.float32) for x in (q, k)))
    return jnp.einsum("bhnm,bhmk->bhnk", jax.nn.softmax(scores), v.astype(jnp.float32))


def check(function, q, k, v, grad, tolerance):
    out, backward = jax.vjp(function, q, k, v)
    expected, expected_backward = jax.vjp(written_out, q, k, v)
    assert out.dtype == q.dtype
    pairs = zip(
        (out, *backward(grad)),
        (expected, *expected_backward(grad.astype(jnp.float32))),
        strict=True,
    )
    for found, wanted in pairs:
        wanted = np.asarray(wanted, np.float32)
        error = np.abs(np.asarray(found, np.float32) - wanted).max() / np.abs(wanted).max()
        assert error < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_two_products(dtype, tolerance):
    check(attention.plain, *inputs(50, 22, jnp.dtype(dtype)), tolerance)


@pytest.mark.parametrize(("tokens", "width", "dtype", "tolerance"), [
    (300, 22, "float32", 1e-5),  # both are padded
    (512, 128, "bfloat16", 2e-2),  # neither is
])  # fmt: skip
def test_the_kernel_for_tpus(tokens, width, dtype, tolerance):
    with pltpu.force_tpu_interpret_mode():
        check(attention.flash_tpu, *inputs(tokens, width, jnp.dtype(dtype)), tolerance)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("width", [20, 32, 64, 88, 136])  # cuDNN takes none of the outer ones,
@pytest.mark.parametrize("tokens", [50, 51, 208, 1568])  # and no odd number of tokens
def test_what_gpus_use(tokens, width):
    check(jax.jit(attention.attention), *inputs(tokens, width, jnp.bfloat16), 2e-2)


def traced(platform, tokens):
    device = AbstractDevice(device_kind="any", num_cores=1, platform=platform)
    mesh = AbstractMesh(
        (2, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=device
    )
    q = jax.ShapeDtypeStruct((2, 3, tokens, 8), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(mesh):
        return str(jax.jit(attention.attention).trace(q, q, q).jaxpr)


def test_the_device_that_a_program_is_for_decides():
    assert "pallas_call" in traced("tpu", attention.LONG)
    assert "shard_map" in traced("tpu", attention.LONG)
    assert "pallas_call" not in traced("tpu", attention.LONG - 8)
    assert "pallas_call" not in traced("cpu", attention.LONG)
