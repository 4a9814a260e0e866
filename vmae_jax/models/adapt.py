"""Training a part of a classifier: what of it is frozen, and the plain tree of the result."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vmae_jax.config import ClassifierConfig

Tree = Mapping[str, Any]
TO_TEACHER = "to_teacher"  # beside the classifier: the map of its features to a teacher's width


def is_frozen(path: str, config: ClassifierConfig) -> bool:
    """Whether the classifier's parameter at a '/'-joined path keeps its value."""
    if not path.startswith("encoder/"):  # the final norm and the head always learn
        return False
    if config.lora_rank:
        return "_lora/" not in path
    return config.train_blocks >= 0 and not path.startswith("encoder/tower/")


def fold(params: Tree, config: ClassifierConfig) -> dict[str, Any]:
    """A trained classifier's tree (NumPy) -> the plain one.

    A single stack, no low-rank updates, nothing that only distillation needs.
    """
    params = {name: part for name, part in params.items() if name != TO_TEACHER}
    encoder = params["encoder"] = dict(params["encoder"])
    stacks = [encoder.pop(name)["blocks"] for name in ("stem", "tower") if name in encoder]
    stacks = [_without_lora(stack, config) for stack in stacks]
    encoder["tower"] = {"blocks": jax.tree.map(lambda *parts: np.concatenate(parts), *stacks)}
    return params


def _without_lora(blocks: Tree, config: ClassifierConfig) -> dict[str, Any]:
    attn = dict(blocks["attn"])
    for name in ("qkv", "proj"):
        update = attn.pop(f"{name}_lora", None)
        if update is not None:
            product = [np.tensordot(a, b, 1) for a, b in zip(update["a"], update["b"], strict=True)]
            scale = config.lora_alpha / config.lora_rank
            attn[name] = attn[name] | {"kernel": attn[name]["kernel"] + scale * np.stack(product)}
    return {**blocks, "attn": attn}
