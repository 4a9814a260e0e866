r"""Throughput on this machine: python -m vmae_jax.bench [--parts=model,data,memory,export]

    model   training steps, beside Hugging Face's VideoMAE in PyTorch with --peer=eager,compiled
    data    decoded training clips from shards, beside PyAV on the original files
    memory  whether decoding for long takes more and more of it
    export  latency of a classifier, beside its exports and PyTorch (the extra onnx)

  python -m vmae_jax.bench --parts=model --variant=B --task=finetune --batch=4 --peer=eager
  python -m vmae_jax.bench --parts=model --variant=g --dtype=bfloat16 --batch=32 --remat=full
  python -m vmae_jax.bench --parts=data --cores=1 --json=data.json
  python -m vmae_jax.bench --parts=export --variant=B --batch=1

All sides of a comparison live in processes of their own and take turns, so that they meet the same
machine. A ratio is that of the first side to another, taken within each round; a range that crosses
1 is not resolved. Run it on idle cores.
"""

import dataclasses
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterable
from typing import Any

from absl import app, flags

from vmae_jax import command
from vmae_jax.bench import decoding, exported, training, turns
from vmae_jax.config import VARIANTS, ConfigError, MeshConfig, ModelConfig
from vmae_jax.data.cores import cores
from vmae_jax.export import onnx_file

PARTS = ("model", "data", "memory", "export")

_PARTS = flags.DEFINE_list("parts", ["model", "data"], f"Of {', '.join(PARTS)}.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")

_TASK = flags.DEFINE_enum("task", "pretrain", ["pretrain", "finetune"], "What the model trains.")
_VARIANT = flags.DEFINE_string("variant", "S", f"Model size: {', '.join(sorted(VARIANTS))}, ...")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the activations.")
_REMAT = flags.DEFINE_enum(
    "remat", "none", ["none", "dots", "full"],
    "What the backward pass computes again, to save memory: model.remat of recipes.",
)  # fmt: skip
_ATTENTION = flags.DEFINE_enum(
    "attention", "auto", ["auto", "cudnn", "xla"],
    "How, where there is a choice: model.attention of recipes. What ran is printed.",
)  # fmt: skip
_SIZE = flags.DEFINE_integer("image_size", 224, "Pixels of a side of the clips.")
_FRAMES = flags.DEFINE_integer("num_frames", 16, "Frames per clip.")
_BATCH = flags.DEFINE_integer(
    "batch", 4, "Clips per training step, or per call of export.", lower_bound=1
)
_FSDP = flags.DEFINE_integer("fsdp", 1, "Devices that share the parameters.", lower_bound=1)
_TENSOR = flags.DEFINE_integer("tensor", 1, "Devices that share each product.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 3, "Training steps per turn.", lower_bound=1)
_PEERS = flags.DEFINE_list(
    "peer", [], f"PyTorch beside it: {', '.join(training.PEERS)} (the extra torch)."
)

_VIDEOS = flags.DEFINE_string(
    "videos", None, "Original videos for data [a generated 10 s clip of 1280x720, GOP 250]."
)
_VIEWS = flags.DEFINE_integer("views", 4, "Augmented views of each decoded clip.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 0, "Cores for data; 0 = all.", lower_bound=0)
_CLIPS = flags.DEFINE_integer(
    "clips", 0, "Clips per turn of data [160], in all of memory [10000].", lower_bound=0
)


def bench_model() -> tuple[str, dict[str, Any], Iterable[str]]:
    model = ModelConfig(
        variant=_VARIANT.value, image_size=_SIZE.value, num_frames=_FRAMES.value,
        dtype=_DTYPE.value, remat=_REMAT.value, attention=_ATTENTION.value,
    )  # fmt: skip
    mesh = MeshConfig(fsdp=_FSDP.value, tensor=_TENSOR.value)
    work = training.Work(_TASK.value, model, _BATCH.value, _STEPS.value, mesh)
    result = turns.take_turns(training.sides(work, _PEERS.value), _ROUNDS.value)
    title = f"{work.task}: {_shape(model)}, {model.dtype}, batch {work.batch}, remat {model.remat}"
    return title, result, turns.table(title, result)


def bench_data() -> tuple[str, dict[str, Any], Iterable[str]]:
    model, count, clips = _clip(), _CORES.value or cores(), _CLIPS.value or 160
    with tempfile.TemporaryDirectory() as folder:
        dataset, files = decoding.prepare(folder, _VIDEOS.value)
        sides = decoding.sides(dataset, files, model, _VIEWS.value, count, clips)
        result = turns.take_turns(sides, _ROUNDS.value)
    title = f"data: {_shape(model)}, {_VIEWS.value} views of each clip, {count} cores"
    return title, result, turns.table(title, result)


def bench_memory() -> tuple[str, dict[str, Any], Iterable[str]]:
    model, count, clips = _clip(), _CORES.value or cores(), _CLIPS.value or 10_000
    with tempfile.TemporaryDirectory() as folder:
        dataset, _ = decoding.prepare(folder, _VIDEOS.value)
        found = turns.alone(decoding.memory, dataset, model, _VIEWS.value, count, clips)
    lines = [f"  after {n:6} clips {size / 2**20:9.1f} MiB" for n, size in found.items()]
    title = f"memory: {_shape(model)}, {_VIEWS.value} views of each clip, {count} threads"
    return title, {"resident_bytes": found}, [title, *lines]


def bench_export() -> tuple[str, dict[str, Any], Iterable[str]]:
    model = dataclasses.replace(_clip(), variant=_VARIANT.value, dtype="float32")
    result = turns.take_turns(exported.sides(model, _BATCH.value), _ROUNDS.value)
    title = f"latency: ViT-{model.variant}, {_shape(model)}, float32, {_BATCH.value} clips a call"
    return title, result, exported.table(title, result, _BATCH.value)


def _clip() -> ModelConfig:
    return ModelConfig(variant="S", image_size=_SIZE.value, num_frames=_FRAMES.value)


def _shape(model: ModelConfig) -> str:
    return f"{model.num_frames}x{model.image_size}x{model.image_size}"


def _check(argv: list[str]) -> None:
    allowed = {"--parts": (_PARTS.value, PARTS), "--peer": (_PEERS.value, training.PEERS)}
    for flag, (found, expected) in allowed.items():
        if unknown := set(found) - set(expected):
            raise app.UsageError(f"{flag}: {unknown.pop()}: expected some of {','.join(expected)}")
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]}: see --help")
    if _PEERS.value and not importlib.util.find_spec("transformers"):
        raise app.UsageError("--peer: there is no PyTorch here: pip install 'vmae_jax[torch]'")
    if "export" in _PARTS.value and (missing := onnx_file.missing()):
        raise app.UsageError(
            f"--parts=export: needs {', '.join(missing)}: pip install 'vmae_jax[onnx]'"
        )


def main(argv: list[str]) -> None:
    _check(argv)
    print(f"{cores()} cores, load {os.getloadavg()[0]:.1f} before the start", flush=True)
    benches = dict(zip(PARTS, (bench_model, bench_data, bench_memory, bench_export), strict=True))
    results = {}
    for part in _PARTS.value:
        title, result, lines = benches[part]()
        results[part] = {"what": title, **result}
        print("\n".join(lines), flush=True)
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump(results, file, indent=2)


def cli() -> None:
    command.run(main, (ConfigError, turns.SideError))


if __name__ == "__main__":
    cli()
