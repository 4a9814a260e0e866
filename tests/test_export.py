"""Exported models: the same results without this package, and one line for what cannot be run."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from tiny_models import LABELS, checkpoint, random_weights

from vmae_jax import model as model_lib
from vmae_jax.data import inputs
from vmae_jax.data.videos import VideoError
from vmae_jax.export import __main__ as command
from vmae_jax.export import loader, onnx_file, stablehlo

ONE_DEVICE = os.environ | {"XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def model():
    return model_lib.from_weights(random_weights())


@pytest.fixture(scope="module")
def program(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.stablehlo"
    stablehlo.write(model, str(path), label_names=LABELS)
    return path


@pytest.fixture(scope="module")
def onnx_program(model, tmp_path_factory):
    if onnx_file.missing():
        pytest.skip("needs the extra onnx")
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    onnx_file.write(model, str(path), label_names=LABELS)
    return path


def noise(batch):
    shape = (batch, *stablehlo.video_shape(model_lib.from_weights(random_weights())))
    return np.random.default_rng(batch).integers(0, 256, shape, np.uint8)


def real_clips(model, folder):
    """The middles of real videos, uint8 [B, 4, 32, 32, 3]."""

    def views():
        for path in inputs.find([str(folder / "actions"), str(folder / "odd")]):
            try:
                yield model.read(path)
            except VideoError:
                assert "corrupt" in path

    return np.concatenate(list(views()))


def without_this_package(code, *args):
    """Runs code in a process that cannot import vmae_jax, flax or any other dependency of it."""
    blocked = ("vmae_jax", "flax", "orbax", "ml_collections", "absl", "av", "etils")
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n"
    return subprocess.run(
        [sys.executable, "-c", block + code, *map(str, args)],
        capture_output=True, text=True, env=ONE_DEVICE,
    )  # fmt: skip


def documented():
    """The lines of --help that load a file with jax and NumPy."""
    lines = command.__doc__.split("be copied):\n\n")[1].split("\n\n")[0].splitlines()
    return [line.strip() for line in lines]


# ---- The same results ----


def test_any_number_of_clips_gives_the_same_logits(model, program):
    exported = loader.load(program)
    for batch in (1, 3):
        video = noise(batch)
        expected = model.apply(model.params, video)
        np.testing.assert_allclose(exported(video), expected, atol=1e-5)
    assert exported.label_names == list(LABELS)


def test_it_runs_elsewhere_and_on_every_platform(program):
    assert loader.load(program).program.platforms == ("cpu", "cuda", "tpu")


def test_six_lines_run_it_with_jax_alone(model, program, tmp_path):
    lines = documented()
    assert len(lines) == 6
    clip = noise(2)
    np.save(tmp_path / "clip.npy", clip)
    lines[1] = lines[1].replace('"model.stablehlo"', "sys.argv[1]")
    lines[5] = lines[5].partition("np.zeros")[0] + "np.load(sys.argv[2]))"
    code = "\n".join([*lines, "np.save(sys.argv[3], logits)", "print(about['label_names'])"])
    done = without_this_package(code, program, tmp_path / "clip.npy", tmp_path / "logits.npy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(list(LABELS))
    expected = model.apply(model.params, clip)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


def test_real_clips_in_a_process_without_this_package(model, program, shared, tmp_path):
    clips = real_clips(model, shared / "videos")
    assert len(clips) == 18
    np.save(tmp_path / "clips.npy", clips)
    shutil.copy(loader.__file__, tmp_path / "copied_loader.py")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r})\nimport copied_loader, numpy as np\n"
        "model = copied_loader.load(sys.argv[1])\n"
        "np.save(sys.argv[3], model(np.load(sys.argv[2])))"
    )
    done = without_this_package(code, program, tmp_path / "clips.npy", tmp_path / "logits.npy")
    assert done.returncode == 0, done.stderr
    expected = np.asarray(model.apply(model.params, clips))
    assert np.ptp(expected, axis=0).max() > 0.1, "the clips differ to the model"
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4)


def test_onnx_agrees_on_real_clips(model, onnx_program, shared):
    clips = real_clips(model, shared / "videos")
    found = onnx_file.load(str(onnx_program))(clips)
    np.testing.assert_allclose(found, model.apply(model.params, clips), atol=1e-4)


def test_onnx_takes_any_number_of_clips_and_names_its_classes(model, onnx_program):
    import onnxruntime

    run = onnx_file.load(str(onnx_program))
    for batch in (1, 3):
        np.testing.assert_allclose(
            run(noise(batch)), model.apply(model.params, noise(batch)), atol=1e-5
        )
    found = onnxruntime.InferenceSession(onnx_program).get_modelmeta().custom_metadata_map
    assert json.loads(found["about"])["label_names"] == list(LABELS)


@pytest.mark.parametrize("head_eps", [0.0, 1e-1])
def test_onnx_keeps_the_norm_before_the_head(tmp_path, head_eps):
    """transformers itself always adds 1e-5 there."""
    if onnx_file.missing():
        pytest.skip("needs the extra onnx")
    weights = random_weights()
    config = dataclasses.replace(weights.model, norm_eps=1e-3, head_norm_eps=head_eps)
    model = model_lib.from_weights(dataclasses.replace(weights, model=config))
    import torch

    with torch.inference_mode():
        found = onnx_file.torch_module(model)(torch.from_numpy(noise(1))).numpy()
    np.testing.assert_allclose(found, model.apply(model.params, noise(1)), atol=1e-5)


def test_an_encoder_gives_its_features(tmp_path):
    model = model_lib.from_weights(random_weights("pretrain"))
    stablehlo.write(model, str(tmp_path / "encoder.stablehlo"), features=True)
    exported = loader.load(tmp_path / "encoder.stablehlo")
    expected = model.features(model.params, noise(2))
    np.testing.assert_allclose(exported(noise(2)), expected, atol=1e-5)
    assert exported.about["output"] == {
        "of": "features", "dtype": "float32", "shape": ["B", 48]
    }  # fmt: skip


def test_the_file_says_what_it_needs(program):
    about = loader.load(program).about
    assert about["input"] == {"dtype": "uint8", "shape": ["B", 4, 32, 32, 3], "channels": "RGB"}
    assert about["sampling"]["stride"] == 4
    assert about["inside"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert about["output"]["shape"] == ["B", len(LABELS)]
    assert about["jax"] == jax.__version__


# ---- What cannot be run ----


def with_about(program, path, **changes):
    """A copy of the file that says something else of itself."""
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "about.json":
                content = json.dumps(json.loads(content) | changes)
            new.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"has format 2, this loader reads 1; it was written by vmae_jax"),
        ({"calling_convention": 10**6, "jax": "9.9"}, r"with jax 9\.9, .*too old .*update jax"),
        ({"calling_convention": 1}, "too new for it: export it again"),
        ({"weights": ["none"]}, "damaged; get it again"),
    ],
)
def test_other_versions_are_refused(program, tmp_path, changes, message):
    with pytest.raises(loader.ExportError, match=message) as found:
        loader.load(with_about(program, tmp_path / "other.stablehlo", **changes))
    assert str(found.value).startswith(str(tmp_path))
    assert "\n" not in str(found.value)


def test_a_damaged_file_never_answers_something_else(program, tmp_path):
    whole, video = program.read_bytes(), noise(1)
    expected = np.asarray(loader.load(program)(video))
    path = tmp_path / "damaged.stablehlo"
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in (0, 10, len(whole) // 2, len(whole) - 1)]
    headers = [m.start() + n for m in re.finditer(b"PK..", whole) for n in range(4, 12)]
    places = [*rng.integers(0, len(whole), 25), *rng.choice(headers, 25, replace=False)]
    for place in places:
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            exported = loader.load(path)
        except loader.ExportError:
            refused += 1
        else:  # a date, or another byte that nobody reads
            np.testing.assert_array_equal(exported(video), expected)
    assert refused >= 24


@pytest.mark.parametrize("content", [None, "folder", b"", b"<html>", b"\x93NUMPY\x01\x00"])
def test_what_is_no_such_file_is_one_line(tmp_path, content):
    path = tmp_path / "model.stablehlo"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(loader.ExportError, match=r"no such file|no exported model") as found:
        loader.load(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("wrong", [noise(1)[:, :2], noise(1)[:0], noise(1).astype(np.float32)])
def test_other_videos_are_refused(program, wrong):
    with pytest.raises(loader.ExportError, match=r"expected uint8 \[B, 4, 32, 32, 3\]"):
        loader.load(program)(wrong)


# ---- The command ----


def export(*args):
    return subprocess.run(
        [sys.executable, "-m", "vmae_jax.export", *map(str, args)],
        capture_output=True, text=True, env=ONE_DEVICE,
    )  # fmt: skip


def test_the_command(tmp_path):
    output = tmp_path / "new" / "model.stablehlo"
    done = export(f"--checkpoint={checkpoint(tmp_path)}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "checked  differs by 0.0e+00" in done.stdout
    assert loader.load(output).label_names == list(LABELS)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_what_is_wrong_is_one_line_before_anything_is_read():
    done = export("--checkpoint=none.pth", "--output=model.tflite")
    assert done.returncode == 1
    assert done.stderr == (
        "error: --output=model.tflite: expected a name ending in .stablehlo or .onnx\n"
    )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("there.onnx", {}, "exists; give another --output, or --overwrite for a file"),
        ("folder.onnx", {"overwrite": True}, "exists; give another"),
        ("model.onnx", {"features": True}, r"with --features or another --dtype write \.stablehlo"),
        ("model.onnx", {"dtype": "bfloat16"}, "ONNX holds classifiers in float32"),
    ],
)
def test_impossible_outputs_are_named(tmp_path, name, changes, message):
    (tmp_path / "there.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    given = {"features": False, "dtype": "float32", "overwrite": False} | changes
    with pytest.raises(model_lib.ModelError, match=message):
        command.check(str(tmp_path / name), **given)


def test_a_place_where_nothing_can_be_written_is_named(model, tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "model.stablehlo")
    with pytest.raises(model_lib.ModelError, match=r"model\.stablehlo: cannot be written \(.*\)$"):
        command.write(model, path, labels=None, features=False)


def test_a_pretrained_model_has_no_classes_to_export(tmp_path):
    model = model_lib.load(checkpoint(tmp_path, "pretrain"))
    with pytest.raises(model_lib.ModelError, match=r"is a classifier; .* export its --features"):
        command.write(model, str(tmp_path / "m.stablehlo"), labels=None, features=False)
    assert not (tmp_path / "m.stablehlo").exists()


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("json", "onnxscript_that_is_not_there"))
    with pytest.raises(ValueError, match=r"needs onnxscript_that_is_not_there: pip install"):
        onnx_file.write(model, str(tmp_path / "m.onnx"))


def test_large_models_keep_weights_beside_the_graph(model, tmp_path, monkeypatch):
    if onnx_file.missing():
        pytest.skip("needs the extra onnx")
    monkeypatch.setattr(onnx_file, "MAX_SINGLE", 1000)
    path = tmp_path / "model.onnx"
    onnx_file.write(model, str(path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    np.testing.assert_allclose(
        onnx_file.load(str(path))(noise(1)), model.apply(model.params, noise(1)), atol=1e-5
    )
