"""Nested dicts of parameters: names of leaves, trees in two parts, what tells trees apart."""

from collections.abc import Callable, Mapping
from typing import Any

import google_crc32c
import jax
import numpy as np

Tree = Mapping[str, Any]


def path_name(path: tuple) -> str:
    """A key path of `jax.tree` functions, '/'-joined: encoder/patch_embed/linear/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def paths(tree: Tree) -> list[str]:
    """The '/'-joined path of every leaf."""
    return [path_name(path) for path, _ in jax.tree.leaves_with_path(tree)]


def partition(tree: Tree, is_frozen: Callable[[str], bool]) -> tuple[dict, dict]:
    """Nested dict -> what is trained, what is frozen; `join` is the inverse."""
    parts: tuple[dict, dict] = ({}, {})
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = path_name(path)
        *folders, last = name.split("/")
        place = parts[is_frozen(name)]
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return parts


def join(a: Tree, b: Tree) -> dict[str, Any]:
    """Both trees in one; no leaf is in both."""
    shared = {k: join(a[k], b[k]) for k in a.keys() & b.keys()}
    return {**a, **b, **shared}


def fingerprint(params: Tree) -> str:
    """Tells weights apart, whatever file they came from."""
    checksum = 0
    for path, leaf in jax.tree.leaves_with_path(params):
        checksum = google_crc32c.extend(checksum, path_name(path).encode())
        checksum = google_crc32c.extend(checksum, np.ascontiguousarray(leaf).tobytes())
    return f"{checksum:08x}"
