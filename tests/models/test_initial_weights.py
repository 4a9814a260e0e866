"""The law of every fresh tensor, as the reference draws it: PyTorch's layers, and what it sets."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from vmae_jax import tree
from vmae_jax.config import ClassifierConfig, ModelConfig
from vmae_jax.models import classifier, mae

ENCODER, DECODER = (96, 384), (64, 128)  # width and width of the MLP
CONFIG = ModelConfig("96x2x3x384+64x2x2x128", image_size=64, patch_size=8, positions="learned")
PATCH = 2 * 8 * 8 * 3  # values, the fan-in of the patch embedding


def uniform(bound):
    return bound / math.sqrt(3), bound


def xavier(fan_in, fan_out):
    return uniform(math.sqrt(6 / (fan_in + fan_out)))


def constant(value):
    return 0.0, value


def blocks(kernel, dim, mlp):
    """Of a stack: what `kernel(fan_in, fan_out)` says; qkv is one layer of three outputs."""
    return {
        "attn/qkv/kernel": kernel(dim, 3 * dim),
        "attn/proj/kernel": kernel(dim, dim),
        "fc1/kernel": kernel(dim, mlp),
        "fc2/kernel": kernel(mlp, dim),
        **dict.fromkeys(("norm1/scale", "norm2/scale"), constant(1)),
        **dict.fromkeys(
            ("attn/q_bias", "attn/v_bias", "attn/proj/bias", "fc1/bias", "fc2/bias", "norm1/bias",
             "norm2/bias"), constant(0)),
    }  # fmt: skip


def below(prefix, laws):
    return {f"{prefix}/{name}": law for name, law in laws.items()}


NORMAL = (0.02, math.inf)
TRUNCATED = (0.02 * 0.5396, 0.02)  # the deviation of a normal that is cut at its own deviation
NORM = {"scale": constant(1), "bias": constant(0)}
# Tensor: its deviation and its bound; the mean is 0, of constants the bound.
EMBEDDING = below("encoder/patch_embed/linear", {
    "kernel": uniform(PATCH**-0.5), "bias": uniform(PATCH**-0.5),
})  # fmt: skip
PRETRAINING = {
    **EMBEDDING,
    "encoder/positions": TRUNCATED,
    **below("encoder/tower/blocks", blocks(xavier, *ENCODER)),
    **below("encoder/norm", NORM),
    "to_decoder/kernel": uniform(ENCODER[0] ** -0.5),
    "mask_token": TRUNCATED,
    **below("decoder/blocks", blocks(xavier, *DECODER)),
    **below("norm", NORM),
    "head/kernel": xavier(DECODER[0], PATCH),
    "head/bias": constant(0),
}
CLASSIFIER = {
    **EMBEDDING,
    "encoder/positions": NORMAL,
    **below("encoder/tower/blocks", blocks(lambda *_: NORMAL, *ENCODER)),
    **below("norm", NORM),
    "head/kernel": (0.02 * 0.001, math.inf),
    "head/bias": constant(0),
}


@pytest.mark.parametrize(
    ("make", "laws"),
    [
        (lambda rngs: mae.MaskedAutoencoder(CONFIG, rngs=rngs), PRETRAINING),
        (
            lambda rngs: classifier.Classifier(CONFIG, ClassifierConfig(), 60, rngs=rngs),
            CLASSIFIER,
        ),
    ],
    ids=["pretraining", "classifier"],
)
def test_every_fresh_tensor_follows_the_law_of_the_reference(make, laws):
    params = nnx.to_pure_dict(nnx.split(make(nnx.Rngs(0)))[1])
    found = {tree.path_name(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}
    assert found.keys() == laws.keys()
    for name, (deviation, bound) in laws.items():
        x = found[name].astype(float)
        if not deviation:
            assert (x == bound).all(), name
            continue
        rough = 6 / math.sqrt(x.size)  # chance, which a law of another width exceeds
        assert abs(x.mean()) < rough * deviation, name
        assert x.std() == pytest.approx(deviation, rel=rough), name
        assert np.abs(x).max() <= bound * (1 + 1e-6), name
        if bound < math.inf:
            assert np.abs(x).max() > bound * (1 - rough), name
