"""Workdirs as runs leave them, written without running anything."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from data.tiny_dataset import clip, write_dataset
from etils import epath
from fakes import FINETUNE, TINY, with_settings

from vmae_jax import metrics, viz
from vmae_jax.config import to_dict
from vmae_jax.evaluate import Scores

STEPS = tuple(range(10, 210, 10))


def write_metrics(folder: Path, steps=STEPS, **changed) -> None:
    """metrics.jsonl; `changed` maps names to functions of the step."""
    functions = {
        "loss": lambda step: 2.0 / step, "grad_norm": lambda step: 1 + step % 7,
        "lr": lambda step: 1e-3 * step, "clips_per_second": lambda step: 100.0,
        "data_wait": lambda step: 0.25, "bad_records": lambda step: 0, "skipped": lambda step: 0,
    } | changed  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": s, **{name: f(s) for name, f in functions.items()}} for s in steps]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)


def write_checkpoint(folder: Path, config: dict, step: int = 200, **meta) -> None:
    """What a checkpoint says, without its arrays."""
    path = folder / "checkpoints" / str(step) / "meta" / "metadata"
    path.parent.mkdir(parents=True)
    versions = {"jax": "1.2.3"}
    meta = {"config": config, "examples": 1600, "fingerprint": "f00d", "versions": versions} | meta
    path.write_text(json.dumps(meta))


def write_pictures(folder: Path, step: int = 200, count: int = 6) -> Path:
    """A film and a sheet; the path of the film."""
    video = np.random.default_rng(step).integers(0, 256, (2, count, 16, 16, 3), np.uint8)
    film = viz.reconstruction_film(video, video / 255, 1 - video / 255)
    path = epath.Path(folder / "pictures")
    metrics.write_picture(path, f"reconstruction_{step:07}", film[0, ..., :3])
    return Path(metrics.write_picture(path, f"film_{step:07}", film))


def scores(ids, labels, taken, names=("walk", "jump", "sit"), failed=None) -> Scores:
    """Scores of which the first is the surest."""
    sure = np.linspace(0.9, 0.6, len(ids))
    probabilities = np.full((len(ids), len(names)), 0.0, np.float32)
    probabilities += ((1 - sure) / (len(names) - 1))[:, None]
    probabilities[np.arange(len(ids)), taken] = sure
    return Scores(tuple(ids), np.array(labels), probabilities, tuple(names), failed or {})


def write_scores(folder: Path, found: Scores) -> None:
    """eval/scores.npz and summary.json, whatever the scores hold."""
    (folder / "eval").mkdir(exist_ok=True)
    names = ("ids", "labels", "probabilities", "label_names")
    arrays = {name: np.array(getattr(found, name)) for name in names}
    np.savez(folder / "eval" / "scores.npz", **arrays)
    (folder / "eval" / "summary.json").write_text(json.dumps({"failed": found.failed}))


def pretraining(folder: Path, **settings) -> Path:
    """A finished pre-training run."""
    config = with_settings(TINY, **({"train": {"steps": 200}} | settings))
    write_metrics(folder)
    write_checkpoint(folder, to_dict(config))
    for step in (100, 200):
        write_pictures(folder, step)
    (folder / "parameters.txt").write_text("| a |\nTotal: 1,234,567 -- 4,938,268 bytes\n")
    return folder


def finetuning(
    folder: Path, found: Scores, dataset: str = "/nowhere", tested: Mapping[str, str] | None = None
) -> Path:
    """A finished fine-tuning run with its scores, perhaps of another data set."""
    data, test = {"dataset": dataset}, {"split": "train"}
    config = with_settings(FINETUNE, train={"steps": 200}, data=data, eval=test)
    write_metrics(folder)
    write_checkpoint(folder, to_dict(config), label_names=list(found.label_names))
    found.write(str(folder / "eval"), tested or {})
    return folder


def videos(folder: Path, ids) -> str:
    """A data set of one clip under many names."""
    records = [dataclasses.replace(clip(), id=name, label=0).serialize() for name in ids]
    return write_dataset(folder, records, shards=1, labels=("walk", "jump", "sit"))
