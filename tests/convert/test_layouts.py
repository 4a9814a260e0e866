"""What a checkpoint is: prefixes, kinds, sizes; what is left over is an error that lists it."""

import dataclasses
import itertools
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import tiny_weights
import torch
from safetensors.numpy import load_file, save_file

from vmae_jax import config as config_lib
from vmae_jax.config import ModelConfig
from vmae_jax.convert import load, rules, save
from vmae_jax.convert.rules import ConversionError
from vmae_jax.models import layers

SMALL = dataclasses.replace(tiny_weights.SMALL, norm_eps=1e-6, head_norm_eps=0.0)
KNOWN = {"heads": 3, "decoder_heads": 2, "image_size": 32, "num_frames": 4}


def tensors_of(weights, layout="original"):
    table = rules.rules_of(weights.kind, layout)
    return {
        name: np.ascontiguousarray(tensor)
        for name, tensor in rules.to_torch(weights.params, table, weights.model)
    }


def reload(tmp_path, tensors, **known):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    return load.load(str(path), **(KNOWN | known))


@pytest.mark.parametrize(
    ("kind", "layout"),
    [*itertools.product(("pretrain", "classifier", "encoder"), ("original", "hugging_face")),
     ("classifier", "mmaction2"), ("encoder", "mmaction2")],
)  # fmt: skip
def test_every_tensor_has_one_place(kind, layout):
    """The table is a bijection, and its transforms come in exact pairs."""
    weights = tiny_weights.random(kind, SMALL)
    table = rules.rules_of(kind, layout)
    names = [name for rule in table for name in rule.names]
    assert len(names) == len(set(names))
    assert len(table) == len({rule.path for rule in table})
    tensors = tensors_of(weights, layout)
    params = rules.from_torch(tensors, weights.params, table, weights.model)
    np.testing.assert_equal(params, weights.params)
    for name in tensors:
        place = rules.locate(name, table)
        assert place.path in rules.flatten(weights.params)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "encoder.",
     "module.encoder.", "model.backbone."],
)  # fmt: skip
def test_prefixes_of_classifiers(tmp_path, prefix):
    weights = tiny_weights.random("classifier", SMALL)
    tensors = {prefix + name: tensor for name, tensor in tensors_of(weights).items()}
    tiny_weights.same(reload(tmp_path, tensors), weights)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_pretraining(tmp_path, prefix):
    weights = tiny_weights.random("pretrain", SMALL)
    tensors = {prefix + name: tensor for name, tensor in tensors_of(weights).items()}
    tiny_weights.same(reload(tmp_path, tensors), weights)


def test_a_backbone_with_a_head_of_its_own(tmp_path):
    """Compiled encoders have the marker in the middle; heads may lie outside the backbone."""
    weights = tiny_weights.random("classifier", SMALL)
    tensors = {
        name if name.startswith("head") else f"backbone._orig_mod.{name}": tensor
        for name, tensor in tensors_of(weights).items()
    }
    tiny_weights.same(reload(tmp_path, tensors), weights)


