"""`transformers` and PyTorch as live peers: models go out and come back, and both sides agree."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_weights
import torch
import transformers
from safetensors.numpy import load_file, save_file

from vmae_jax.config import MaskConfig, ModelConfig
from vmae_jax.convert import load, rules, save
from vmae_jax.convert.rules import ConversionError
from vmae_jax.data import clips, videos
from vmae_jax.models import layers, mae, masking

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

HF = {"norm_eps": 1e-12, "head_norm_eps": 1e-5, "dtype": "float32"}  # as transformers computes
SHAPES = (
    tiny_weights.SMALL,
    ModelConfig(variant="64x1x1x64+32x2x4x96", image_size=48, num_frames=6, patch_size=16, **HF),
    ModelConfig(
        variant="36x3x6x50+20x1x1x30", image_size=28, num_frames=4, patch_size=14, tubelet_size=1,
        encoder_norm=False, **HF,
    ),
)  # fmt: skip
PEERS = {
    "pretrain": transformers.VideoMAEForPreTraining,
    "classifier": transformers.VideoMAEForVideoClassification,
    "encoder": transformers.VideoMAEModel,
}


def out(weights, folder):
    """The peer that loads what we write; it must find every key, and no other."""
    save.save(weights, str(folder), "transformers")
    peer, info = PEERS[weights.kind].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return peer.eval()


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("kind", PEERS)
def test_out_to_transformers_and_back(tmp_path, kind, model):
    weights = tiny_weights.random(kind, model, names="abcde" if kind == "classifier" else ())
    peer = out(weights, tmp_path / "ours")
    tiny_weights.same(load.load(str(tmp_path / "ours")), weights)
    if kind == "classifier":
        assert peer.config.id2label == dict(enumerate("abcde"))
    # Biases have arrived: transformers 5 has them under other names than files do.
    state = peer.state_dict()
    prefix = "" if kind == "encoder" else "videomae."
    blocks = weights.params["encoder"]["tower"]["blocks"]["attn"]
    for ours, theirs in (("q_bias", "query"), ("v_bias", "value")):
        name = f"{prefix}encoder.layer.0.attention.attention.{theirs}.bias"
        np.testing.assert_array_equal(state[name], blocks[ours][0].ravel())
    peer.save_pretrained(tmp_path / "theirs")
    tiny_weights.same(load.load(str(tmp_path / "theirs")), weights)


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_out_in_the_original_layout_and_back(tmp_path, kind, model, ending):
    weights = tiny_weights.random(kind, model, names="abcde" if kind == "classifier" else ())
    path = tmp_path / f"model.{ending}"
    save.save(weights, str(path), "original")
    tiny_weights.same(load.load(str(path)), weights)
    if ending == "pth":  # others read it with PyTorch's own safe reading
        state = torch.load(path, weights_only=True)["model"]
        table = rules.rules_of(kind, "original")
        assert state.keys() == {n for n, _ in rules.to_torch(weights.params, table, model)}


@pytest.mark.parametrize("kind", ["pretrain", "classifier"])
@pytest.mark.parametrize("generation", ["4", "5", "5 with biases of keys"])
def test_biases_of_both_generations(tmp_path, kind, generation):
    weights = tiny_weights.random(kind)
    save.save(weights, str(tmp_path), "transformers", overwrite=True)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    if generation != "4":
        renamed = {
            name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): tensor
            for name, tensor in tensors.items()
        }
        assert renamed.keys() != tensors.keys()
        tensors = renamed
    names = [name.replace("key.weight", "key.bias") for name in tensors if "key.weight" in name]
    if "keys" in generation:
        tensors |= {name: np.zeros(tensors[name.replace("key", "query")].shape, np.float32)
                    for name in names}  # fmt: skip
    save_file(tensors, path, metadata={"format": "pt"})
    found = load.load(str(tmp_path))
    tiny_weights.same(found, weights)
    assert found.source.split(",")[0].endswith(generation[0])
    if "keys" in generation:
        assert any("biases of keys, all zero" in note for note in found.notes)
        tensors[names[0]][1] = 0.5
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(ConversionError, match="outputs do not change without them"):
            load.load(str(tmp_path))
        tiny_weights.same(load.load(str(tmp_path), drop=["*.key.bias"]), weights)


def test_pytorch_model_bin_and_shards(tmp_path):
    weights = tiny_weights.random("classifier")
    peer = out(weights, tmp_path / "ours")
    folder = tmp_path / "bin"
    folder.mkdir()
    torch.save(peer.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_bytes((tmp_path / "ours" / "config.json").read_bytes())
    tiny_weights.same(load.load(str(folder)), weights)
    peer.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    tiny_weights.same(load.load(str(tmp_path / "shards")), weights)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    next(iter((tmp_path / "shards").glob("model-*"))).unlink()
    with pytest.raises(ConversionError, match="is not there"):
        load.load(str(tmp_path / "shards"))
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../ours/model.safetensors")
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match="not a file beside it"):
        load.load(str(tmp_path / "shards"))


@pytest.fixture
def real_clips(shared):
    """uint8 [2, 4, 32, 32, 3]: frames of real videos."""

    def clip(path):
        video = videos.open_video(path)
        frames = video.frames(clips.clip_indices(video.num_frames, 4, 4), 32)
        return frames[:, :32, :32]

    paths = sorted((shared / "videos" / "actions").iterdir())
    return np.stack([clip(path) for path in paths[:2]])


def pixel_values(video):
    """What transformers' models take: float [B, T, 3, height, width]."""
    x = (video.astype(np.float32) / 255 - layers.MEAN) / layers.STD
    return torch.from_numpy(x.transpose(0, 1, 4, 2, 3).copy())


