"""Any checkpoint file or model directory as named tensors, whatever wrote it."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from vmae_jax import lists, special
from vmae_jax.convert import folders, torch_io
from vmae_jax.convert.rules import ConversionError, listed
from vmae_jax.models import layers

# Of a model directory; the first that is there.
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip
STATES = ("model", "module", "state_dict")  # what the weights of a .pth file lie under, if several
# What the patch embedding is called in the original layout, in MMAction2 and in transformers.
PATCHES = tuple(
    f"{name}.weight" for name in
    ("patch_embed.proj", "patch_embed.projection", "patch_embeddings.projection")
)  # fmt: skip
# safetensors' names; NumPy has bfloat16 through ml_dtypes.
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
FLAG = "--weights_key"
SETTINGS = "vmae_jax"  # key of a safetensors file's metadata
LARGEST = 1e6  # no weight comes near; a flipped exponent does


@dataclasses.dataclass(frozen=True)
class Source:
    """What a checkpoint holds, before any of it is understood."""

    path: str
    tensors: Mapping[str, Any]  # with .shape and .dtype, read by np.asarray
    described: str  # in words
    settings: Mapping[str, Any]  # what it says of its model, else config.json beside it, else {}
    notes: tuple[str, ...] = ()


class _SafeTensor:
    """A tensor of an open safetensors file, read when NumPy asks for it."""

    def __init__(self, file: Any, name: str):
        part = file.get_slice(name)
        dtype = str(part.get_dtype())
        self.dtype = np.dtype(FLOATS[dtype]) if dtype in FLOATS else dtype
        self.shape = tuple(part.get_shape())
        self._file, self._name = file, name

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self._file.get_tensor(self._name)
        return value if dtype is None else value.astype(dtype, copy=False)


class Checked:
    """A weight as float32; reading it refuses what no training leaves behind."""

    def __init__(self, tensor: Any, label: str):
        self.shape, self.dtype = tuple(tensor.shape), str(tensor.dtype)
        if self.dtype not in [np.dtype(known).name for known in FLOATS.values()]:
            raise ConversionError(f"{label} holds {self.dtype}, expected floating-point weights")
        self._tensor, self._label = tensor, label

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = np.asarray(self._tensor).astype(np.float32, copy=False)
        largest = np.abs(value).max(initial=0)
        if not largest <= LARGEST:
            raise ConversionError(
                f"{self._label} holds the value {largest}, which no trained weight has: the file "
                "is damaged, or its training diverged"
            )
        return value if dtype is None else value.astype(dtype, copy=False)


def read(path: str, key: str = "") -> Source:
    """The tensors of a .pth, .bin or .safetensors file, or of a Hugging Face directory.

    Args:
      key: what the weights lie under in a .pth or .bin file; "" = see `_entry`.

    Raises:
      ConversionError: if it is missing, damaged, foreign or unsafe.
      OSError: if it cannot be opened.
    """
    if os.path.isdir(path):
        return _directory(path, key)
    if not special.kind(path) and not os.path.exists(path):
        raise ConversionError(
            f"{path}: no such file or directory; expected a run's workdir, a .pth, .bin or "
            ".safetensors file, or a Hugging Face directory"
        )
    if re.search(r"-\d+-of-\d+\.\w+$", path):
        raise ConversionError(
            f"{path}: is a part of a model, expected all of it; give the folder that it lies in"
        )
    tensors, described, settings, notes = _file(path, key)
    if not settings and (_is_safetensors(path) or is_hugging_face(tensors)):
        settings = _config_beside(path)
    return Source(path, tensors, described, settings, (*notes, *_pixels_beside(path)))


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether tensors have the names that `transformers` gives them."""
    marks = (".attention.attention.", "patch_embeddings.projection")
    return any(mark in f".{name}" for name in names for mark in marks)


def is_video_mae(names: Iterable[Any]) -> bool:
    """Whether one of the names is that of a patch embedding."""
    return any(isinstance(name, str) and name.endswith(PATCHES) for name in names)


