"""A classifier with its preprocessing as ONNX, by way of the PyTorch layout.

Tools that turn JAX or StableHLO into ONNX are young and know few operations; PyTorch's exporter is
kept by both projects, and the layout is tested against `transformers` anyway.
"""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vmae_jax.convert import peer
from vmae_jax.convert.load import Weights
from vmae_jax.convert.rules import ConversionError
from vmae_jax.export import stablehlo
from vmae_jax.model import Model
from vmae_jax.models import layers

PACKAGES = ("torch", "transformers", "onnxscript", "onnxruntime")
MAX_SINGLE = 1_900_000_000  # bytes of a single file; protobuf ends at 2 GiB


def write(model: Model, path: str, *, label_names: Sequence[str] = ()) -> None:
    """Writes uint8 `video` [B, T, S, S, 3] -> float32 `logits` [B, C], any B.

    The metadata have `about`, the JSON of `stablehlo.describe`. Beyond 1.9 GB the weights lie
    beside it, in PATH.data.

    Raises:
      ModelError: where there is no head.
      ConversionError: where a package is missing, or transformers does not hold the model.
    """
    about = stablehlo.describe(model, label_names, features=False)
    if missing():
        raise ConversionError(
            f"{path}: an .onnx file needs {', '.join(missing())}: pip install 'vmae_jax[onnx]'"
        )
    import torch

    clips = torch.zeros(2, *about["input"]["shape"][1:], dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            torch_module(model),
            (clips,),
            dynamo=True,
            input_names=["video"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("B")},),
            verbose=False,
        )
    program.model.metadata_props["about"] = json.dumps(about, ensure_ascii=False)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    with stablehlo.whole(path) as draft:
        program.save(draft, external_data=size > MAX_SINGLE)


def missing() -> list[str]:
    """The packages that are needed and not installed."""
    return [name for name in PACKAGES if not importlib.util.find_spec(name)]


def torch_module(model: Model) -> Any:
    """A classifier as a PyTorch module of uint8 [B, T, S, S, 3] -> logits [B, C]."""
    import torch

    params = jax.device_get(model.params)
    weights = Weights("classifier", model.config, params, (), model.source, ())

    class Program(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = peer.classifier(weights)
            self.register_buffer("mean", torch.from_numpy(layers.MEAN.copy()))
            self.register_buffer("std", torch.from_numpy(layers.STD.copy()))

        def forward(self, video: torch.Tensor) -> torch.Tensor:
            pixels = (video.to(torch.float32) / 255 - self.mean) / self.std
            return self.classifier(pixel_values=pixels.permute(0, 1, 4, 2, 3)).logits

    return Program().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that this model does not need."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Such a file in ONNX Runtime on the CPU: uint8 [B, T, S, S, 3] -> logits [B, C]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda video: session.run(["logits"], {"video": video})[0]
