"""Checkpoints as other programs wrap them: MMAction2, entries of a dict, folders of many files."""

import collections
import dataclasses
import os
import sys
import types

import numpy as np
import pytest
import tiny_weights
import torch
from safetensors.numpy import save_file

import vmae_jax
from vmae_jax import config
from vmae_jax.config import ModelConfig
from vmae_jax.convert import files, load, save
from vmae_jax.convert.rules import ConversionError, flatten
from vmae_jax.models import layers
from vmae_jax.tasks import initial, teacher

TINY = ModelConfig(variant="16x2x2x24", image_size=8, num_frames=2, patch_size=4, dtype="float32")
BOTH = f"{TINY.variant}+8x1x2x12"
HUGGING_FACE = {"norm_eps": 1e-12, "head_norm_eps": 1e-5}  # what is assumed without its config
KNOWN = {"heads": 2, "image_size": 8, "num_frames": 2}


@pytest.fixture(scope="module")
def weights():
    return tiny_weights.random("classifier", TINY, classes=3)


@pytest.fixture(scope="module")
def state(weights):
    """The weights as PyTorch tensors, in the original layout."""
    return torch_tensors(weights, "original")


def torch_tensors(weights, layout):
    named = save.named_tensors(weights, layout)
    return {name: torch.from_numpy(tensor.copy()) for name, tensor in named.items()}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def doubled(state):
    return {name: 2 * tensor for name, tensor in state.items()}


def read(path, content, **known):
    torch.save(content, path)
    return load.load(str(path), **(KNOWN | known))


def refusal(path, **known):
    with pytest.raises(ConversionError) as error:
        load.load(str(path), **(KNOWN | known))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- MMAction2 ----


class HistoryBuffer:
    """As mmengine keeps a scalar: its training checkpoints hold many."""

    def __init__(self):
        self.max_length, self._log_history = 1000000, np.arange(3.0)


def test_mmaction2(tmp_path, weights, monkeypatch):
    """A recognizer's state dict with its buffer of positions, as its runner saves it."""
    state = torch_tensors(weights, "mmaction2")
    state = {n if n.startswith("cls_head") else f"backbone.{n}": t for n, t in state.items()}
    assert {"backbone.patch_embed.projection.weight", "backbone.blocks.1.mlp.layers.0.0.bias",
            "backbone.blocks.1.mlp.layers.1.weight", "backbone.blocks.0.attn.q_bias",
            "backbone.fc_norm.weight", "cls_head.fc_cls.bias"} <= state.keys()  # fmt: skip
    table = layers.position_table(TINY.num_tokens, 16)[None].astype(np.float32)
    state["backbone.pos_embed"] = torch.from_numpy(table)
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        module = types.ModuleType(name)
        module.HistoryBuffer = HistoryBuffer
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    content = {
        "meta": {"epoch": 3, "iter": 90, "mmengine_version": "0.10.7", "dataset_meta": {}},
        "state_dict": collections.OrderedDict(state),
        "message_hub": {"log_scalars": collections.OrderedDict(loss=HistoryBuffer())},
        "param_schedulers": [{"last_step": 3}],
    }
    found = read(tmp_path / "epoch_3.pth", content)
    tiny_weights.same(found, weights)
    assert found.source == "layout of MMAction2, .pth (state_dict)"
    assert any("pos_embed is the fixed sine-cosine table" in note for note in found.notes)
    del state["cls_head.fc_cls.weight"], state["cls_head.fc_cls.bias"]
    assert read(tmp_path / "backbone.pth", state).kind == "encoder"
    state["backbone.blocks.0.gamma_1"] = torch.ones(16)
    torch.save(state, tmp_path / "scaled.pth")
    assert "unexpected blocks.0.gamma_1" in refusal(tmp_path / "scaled.pth")


def test_all_of_one_model_are_equal(shared):
    folder = shared / "cases" / "12_checkpoints"
    if not folder.is_dir():
        pytest.skip("needs the wrapped checkpoints of the reference data")
    first, *others = [load.load(path, heads=3) for path in sorted(folder.iterdir())]
    assert len(others) == 3
    for other in others:
        np.testing.assert_equal(flatten(other.params), flatten(first.params))


# ---- Entries of a dict ----


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("state_dict_ema", "module."), ("model_state_dict", ""), ("model_ema", "module."),
        ("net", ""), ("ema_state_dict", "module.backbone."), ("state_dict", "net."),
        ("state_dict", "model.backbone."),
    ],
)  # fmt: skip
def test_the_only_model_is_found_under_any_name(tmp_path, weights, state, key, prefix):
    beside = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3, "best": {}}
    found = read(tmp_path / "x.pth", {**beside, key: prefixed(state, prefix)})
    tiny_weights.same(found, weights)
    assert f".pth ({key})" in found.source
    assert f"not read: optimizer; epoch; best beside {key}" in found.notes


