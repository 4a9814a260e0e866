"""Sizes, costs and shapes of the masked autoencoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vmae_jax.config import ConfigError, MaskConfig, ModelConfig
from vmae_jax.models import layers, mae, masking


def abstract(config):
    return nnx.eval_shape(lambda: mae.MaskedAutoencoder(config, rngs=nnx.Rngs(0)))


# Parameters in millions and forward GFLOP per clip at 16x224x224, counted on the reference.
@pytest.mark.parametrize(
    ("variant", "millions", "gflop"),
    [("S", 24.0, 13.97), ("B", 94.2, 48.26), ("L", 317.8, 131.99), ("H", 645.7, 238.52),
     ("g", 1026.3, 477.01)],
)  # fmt: skip
def test_size_and_cost_of_the_variants(variant, millions, gflop):
    config = ModelConfig(variant=variant)
    params = nnx.to_pure_dict(nnx.split(abstract(config))[1])
    assert sum(x.size for x in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=0.05)
    assert mae.forward_flops(config, MaskConfig()) / 1e9 == pytest.approx(gflop, abs=0.006)


def test_cost_without_decoder_masking():
    flops = {v: mae.forward_flops(ModelConfig(variant=v), MaskConfig(decoder="none")) for v in "Bg"}
    assert flops["B"] / 1e9 == pytest.approx(67.6, abs=0.06)
    assert flops["g"] / 1e9 == pytest.approx(521.8, abs=0.06)


def test_scan_equals_a_loop_over_layers():
    config = ModelConfig(variant="tiny", image_size=32, num_frames=4, dtype="float32")
    model = mae.MaskedAutoencoder(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 8, config.encoder.dim))
    looped = x
    for i in range(config.encoder.depth):
        looped = jax.tree.map(lambda p, i=i: p[i], model.encoder.tower.blocks)(looped)
    np.testing.assert_allclose(model.encoder.tower(x), looped, atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialisation_changes_no_gradient(remat):
    def gradients(remat):
        config = ModelConfig(
            variant="tiny", image_size=32, num_frames=4, dtype="float32", remat=remat
        )
        model = mae.MaskedAutoencoder(config, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(model)
        patches = jax.random.randint(
            jax.random.key(2), (2, config.num_tokens, config.patch_dim), 0, 256
        ).astype(jnp.uint8)
        masks = masking.draw(jax.random.key(3), 2, config.grid, MaskConfig())

        def loss(p):
            return mae.reconstruction_loss(nnx.merge(graphdef, p), patches, masks, True)[0]

        return jax.jit(jax.grad(loss))(nnx.to_pure_dict(state))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        gradients("none"),
        gradients(remat),
    )


def test_bfloat16_activations_keep_float32_parameters_and_loss():
    config = ModelConfig(variant="tiny", image_size=32, num_frames=4, dtype="bfloat16")
    reference = ModelConfig(variant="tiny", image_size=32, num_frames=4, dtype="float32")
    patches = jax.random.randint(jax.random.key(2), (2, 32, config.patch_dim), 0, 256)
    masks = masking.draw(jax.random.key(3), 2, config.grid, MaskConfig())

    def loss(config):
        model = mae.MaskedAutoencoder(config, rngs=nnx.Rngs(0))
        assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(nnx.split(model)[1]))
        return mae.reconstruction_loss(model, patches.astype(jnp.uint8), masks, True)[0]

    assert loss(config).dtype == jnp.float32
    assert float(loss(config)) == pytest.approx(float(loss(reference)), rel=1e-2)


def test_patchify_round_trip_and_order():
    video = jax.random.randint(jax.random.key(0), (2, 4, 16, 24, 3), 0, 256)
    patches = layers.patchify(video, 2, 8)
    assert patches.shape == (2, 2 * 2 * 3, 2 * 8 * 8 * 3)
    # Second slot, first row, third column of patches; last frame, row, column and channel.
    assert patches[1, 8, -1] == video[1, 3, 7, 23, 2]
    np.testing.assert_array_equal(layers.unpatchify(patches, (2, 2, 3), 2, 8), video)


def test_perfect_predictions_have_no_loss_and_plain_targets_are_pixels():
    patches = jax.random.randint(jax.random.key(0), (1, 3, 24), 0, 256).astype(jnp.uint8)
    np.testing.assert_allclose(mae.targets(patches, normalize=False), patches / 255, rtol=1e-6)
    mean, std = mae.patch_statistics(mae.targets(patches, normalize=True))
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_allclose(std, 1, atol=1e-4)


@pytest.mark.parametrize(("size", "frames"), [(224, 16), (160, 8), (64, 4), (96, 20)])
def test_resolution_and_frame_count_are_free(size, frames):
    config = ModelConfig("tiny", size, frames, patch_size=16, dtype="float32")
    out = jax.eval_shape(
        lambda: mae.MaskedAutoencoder(config, rngs=nnx.Rngs(0))(
            jnp.zeros((2, config.num_tokens, config.patch_dim), jnp.uint8),
            masking.draw(jax.random.key(0), 2, config.grid, MaskConfig()),
        )
    )
    sizes = masking.counts(config.grid, MaskConfig())
    assert out.shape == (2, sizes.predicted, config.patch_dim)


@pytest.mark.parametrize(
    ("key", "value", "nearest"), [("image_size", 225, "224 or 240"), ("num_frames", 17, "16 or 18")]
)
def test_sizes_that_do_not_divide_name_the_nearest(key, value, nearest):
    with pytest.raises(ConfigError, match=f"config.model.{key} = {value}.*{nearest}"):
        ModelConfig(**{"variant": "B", key: value})
