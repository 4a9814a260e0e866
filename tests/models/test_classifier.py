"""The classifier: drop path, LoRA and partial training, and the plain tree they end in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vmae_jax import tree
from vmae_jax.config import ClassifierConfig, ModelConfig
from vmae_jax.models import adapt, layers
from vmae_jax.models.classifier import Classifier

MODEL = ModelConfig(variant="48x4x3x96", patch_size=8, image_size=16, num_frames=4, dtype="float32")
PLAIN = ClassifierConfig(drop_path=0.0)


def build(config, seed=0):
    model = Classifier(MODEL, config, 5, rngs=nnx.Rngs(seed))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def randomized(params, seed=1):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return structure.unflatten(drawn)


@pytest.fixture
def patches():
    shape = (3, MODEL.num_tokens, MODEL.patch_dim)
    return jax.random.randint(jax.random.key(2), shape, 0, 256).astype(jnp.uint8)


@pytest.mark.parametrize("config", [
    ClassifierConfig(drop_path=0.0, lora_rank=3, lora_alpha=7.0),
    ClassifierConfig(drop_path=0.0, train_blocks=2),
    ClassifierConfig(drop_path=0.0, train_blocks=0),
    PLAIN,
])  # fmt: skip
def test_a_folded_tree_gives_the_same_logits(config, patches):
    graphdef, params = build(config)
    params = randomized(params)
    folded = adapt.fold(jax.device_get(params), config)
    plain, fresh = build(PLAIN)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, fresh)
    expected = nnx.merge(graphdef, params)(patches)
    np.testing.assert_allclose(nnx.merge(plain, folded)(patches), expected, atol=2e-5)


@pytest.mark.parametrize(("config", "trained"), [
    (PLAIN, {"encoder/patch_embed", "encoder/tower", "norm", "head"}),
    (ClassifierConfig(train_blocks=2), {"encoder/tower", "norm", "head"}),
    (ClassifierConfig(train_blocks=0), {"norm", "head"}),
])  # fmt: skip
def test_only_the_parts_asked_for_are_trained(config, trained):
    _, params = build(config)
    learns, frozen = tree.partition(params, lambda path: adapt.is_frozen(path, config))
    names = {tree.path_name(path) for path, _ in jax.tree.leaves_with_path(learns)}
    assert {"/".join(n.split("/")[: 1 + n.startswith("encoder")]) for n in names} == trained
    jax.tree.map(np.testing.assert_array_equal, tree.join(learns, frozen), params)


def test_lora_trains_its_updates_the_norm_and_the_head():
    config = ClassifierConfig(lora_rank=2)
    _, params = build(config)
    learns, _ = tree.partition(params, lambda path: adapt.is_frozen(path, config))
    names = {tree.path_name(path) for path, _ in jax.tree.leaves_with_path(learns)}
    attn = "encoder/tower/blocks/attn"
    updates = {f"{attn}/{kernel}_lora/{x}" for kernel in ("qkv", "proj") for x in "ab"}
    assert names == updates | {"norm/scale", "norm/bias", "head/kernel", "head/bias"}


def test_lora_starts_as_the_model_itself(patches):
    graphdef, params = build(ClassifierConfig(drop_path=0.0, lora_rank=2))
    params["encoder"]["patch_embed"] = randomized(params["encoder"]["patch_embed"])
    params["head"] = randomized(params["head"])
    plain, _ = build(PLAIN)
    folded = adapt.fold(jax.device_get(params), ClassifierConfig(lora_rank=2))
    np.testing.assert_allclose(
        nnx.merge(plain, folded)(patches), nnx.merge(graphdef, params)(patches), atol=1e-6
    )


def test_drop_path_grows_linearly_and_keeps_the_mean():
    keep = layers.drop_path(jax.random.key(0), 0.4, depth=5, batch=4000)
    assert keep.shape == (5, 2, 4000)
    np.testing.assert_allclose((keep == 0).mean((1, 2)), [0, 0.1, 0.2, 0.3, 0.4], atol=0.03)
    np.testing.assert_allclose(keep.mean((1, 2)), 1, atol=0.05)


def test_a_dropped_block_passes_its_input_on(patches):
    graphdef, params = build(PLAIN)
    model = nnx.merge(graphdef, randomized(params))
    x = jax.random.normal(jax.random.key(3), (3, 8, 48))
    keep = jnp.ones((4, 2, 3)).at[:, :, 1].set(0)
    out = model.encoder.tower(x, keep)
    np.testing.assert_array_equal(out[1], x[1])
    np.testing.assert_allclose(out[0], model.encoder.tower(x)[0], atol=1e-5)


def test_only_training_is_random(patches):
    graphdef, params = build(ClassifierConfig(drop_path=0.5, head_dropout=0.5))
    model = nnx.merge(graphdef, randomized(params))
    np.testing.assert_array_equal(model(patches), model(patches))
    a, b = (model(patches, jax.random.key(i)) for i in range(2))
    assert (a != b).any()


def test_a_fresh_head_is_small():
    _, params = build(ClassifierConfig(init_scale=0.001))
    assert float(jnp.abs(params["head"]["kernel"]).max()) < 1e-4
    assert float(jnp.abs(params["encoder"]["tower"]["blocks"]["fc1"]["kernel"]).max()) > 0.05
    np.testing.assert_array_equal(params["head"]["bias"], 0)


def test_a_learned_position_table_is_a_parameter():
    config = ModelConfig(
        variant="48x4x3x96", patch_size=8, image_size=16, num_frames=4, positions="learned"
    )
    model = Classifier(config, PLAIN, 5, rngs=nnx.Rngs(0))
    assert model.encoder.positions.shape == (config.num_tokens, 48)
