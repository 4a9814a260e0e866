"""Random models of any shape, as this package's weights."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from vmae_jax.config import ClassifierConfig, ModelConfig
from vmae_jax.convert import load, rules
from vmae_jax.models import classifier, layers, mae

SMALL = ModelConfig(
    variant="48x2x3x112+24x1x2x40", image_size=32, num_frames=4, patch_size=8, dtype="float32",
    norm_eps=1e-12, head_norm_eps=1e-5,
)  # fmt: skip


def module(weights):
    """The model of pre-training or classifier weights, with its parameters."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: fresh(weights.kind, weights.model, weights)))
    return nnx.merge(graphdef, weights.params)


def fresh(kind, model, weights=None, classes=5):
    model = dataclasses.replace(model, dtype="float32")
    if kind == "pretrain":
        return mae.MaskedAutoencoder(model, rngs=nnx.Rngs(0))
    classes = weights.num_classes if weights else classes
    return classifier.Classifier(model, ClassifierConfig(), classes, rngs=nnx.Rngs(0))


def random(kind, model=SMALL, *, classes=5, names=(), seed=0):
    """Weights whose every number is its own, biases and norms too."""
    if kind != "pretrain":
        norm = model.encoder_norm or kind == "classifier"  # a classifier has none to leave out
        model = dataclasses.replace(model, variant=model.variant.split("+")[0], encoder_norm=norm)
    like = load.abstract(lambda: fresh(kind, model, classes=classes))
    if kind == "encoder":
        like = {"encoder": like["encoder"]}
        if model.encoder_norm:
            norm = jax.ShapeDtypeStruct((model.encoder.dim,), np.float32)
            like["encoder"]["norm"] = {"scale": norm, "bias": norm}
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), like)
    return load.Weights(kind, model, params, tuple(names), "random", ())


def same(a, b):
    """Asserts that two weights are bit for bit the same model."""
    found, expected = rules.flatten(a.params), rules.flatten(b.params)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
        assert found[path].dtype == np.float32
    fields = ("variant", "image_size", "num_frames", "tubelet_size", "patch_size", "positions",
              "norm_eps", "head_norm_eps", "encoder_norm")  # fmt: skip
    for field in fields:
        assert getattr(a.model, field) == getattr(b.model, field), field
    for field in ("kind", "label_names", "normalize_target"):
        assert getattr(a, field) == getattr(b, field), field


def patches(weights, video):
    """uint8 [B, T, height, width, 3] -> patches of the weights' model."""
    return layers.patchify(video, weights.model.tubelet_size, weights.model.patch_size)
