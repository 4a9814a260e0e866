"""A loaded checkpoint as a StableHLO program beside its weights; `loader` says what the file holds.

The weights are arguments of the program, as a ViT-g's 4 GB are more than jax.export can serialize
within one.
"""

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh

from vmae_jax import __version__, tree
from vmae_jax.export import loader
from vmae_jax.model import Model
from vmae_jax.models import layers

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    model: Model, path: str, *, label_names: Sequence[str] = (), features: bool = False
) -> None:
    """Writes the classifier with its preprocessing, or with `features` what its head would see.

    Raises:
      ModelError: where there is no head.
      OSError: where the file cannot be written.
    """
    program, weights = lower(model, features)
    about = describe(model, label_names, features)
    about |= {
        "jax": jax.__version__,
        "calling_convention": program.calling_convention_version,
        "platforms": list(program.platforms),
        "weights": sorted(weights),
    }
    with whole(path) as draft, zipfile.ZipFile(draft, "w") as file:
        file.writestr("about.json", json.dumps(about, indent=1, ensure_ascii=False))
        file.writestr("program.bin", bytes(program.serialize()))
        for name, value in weights.items():
            with file.open(f"weights/{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(value))


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """A draft of the same name to write; it, and what lies beside it, moves to its place after."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".vmae_jax-") as drafts:
        yield os.path.join(drafts, name)
        for draft in sorted(os.listdir(drafts), reverse=True):  # NAME.data before NAME
            os.replace(os.path.join(drafts, draft), os.path.join(folder, draft))


def lower(model: Model, features: bool) -> tuple[export.Exported, dict[str, jax.Array]]:
    """The program, a function of weights by name and uint8 [B, T, S, S, 3], and those weights."""
    run = model.features if features else model.apply
    names = tree.paths(model.params)
    structure = jax.tree.structure(model.params)

    def named(weights: dict[str, jax.Array], video: jax.Array) -> jax.Array:
        return run(jax.tree.unflatten(structure, [weights[name] for name in names]), video)

    weights = dict(zip(names, jax.tree.leaves(model.params), strict=True))
    video = jax.ShapeDtypeStruct((*export.symbolic_shape("B"), *video_shape(model)), np.uint8)
    # Attention has kernels for single platforms; this one has the way that suits all.
    anywhere = AbstractDevice(device_kind="any", num_cores=None, platform="cpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=anywhere)):
        program = export.export(jax.jit(named), platforms=PLATFORMS)(
            jax.eval_shape(lambda: weights), video
        )
    return program, weights


def describe(model: Model, label_names: Sequence[str], features: bool) -> dict[str, Any]:
    """What somebody needs who has the file alone."""
    c = model.config
    width = c.encoder.dim if features else model.num_classes
    return {
        "format": loader.FORMAT,
        "made_by": f"vmae_jax {__version__}",
        "model": f"VideoMAE ViT {c.variant}, computed in {c.dtype}",
        "input": {"dtype": "uint8", "shape": ["B", *video_shape(model)], "channels": "RGB"},
        "sampling": {
            "frames": c.num_frames, "sampling": model.sampling, "stride": model.stride,
            "crop": f"short side scaled to {c.image_size} pixels, square from the middle",
        },
        "inside": {"mean": layers.MEAN.tolist(), "std": layers.STD.tolist(), "of": "pixels / 255"},
        "output": {"of": "features" if features else "logits", "dtype": "float32",
                   "shape": ["B", width]},
        "label_names": [] if features else list(label_names),
    }  # fmt: skip


def video_shape(model: Model) -> tuple[int, ...]:
    size = model.config.image_size
    return model.config.num_frames, size, size, 3