def _directory(path: str, key: str) -> Source:
    name = next((w for w in WEIGHTS if os.path.exists(os.path.join(path, w))), None)
    full = folders.weights(path) if name is None else os.path.join(path, name)
    if not full.endswith(".index.json"):
        tensors, described, settings, notes = _file(full, key)
        notes = notes if name else (f"the weights are those of {os.path.basename(full)}", *notes)
        settings = settings or _config_beside(full)
        notes += _pixels_beside(full)
        return Source(path, tensors, f"{described} of a directory", settings, notes)
    index = _json(full).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(v, str) for v in index.values()):
        raise ConversionError(f"{full}: has no weight_map")
    tensors = {}
    for shard in sorted(set(index.values())):
        if os.path.basename(shard) != shard:
            raise ConversionError(f"{full}: names {shard!r}, which is not a file beside it")
        found, described, _, _ = _file(os.path.join(path, shard), key)
        twice = found.keys() & tensors.keys()
        if twice or found.keys() != {n for n, s in index.items() if s == shard}:
            raise ConversionError(f"{full}: {shard} holds other tensors than the index says")
        tensors.update(found)
    described, notes = f"{described} in shards", _pixels_beside(full)
    return Source(path, tensors, described, _config_beside(full), notes)


def _file(path: str, key: str) -> tuple[dict[str, Any], str, Mapping[str, Any], tuple[str, ...]]:
    """Tensors, the file in words, the settings that it holds and notes."""
    special.check(path)
    if not os.path.exists(path):
        raise ConversionError(f"{path}: is named by the index, but is not there")
    _refuse_foreign(path)
    if _is_safetensors(path):
        if key:
            raise ConversionError(
                f"{path}: is safetensors, which holds nothing but weights; give no {FLAG}"
            )
        tensors, settings = _safetensors(path)
        return tensors, "safetensors", settings, ()
    content = torch_io.read(path)
    return _state(path, content, key)


def _refuse_foreign(path: str) -> None:
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        raise ConversionError(f"{path}: is empty; get it again")
    if start.startswith(b"version https://git-lfs"):
        raise ConversionError(f"{path}: is a Git LFS pointer, not the file; run git lfs pull")
    if not start.startswith((b"PK", b"\x80")) and not _is_safetensors(path):
        kind = "a web page" if start.lstrip()[:1] == b"<" else "neither .pth nor .safetensors"
        raise ConversionError(f"{path}: is {kind}; expected a PyTorch or safetensors checkpoint")


def _is_safetensors(path: str) -> bool:
    """By its content: the length of a JSON header, then the header."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and start[4:8] == b"\0\0\0\0"


def _safetensors(path: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Tensors, and the settings that this package writes beside them."""
    try:
        file = safetensors.safe_open(path, framework="np")  # open as long as its tensors are
        names = file.keys()
        settings = json.loads((file.metadata() or {}).get(SETTINGS, "{}"))
        tensors = {name: _SafeTensor(file, name) for name in names}
        return tensors, settings if isinstance(settings, dict) else {}
    except Exception as error:
        raise ConversionError(f"{path}: is damaged ({error}); get it again") from error


def _state(
    path: str, content: Any, key: str
) -> tuple[dict, str, Mapping[str, Any], tuple[str, ...]]:
    """The state dict in what torch.save was given."""
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: holds no dict of tensors")
    models = _models(content, set())
    under = _entry(path, content, models, key)
    state = models.get(under, content.get(under)) if under else content
    strange = [_word(k) for k, v in state.items() if not isinstance(v, torch_io.Tensor)]
    if (not under and strange) or not state:
        raise ConversionError(
            f"{path}: has no dict of tensors under {', '.join(STATES)}, nor is it one; it holds "
            f"{listed(map(_word, content), 10) or 'nothing'}"
        )
    if strange or not all(isinstance(name, str) for name in state):
        raise ConversionError(f"{path}: among its weights, {listed(strange)} are no tensors")
    args = content.get("args") if under else None
    notes = []
    others = [name for name in models if name != under]
    beside = [_word(k) for k in content if k not in (under.split(".")[0], "args")]
    if under and beside:
        notes.append(f"not read: {listed(beside, 10)} beside {under}")
    if others:
        notes.append(f"{listed(others, 10)} would be read with {FLAG}={others[0]}")
    settings = vars(args) if type(args).__name__ == "Namespace" else args
    described = f".pth ({under or 'bare'})"
    return state, described, settings if isinstance(settings, dict) else {}, tuple(notes)


