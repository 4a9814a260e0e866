"""One table between our parameters and the tensors of PyTorch files, read in both directions.

A row names a parameter of ours, the tensor (or tensors, joined along their first axis) that hold it
in the original layout and in Hugging Face's, and how its axes are turned. MMAction2's layout is the
original one but for a few names. Every tensor fills one
parameter, every parameter is filled once, a stack has its layers 0..L-1; anything else is an error
that lists what is wrong.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vmae_jax import tree
from vmae_jax.config import ModelConfig

Names = tuple[str, ...]
STACKED = ".N."  # stands for the layer in the name of a stack's tensor


class ConversionError(ValueError):
    """Weights that cannot be read, written or fitted; the message is one line that lists why."""


class Transform(NamedTuple):
    """Turns a PyTorch tensor into ours, up to a reshape, and back exactly."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray, ModelConfig], np.ndarray]


def _convolution(w: np.ndarray) -> np.ndarray:  # [D, channel, frame, row, column] -> [P, D]
    return w.transpose(2, 3, 4, 1, 0).reshape(-1, w.shape[0])


def _to_convolution(w: np.ndarray, model: ModelConfig) -> np.ndarray:
    p = model.patch_size
    return w.reshape(model.tubelet_size, p, p, 3, -1).transpose(4, 3, 0, 1, 2)


VECTOR = Transform(np.ravel, lambda w, _: w.ravel())
LINEAR = Transform(np.transpose, lambda w, _: w.reshape(-1, w.shape[-1]).T)  # [out, in]
HEADS_OUT = Transform(np.transpose, lambda w, _: w.reshape(w.shape[0], -1).T)  # [D, ..., H, K]
CONVOLUTION = Transform(_convolution, _to_convolution)
TOKEN = Transform(np.ravel, lambda w, _: w.reshape(1, 1, -1))
TABLE = Transform(np.asarray, lambda w, _: w[None])


class Row(NamedTuple):
    """A parameter of ours ('/'-joined path) and the names of the tensors that hold it."""

    path: str
    original: Names
    hugging_face: Names
    transform: Transform


def _row(path: str, original: str, hugging_face: str, transform: Transform) -> Row:
    return Row(path, (original,), tuple(hugging_face.split()), transform)


def _affine(path: str, original: str, hugging_face: str, kernel: Transform | None = None):
    """The rows of a linear layer, or without `kernel` of a norm."""
    weight = "kernel" if kernel else "scale"
    return (
        _row(f"{path}/{weight}", f"{original}.weight", f"{hugging_face}.weight", kernel or VECTOR),
        _row(f"{path}/bias", f"{original}.bias", f"{hugging_face}.bias", VECTOR),
    )


# One block of either tower; `stacks` puts the prefixes before it.
_ATTENTION = "attention.attention"
_BLOCK = (
    *_affine("norm1", "norm1", "layernorm_before"),
    _row(
        "attn/qkv/kernel",
        "attn.qkv.weight",
        f"{_ATTENTION}.query.weight {_ATTENTION}.key.weight {_ATTENTION}.value.weight",
        HEADS_OUT,
    ),
    _row("attn/q_bias", "attn.q_bias", f"{_ATTENTION}.q_bias", VECTOR),
    _row("attn/v_bias", "attn.v_bias", f"{_ATTENTION}.v_bias", VECTOR),
    *_affine("attn/proj", "attn.proj", "attention.output.dense", LINEAR),
    *_affine("norm2", "norm2", "layernorm_after"),
    *_affine("fc1", "mlp.fc1", "intermediate.dense", LINEAR),
    *_affine("fc2", "mlp.fc2", "output.dense", LINEAR),
)


def _stack(path: str, original: str, hugging_face: str) -> tuple[Row, ...]:
    """The rows of a stack of blocks."""
    return tuple(
        Row(
            f"{path}/{row.path}",
            tuple(original + STACKED + name for name in row.original),
            tuple(hugging_face + STACKED + name for name in row.hugging_face),
            row.transform,
        )
        for row in _BLOCK
    )


_EMBEDDINGS = "videomae.embeddings"
_ENCODER = (
    *_affine(
        "encoder/patch_embed/linear",
        "encoder.patch_embed.proj",
        f"{_EMBEDDINGS}.patch_embeddings.projection",
        CONVOLUTION,
    ),
    _row("encoder/positions", "encoder.pos_embed", f"{_EMBEDDINGS}.position_embeddings", TABLE),
    *_stack("encoder/tower/blocks", "encoder.blocks", "videomae.encoder.layer"),
    *_affine("encoder/norm", "encoder.norm", "videomae.layernorm"),
)
_DECODER = (
    _row("to_decoder/kernel", "encoder_to_decoder.weight", "encoder_to_decoder.weight", LINEAR),
    _row("mask_token", "mask_token", "mask_token", TOKEN),
    *_stack("decoder/blocks", "decoder.blocks", "decoder.decoder_layers"),
    *_affine("norm", "decoder.norm", "decoder.norm"),
    *_affine("head", "decoder.head", "decoder.head", LINEAR),
)
_HEAD = (
    *_affine("norm", "fc_norm", "fc_norm"),
    *_affine("head", "head", "classifier", LINEAR),
)
# What MMAction2 calls otherwise than the original; it has no pre-training model.
_MMACTION2 = {
    "patch_embed.proj": "patch_embed.projection",
    "mlp.fc1": "mlp.layers.0.0",
    "mlp.fc2": "mlp.layers.1",
    "head.": "cls_head.fc_cls.",
}
# Of a pre-training model, and of anything else. `encoder.` is a prefix of the former alone.
_TABLES = {"pretrain": _ENCODER + _DECODER, "classifier": _ENCODER + _HEAD}


