"""Weights of one model as the first weights of another."""

import dataclasses

import numpy as np
import pytest
import tiny_weights
import torch
from flax import nnx

from vmae_jax.config import ClassifierConfig, ModelConfig
from vmae_jax.convert import fit, load, rules
from vmae_jax.convert.rules import ConversionError
from vmae_jax.models import adapt, classifier, layers

PRETRAIN = ModelConfig(variant="48x4x3x96+24x1x2x40", image_size=32, num_frames=4, patch_size=8)
MODEL = dataclasses.replace(PRETRAIN, variant="48x4x3x96")


def tree(model=MODEL, classes=5, **settings):
    """The shapes of a classifier's parameters."""
    head = ClassifierConfig(**settings)
    return load.abstract(lambda: classifier.Classifier(model, head, classes, rngs=nnx.Rngs(0)))


def test_a_pretrained_encoder_starts_a_classifier():
    weights = tiny_weights.random("pretrain", PRETRAIN)
    like = tree()
    values, notes = fit.fit(weights, like, MODEL)
    fresh = rules.flatten(like).keys() - values.keys()
    assert fresh == {"norm/scale", "norm/bias", "head/kernel", "head/bias"}
    flat = rules.flatten(weights.params)
    for path, value in values.items():
        np.testing.assert_array_equal(value, flat[path])
    assert any("left out" in n and "decoder" in n and "encoder/norm" in n for n in notes)
    assert any(n.startswith("fresh: head/bias") for n in notes)


def test_pretraining_goes_on_from_pretraining():
    weights = tiny_weights.random("pretrain", PRETRAIN)
    like = load.abstract(lambda: tiny_weights.fresh("pretrain", PRETRAIN))
    values, notes = fit.fit(weights, like, PRETRAIN)
    np.testing.assert_equal(values, rules.flatten(weights.params))
    assert notes == ()


def test_a_classifier_starts_pretraining_with_its_encoder():
    weights = tiny_weights.random("classifier", MODEL)
    like = load.abstract(lambda: tiny_weights.fresh("pretrain", PRETRAIN))
    values, _ = fit.fit(weights, like, PRETRAIN)
    assert values
    assert all(path.startswith("encoder/") for path in values)
    assert "encoder/norm/scale" not in values


@pytest.mark.parametrize("train_blocks", [0, 1, 4])
def test_a_stack_in_two_parts(train_blocks):
    weights = tiny_weights.random("classifier", MODEL)
    values, _ = fit.fit(weights, tree(train_blocks=train_blocks), MODEL)
    whole = adapt.fold(rules.unflatten(values), ClassifierConfig(train_blocks=train_blocks))
    np.testing.assert_equal(rules.flatten(whole), rules.flatten(weights.params))


def test_low_rank_updates_stay_fresh():
    weights = tiny_weights.random("classifier", MODEL)
    like = tree(lora_rank=2)
    values, _ = fit.fit(weights, like, MODEL)
    fresh = rules.flatten(like).keys() - values.keys()
    assert len(fresh) == 4
    assert all("_lora/" in path for path in fresh)


def test_heads():
    weights = tiny_weights.random("classifier", MODEL, classes=7)
    values, notes = fit.fit(weights, tree(classes=7), MODEL)
    np.testing.assert_array_equal(values["head/kernel"], weights.params["head"]["kernel"])
    assert any("head kept" in note for note in notes)

    values, notes = fit.fit(weights, tree(classes=3), MODEL)
    assert "head/kernel" not in values
    assert "norm/scale" in values
    assert "head starts fresh: 7 classes in the file, 3 here" in notes

    values, notes = fit.fit(weights, tree(classes=3), MODEL, label_map=[6, 0, 2])
    np.testing.assert_array_equal(
        values["head/kernel"], weights.params["head"]["kernel"][:, [6, 0, 2]]
    )
    np.testing.assert_array_equal(values["head/bias"], weights.params["head"]["bias"][[6, 0, 2]])
    for bad in ([0, 1], [0, 1, 7], []):
        with pytest.raises(ConversionError, match="expected 3 row numbers below 7"):
            fit.fit(weights, tree(classes=3), MODEL, label_map=bad)
    with pytest.raises(ConversionError, match="has no classifier's head"):
        fit.fit(tiny_weights.random("pretrain", PRETRAIN), tree(), MODEL, label_map=[0])


def test_every_size_that_differs_is_listed():
    weights = tiny_weights.random("classifier", MODEL)
    other = ModelConfig(variant="64x2x4x96", image_size=32, num_frames=4, patch_size=16)
    with pytest.raises(ConversionError) as error:
        fit.fit(weights, tree(other), other)
    for part in ("patch_size 8, expected 16", "dim 48, expected 64", "depth 4, expected 2"):
        assert part in str(error.value)


def test_other_epsilons_are_said():
    weights = tiny_weights.random("classifier", dataclasses.replace(MODEL, norm_eps=1e-12))
    _, notes = fit.fit(weights, tree(), MODEL)
    assert "model.norm_eps is 1e-06, the weights were made with 1e-12" in notes


def test_fixed_positions_follow_the_clip():
    weights = tiny_weights.random("classifier", MODEL)
    larger = dataclasses.replace(MODEL, image_size=48, num_frames=8)
    values, notes = fit.fit(weights, tree(larger), larger)
    assert "encoder/positions" not in values
    assert any("fixed positions of 4x6x6 tokens" in note for note in notes)


def test_learned_positions_are_interpolated():
    learned = dataclasses.replace(MODEL, positions="learned")
    weights = tiny_weights.random("classifier", learned)
    larger = dataclasses.replace(learned, image_size=48, num_frames=8)
    values, notes = fit.fit(weights, tree(larger), larger)
    assert values["encoder/positions"].shape == (larger.num_tokens, 48)
    assert any("interpolated from 2x4x4 to 4x6x6" in note for note in notes)
    with pytest.raises(ConversionError, match="positions = 'learned'"):
        fit.fit(weights, tree(), MODEL)
    plain = tiny_weights.random("classifier", MODEL)
    values, _ = fit.fit(plain, tree(learned), learned)
    np.testing.assert_array_equal(
        values["encoder/positions"], layers.position_table(learned.num_tokens, 48)
    )


@pytest.mark.parametrize(("frames", "side", "new"), [(8, 14, 16), (8, 14, 10), (2, 7, 24)])
def test_rows_and_columns_as_pytorch_interpolates(frames, side, new):
    """The reference's call: every frame's map for itself, bicubic."""
    table = np.random.default_rng(0).normal(size=(frames * side * side, 6)).astype(np.float32)
    maps = torch.from_numpy(table.reshape(frames, side, side, 6)).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(
        maps.double(), size=(new, new), mode="bicubic", align_corners=False
    )
    found = fit.resize_positions(table, (frames, side, side), (frames, new, new))
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1).reshape(-1, 6), atol=1e-6)


def test_frames_are_interpolated_linearly():
    table = np.random.default_rng(0).normal(size=(4 * 9, 5)).astype(np.float32)
    line = torch.from_numpy(table.reshape(4, 45).T[None])
    wanted = torch.nn.functional.interpolate(line, size=7, mode="linear", align_corners=False)
    found = fit.resize_positions(table, (4, 3, 3), (7, 3, 3))
    np.testing.assert_allclose(found.reshape(7, 45), wanted[0].T, atol=2e-6)
    np.testing.assert_array_equal(fit.resize_positions(table, (4, 3, 3), (4, 3, 3)), table)
