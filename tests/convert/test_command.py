"""python -m vmae_jax.convert, and runs of this package as its input."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest
import tiny_weights

from vmae_jax import checkpoint, config
from vmae_jax.convert import load, rules, save
from vmae_jax.convert.rules import ConversionError
from vmae_jax.models import adapt


def convert(folder, *args):
    return subprocess.run(
        [sys.executable, "-m", "vmae_jax.convert", *args],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def weights(tmp_path):
    weights = tiny_weights.random("classifier", classes=3, names=("run", "jump", "sit"))
    save.save(weights, str(tmp_path / "in.safetensors"), "original")
    return weights


def test_what_it_is_is_shown_before_anything_is_written(tmp_path, weights):
    shown = convert(tmp_path, "--input=in.safetensors")
    assert shown.returncode == 0, shown.stderr
    lines = dict(line.split(None, 1) for line in shown.stdout.splitlines())
    assert lines["kind"] == "classifier"
    assert lines["variant"] == "48x2x3x112"
    assert lines["classes"] == "3 (run, jump, sit)"
    assert lines["clip"] == "4 frames of 32 x 32 pixels"
    assert lines["parameters"] == f"{weights.num_parameters:,}"
    assert os.listdir(tmp_path) == ["in.safetensors"]


def test_a_label_map_and_names(tmp_path, weights):
    (tmp_path / "map.json").write_text("[2, 0]")
    (tmp_path / "names.txt").write_text("sitting\n\nrunning\n", encoding="utf-8-sig")
    done = convert(
        tmp_path, "--input=in.safetensors", "--output=out", "--to=transformers",
        "--label_map=map.json", "--labels=names.txt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = load.load(str(tmp_path / "out"))
    assert found.label_names == ("sitting", "running")
    kernel = weights.params["head"]["kernel"][:, [2, 0]]
    np.testing.assert_array_equal(found.params["head"]["kernel"], kernel)
    files = sorted(os.listdir(tmp_path / "out"))
    assert files == ["config.json", "model.safetensors", "preprocessor_config.json"]
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.485, 0.456, 0.406]


def test_one_line_errors_and_nothing_half_written(tmp_path, weights):
    (tmp_path / "taken.pth").write_bytes(b"mine")
    (tmp_path / "map.json").write_text("[3]")
    before = sorted(os.listdir(tmp_path))
    for args, message in (
        (["--output=taken.pth"], "exists"),
        (["--label_map=map.json"], "from 0 to below 3"),
        (["--drop=fc_norm", "--output=y.pth"], "missing fc_norm.weight"),
    ):
        done = convert(tmp_path, "--input=in.safetensors", *args)
        assert done.returncode == 1, args
        assert message in done.stderr
        assert done.stderr.strip().count("\n") == 0, done.stderr
    with pytest.raises(ConversionError, match=r"ending in \.pth or \.safetensors"):
        save.save(weights, str(tmp_path / "x.zip"), "original")
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "taken.pth").read_bytes() == b"mine"


def test_a_write_that_fails_leaves_nothing(tmp_path, weights):
    """As on a full disk: no file may have more than a few bytes. PyTorch may not survive it."""
    code = """
import resource
from vmae_jax.convert import load, save
weights = load.load("in.safetensors")
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for path, to in ("out", "transformers"), ("out.safetensors", "original"), ("out.pth", "original"):
    try:
        save.save(weights, path, to)
    except save.ConversionError as error:
        print(error, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line, name in zip(lines, ("out", "out.safetensors", "out.pth"), strict=True):
        assert line.startswith(f"{tmp_path / name}: cannot be written (")
    assert os.listdir(tmp_path) == ["in.safetensors"]


def test_files_have_the_mode_of_any_new_file(tmp_path, weights):
    before = os.umask(0o027)
    try:
        save.save(weights, str(tmp_path / "out"), "transformers")
        for name in ("out.safetensors", "out.pth"):
            save.save(weights, str(tmp_path / name), "original")
    finally:
        os.umask(before)
    made = [*(tmp_path / "out").iterdir(), tmp_path / "out.safetensors", tmp_path / "out.pth"]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o640}


