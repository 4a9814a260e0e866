"""Latency of a classifier as this package runs it, and as what it exports to."""

import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vmae_jax.bench.turns import Side, Turn, noted
from vmae_jax.config import ClassifierConfig, ModelConfig

NUM_CLASSES = 400
CALLS = 3  # of a turn


def sides(model: ModelConfig, batch: int) -> list[Side]:
    """Ours first; each on the same random weights."""
    return [
        Side(name, make, (model, batch))
        for name, make in (
            ("vmae_jax", ours),
            ("StableHLO, jax alone", stablehlo),
            ("ONNX Runtime", onnx),
            ("transformers, eager PyTorch", transformers),
        )
    ]


def table(title: str, result: dict[str, Any], batch: int) -> Iterable[str]:
    """Lines for a terminal."""
    yield title
    for name, entry in result.items():
        line = f"  {name:<30} {1000 * batch / entry['clips_per_second']:9.1f} ms"
        if ratio := entry.get("ratio"):
            low, high = ratio["range"]
            line += f"  {ratio['median']:5.2f} x the first ({low:.2f} to {high:.2f})"
        yield line
        yield from noted(entry)


def ours(config: ModelConfig, batch: int) -> Turn:
    from vmae_jax.models import attention

    model = _model(config)
    turn = _turn(lambda video: np.asarray(model.apply(model.params, video)), config, batch)
    return turn._replace(note=attention.said)


def stablehlo(config: ModelConfig, batch: int) -> Turn:
    from vmae_jax.export import loader, stablehlo

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.stablehlo")
        stablehlo.write(_model(config), path)
        model = loader.load(path)
    return _turn(lambda video: np.asarray(model(video)), config, batch)


def onnx(config: ModelConfig, batch: int) -> Turn:
    from vmae_jax.export import onnx_file

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        onnx_file.write(_model(config), path)
        run = onnx_file.load(path)
    return _turn(run, config, batch)


def transformers(config: ModelConfig, batch: int) -> Turn:
    import torch

    from vmae_jax.export import onnx_file

    module = onnx_file.torch_module(_model(config))

    def run(video: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(video)).numpy()

    return _turn(run, config, batch)


def _model(config: ModelConfig) -> Any:
    import jax
    from flax import nnx

    from vmae_jax import model as model_lib
    from vmae_jax.convert.load import Weights
    from vmae_jax.models.classifier import Classifier

    module = Classifier(config, ClassifierConfig(), NUM_CLASSES, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.split(module)[1])
    params = jax.tree.map(np.asarray, params)
    return model_lib.from_weights(Weights("classifier", config, params, (), "random", ()))


def _turn(run: Callable[[np.ndarray], Any], config: ModelConfig, batch: int) -> Turn:
    shape = (batch, config.num_frames, config.image_size, config.image_size, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def turn() -> int:
        for _ in range(CALLS):
            run(video)
        return batch * CALLS

    return Turn(turn)