def test_video_mae_v2_of_hugging_face(tmp_path):
    """A classifier without head under `model.`, its sizes one level down in config.json."""
    weights = tiny_weights.random("classifier", SMALL)
    tensors = {
        f"model.{name}": tensor
        for name, tensor in tensors_of(weights).items()
        if not name.startswith("head")
    }
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"model_config": {"img_size": 32, "num_frames": 4, "num_heads": 3, "num_classes": 0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = load.load(str(tmp_path))
    assert (found.kind, found.num_classes, found.model.encoder.heads) == ("encoder", 0, 3)
    assert (found.model.image_size, found.model.num_frames) == (32, 4)
    np.testing.assert_equal(found.params["norm"], weights.params["norm"])
    np.testing.assert_equal(found.params["encoder"], weights.params["encoder"])


def test_what_is_left_over_or_missing_is_listed_unless_named(tmp_path):
    weights = tiny_weights.random("classifier", SMALL)
    tensors = tensors_of(weights)
    del tensors["blocks.0.mlp.fc1.bias"], tensors["fc_norm.bias"]
    tensors["blocks.1.gamma_1"] = np.ones(48, np.float32)
    tensors["blocks.1.attn.proj.bias"] = np.ones(47, np.float32)
    with pytest.raises(ConversionError) as error:
        reload(tmp_path, tensors)
    for part in (
        "unexpected blocks.1.gamma_1", "missing blocks.0.mlp.fc1.bias", "missing fc_norm.bias",
        "blocks.1.attn.proj.bias has shape (47,), expected (48,)",
    ):  # fmt: skip
        assert part in str(error.value)
    tensors["blocks.1.attn.proj.bias"] = np.ones(48, np.float32)
    with pytest.raises(ConversionError, match="only whole parameters"):
        reload(tmp_path, tensors, drop=["*gamma*"], allow_missing=["fc_norm", "blocks.0.*"])
    tensors["blocks.0.mlp.fc1.bias"] = np.zeros(112, np.float32)
    found = reload(tmp_path, tensors, drop=["*gamma*"], allow_missing=["fc_norm"])
    assert set(found.params["norm"]) == {"scale"}
    assert any("gamma_1" in note for note in found.notes)


@pytest.mark.parametrize("layout", ["original", "hugging_face"])
def test_classifying_by_the_first_token_is_refused(tmp_path, layout):
    tensors = tensors_of(tiny_weights.random("classifier", SMALL), layout)
    norm = "norm" if layout == "original" else "videomae.layernorm"
    for part in ("weight", "bias"):
        tensors[f"{norm}.{part}"] = tensors.pop(f"fc_norm.{part}")
    with pytest.raises(ConversionError, match="expected mean pooling"):
        reload(tmp_path, tensors)


def test_what_a_file_says_of_itself_goes_before_a_config_beside_it(tmp_path):
    weights = tiny_weights.random("classifier", SMALL, names="abcde")
    for names in (weights.label_names, ()):
        path = str(tmp_path / "model.safetensors")
        wanted = dataclasses.replace(weights, label_names=names)
        save.save(wanted, path, "original", overwrite=True)
        config = {
            "image_size": 64, "num_frames": 8, "num_attention_heads": 6, "layer_norm_eps": 1e-3,
            "use_mean_pooling": False, "id2label": {str(i): f"other {i}" for i in range(5)},
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        for source in (path, str(tmp_path)):
            tiny_weights.same(load.load(source), wanted)


def test_a_file_of_a_hugging_face_directory_has_its_config(tmp_path):
    weights = tiny_weights.random("classifier", names="abcde")
    save.save(weights, str(tmp_path / "hf"), "transformers")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    torch.save(
        {name: torch.from_numpy(tensor) for name, tensor in tensors.items()},
        tmp_path / "hf" / "pytorch_model.bin",
    )
    for name in ("", "model.safetensors", "pytorch_model.bin"):
        tiny_weights.same(load.load(tmp_path / "hf" / name), weights)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    for labels, names, note in (
        ({name: i for i, name in enumerate("abcde")}, tuple("abcde"), ()),  # the other way round
        (dict(enumerate("abc")), (), ("its 3 names of classes are not those of 5 classes",)),
    ):
        config["id2label"] = labels
        (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
        found = load.load(tmp_path / "hf")
        assert (found.label_names, found.notes[-1:]) == (names, note)


def test_a_contradicting_config_is_an_error(tmp_path):
    tensors = tensors_of(tiny_weights.random("classifier", SMALL), "hugging_face")
    save_file(tensors, tmp_path / "model.safetensors")
    for key, value in (("hidden_act", "gelu_new"), ("num_hidden_layers", 3), ("num_channels", 1)):
        (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 3, key: value}))
        with pytest.raises(ConversionError, match=f"config.json says {key} = {value!r}"):
            load.load(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConversionError, match="is not JSON"):
        load.load(str(tmp_path))


def test_sizes_are_taken_as_they_are_said_or_refused_by_name(tmp_path):
    """transformers takes a number or a pair; a pair that is no square is no model of ours."""
    weights = tiny_weights.random("classifier", SMALL)
    save_file(tensors_of(weights, "hugging_face"), tmp_path / "model.safetensors")
    config = {"num_attention_heads": 3, "num_frames": 4}
    for size in (32, [32, 32]):
        (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": size}))
        assert load.load(tmp_path).model.image_size == 32
    for size in ([32, 48], [32], {"height": 32, "width": 32}, "32", 32.5):
        (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": size}))
        with pytest.raises(
            ConversionError, match=r"image_size = .* expected a whole number or two"
        ):
            load.load(tmp_path)
        assert load.load(tmp_path, image_size=48).model.image_size == 48
    path = tmp_path / "tuple.pth"
    tensors = {n: torch.from_numpy(t) for n, t in tensors_of(weights).items()}
    torch.save({"model": tensors, "args": {"input_size": (32, 32), "num_frames": 4}}, path)
    assert load.load(path, heads=3).model.image_size == 32


@pytest.mark.parametrize("to", ["transformers", "original"])
def test_what_a_decoder_was_trained_on_goes_along(tmp_path, to):
    weights = dataclasses.replace(tiny_weights.random("pretrain"), normalize_target=False)
    path = tmp_path / ("x" if to == "transformers" else "x.safetensors")
    save.save(weights, str(path), to)
    found = load.load(path, **KNOWN if to == "original" else {})
    assert not found.normalize_target
    assert any("plain pixels" in note for note in found.notes)
    if to == "transformers":
        config = json.loads((path / "config.json").read_text())
        assert config["norm_pix_loss"] is False
    normalised = dataclasses.replace(weights, normalize_target=True)
    save.save(normalised, str(path), to, overwrite=True)
    assert load.load(path).normalize_target


def test_what_transformers_does_otherwise_is_said(tmp_path):
    """Other means of pixels; biases that some of its versions have lost."""
    weights = tiny_weights.random("classifier")
    save.save(weights, str(tmp_path), "transformers", overwrite=True)
    assert not load.load(tmp_path).notes
    beside = tmp_path / "preprocessor_config.json"
    said = json.loads(beside.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}
    beside.write_text(json.dumps(said))
    attention = weights.params["encoder"]["tower"]["blocks"]["attn"]
    for name in ("q_bias", "v_bias"):
        attention[name] = np.zeros_like(attention[name])
    tensors = tensors_of(weights, "hugging_face")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    notes = load.load(tmp_path).notes
    assert any("image_mean = [0.5, 0.5, 0.5]: this package takes ImageNet's" in n for n in notes)
    assert any("all biases of queries and values are zero" in note for note in notes)


def test_heads_that_nobody_knows_are_given_to_the_converter(tmp_path):
    """Not every command has a flag for them."""
    tensors = tensors_of(tiny_weights.random("pretrain", SMALL))
    for known, flag in (({"heads": 0}, "--heads"), ({"decoder_heads": 0}, "--decoder_heads")):
        with pytest.raises(
            ConversionError, match=f"run python -m vmae_jax.convert .* {flag}=.* use"
        ):
            reload(tmp_path, tensors, **known)


def test_sizes_beyond_memory_are_an_error(tmp_path):
    """A small file can claim any: a width here, nothing that has it there."""
    tensors = {
        "patch_embed.proj.weight": np.zeros((2**20, 3, 1, 1, 1), np.float16),
        "blocks.0.mlp.fc1.weight": np.zeros((1, 1), np.float16),
    }
    with pytest.raises(ConversionError, match="does not fit into this machine's memory"):
        reload(tmp_path, tensors, heads=1, image_size=2, num_frames=2)


def test_a_missing_block_is_an_error(tmp_path):
    tensors = tensors_of(tiny_weights.random("classifier", SMALL))
    gap = {name.replace("blocks.1.", "blocks.7."): value for name, value in tensors.items()}
    with pytest.raises(ConversionError, match=r"unexpected blocks\.7\..*missing blocks\.1\."):
        reload(tmp_path, gap)


def test_dropping_parts_makes_another_kind(tmp_path):
    weights = tiny_weights.random("pretrain", SMALL)
    encoder = ["decoder", "encoder_to_decoder", "mask_token"]
    found = reload(tmp_path, tensors_of(weights), drop=encoder)
    assert found.kind == "encoder"
    np.testing.assert_equal(found.params["encoder"], weights.params["encoder"])


def test_half_precision_is_exact_and_said(tmp_path):
    weights = tiny_weights.random("classifier", SMALL)
    half = {n: t.astype(ml_dtypes.bfloat16) for n, t in tensors_of(weights).items()}
    found = reload(tmp_path, half)
    assert any("bfloat16" in note for note in found.notes)
    wanted = weights.params["head"]["kernel"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found.params["head"]["kernel"], wanted)


def test_fixed_position_tables_are_dropped_and_learned_ones_kept(tmp_path):
    weights = tiny_weights.random("pretrain", SMALL)
    n = SMALL.num_tokens
    tables = {
        "encoder.pos_embed": layers.position_table(n, 48)[None],
        "pos_embed": layers.position_table(n, 24)[None],
    }
    found = reload(tmp_path, tensors_of(weights) | tables)
    tiny_weights.same(found, weights)
    assert sum("fixed sine-cosine" in note for note in found.notes) == 2

    learned = tiny_weights.random("pretrain", dataclasses.replace(SMALL, positions="learned"))
    tensors = tensors_of(learned)
    assert tensors["encoder.pos_embed"].shape == (1, n, 48)
    tiny_weights.same(reload(tmp_path, tensors), learned)
    with pytest.raises(ConversionError, match="not those of 8 frames"):
        reload(tmp_path, tensors, num_frames=8)
    with pytest.raises(ConversionError, match="unexpected pos_embed"):
        reload(tmp_path, tensors | {"pos_embed": tables["pos_embed"] + 1})
    for shape in ((1, 10**9, 0), (1, n, 47), (n, 48)):
        with pytest.raises(ConversionError, match=r"expected \[1, tokens, 48\]"):
            reload(tmp_path, tensors | {"encoder.pos_embed": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (ModelConfig("48x1x3x40", 64, 16, patch_size=8, positions="learned"), {}),
        (ModelConfig("48x1x3x40", 224, 8, patch_size=32, positions="learned"), {"num_frames": 8}),
        (ModelConfig("48x1x3x40", 64, 8, patch_size=16, positions="learned"), {"image_size": 64}),
    ],
)
def test_clip_sizes_follow_from_a_learned_table(tmp_path, model, known):
    weights = tiny_weights.random("classifier", model)
    known = {"image_size": 0, "num_frames": 0} | known
    found = reload(tmp_path, tensors_of(weights), **known).model
    assert (found.image_size, found.num_frames) == (model.image_size, model.num_frames)


@pytest.mark.parametrize("name", [n for n, v in config_lib.VARIANTS.items() if n in "SBLHg"])
def test_published_sizes_are_recognised(tmp_path, monkeypatch, name):
    """By shapes alone; one block of each tower is enough, in a table of such variants."""
    short = {
        key: dataclasses.replace(
            variant,
            encoder=dataclasses.replace(variant.encoder, depth=1),
            decoder=dataclasses.replace(variant.decoder, depth=1),
        )
        for key, variant in config_lib.VARIANTS.items()
    }
    monkeypatch.setattr(config_lib, "VARIANTS", short)
    monkeypatch.setattr(load, "_shapes", load._shapes.__wrapped__)  # keeps none of these
    model = ModelConfig(variant=name, dtype="float32")
    like = load.abstract(lambda: tiny_weights.fresh("pretrain", model))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like)
    weights = load.Weights("pretrain", model, zeros, (), "zeros", ())
    save_file(tensors_of(weights), tmp_path / "x.safetensors")
    found = load.load(str(tmp_path / "x.safetensors"))
    assert dataclasses.replace(found.model, dtype="float32") == model
    assert ["16 frames of 224 pixels assumed" in note for note in found.notes] == [True]
