"""One table between the reference's PyTorch tensors and our parameter tree.

Every tensor must match exactly one rule, every parameter must be filled exactly once, and the
layers of a stack must be 0..L-1 without a gap; anything else is an error that lists what is wrong.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class ConversionError(ValueError):
    """Weights that do not fit; the message lists the tensors or parameters."""


class Rule(NamedTuple):
    pattern: str  # of the whole PyTorch name
    path: str  # ours; {stack} and {layer} are spelled out by the pattern's groups
    transform: Callable[[np.ndarray], np.ndarray]


class Place(NamedTuple):
    """Where a tensor lives in our tree: a '/'-joined path, and its layer in a stack (or None)."""

    path: str
    layer: int | None
    transform: Callable[[np.ndarray], np.ndarray]


def _same(w: np.ndarray) -> np.ndarray:
    return w


def _linear(w: np.ndarray) -> np.ndarray:  # [out, in] -> [in, out]
    return w.T


def _convolution(w: np.ndarray) -> np.ndarray:  # [D, channel, frame, row, column] -> [P, D]
    return w.transpose(2, 3, 4, 1, 0).reshape(-1, w.shape[0])


_BLOCK = r"(?P<tower>encoder|decoder)\.blocks\.(?P<layer>\d+)\."
_STACK = {"encoder": "encoder/tower/blocks", "decoder": "decoder/blocks"}
_NORM = {"encoder": "encoder/norm", "decoder": "norm"}

PRETRAIN_RULES = (
    Rule(r"encoder\.patch_embed\.proj\.weight", "encoder/patch_embed/linear/kernel", _convolution),
    Rule(r"encoder\.patch_embed\.proj\.bias", "encoder/patch_embed/linear/bias", _same),
    Rule(_BLOCK + r"(?P<name>norm[12])\.weight", "{stack}/{name}/scale", _same),
    Rule(_BLOCK + r"(?P<name>norm[12])\.bias", "{stack}/{name}/bias", _same),
    Rule(_BLOCK + r"attn\.(?P<name>[qv]_bias)", "{stack}/attn/{name}", _same),
    Rule(_BLOCK + r"attn\.(?P<name>qkv|proj)\.weight", "{stack}/attn/{name}/kernel", _linear),
    Rule(_BLOCK + r"attn\.(?P<name>proj)\.bias", "{stack}/attn/{name}/bias", _same),
    Rule(_BLOCK + r"mlp\.(?P<name>fc[12])\.weight", "{stack}/{name}/kernel", _linear),
    Rule(_BLOCK + r"mlp\.(?P<name>fc[12])\.bias", "{stack}/{name}/bias", _same),
    Rule(r"(?P<tower>encoder|decoder)\.norm\.weight", "{norm}/scale", _same),
    Rule(r"(?P<tower>encoder|decoder)\.norm\.bias", "{norm}/bias", _same),
    Rule(r"decoder\.head\.weight", "head/kernel", _linear),
    Rule(r"decoder\.head\.bias", "head/bias", _same),
    Rule(r"encoder_to_decoder\.weight", "to_decoder/kernel", _linear),
    Rule(r"mask_token", "mask_token", _same),
)


def locate(name: str, rules: tuple[Rule, ...] = PRETRAIN_RULES) -> Place:
    """The place of one PyTorch tensor.

    Raises:
      ConversionError: if not exactly one rule matches.
    """
    hits = [(match, rule) for rule in rules if (match := re.fullmatch(rule.pattern, name))]
    if len(hits) != 1:
        raise ConversionError(f"tensor {name!r} matches {len(hits)} conversion rules, expected 1")
    match, rule = hits[0]
    groups = match.groupdict()
    tower = groups.get("tower")
    path = rule.path.format(**groups, stack=_STACK.get(tower), norm=_NORM.get(tower))
    layer = groups.get("layer")
    return Place(path, None if layer is None else int(layer), rule.transform)


def from_torch(
    state_dict: Mapping[str, np.ndarray], like: Any, rules: tuple[Rule, ...] = PRETRAIN_RULES
) -> Any:
    """PyTorch tensors -> parameters in the structure, shapes and dtypes of `like`.

    Raises:
      ConversionError: naming every tensor or parameter that is left over, missing or misshapen.
    """
    single: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for name, tensor in state_dict.items():
        place = locate(name, rules)
        value = place.transform(np.asarray(tensor))
        if place.layer is None:
            single[place.path] = value
        else:
            stacks.setdefault(place.path, {})[place.layer] = value
    for path, layers in stacks.items():
        missing = sorted(set(range(max(layers) + 1)) - layers.keys())
        if missing:
            raise ConversionError(f"{path}: layers {missing} are missing from the checkpoint")
        single[path] = np.stack([layers[i] for i in range(len(layers))])

    wanted = {path_name(p): x for p, x in jax.tree.leaves_with_path(like)}
    problems = [f"missing {path}" for path in sorted(wanted.keys() - single.keys())]
    problems += [f"unexpected {path}" for path in sorted(single.keys() - wanted.keys())]
    problems += [
        f"{path}: checkpoint {single[path].shape}, model {x.shape}"
        for path, x in wanted.items()
        if path in single and single[path].size != x.size
    ]
    if problems:
        raise ConversionError("weights do not fit the model: " + "; ".join(problems))
    return jax.tree.map_with_path(
        lambda p, x: single[path_name(p)].reshape(x.shape).astype(x.dtype), like
    )


def path_name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