class Rule(NamedTuple):
    """A row of the table in one layout."""

    path: str
    names: Names
    transform: Transform


def rules_of(kind: str, layout: str) -> tuple[Rule, ...]:
    """The table for a kind (pretrain, classifier, encoder) in a layout.

    Args:
      layout: original, hugging_face or mmaction2 (without its prefix `backbone.`).
    """
    pretraining = kind == "pretrain"
    rules = []
    for row in _TABLES["pretrain" if pretraining else "classifier"]:
        names = row.hugging_face if layout == "hugging_face" else row.original
        if layout != "hugging_face" and not pretraining:
            names = tuple(name.removeprefix("encoder.") for name in names)
        if layout == "mmaction2":
            names = tuple(map(_mmaction2, names))
        rules.append(Rule(row.path, names, row.transform))
    return tuple(rules)


def _mmaction2(name: str) -> str:
    for original, other in _MMACTION2.items():
        name = name.replace(original, other)
    return name


PRETRAIN = rules_of("pretrain", "original")


class Place(NamedTuple):
    """Where one tensor lives in our tree: a '/'-joined path, and its layer in a stack (or None)."""

    path: str
    layer: int | None
    transform: Callable[[np.ndarray], np.ndarray]


def locate(name: str, rules: tuple[Rule, ...] = PRETRAIN) -> Place:
    """The place of the tensor called `name`.

    Raises:
      ConversionError: if the table does not know it.
    """
    for rule in rules:
        for known in rule.names:
            match = re.fullmatch(re.escape(known).replace(r"\.N\.", r"\.(\d+)\."), name)
            if match:
                layer = int(match[1]) if match.groups() else None
                return Place(rule.path, layer, rule.transform.ours)
    raise ConversionError(f"tensor {name!r}: no conversion rule knows it")


def to_torch(
    params: Mapping[str, Any], rules: tuple[Rule, ...], model: ModelConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters as named PyTorch tensors, one at a time; the inverse of `from_torch`.

    Raises:
      ConversionError: if a parameter has no name in this layout.
    """
    left = flatten(params)
    for rule in rules:
        if rule.path not in left:
            continue
        value = np.asarray(left.pop(rule.path))
        stacked = STACKED in rule.names[0]
        for layer, part in enumerate(value if stacked else [value]):
            tensors = np.split(rule.transform.theirs(part, model), len(rule.names))
            for name, tensor in zip(rule.names, tensors, strict=True):
                yield name.replace(STACKED, f".{layer}."), tensor
    if left:
        raise ConversionError(f"no tensor of this layout holds {', '.join(sorted(left))}")


def expected_shapes(
    like: Mapping[str, Any], rules: tuple[Rule, ...], model: ModelConfig
) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors that fill `like`; touches no memory."""
    empty = jax.tree.map(lambda x: np.empty(x.shape, np.float32), like)
    return {name: tensor.shape for name, tensor in to_torch(empty, rules, model)}


def from_torch(
    tensors: Mapping[str, Any],
    like: Mapping[str, Any],
    rules: tuple[Rule, ...],
    model: ModelConfig,
    allow_missing: Iterable[str] = (),
) -> dict[str, Any]:
    """PyTorch tensors -> parameters in the structure and shapes of `like`, as float32 arrays.

    Args:
      tensors: what NumPy turns into arrays; one parameter's at a time is read.
      like: nested dict whose leaves have a shape.
      allow_missing: patterns (see `matches`) of tensors whose parameter is then left out.

    Raises:
      ConversionError: naming every tensor that is left over, missing or misshapen.
    """
    shapes = expected_shapes(like, rules, model)
    problems = [f"unexpected {name}" for name in tensors if name not in shapes]
    missing = [name for name in shapes if name not in tensors]
    problems += [f"missing {name}" for name in missing if not matches(name, allow_missing)]
    problems += [
        f"{name} has shape {tuple(tensor.shape)}, expected {shapes[name]}"
        for name, tensor in tensors.items()
        if name in shapes and tuple(tensor.shape) != shapes[name]
    ]
    if problems:
        raise ConversionError(f"weights do not fit the model: {listed(problems)}")

    wanted = flatten(like)
    found = {}
    for rule in rules:
        if rule.path not in wanted:
            continue
        shape = wanted[rule.path].shape
        depth = shape[0] if STACKED in rule.names[0] else 1
        names = [[n.replace(STACKED, f".{i}.") for n in rule.names] for i in range(depth)]
        lacking = [n for layer in names for n in layer if n not in tensors]
        if len(lacking) == depth * len(rule.names):
            continue
        if lacking:
            raise ConversionError(
                f"weights do not fit the model: missing {listed(lacking)}, while the other parts "
                f"of {rule.path} are there; only whole parameters can be left out"
            )
        value = np.empty(shape, np.float32)
        for part, layer in zip(value.reshape(depth, -1), names, strict=True):
            joined = np.concatenate([np.asarray(tensors[n], np.float32) for n in layer])
            part[:] = rule.transform.ours(joined).ravel()
        found[rule.path] = value
    return unflatten(found)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern is the name, a leading part of it up to a dot, or a glob of all of it."""
    return any(name.startswith(p + ".") or fnmatch.fnmatchcase(name, p) for p in patterns)


def listed(items: Iterable[str], most: int = 20) -> str:
    """The items in one line, the first `most` of them spelled out."""
    items = list(items)
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict -> {'/'-joined path: leaf}."""
    return {tree.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return params