def test_of_several_models_the_usual_one_is_read_unless_another_is_named(tmp_path, weights, state):
    path = tmp_path / "x.pth"
    found = read(path, {"model_ema": doubled(state), "model": state, "epoch": 1})
    tiny_weights.same(found, weights)
    assert "model_ema would be read with --weights_key=model_ema" in found.notes
    named = load.load(path, weights_key="model_ema", **KNOWN)
    np.testing.assert_array_equal(
        named.params["head"]["kernel"], 2 * weights.params["head"]["kernel"]
    )
    assert "--weights_key=teacher: is no dict of tensors; it has model_ema; model" in refusal(
        path, weights_key="teacher"
    )
    torch.save({"student": state, "teacher": doubled(state)}, path)
    assert "several models, student; teacher; name one, as --weights_key=student" in refusal(path)
    tiny_weights.same(load.load(path, weights_key="student", **KNOWN), weights)
    for other in ("state_dict", "net"):
        torch.save({"model": {"name": "vit"}, other: state}, path)
        tiny_weights.same(load.load(path, **KNOWN), weights)
    torch.save({"app": {"model": state, "optim": {}}, "step": 3}, path)  # as PyTorch's tutorials
    for key in ("", "app.model"):
        assert ".pth (app.model)" in load.load(path, weights_key=key, **KNOWN).source
    save_file({n: t.numpy() for n, t in state.items()}, tmp_path / "x.safetensors")
    assert "give no --weights_key" in refusal(tmp_path / "x.safetensors", weights_key="model")


def test_recipes_and_programs_name_an_entry_too(tmp_path, weights, state):
    path = str(tmp_path / "x.pth")
    args = {"num_heads": 2, "input_size": 8, "num_frames": 2}
    torch.save({"student": state, "teacher": doubled(state), "args": args}, path)
    wanted = 2 * weights.params["head"]["kernel"]
    model = vmae_jax.load(path, weights_key="teacher")
    np.testing.assert_array_equal(model.params["head"]["kernel"], wanted)
    with pytest.raises(ConversionError, match=r"--config\.weights_key"):
        vmae_jax.load(path)
    recipe = config.defaults()
    recipe.update(task="distill", init_from=path, weights_key="teacher")
    recipe.model.update(
        variant="16x2x2x24", patch_size=4, image_size=8, num_frames=2, dtype="float32"
    )
    recipe.classifier.num_classes = 3
    recipe.distill.update(teacher=path, weights_key="teacher")
    recipe = config.from_config_dict(recipe)
    values = initial.weights(recipe, weights.params)
    np.testing.assert_array_equal(values["head/kernel"], wanted)
    np.testing.assert_array_equal(teacher.read(recipe).params["head"]["kernel"], wanted)


def test_any_prefix_of_the_only_model_and_no_other_name_is_lost(tmp_path, weights, state):
    """As modules of Lightning and models of several towers are saved."""
    path = tmp_path / "x.pth"
    found = read(path, {"state_dict": prefixed(state, "net.video_tower.")})
    tiny_weights.same(found, weights)
    assert "read without the prefix net.video_tower. of its names" in found.notes
    beside = {"text.weight": torch.ones(2)}
    torch.save(prefixed(state, "video.") | beside, path)
    assert "unexpected text.weight" in refusal(path)
    tiny_weights.same(load.load(path, drop=["text"], **KNOWN), weights)
    torch.save(prefixed(state, "student.") | prefixed(doubled(state), "teacher."), path)
    assert "several models, with student.patch_embed.proj.weight; teacher." in refusal(path)
    tiny_weights.same(load.load(path, drop=["teacher"], **KNOWN), weights)
    pretrained = tiny_weights.random("pretrain", dataclasses.replace(TINY, variant=BOTH))
    content = prefixed(torch_tensors(pretrained, "original"), "mae.")
    tiny_weights.same(read(path, content, decoder_heads=2), pretrained)
    classifier = tiny_weights.random("classifier", dataclasses.replace(TINY, **HUGGING_FACE))
    content = prefixed(torch_tensors(classifier, "hugging_face"), "clf.")
    tiny_weights.same(read(path, content), classifier)


@pytest.mark.parametrize("counter", ["n_averaged", "steps"])
def test_the_count_of_an_average_is_no_weight(tmp_path, weights, state, counter):
    content = {counter: torch.tensor(7), **prefixed(state, "module.")}
    found = read(tmp_path / "x.pth", {"model_ema": content})
    tiny_weights.same(found, weights)
    assert f"{counter}, a count of the averaging, left out" in found.notes