def test_classifiers_agree_on_real_clips(tmp_path, real_clips):
    weights = tiny_weights.random("classifier")
    peer = out(weights, tmp_path / "ours")
    with torch.no_grad():
        wanted = peer(pixel_values(real_clips)).logits.numpy()
    assert np.abs(wanted).max() > 0.1
    model = tiny_weights.module(load.load(str(tmp_path / "ours")))
    found = model(tiny_weights.patches(weights, jnp.asarray(real_clips)))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(("encoder_norm", "normalize"), [(True, True), (False, False)])
def test_pretraining_agrees_on_real_clips(tmp_path, real_clips, encoder_norm, normalize):
    small = dataclasses.replace(tiny_weights.SMALL, encoder_norm=encoder_norm)
    weights = tiny_weights.random("pretrain", small)
    weights = dataclasses.replace(weights, normalize_target=normalize)
    peer = out(weights, tmp_path / "ours")
    hidden = np.zeros((2, small.num_tokens), bool)
    hidden[:, ::2] = True
    with torch.no_grad():
        wanted = peer(pixel_values(real_clips), bool_masked_pos=torch.from_numpy(hidden))
    plain = MaskConfig(encoder="random", encoder_ratio=0.5, decoder="none")
    masks = masking.select(
        jnp.asarray(hidden), jnp.asarray(~hidden), masking.counts(small.grid, plain)
    )
    model = tiny_weights.module(weights)
    x = tiny_weights.patches(weights, jnp.asarray(real_clips))
    np.testing.assert_allclose(model(x, masks), wanted.logits.numpy(), atol=1e-4)
    loss, _ = mae.reconstruction_loss(model, x, masks, normalize=normalize)
    assert float(loss) == pytest.approx(float(wanted.loss), abs=1e-4)


def test_what_transformers_cannot_hold_is_refused(tmp_path):
    learned = dataclasses.replace(tiny_weights.SMALL, positions="learned")
    with pytest.raises(ConversionError, match="fixed positions only"):
        save.save(tiny_weights.random("classifier", learned), str(tmp_path / "x"), "transformers")
    assert not list(tmp_path.iterdir())