def _models(content: dict, seen: set[int], deep: int = 2) -> dict[str, dict]:
    """The state dicts of a VideoMAE in a dict, by their keys, with dots where they lie deeper.

    Each dict is looked at once (`seen`): a small pickle can hold one a billion times.
    """
    found = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        if is_video_mae(value):
            found[_word(key)] = value
        elif deep:
            inner = _models(value, seen, deep - 1)
            found |= {f"{_word(key)}.{name}": state for name, state in inner.items()}
    return found


def _entry(path: str, content: dict, models: dict[str, dict], key: str) -> str:
    """What the weights lie under: `key`, else one of STATES, else the only entry with a model.

    "" where the content itself is the state dict.
    """
    if key:
        if key not in models and not isinstance(content.get(key), dict):
            found = listed(models, 10) or "nothing that is a model"
            raise ConversionError(f"{path}: {FLAG}={key}: is no dict of tensors; it has {found}")
        return key
    usual = [k for k in STATES if k in models]
    if not models or is_video_mae(content):
        return next((k for k in STATES if isinstance(content.get(k), dict)), "")
    if not usual and len(models) > 1:
        raise ConversionError(
            f"{path}: has several models, {listed(models, 10)}; name one, as "
            f"{FLAG}={next(iter(models))} (in recipes --config.weights_key)"
        )
    return usual[0] if usual else next(iter(models))


def _word(key: Any) -> str:
    """A key for a message; one of a foreign file may be anything."""
    return key[:100] if isinstance(key, str) else f"a key of type {type(key).__name__}"


def _config_beside(path: str) -> Mapping[str, Any]:
    path = os.path.join(os.path.dirname(path), "config.json")
    return _json(path) if os.path.exists(path) else {}


def _pixels_beside(path: str) -> tuple[str, ...]:
    """A note where transformers normalises pixels otherwise than this package, before the model."""
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        file = os.path.join(os.path.dirname(path), name)
        said = _json(file) if os.path.exists(file) else {}
        for key, ours in (("image_mean", layers.MEAN), ("image_std", layers.STD)):
            theirs = said.get(key)
            numbers = isinstance(theirs, list) and all(type(x) in (int, float) for x in theirs)
            rounded = [round(x, 3) for x in theirs] if numbers else theirs
            if theirs and rounded != [round(float(x), 3) for x in ours]:
                return (
                    f"{name} says {key} = {str(theirs)[:60]}: this package takes ImageNet's, and "
                    "its results differ from those of transformers",
                )
    return ()


def read_names(path: str) -> tuple[str, ...]:
    """Names of classes in their order; see `lists.class_names`.

    Raises:
      ConversionError: if the file is no such list.
    """
    try:
        return lists.class_names(path)
    except lists.ListError as error:
        raise ConversionError(str(error)) from None


def read_rows(path: str) -> list[int]:
    """A label map: a JSON list with a row of a head for each class.

    Raises:
      ConversionError: if the file is no such list.
    """
    try:
        rows = json.loads(lists.read(path))
    except lists.ListError as error:
        raise ConversionError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: is not JSON ({error})") from None
    valid = isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows)
    if not valid or not rows:
        raise ConversionError(f"{path}: expected a JSON list of row numbers")
    return rows


def _json(path: str) -> Mapping[str, Any]:
    try:
        special.check(path)
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (ValueError, RecursionError, OSError) as error:
        raise ConversionError(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: is not a JSON object")
    return content
