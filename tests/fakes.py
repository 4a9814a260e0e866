"""A stand-in for the data pipeline: random clips in an order that depends on the position alone."""

import dataclasses
from typing import ClassVar

import numpy as np

from vmae_jax.config import (
    AugmentConfig,
    ClassifierConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from vmae_jax.tasks.finetune import Finetune
from vmae_jax.tasks.pretrain import Pretrain

TINY = Config(
    model=ModelConfig(
        variant="64x4x2x128+32x2x2x64", patch_size=8, image_size=32, num_frames=8, dtype="float32"
    ),
    data=DataConfig(dataset="fake", batch_size=8, views=1),
    optim=OptimConfig(base_lr=3e-2, warmup_epochs=0.125, clip_norm=1.0),
    train=TrainConfig(steps=5, log_every=1, checkpoint_every=100, picture_every=0),
)
FINETUNE = dataclasses.replace(
    TINY,
    task="finetune",
    classifier=ClassifierConfig(num_classes=3, drop_path=0.0),
    augment=AugmentConfig(randaugment="", erase=0.0, mixup=0.0, cutmix=0.0),  # quick to compile
    optim=OptimConfig(base_lr=3e-2, warmup_epochs=0.125),
)


def with_settings(config: Config, **groups) -> Config:
    """A copy with some settings changed: with_settings(c, train={"steps": 3})."""
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            if isinstance(values, dict)
            else values
            for name, values in groups.items()
        },
    )


class FakeStream:
    num_videos = 64
    bad_records: ClassVar = {}

    def __init__(self, config: Config, start: int, fingerprint: str = "fake"):
        self.config, self.position, self.fingerprint = config, start, fingerprint

    def example(self, i: int) -> np.ndarray:
        model = self.config.model
        shape = (self.config.data.views, model.num_frames, model.image_size, model.image_size, 3)
        return np.random.default_rng(i % self.num_videos).integers(0, 256, shape, np.uint8)

    def __next__(self) -> dict[str, np.ndarray]:
        size = self.config.data.batch_size
        videos = [self.example(i) for i in range(self.position, self.position + size)]
        self.position += size
        return {"video": np.concatenate(videos), "record": np.arange(size)}

    def close(self) -> None:
        pass


class FakeDataTask(Pretrain):
    """Pre-training on fake clips."""

    fingerprint = "fake"

    def data(self, start=0, places=None) -> FakeStream:
        return FakeStream(self.config, start, self.fingerprint)


class FakeFinetune(Finetune):
    """Fine-tuning on fake clips, without evaluation."""

    def __init__(self, config: Config):
        super().__init__(config, tuple("abc"))

    def data(self, start=0, places=None) -> FakeStream:
        class Labelled(FakeStream):
            def __next__(self) -> dict[str, np.ndarray]:
                batch = super().__next__()
                return batch | {"label": (batch["record"] % 3).astype(np.int32)}

        return Labelled(self.config, start)

    def report(self, params, stream, mesh) -> tuple[dict, dict]:
        return {}, {}
