"""Every way of computing attention gives softmax(q k^T) v, forward and backward."""

import types

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


BFLOAT16 = {"platform": "gpu", "width": 64, "dtype": "bfloat16"}


@pytest.mark.parametrize(("capability", "tokens", "way"), [
    ((9, 0), 160, "cudnn"),  # H100, H200
    ((10, 0), 160, "cudnn"),  # B200
    ((8, 0), 160, "xla"),  # A100
    ((8, 0), 1568, "cudnn"),
    ((8, 6), 208, "xla"),  # A10G
    ((12, 0), 160, "xla"),  # RTX PRO 6000
    ((12, 0), 1232, "cudnn"),
    ((7, 5), 1568, "xla"),  # T4
    (None, 1568, "xla"),  # AMD
])  # fmt: skip
def test_gpus_take_cudnn_where_it_is_faster(capability, tokens, way):
    sizes = {"queries": tokens, "keys": tokens, **BFLOAT16}
    assert attention.choose("auto", capability=capability, **sizes) == way
    assert attention.choose("xla", capability=capability, **sizes) == "xla"
    wished = attention.choose("cudnn", capability=capability, **sizes)
    assert wished == ("cudnn" if capability and capability >= (8, 0) else "xla")


@pytest.mark.parametrize("setting", ["auto", "cudnn"])
@pytest.mark.parametrize("change", [
    {"width": 20}, {"width": 136}, {"queries": 1567}, {"keys": 1567}, {"dtype": "float32"},
    {"platform": "cpu"},
])  # fmt: skip
def test_what_cudnn_has_no_kernel_for(setting, change):
    sizes = {"queries": 1568, "keys": 1568, **BFLOAT16} | change
    assert attention.choose(setting, capability=(9, 0), **sizes) == "xla"


@pytest.mark.parametrize(
    ("says", "capability"), [("12.0", (12, 0)), ("gfx942", None), (None, None)]
)
def test_the_capability_of_a_device(monkeypatch, says, capability):
    device = types.SimpleNamespace(**({} if says is None else {"compute_capability": says}))
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert attention._capability.__wrapped__() == capability


def test_a_wish_that_cannot_be_fulfilled_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(attention, "taken", {})
    q, k, v, _ = inputs(10, 8)
    for _ in range(2):
        attention.attention(q, k, v, "cudnn")
    assert [r.getMessage() for r in caplog.records] == [
        "config.model.attention = 'cudnn': no such kernel here for 10 tokens, heads of 8, in "
        "float32; xla is used instead"
    ]
    assert attention.said() == "attention: xla for 10 tokens"


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