def test_overwriting_keeps_what_else_lies_there(tmp_path, weights):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    with pytest.raises(ConversionError, match="exists"):
        save.save(weights, str(folder), "transformers")
    save.save(weights, str(folder), "transformers", overwrite=True)
    tiny_weights.same(load.load(str(folder)), weights)
    assert (folder / "README.md").read_text() == "mine"


def test_overwriting_that_stops_midway_leaves_no_model_of_two_parts(tmp_path, weights, monkeypatch):
    folder = tmp_path / "out"
    save.save(weights, str(folder), "transformers")

    replace = os.replace
    for last in ("model.safetensors", "config.json"):

        def stop(source, target, last=last):
            if target == str(folder / last):
                raise OSError(5, "Input/output error")
            return replace(source, target)

        monkeypatch.setattr(os, "replace", stop)
        with pytest.raises(ConversionError, match="Input/output error"):
            save.save(weights, str(folder), "transformers", overwrite=True)
        assert not (folder / "config.json").exists()


def run_of(workdir, params, recipe, **meta):
    """A workdir with one checkpoint."""
    with contextlib.closing(checkpoint.Checkpoints(str(workdir / "checkpoints"))) as checkpoints:
        state = {"step": 1, "params": params}
        checkpoints.save(1, state, {"config": config.to_dict(recipe), **meta})


def test_a_run_of_another_version_is_named(tmp_path):
    weights = tiny_weights.random("pretrain")
    with contextlib.closing(checkpoint.Checkpoints(str(tmp_path / "checkpoints"))) as checkpoints:
        state = {"step": 1, "params": weights.params}
        checkpoints.save(1, state, {"config": {"no_longer": {"there": 1}}})
    with pytest.raises(
        ConversionError, match=f"^{tmp_path}: is a run of another version .*no_long"
    ):
        load.load(tmp_path)


def recipe_of(model, **changes):
    base = config.defaults()
    base.model.update({k: getattr(model, k) for k in base.model})
    for key, value in ml_collections.ConfigDict(changes).items():
        base[key].update(value) if hasattr(value, "items") else base.update({key: value})
    return config.from_config_dict(base)


def test_a_pretraining_run(tmp_path):
    weights = tiny_weights.random("pretrain")
    weights = dataclasses.replace(weights, normalize_target=False)
    run_of(tmp_path, weights.params, recipe_of(weights.model, normalize_target=False))
    found = load.load(str(tmp_path))
    tiny_weights.same(found, weights)
    for given in ({"drop": ["decoder"]}, {"weights_key": "model"}):
        with pytest.raises(ConversionError, match="is a run, whose model is known"):
            load.load(str(tmp_path), **given)
    save.save(found, str(tmp_path / "out.safetensors"), "original")
    tiny_weights.same(load.load(str(tmp_path / "out.safetensors")), weights)


def test_a_finetuning_run_of_the_last_block(tmp_path):
    """Its stack is in two parts; what leaves the run is one."""
    weights = tiny_weights.random("classifier", names="abcde")
    whole = weights.params["encoder"]["tower"]
    split = {
        "stem": jax.tree.map(lambda x: x[:1], whole), "tower": jax.tree.map(lambda x: x[1:], whole)
    }  # fmt: skip
    params = {**weights.params, "encoder": {**weights.params["encoder"], **split}}
    recipe = recipe_of(weights.model, task="finetune", classifier={"train_blocks": 1})
    run_of(tmp_path, params, recipe, label_names=list("abcde"))
    tiny_weights.same(load.load(str(tmp_path)), weights)
    assert (
        rules.flatten(adapt.fold(params, recipe.classifier)).keys()
        == rules.flatten(weights.params).keys()
    )
