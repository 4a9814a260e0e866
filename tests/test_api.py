"""The package in a notebook: any checkpoint as functions of parameters and a video."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_models import CONFIG, LABELS, checkpoint, random_weights, write_video

import vmae_jax
from vmae_jax import model as model_lib
from vmae_jax.config import Config, DataConfig
from vmae_jax.data.videos import VideoError
from vmae_jax.data.views import EvalViews


def clip(batch=2, seed=0):
    shape = (batch, CONFIG.num_frames, CONFIG.image_size, CONFIG.image_size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_a_video_is_classified_in_four_lines(tmp_path):
    model = vmae_jax.load(Path(checkpoint(tmp_path)))
    video = model.read(write_video(tmp_path / "clip.mp4"))
    logits = model.apply(model.params, video)
    assert model.label_names[int(logits[0].argmax())] in LABELS
    assert logits.shape == (1, len(LABELS))
    assert logits.dtype == np.float32


def test_the_functions_follow_from_one_another(tmp_path):
    model = vmae_jax.load(checkpoint(tmp_path))
    video, params = clip(), model.params
    tokens, features = model.tokens(params, video), model.features(params, video)
    assert tokens.shape == (2, CONFIG.num_tokens, 48)
    pooled = np.asarray(tokens).mean(1)
    normed = (pooled - pooled.mean(-1, keepdims=True)) / np.sqrt(
        pooled.var(-1, keepdims=True) + CONFIG.norm_eps
    )
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(features, normed, atol=1e-4)
    logits = np.asarray(features) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(model.apply(params, video), logits, atol=1e-4)


def test_attention_is_the_last_block_s_by_hand():
    weights = random_weights()
    model = model_lib.from_weights(weights)
    blocks = weights.params["encoder"]["tower"]["blocks"]
    first, last = (jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], blocks) for i in range(2))
    shallow = dataclasses.replace(
        weights,
        model=dataclasses.replace(weights.model, variant="48x1x3x96"),
        params=weights.params
        | {"encoder": weights.params["encoder"] | {"tower": {"blocks": first}}},
    )
    before = model_lib.from_weights(shallow)
    x = np.asarray(before.tokens(before.params, clip()))
    last = jax.tree.map(lambda leaf: leaf[0], last)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG.norm_eps)
    x = x * last["norm1"]["scale"] + last["norm1"]["bias"]
    q, k, _ = np.einsum("bnd,dchk->cbhnk", x, last["attn"]["qkv"]["kernel"])
    scores = (q + last["attn"]["q_bias"][:, None]) @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    found = np.asarray(model.attention(model.params, clip()))
    assert found.shape == (2, *CONFIG.grid)
    np.testing.assert_allclose(found.sum((1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(found.reshape(2, -1), shares.mean((1, 2)), atol=1e-5)


def test_the_parameters_are_an_argument():
    model = model_lib.from_weights(random_weights())
    silent = jax.tree.map(np.zeros_like, model.params)
    assert not np.asarray(model.apply(silent, clip())).any()
    grads = jax.grad(lambda p: model.apply(p, clip()).sum())(model.params)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads["head"]))


def test_logits_and_features_are_the_reference_s(goldens, tmp_path):
    io = np.load(goldens / "finetune_tiny_io.npz")
    params = np.load(goldens / "finetune_tiny_params.npz")
    path = tmp_path / "model.safetensors"
    save_file({k.removeprefix("sd/"): params[k] for k in params.files}, path)
    frames, size = io["video_u8"].shape[1:3]
    heads = json.loads(str(io["config"]))["num_heads"]
    model = vmae_jax.load(str(path), heads=heads, num_frames=frames, image_size=size)
    logits = model.apply(model.params, io["video_u8"])
    features = model.features(model.params, io["video_u8"])
    np.testing.assert_allclose(logits, io["logits"], atol=1e-5)
    np.testing.assert_allclose(features, io["features"], atol=1e-5)


def test_a_pretrained_encoder_has_features_but_no_classes(tmp_path):
    model = vmae_jax.load(checkpoint(tmp_path, "pretrain"))
    assert set(model.params) == {"encoder"}
    tokens = model.tokens(model.params, clip())
    np.testing.assert_allclose(
        model.features(model.params, clip()), np.asarray(tokens).mean(1), atol=1e-6
    )
    with pytest.raises(model_lib.ModelError, match=r"kind 'pretrain' has no head .* fine-tune it"):
        model.apply(model.params, clip())


def test_computing_in_bfloat16_is_near(tmp_path):
    path = checkpoint(tmp_path)
    exact, fast = vmae_jax.load(path), vmae_jax.load(path, dtype="bfloat16")
    found = fast.features(fast.params, clip())
    assert found.dtype == np.float32
    difference = np.abs(found - exact.features(exact.params, clip()))
    assert 0 < difference.max() < 0.2


def test_other_videos_and_weights_are_refused_in_one_line(tmp_path):
    model = model_lib.from_weights(random_weights())
    with pytest.raises(model_lib.ModelError, match=r"expected uint8 \[B, 4, 32, 32, 3\]"):
        model.apply(model.params, clip()[:, :2])
    with pytest.raises(model_lib.ModelError, match=r"float32.*expected uint8"):
        model.apply(model.params, clip().astype(np.float32))
    weights = random_weights()
    del weights.params["norm"]["bias"]
    with pytest.raises(model_lib.ModelError, match="norm/bias"):
        model_lib.from_weights(weights)
    with pytest.raises(VideoError, match=r"nothing\.mp4: cannot be opened"):
        model.read(tmp_path / "nothing.mp4")


def test_views_are_those_of_evaluation(tmp_path):
    model = model_lib.from_weights(random_weights())
    assert model.views(5, 3) == EvalViews(5, 3, 4, 32, "dense", 4)
    video = model.read(write_video(tmp_path / "clip.mp4"), clips=2, crops=3)
    assert video.shape == (6, 4, 32, 32, 3)
    assert len(np.unique(video.reshape(6, -1), axis=0)) == 6


def test_frames_are_taken_as_in_the_run_s_training():
    weights = random_weights()
    trained = Config(data=DataConfig(stride=2), model=weights.model)
    model = model_lib.from_weights(dataclasses.replace(weights, run=trained))
    assert model.views().stride == 2
    assert model.views(stride=3, sampling="sparse") == EvalViews(1, 1, 4, 32, "sparse", 3)


def test_starting_imports_nothing_heavy(tmp_path):
    code = f"""
import sys, vmae_jax
assert "load" in dir(vmae_jax)
assert not {{"jax", "numpy", "flax", "av"}} & set(sys.modules)
vmae_jax.load({checkpoint(tmp_path)!r})
import vmae_jax.predict, vmae_jax.features
assert not {{"torch", "tensorflow", "transformers", "apache_beam", "matplotlib"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not hasattr(vmae_jax, "predictor")
