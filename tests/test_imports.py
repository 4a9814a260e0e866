"""Imports go one way only, heavy packages stay where they belong, and starting loads none of them.

The floors are those that CONTRIBUTING.md explains.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "vmae_jax"

# From the top down. A module imports from lower floors, or from its own package on its own floor.
FLOORS = (
    ("demo", "export.__main__"),
    (
        "main",
        "bench",
        "plan",
        "predict",
        "features",
        "report",
        "study",
        "data.build.__main__",
        "data.curate",
    ),
    ("cli", "recipe_flag"),
    ("planner", "export"),
    ("train", "tasks", "model", "environment"),
    ("evaluate", "convert", "program"),
    ("checkpoint", "optim", "data.pipeline", "data.evaluation", "data.synthetic", "models"),
    ("data.build",),
    (
        "models.attention",
        "models.layers",
        "data.records",
        "data.shards",
        "data.clips",
        "data.augment",
        "data.views",
        "data.randaugment",
        "data.videos",
        "data.source",
        "data.timeline",
        "data.fields",
        "data.inputs",
        "data.hdr",
        "data.upright",
    ),
    ("data.cores", "sharding", "metrics", "viz", "feature_files", "class_order"),
    (
        "tree",
        "config",
        "hosts",
        "hlo",
        "hardware",
        "page",
        "command",
        "whole",
        "lists",
        "progress",
    ),
    ("special",),
)
FLOOR_OF = {name: -i for i, names in enumerate(FLOORS) for name in names}

# What a part of the package may never import, although its floor would allow it.
NEVER = {
    "": ("tensorflow", "clu.metric_writers", "clu.periodic_actions"),  # clu's two need TensorFlow
    "train": ("vmae_jax.models", "vmae_jax.tasks", "vmae_jax.data", "vmae_jax.viz"),
    "models": ("vmae_jax.data",),
    "optim": ("vmae_jax.data",),
    "export.loader": ("vmae_jax",),
    "data": ("jax", "flax", "optax", "orbax", "vmae_jax.models"),
}
# The only parts that may import a heavy package ...
ONLY_IN = {
    "torch": ("bench", "convert.torch_io", "convert.peer", "export.onnx_file"),
    "transformers": ("bench", "convert.torch_io", "convert.peer"),
    "tensorflow_datasets": ("data.build",),
    "tensorflow_datasets.proto": ("data.build", "data.clips"),
    "apache_beam": ("data.build", "data.curate"),
    "scenedetect": ("data.curate",),
    "onnxruntime": ("bench", "data.curate", "export.onnx_file"),
    "gradio": ("demo",),
}
# ... and those of them that are loaded only when they are needed.
INSIDE_FUNCTIONS = ("torch", "transformers", "apache_beam", "scenedetect", "onnxruntime", "gradio")


class Import(NamedTuple):
    """One imported name, as in `from a import b` -> a.b."""

    name: str
    line: int
    in_function: bool


def within(name: str, prefix: str) -> bool:
    """Whether a dotted name is `prefix` or lies under it; all names lie under ""."""
    return not prefix or name == prefix or name.startswith(prefix + ".")


def closest(name: str, prefixes) -> str | None:
    return max((p for p in prefixes if within(name, p)), key=len, default=None)


def imports(tree: ast.AST, in_function: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = "." * node.level + (node.module or "")
                yield Import(f"{module}.{alias.name}", node.lineno, in_function)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, in_function or function)


def complaint(module: str, found: Import) -> str | None:
    """What is wrong with an import in a module, named from the package's root; None if nothing."""
    name = found.name
    for part, banned in NEVER.items():
        if within(module, part) and closest(name, banned):
            return f"{part or 'this package'} never imports {closest(name, banned)}"
    heavy = closest(name, ONLY_IN)
    if heavy and not closest(module, ONLY_IN[heavy]):
        return f"only {' and '.join(ONLY_IN[heavy])} may import {heavy}"
    if heavy in INSIDE_FUNCTIONS and not found.in_function:
        return f"{heavy} is imported inside functions only"
    if name.startswith("."):
        return "imports are absolute"
    if not within(name, "vmae_jax") or name == "vmae_jax.__version__":
        return None
    target = name.removeprefix("vmae_jax").removeprefix(".")
    here, there = closest(module, FLOOR_OF), closest(target, FLOOR_OF)
    if here is None or there is None:
        return f"{target if there is None else module} has no floor yet: give it one in FLOORS"
    same_package = module.split(".")[0] == target.split(".")[0]
    if FLOOR_OF[there] < FLOOR_OF[here] or (same_package and FLOOR_OF[there] == FLOOR_OF[here]):
        return None
    return f"{here} lies below or beside {there}: imports go down only"


