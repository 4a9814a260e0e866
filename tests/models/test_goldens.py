"""Parity with the public PyTorch implementation on its own inputs and weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vmae_jax import config as config_lib
from vmae_jax import tree
from vmae_jax.convert import rules
from vmae_jax.models import layers, mae, masking

MASK = config_lib.MaskConfig()


def load(folder, name, monkeypatch):
    """The model with the golden's weights, and the golden's inputs and outputs."""
    io = dict(np.load(folder / f"{name}_io.npz"))
    c = json.loads(str(io["config"]))

    def tower(part):
        dim = c[f"{part}_embed_dim"]
        heads, depth = c[f"{part}_num_heads"], c[f"{part}_depth"]
        return config_lib.Tower(dim, depth, heads, int(dim * c["mlp_ratio"]))

    params = np.load(folder / f"{name}_params.npz")
    weights = {k.removeprefix("sd/"): params[k] for k in params.files}
    variant = config_lib.Variant(c["patch_size"], tower("encoder"), tower("decoder"))
    monkeypatch.setattr(config_lib, "VARIANTS", {**config_lib.VARIANTS, "golden": variant})
    config = config_lib.ModelConfig(
        variant="golden",
        image_size=c["img_size"],
        num_frames=c["num_frames"],
        tubelet_size=c["tubelet_size"],
        dtype="float32",
    )
    model = nnx.eval_shape(lambda: mae.MaskedAutoencoder(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    table = rules.rules_of("pretrain", "original")
    params = rules.from_torch(weights, nnx.to_pure_dict(state), table, config)
    return config, graphdef, params, io


@pytest.fixture(params=["pretrain_tiny", "pretrain_giant"])
def golden(request, monkeypatch):
    folder = request.getfixturevalue("goldens")
    if not (folder / f"{request.param}_io.npz").exists():
        folder = request.getfixturevalue("shared") / "goldens"
    return load(folder, request.param, monkeypatch)


def patches_and_masks(config, io):
    patches = layers.patchify(jnp.asarray(io["video_u8"]), config.tubelet_size, config.patch_size)
    sizes = masking.counts(config.grid, MASK)
    return patches, masking.select(jnp.asarray(io["enc_mask"]), jnp.asarray(io["dec_mask"]), sizes)


def test_latent_output_and_target(golden):
    config, graphdef, params, io = golden
    patches, masks = patches_and_masks(config, io)

    @jax.jit
    def run(params):
        model = nnx.merge(graphdef, params)
        latent = model.encode(patches, masks.visible)
        x = model.decode(latent, masks.visible, masks.decoded, patches.shape[1])
        return latent, model.head(model.norm(x))

    latent, out = run(params)
    np.testing.assert_allclose(latent, io["latent"], atol=1e-5)
    np.testing.assert_allclose(out, io["out"], atol=1e-5)
    wanted = mae.targets(layers.gather_tokens(patches, masks.decoded), normalize=True)
    np.testing.assert_allclose(wanted, io["target"], atol=2e-5)


def test_loss_and_every_gradient(golden):
    config, graphdef, params, io = golden
    patches, masks = patches_and_masks(config, io)

    def loss_fn(params):
        return mae.reconstruction_loss(nnx.merge(graphdef, params), patches, masks, True)[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
    assert abs(float(loss) - float(io["loss_f64"])) < 2e-6
    flat = {tree.path_name(p): np.asarray(g) for p, g in jax.tree.leaves_with_path(grads)}

    def gradient(name):
        place = rules.locate(name)
        return flat[place.path] if place.layer is None else flat[place.path][place.layer]

    assert len(io["gradnorm_names"]) == sum(
        len(g) if "blocks" in path else 1 for path, g in flat.items()
    ), "a parameter is missing on one side"
    for name, norm in zip(io["gradnorm_names"], io["gradnorm_vals"], strict=True):
        np.testing.assert_allclose(
            np.linalg.norm(gradient(str(name))), norm, rtol=1e-5, err_msg=str(name)
        )
    for key in (k for k in io if k.startswith("grad/")):
        name = key.removeprefix("grad/")
        wanted = rules.locate(name).transform(io[key])
        found = gradient(name).reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


def test_without_decoder_masking_and_plain_targets(golden):
    config, graphdef, params, io = golden
    patches, masks = patches_and_masks(config, io)

    @jax.jit
    def losses(params):
        model = nnx.merge(graphdef, params)
        hidden = jnp.asarray(io["enc_mask"])
        sizes = masking.counts(config.grid, config_lib.MaskConfig(decoder="none"))
        v1 = mae.reconstruction_loss(model, patches, masking.select(hidden, ~hidden, sizes), True)
        return v1[0], mae.reconstruction_loss(model, patches, masks, False)[0]

    v1, plain = losses(params)
    assert abs(float(v1) - float(io["loss_nodecmask"])) < 2e-6
    assert abs(float(plain) - float(io["loss_unnormtarget"])) < 2e-6