def test_a_part_of_a_model_names_its_folder(tmp_path, state):
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file({n: t.numpy() for n, t in list(state.items())[:3]}, path)
    assert "is a part of a model" in refusal(path)


# ---- Folders ----


def deepspeed(folder, state):
    """What DeepSpeed saves for a model under ZeRO 1 or 2."""
    folder.mkdir(parents=True)
    torch.save(
        {
            "module": state, "buffer_names": [], "optimizer": None, "ds_config": {},
            "param_shapes": [collections.OrderedDict(head=torch.Size([3]))], "dp_world_size": 1,
        },
        folder / "mp_rank_00_model_states.pt",
    )  # fmt: skip
    (folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"not read")


def test_deepspeed(tmp_path, weights, state):
    deepspeed(tmp_path / "out" / "checkpoint-3", state)
    deepspeed(tmp_path / "out" / "checkpoint-4", state)
    (tmp_path / "out" / "latest").write_text("checkpoint-4")
    found = load.load(tmp_path / "out" / "checkpoint-3", **KNOWN)
    tiny_weights.same(found, weights)
    assert "the weights are those of mp_rank_00_model_states.pt" in found.notes
    message = refusal(tmp_path / "out")
    for tag in ("checkpoint-3", "checkpoint-4"):
        assert f"{tmp_path}/out/{tag}/mp_rank_00_model_states.pt" in message
    parts = tmp_path / "zero3"
    parts.mkdir()
    for rank in range(2):
        (parts / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").write_bytes(b"not read")
    assert "zero_to_fp32.py" in refusal(parts)


def test_parts_of_torch_distributed_load_as_the_error_says(tmp_path, weights, state, monkeypatch):
    checkpointing = pytest.importorskip("torch.distributed.checkpoint")
    from torch.distributed.checkpoint import format_utils

    monkeypatch.chdir(tmp_path)
    parts = tmp_path / "step-3" / "pytorch_model_fsdp_0"
    checkpointing.save({"model": state}, checkpoint_id=parts, no_dist=True)
    for folder in (parts, parts.parent):
        message = refusal(folder)
        said = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        assert f"{said} {parts} model.pth" in message
    format_utils.dcp_to_torch_save(parts, "model.pth")
    tiny_weights.same(load.load("model.pth", **KNOWN), weights)


def test_a_folder_s_only_file_is_read_and_of_several_one_is_to_be_named(tmp_path, weights, state):
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    for name in ("optimizer.bin", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"not read")
    assert "has no model.safetensors" in refusal(folder)
    torch.save(state, folder / "pytorch_model_fsdp.bin")
    tiny_weights.same(load.load(folder, **KNOWN), weights)
    assert f"give one of {folder}/pytorch_model_fsdp.bin" in refusal(tmp_path)
    torch.save(state, folder / "epoch_3.pth")
    assert f"give one of them, {folder}/epoch_3.pth; {folder}/pytorch_model" in refusal(folder)
    lightning = tmp_path / "version_0" / "checkpoints"
    lightning.mkdir(parents=True)
    torch.save({"state_dict": prefixed(state, "model.")}, lightning / "epoch=0-step=3.ckpt")
    assert f"{lightning}/epoch=0-step=3.ckpt" in refusal(lightning.parent)
    tiny_weights.same(load.load(lightning, **KNOWN), weights)
    numbered = tmp_path / "other" / "checkpoints" / "1000"
    numbered.mkdir(parents=True)
    torch.save(state, numbered / "net.pth")
    tiny_weights.same(load.load(numbered, **KNOWN), weights)
    for folder in (numbered.parent, numbered.parents[1]):
        assert f"{numbered}/net.pth" in refusal(folder)


def test_the_insides_of_a_run_name_the_run(tmp_path):
    state = tmp_path / "run" / "checkpoints" / "20" / "state"
    state.mkdir(parents=True)
    for folder in (state, state.parent, state.parents[1]):
        assert f"give its --workdir {tmp_path}/run, of which" in refusal(folder)


def test_what_is_no_file_is_never_opened(tmp_path):
    """A FIFO that nobody writes to would not even open."""
    os.mkfifo(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert "cannot be read (is a FIFO, expected a file)" in refusal(path)
    with pytest.raises(ConversionError, match="is a FIFO, expected a file"):
        files.read_names(str(tmp_path / "model.safetensors"))
    assert "is a device, expected a file" in refusal("/dev/zero")
