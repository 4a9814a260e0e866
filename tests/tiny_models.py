"""Checkpoint files of random models that take no time, and a video to show them."""

import dataclasses
from pathlib import Path

import av
import jax
import numpy as np
from flax import nnx

from vmae_jax.config import ClassifierConfig, ModelConfig
from vmae_jax.convert.load import Weights, abstract
from vmae_jax.convert.save import save
from vmae_jax.data import synthetic
from vmae_jax.models import classifier, mae

CONFIG = ModelConfig(
    variant="48x2x3x96+24x1x2x48", image_size=32, num_frames=4, patch_size=8, dtype="float32"
)
LABELS = ("run", "jump", "sit", "lie", "fly", "swim")


def random_weights(kind: str = "classifier", labels: tuple[str, ...] = LABELS) -> Weights:
    """A classifier or a pre-trained model, every number of it its own."""
    variant = CONFIG.variant if kind == "pretrain" else CONFIG.variant.partition("+")[0]
    config = dataclasses.replace(CONFIG, variant=variant)

    def make() -> nnx.Module:
        if kind == "pretrain":
            return mae.MaskedAutoencoder(config, rngs=nnx.Rngs(0))
        return classifier.Classifier(config, ClassifierConfig(), len(LABELS), rngs=nnx.Rngs(0))

    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), abstract(make))
    return Weights(kind, config, params, labels, "random", ())


def checkpoint(folder: Path, kind: str = "classifier", labels: tuple[str, ...] = LABELS) -> str:
    """A safetensors file of such a model."""
    path = str(Path(folder, f"{kind}.safetensors"))
    save(random_weights(kind, labels if kind == "classifier" else ()), path, "original")
    return path


def write_video(path: Path, num_frames: int = 24, seed: int = 0) -> str:
    """A video file of 64x48 pixels in which everything moves."""
    rng = np.random.default_rng(seed)
    frames = synthetic.render("move_left", rng, size=(64, 48), num_frames=num_frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)
