"""Files that are unsafe, damaged or no checkpoint: one clear line, and nothing of them is run."""

import argparse
import builtins
import collections
import datetime
import fractions
import io
import os
import pathlib
import pickle
import struct
import types
import zipfile

import numpy as np
import pytest
import tiny_weights
import torch

from vmae_jax.config import ModelConfig
from vmae_jax.convert import load, rules, save, torch_io
from vmae_jax.convert.rules import ConversionError

TINY = ModelConfig(variant="16x1x2x24", image_size=8, num_frames=2, patch_size=4)


class Reduced:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Built:
    """A class of no checkpoint; its __setstate__ would run."""

    def __setstate__(self, state):
        raise AssertionError("code of a pickle was run")


@pytest.fixture
def state(tmp_path):
    """A classifier's state dict, as PyTorch tensors."""
    path = str(tmp_path / "good.pth")
    save.save(tiny_weights.random("classifier", TINY), path, "original")
    return torch.load(path, weights_only=True)["model"]


def refusal(path, **kwargs):
    with pytest.raises(ConversionError) as error:
        load.load(str(path), **kwargs)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("nested", ["alone", "in the state dict", "beside it"])
@pytest.mark.parametrize("kind", ["zip 2", "zip 4", "zip 5", "legacy 2", "legacy 4", "pickle 2"])
def test_a_pickle_that_calls_a_function_is_named_and_runs_nothing(tmp_path, state, nested, kind):
    trace = tmp_path / "trace"
    evil = Reduced(os.system, f"touch {trace}")
    content = {
        "alone": evil,
        "in the state dict": {"model": state | {"blocks.0.norm1.weight": evil}},
        "beside it": {"model": state, "args": argparse.Namespace(hook=[evil])},
    }[nested]
    path = tmp_path / "evil.pth"
    kind, protocol = kind.split()
    protocol = int(protocol)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content if nested == "alone" else {"args": evil}, protocol))
    else:
        zipped = kind == "zip"
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert f"{os.system.__module__}.system" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Reduced(builtins.eval, "1/0"), "builtins.eval"),
        (Reduced(getattr, {}, "pop"), "builtins.getattr"),
        (Reduced(builtins.exec, "raise SystemExit"), "builtins.exec"),
        (Reduced(torch.load, "other.pth"), "torch.serialization.load"),
        (Reduced(np.load, "other.npy"), "load"),
        (Built(), "Built"),
        (fractions.Fraction(1, 2), "fractions.Fraction"),
        (Reduced(os.path.expanduser, "~"), "expanduser"),  # of a module beside those of paths
        (Reduced(pathlib.Path.unlink, pathlib.Path("x")), "builtins.getattr"),  # a method of one
        (os.system, "system"),  # named, without a call
    ],
)
def test_anything_but_tensors_containers_and_settings_is_refused_by_name(
    tmp_path, state, content, name
):
    path = tmp_path / "evil.pth"
    if isinstance(content, Built):
        content.x = 1  # so that it has a state
    torch.save({"model": state, "extra": content}, path)
    message = refusal(path)
    assert name in message
    assert "only tensors, containers, NumPy scalars and argparse.Namespace" in message


def test_what_public_checkpoints_carry_is_read(tmp_path, state):
    """Settings, NumPy scalars and arrays, containers, an optimizer; both formats, all protocols."""
    wanted = load.load(str(tmp_path / "good.pth"))
    content = {
        "model": collections.OrderedDict(state),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(4)}}},
        "args": argparse.Namespace(
            num_frames=2, input_size=8, num_heads=2, lr=np.float64(1e-3), flag=np.bool_(True),
            betas=(0.9, np.float32(0.95)), table=np.arange(3), size=torch.Size([3]),
            device=torch.device("cpu"), dtype=torch.float32, names={"a"}, nothing=None,
            output_dir=pathlib.PosixPath("/x/y"), cache=pathlib.PureWindowsPath("c:/x"),
            started=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), day=datetime.date.today(),
            took=datetime.timedelta(seconds=3), milestones=collections.Counter([30, 60]),
            recent=collections.deque([1.0], maxlen=3), plan=types.SimpleNamespace(steps=3),
        ),
        "epoch": np.int64(3),
        "scaler": collections.defaultdict(dict, {"scale": 1.0}),
    }  # fmt: skip
    content["model"]._metadata = {"": {"version": 1}}
    for zipped in (True, False):
        for protocol in (2, 3, 4, 5):
            path = tmp_path / f"{zipped}{protocol}.pth"
            torch.save(
                content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol
            )
            found = load.load(str(path))
            tiny_weights.same(found, wanted)
            assert any("optimizer" in note for note in found.notes)


def test_paths_and_dates_are_never_made(tmp_path, state):
    """What stands for them keeps nothing and has none of their methods, whatever they are given."""
    for module, names in torch_io.INERT.items():
        for name in names:
            named = f"c{module}\n{name}\n".encode()
            # Called, made without a call, and filled in every way that a pickle has.
            for making in (b"X\1\0\0\0a\x85R", b"X\1\0\0\0a\x85\x81"):
                filling = b"NNs" + b"(NNu" + b"Na" + b"(Ne" + b"}X\1\0\0\0aNsb"
                made = torch_io._Unpickler(io.BytesIO(named + making + filling + b".")).load()
                assert type(made) is torch_io._Inert
                assert not vars(made)
    for name in (b"pathlib\nos", b"pathlib\nPath.home", b"datetime\nsys", b"types\nFunctionType"):
        with pytest.raises(ConversionError, match="nothing of it was run"):
            torch_io._Unpickler(io.BytesIO(b"c" + name + b"\n)R.")).load()
    path = tmp_path / "bad.pth"
    torch.save({"model": state | {"blocks.0.norm1.weight": pathlib.Path("x")}}, path)
    assert "blocks.0.norm1.weight are no tensors" in refusal(path)


