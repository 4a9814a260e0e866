"""Folders that other programs leave: the file in them that holds the weights."""

import glob
import os
from pathlib import Path

from vmae_jax.convert.rules import ConversionError, listed

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# What lies beside weights by these names: of DeepSpeed, PyTorch's FSDP, Trainer, Accelerate.
_BESIDE = ("optim", "sched", "scaler", "rng", "random_states", "training_args", "sampler")


def weights(folder: str) -> str:
    """The only file in a folder that can hold weights.

    Raises:
      ConversionError: if there is none or more than one, or if they are in parts that only the
        program that wrote them joins. Names what loads.
    """
    names = sorted(os.listdir(folder))
    _refuse_parts(folder, names)
    found = [name for name in names if _may_hold_weights(name)]
    if len(found) == 1:
        return os.path.join(folder, found[0])
    if found:
        raise ConversionError(
            f"{folder}: holds {len(found)} files that may be weights: give one of them, "
            f"{_paths(folder, found)}"
        )
    if deeper := below(folder):
        raise ConversionError(
            f"{folder}: holds no weights itself; give one of {_paths(folder, deeper)}"
        )
    _refuse_run(folder)
    raise ConversionError(
        f"{folder}: has no model.safetensors, pytorch_model.bin or other file of weights, and no "
        "checkpoints/ of a run; give a checkpoint file, a Hugging Face model directory or a "
        "--workdir"
    )


def _may_hold_weights(name: str) -> bool:
    """Whether a file can be one of weights, by its name."""
    return name.lower().endswith(_SUFFIXES) and not any(part in name.lower() for part in _BESIDE)


def below(folder: str) -> list[str]:
    """What may load in a folder and its subfolders, relative to it."""
    found = []
    for parent, subfolders, files in os.walk(folder):
        place = os.path.relpath(parent, folder)
        if place != "." and ("config.json" in files or "checkpoints" in subfolders):
            found.append(place)
            subfolders.clear()
            continue
        found += [os.path.join(place, name) for name in files if _may_hold_weights(name)]
        # As deep as the Hugging Face Hub's cache: snapshots/<revision>
        deep = place.count(os.sep) >= 1
        subfolders[:] = [] if deep else sorted(n for n in subfolders if not n.startswith("."))
    return sorted(found)


def _paths(folder: str, names: list[str]) -> str:
    return listed([os.path.join(folder, name) for name in names], 4)


def _refuse_parts(folder: str, names: list[str]) -> None:
    """Shards of one process each."""
    inside = glob.escape(folder)
    parts = glob.glob(os.path.join(inside, "*.distcp"))
    parts = parts or sorted(glob.glob(os.path.join(inside, "*", "*.distcp")))
    if parts:
        where = os.path.dirname(parts[0])
        raise ConversionError(
            f"{where}: is a checkpoint of torch.distributed (FSDP) in parts; join them with python "
            f"-m torch.distributed.checkpoint.format_utils dcp_to_torch {where} model.pth, and "
            "give that file"
        )
    if any(name.startswith("zero_pp_rank_") and "model_states" in name for name in names):
        raise ConversionError(
            f"{folder}: is a checkpoint of DeepSpeed's ZeRO 3 in parts; join them with the "
            "zero_to_fp32.py that DeepSpeed left beside it, and give what it writes"
        )


def _refuse_run(folder: str) -> None:
    """Folders within a run of this package: what was meant is the run."""
    path = Path(os.path.abspath(folder))
    for inside in (path, *path.parents)[:3]:
        if inside.name == "checkpoints" and any(step.name.isdigit() for step in inside.iterdir()):
            raise ConversionError(
                f"{folder}: lies in a run; give its --workdir {inside.parent}, of which the last "
                "checkpoint is read"
            )