def complaints(module: str, source: str) -> list[str]:
    found = ((i.line, i.name, complaint(module, i)) for i in imports(ast.parse(source)))
    return [f"line {line}, {name}: {wrong}" for line, name, wrong in found if wrong]


def modules() -> dict[str, Path]:
    paths = {path: path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")}
    return {".".join(p.parts).removesuffix(".__init__"): path for path, p in paths.items()}


def test_the_package_keeps_the_rules():
    found = [
        f"{m}.py {c}" for m, path in modules().items() for c in complaints(m, path.read_text())
    ]
    assert not found, "\n".join(found)


def test_every_module_has_a_floor_and_every_floor_a_module():
    names = modules()
    assert {name for name in names if "." not in name} >= {"main", "train", "config"}
    no_code = {name for name, path in names.items() if path.name == "__init__.py"}
    assert not [n for n in names.keys() - no_code if closest(n, FLOOR_OF) is None]
    assert not FLOOR_OF.keys() - names.keys()


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("train", "from vmae_jax.models import mae", "train never imports vmae_jax.models"),
        ("train", "def f():\n    import vmae_jax.tasks.pretrain", "line 2, .*train never imports"),
        ("config", "from vmae_jax import train", "config lies below or beside train"),
        ("optim", "from vmae_jax import checkpoint", "optim lies below or beside checkpoint"),
        ("models.layers", "from vmae_jax.models import mae", "models.layers lies below or beside"),
        ("models.vit", "from vmae_jax.data import clips", "models never imports vmae_jax.data"),
        ("data.clips", "import jax.numpy as jnp", "data never imports jax"),
        ("data.build.tasks", "from flax import nnx", "data never imports flax"),
        ("data.clips", "import tensorflow_datasets as tfds", "only data.build may import"),
        ("data.clips", "from tensorflow_datasets import core", "only data.build may import"),
        ("data.pipeline", "def f(): import apache_beam", "only data.build and data.cur"),
        ("data.build.builder", "import apache_beam", "inside functions only"),
        ("convert.rules", "def f():\n    import torch", "only bench and convert"),
        ("bench", "import torch", "inside functions only"),
        ("bench", "def f():\n    import tensorflow as tf", "never imports tensorflow"),
        ("metrics", "from clu import metric_writers", "never imports clu.metric_writers"),
        ("train", "from . import optim", "absolute"),
        ("newcomer", "from vmae_jax import config", "newcomer has no floor"),
        ("main", "from vmae_jax import newcomer", "newcomer has no floor"),
        ("export.loader", "from vmae_jax import tree", "export.loader never imports vmae_jax"),
        ("demo.page", "import gradio", "inside functions only"),
    ],
)
def test_a_bad_import_is_found(module, source, wrong):
    (found,) = complaints(module, source)
    assert re.search(wrong, found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train", "import jax\nfrom vmae_jax import checkpoint, optim\nfrom clu import platform"),
        ("models.vit", "from vmae_jax.models import layers, masking"),
        ("data.clips", "from tensorflow_datasets.proto import tf_example_pb2"),
        ("data.build.builder", "import tensorflow_datasets\ndef f(): import apache_beam"),
        ("bench", "def f():\n    from torch import nn"),
        ("convert", "from vmae_jax import __version__"),
    ],
)
def test_a_good_import_is_left_alone(module, source):
    assert complaints(module, source) == []


def test_starting_to_train_loads_no_heavy_package():
    """Not through a library either. Only jax itself may take long to import."""
    modules = ("main", "train", "tasks.pretrain", "data.pipeline", "data.synthetic")
    heavy = ("tensorflow", "torch", "transformers", "apache_beam")
    lines = [f"import vmae_jax.{name}" for name in modules]
    lines += ["import sys", f"print(*sorted(set({heavy}) & set(sys.modules)))"]
    out = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == []
