"""Which layout a set of named tensors has, what model it is, and how large."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vmae_jax import config as config_lib
from vmae_jax.convert import rules, sizes
from vmae_jax.convert.files import PATCHES, Checked, Source, is_hugging_face, is_video_mae
from vmae_jax.convert.rules import ConversionError, listed, matches
from vmae_jax.convert.sizes import Overrides

WRAPPERS = ("_orig_mod.", "module.", "model.", "backbone.")  # compiled, parallel, wrapped models


@dataclasses.dataclass(frozen=True)
class Layout:
    """Tensors under the names of the table, and the model that they make."""

    kind: str  # pretrain, classifier, or encoder: neither decoder nor head
    name: str  # original, hugging_face or mmaction2
    described: str
    tensors: dict[str, Checked]
    model: config_lib.ModelConfig
    notes: tuple[str, ...]


def recognise(
    source: Source, *, drop: Iterable[str] = (), overrides: Overrides | None = None
) -> Layout:
    """Names, kind and sizes of a source.

    Args:
      drop: patterns (see `rules.matches`) of tensors to leave out, by their names without
        prefixes.

    Raises:
      ConversionError: if it is no VideoMAE, or one that this package's model cannot express.
    """
    notes = list(source.notes)
    tensors = _chosen(source, tuple(drop), notes)
    name, described = "original", "original layout"
    if is_hugging_face(tensors):
        new = any(n.endswith("attention.attention.query.bias") for n in tensors)
        name, described = "hugging_face", f"Hugging Face layout of transformers {5 if new else 4}"
    elif any(n.endswith("patch_embed.projection.weight") for n in tensors):
        name, described = "mmaction2", "layout of MMAction2"
    tensors = (_hugging_face_names if name == "hugging_face" else _original_names)(tensors)
    checked = {n: Checked(t, f"{source.path}: {n}") for n, t in tensors.items()}
    kind = _kind(checked, name)
    _drop_key_biases(checked, notes)
    _note_zero_biases(checked, notes)
    half = sorted({t.dtype for t in checked.values()} - {"float32"})
    if half:
        exact = "rounded" if "float64" in half else "exactly"
        notes.append(f"{' and '.join(half)} weights become float32 ({exact})")
    model, assumed = sizes.infer(checked, kind, name, source.settings, overrides or Overrides())
    return Layout(kind, name, described, checked, model, (*notes, *assumed))


def _chosen(source: Source, drop: tuple[str, ...], notes: list[str]) -> dict[str, Any]:
    """The tensors of the model under its own names, without those to drop."""
    tensors = _without_prefix(_unwrapped(source), notes)
    dropped = [name for name in tensors if matches(name, drop)]
    if dropped:
        notes.append(f"dropped as asked: {listed(dropped, 6)}")
    # What averaged models of PyTorch and mmengine count in; no parameter is a lone number.
    counts = [n for n in ("n_averaged", "steps") if n in tensors and not tensors[n].shape]
    notes += [f"{name}, a count of the averaging, left out" for name in counts]
    gone = {*dropped, *counts}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in gone}
    tensors = _without_prefix(tensors, notes)
    patches = [name for name in tensors if name.endswith(PATCHES)]
    if len(patches) > 1:
        raise ConversionError(
            f"{source.path}: holds several models, with {listed(patches, 4)}; leave out all but "
            "one: run python -m vmae_jax.convert --input=... --drop=... --output=..., then use its "
            "output"
        )
    return tensors


def _unwrapped(source: Source) -> dict[str, Any]:
    """The tensors without the prefixes that wrappers of a model put before its names."""
    found: dict[str, Any] = {}
    for full, tensor in source.tensors.items():
        name = full.replace("_orig_mod.", "")
        while name.startswith(WRAPPERS):
            name = name.split(".", 1)[1]
        if name in found:
            raise ConversionError(f"{source.path}: two tensors are called {name} without prefixes")
        found[name] = tensor
    if not is_video_mae(found):
        raise ConversionError(
            f"{source.path}: is no VideoMAE: it has no patch_embed.proj.weight, it holds "
            f"{listed(found, 5) or 'no tensor'}"
        )
    return found


def _without_prefix(tensors: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The tensors without what stands before the names of their only model, such as `vit.`."""
    patches = [name for name in tensors if name.endswith(PATCHES)]
    if len(patches) != 1:
        return tensors
    prefix = patches[0][: -len(next(end for end in PATCHES if patches[0].endswith(end)))]
    for own in ("encoder.", "embeddings.", "videomae."):  # of the layouts themselves
        prefix = prefix.removesuffix(own)
    renamed = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if not prefix or len(renamed) != len(tensors):
        return tensors
    notes.append(f"read without the prefix {prefix} of its names")
    return renamed


def _hugging_face_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Biases as transformers 4 named them; a bare VideoMAEModel gets its prefix."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(("embeddings.", "encoder.", "layernorm.")):
            name = f"videomae.{name}"
        name = name.replace("attention.attention.query.bias", "attention.attention.q_bias")
        name = name.replace("attention.attention.value.bias", "attention.attention.v_bias")
        if name in renamed:
            raise ConversionError(f"{name} is there in both namings of transformers")
        renamed[name] = tensor
    return renamed


def _has_decoder(names: Iterable[str]) -> bool:
    return any(n.startswith(("decoder.", "encoder_to_decoder.", "mask_token")) for n in names)


def _original_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Classifiers saved as backbones lose `encoder.`."""
    if _has_decoder(tensors):
        return dict(tensors)
    return {name.removeprefix("encoder."): tensor for name, tensor in tensors.items()}


def _kind(tensors: Mapping[str, Any], layout: str) -> str:
    if _has_decoder(tensors):
        return "pretrain"
    table = rules.rules_of("classifier", layout)
    head = next(rule.names[0] for rule in table if rule.path == "head/kernel")
    head = head.removesuffix("weight")
    return "classifier" if any(name.startswith(head) for name in tensors) else "encoder"


def _drop_key_biases(tensors: dict[str, Checked], notes: list[str]) -> None:
    names = [name for name in tensors if name.endswith("attention.attention.key.bias")]
    wrong = [name for name in names if np.asarray(tensors[name]).any()]
    if wrong:
        raise ConversionError(
            f"biases of keys are not zero: {listed(wrong, 3)}; softmax cancels them, so outputs do "
            "not change without them: run python -m vmae_jax.convert --input=... "
            "--drop='*.key.bias' --output=..., then use its output"
        )
    for name in names:
        del tensors[name]
    if names:
        notes.append(f"{len(names)} biases of keys, all zero, left out")


def _note_zero_biases(tensors: Mapping[str, Checked], notes: list[str]) -> None:
    """Nothing that was trained has them, but what transformers lost them of."""
    biases = [
        t for name, t in tensors.items() if name.endswith(("attention.q_bias", "attention.v_bias"))
    ]
    if biases and not any(np.asarray(bias).any() for bias in biases):
        notes.append(
            "all biases of queries and values are zero: transformers 5.5.1 to 5.17 reads public "
            "files so, and what it then saves has lost them"
        )