def test_numpy_of_both_generations(tmp_path, state):
    """NumPy 1 pickled its scalars under numpy.core, NumPy 2 under numpy._core."""
    path = tmp_path / "scalar.pth"
    torch.save({"model": state, "args": {"num_heads": 2, "lr": np.float64(0.5)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: archive.read(e) for e in archive.infolist()}
    (name,) = (n for n in entries if n.endswith("data.pkl"))
    old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    assert old in entries[name] or new in entries[name]
    for ours, theirs in ((old, new), (new, old)):
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in entries.items():
                archive.writestr(entry, data.replace(ours, theirs) if entry == name else data)
        assert load.load(str(path)).kind == "classifier"


def test_shared_and_strided_tensors(tmp_path, state):
    """Views of one storage, transposed and with an offset."""
    wanted = load.load(str(tmp_path / "good.pth"))
    both = torch.stack([state["blocks.0.norm1.weight"], state["blocks.0.norm1.bias"]])
    state["blocks.0.norm1.weight"], state["blocks.0.norm1.bias"] = both[0], both[1]
    turned = state["blocks.0.mlp.fc1.weight"].T.contiguous().T
    state["blocks.0.mlp.fc1.weight"] = torch.nn.Parameter(turned)
    for zipped in (True, False):
        path = tmp_path / f"views{zipped}.pth"
        torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)
        found = load.load(str(path), heads=2, image_size=8, num_frames=2)
        np.testing.assert_equal(rules.flatten(found.params), rules.flatten(wanted.params))


def test_one_storage_of_all_tensors_is_read_once(tmp_path, state, monkeypatch):
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = flat.split([tensor.numel() for tensor in state.values()])
    views = [part.view(old.shape) for part, old in zip(parts, state.values(), strict=True)]
    path = tmp_path / "flat.pth"
    torch.save({"model": dict(zip(state, views, strict=True))}, path)
    read, read_all = [], zipfile.ZipFile.read
    monkeypatch.setattr(
        zipfile.ZipFile, "read", lambda file, name: read.append(name) or read_all(file, name)
    )
    found = load.load(str(path), heads=2, image_size=8, num_frames=2)
    assert len([name for name in read if "/data/" in name]) == 1
    wanted = load.load(str(tmp_path / "good.pth"))
    np.testing.assert_equal(rules.flatten(found.params), rules.flatten(wanted.params))


def test_a_file_that_shrinks_meanwhile_is_not_read_beyond_its_end(tmp_path, state):
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = torch_io.read(str(path))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ConversionError, match="became shorter"):
        _ = [np.asarray(tensor) for tensor in content.values()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither .pth nor .safetensors"),
        (b"\x80\x02" + bytes(50), "damaged"),
        (b"PK\x03\x04" + bytes(50), "archive without its end"),
        (pickle.dumps({"a": 1}), "not one of torch.save"),
        (b"\x80\x02r\xff\xff\xff\x7fN.", "damaged"),  # room for 2^31 memoised objects
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "damaged"),  # for 2^40 bytes
        (b"\x80\x02}N" + b"\x85" * 300_000 + b"Ns.", "damaged"),  # a key that overflows the stack
        (struct.pack("<Q", 2**31) + b'{"a"', "damaged"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        load.load(str(path))


def test_foreign_archives_and_dicts(tmp_path, state):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not one of torch.save" in refusal(path)
    torch.save({"epoch": 3, "state": [1]}, path)
    assert "holds epoch; state" in refusal(path)
    torch.save({"model": state | {"blocks.0.norm1.weight": 3}}, path)
    assert "blocks.0.norm1.weight are no tensors" in refusal(path)
    torch.save([1, 2], path)
    assert "no dict of tensors" in refusal(path)
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    assert "is no VideoMAE" in refusal(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript" in refusal(path)
    assert "no such file" in refusal(tmp_path / "nothing.pth")
    (tmp_path / "folder").mkdir()
    assert "model.safetensors" in refusal(tmp_path / "folder")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(10**6))
    path.write_bytes(archive.getvalue())
    assert "compressed" in refusal(path)


def test_what_a_pickle_says_is_neither_joined_nor_written_out(tmp_path):
    twice = b"ctorch\ndevice\n(h\x00h\x00tRq\x00"  # of the text before it
    pickled = b"\x80\x02X\x01\x00\x00\x00aq\x00" + twice * 60 + b"."
    assert len(torch_io._Unpickler(io.BytesIO(pickled)).load()) < 100

    path = tmp_path / "storage.pth"
    text = b"X\x01\x00\x00\x00a"
    for key, numbers in ((b"]", b"K\x01"), (text, text), (text, b"J\xff\xff\xff\xff")):
        storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + key + text + numbers + b"tQ"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\x02" + storage + b".")
        assert "no known type, name and size" in refusal(path)


def test_values_that_no_training_leaves_are_refused(tmp_path, state):
    path = tmp_path / "bad.pth"
    for value in (np.nan, np.inf, 1e30):
        state["blocks.0.norm1.bias"][3] = value
        torch.save({"model": state}, path)
        assert "blocks.0.norm1.bias holds the value" in refusal(path, heads=2)
    state["blocks.0.norm1.bias"] = torch.zeros(16, dtype=torch.int64)
    torch.save({"model": state}, path)
    assert "blocks.0.norm1.bias holds int64" in refusal(path, heads=2)


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path, state):
    path = tmp_path / "long.pth"
    state["blocks.0.norm1.bias"] = torch.zeros(1).expand(16)
    torch.save({"model": state}, path)
    assert "beyond its storage" in refusal(path)
