"""Parity with the reference's classifier and with Hugging Face's models, read from their files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file
from tiny_weights import module, patches

from vmae_jax.config import MaskConfig
from vmae_jax.convert import load, rules
from vmae_jax.models import mae, masking


def golden(name, goldens, tmp_path):
    """The golden's weights through a file of its layout, and its inputs and outputs."""
    io = dict(np.load(goldens / f"{name}_io.npz"))
    params = np.load(goldens / f"{name}_params.npz")
    save_file(
        {k.removeprefix("sd/"): params[k] for k in params.files}, tmp_path / "model.safetensors"
    )
    config = json.loads(str(io["config"]))
    (tmp_path / "config.json").write_text(json.dumps(config))
    if name.startswith("hf"):
        return load.load(str(tmp_path)), io
    known = {"image_size": config["img_size"], "num_frames": config["all_frames"]}
    weights = load.load(str(tmp_path / "model.safetensors"), heads=config["num_heads"], **known)
    return weights, io


def check_gradients(weights, grads, io, layout):
    """Norms of all, and values of some, of the gradients, under the file's names."""
    table = rules.rules_of(weights.kind, layout)
    named = dict(rules.to_torch(jax.device_get(grads), table, weights.model))
    assert named.keys() == set(map(str, io["gradnorm_names"])), "parameters of one side only"
    for name, norm in zip(io["gradnorm_names"], io["gradnorm_vals"], strict=True):
        found = np.linalg.norm(named[str(name)])
        np.testing.assert_allclose(found, norm, rtol=1e-5, err_msg=str(name))
    for key in (k for k in io if k.startswith("grad/")):
        wanted = io[key]
        found = named[key.removeprefix("grad/")]
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=key)


def test_classifier(goldens, tmp_path):
    weights, io = golden("finetune_tiny", goldens, tmp_path)
    assert (weights.kind, weights.num_classes) == ("classifier", 11)
    x, labels = patches(weights, jnp.asarray(io["video_u8"])), jnp.asarray(io["labels"])

    @jax.jit
    @jax.value_and_grad
    def loss(model):
        logits = model(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    model = module(weights)
    np.testing.assert_allclose(model.features(x), io["features"], atol=1e-5)
    np.testing.assert_allclose(model(x), io["logits"], atol=1e-5)
    value, grads = loss(model)
    assert abs(float(value) - float(io["ce_loss"])) < 1e-5
    check_gradients(weights, nnx.to_pure_dict(nnx.state(grads)), io, "original")


def test_hugging_face_classifier(goldens, tmp_path):
    weights, io = golden("hf_cls_tiny", goldens, tmp_path)
    x = patches(weights, jnp.asarray(io["video_u8"]))
    model = module(weights)
    np.testing.assert_allclose(model.tokens(x), io["last_hidden_state"], atol=1e-5)
    np.testing.assert_allclose(model(x), io["logits"], atol=1e-5)


def test_hugging_face_pretraining(goldens, tmp_path):
    weights, io = golden("hf_pretrain_tiny", goldens, tmp_path)
    assert weights.kind == "pretrain"
    assert not weights.model.encoder_norm
    x, hidden = patches(weights, jnp.asarray(io["video_u8"])), jnp.asarray(io["enc_mask"])
    plain = MaskConfig(encoder_ratio=float(hidden.mean()), decoder="none")
    masks = masking.select(hidden, ~hidden, masking.counts(weights.model.grid, plain))

    @jax.jit
    @jax.value_and_grad
    def loss(model):
        return mae.reconstruction_loss(model, x, masks, normalize=True)[0]

    model = module(weights)
    np.testing.assert_allclose(model(x, masks), io["out"], atol=1e-5)
    value, grads = loss(model)
    assert abs(float(value) - float(io["loss"])) < 1e-5
    check_gradients(weights, nnx.to_pure_dict(nnx.state(grads)), io, "hugging_face")
