"""The teacher of distillation: a classifier from any checkpoint, which sees the student's clips."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from vmae_jax import evaluate, tree
from vmae_jax.config import (
    ClassifierConfig,
    Config,
    ConfigError,
    ModelConfig,
    tower_name,
    variant_of,
)
from vmae_jax.convert import fit, load
from vmae_jax.models import classifier, layers
from vmae_jax.tasks import initial

log = logging.getLogger(__name__)

RANDOM = "random"  # config.distill.teacher of those who only want to see a recipe run


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A classifier that is never trained. C classes, D its width."""

    model: ModelConfig
    params: Any  # nested dict of NumPy arrays, or of ShapeDtypeStructs in a plan
    label_names: tuple[str, ...] = ()  # () where unknown
    fingerprint: str = ""  # of the weights as they were read

    @property
    def num_classes(self) -> int:
        return self.params["head"]["bias"].shape[0]

    def __call__(self, params: Any, video: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalised video [B, T, height, width, 3] -> tokens [B, N, D], logits [B, C].

        No gradient passes through them.
        """
        graphdef, _ = nnx.split(nnx.eval_shape(_maker(self.model, self.num_classes)))
        module = nnx.merge(graphdef, params)
        patches = layers.patchify(video, self.model.tubelet_size, self.model.patch_size)
        tokens = module.tokens(patches)
        return jax.lax.stop_gradient((tokens, module.logits(module.pool(tokens))))

    def for_classes(self, names: Sequence[str], config: Config) -> "Teacher":
        """The same with the logits of those classes, in their order.

        Raises:
          ConfigError: where it does not know all of them.
        """
        path = config.distill.teacher
        if names and not self.label_names and path != RANDOM:
            hint = "vmae_jax.convert --labels=FILE makes a copy that has some"
            initial.say_unnamed(config, path, names, hint)
        if not (names and self.label_names):
            return self
        try:
            columns = evaluate.class_numbers(names, self.label_names)
        except ConfigError as error:
            raise ConfigError(f"config.distill.teacher = {path!r}: {error}") from error
        head = {name: x[..., columns] for name, x in self.params["head"].items()}
        params = {**self.params, "head": head}
        return dataclasses.replace(self, params=params, label_names=tuple(names))


def _maker(model: ModelConfig, num_classes: int) -> Callable[[], nnx.Module]:
    return lambda: classifier.Classifier(model, ClassifierConfig(), num_classes, rngs=nnx.Rngs(0))


def read(config: Config) -> Teacher:
    """The teacher of `config.distill`; of float32 but for the kernels, which are in `model.dtype`.

    Raises:
      ConfigError: where it is no classifier, or not one for the student's clips.
      ConversionError, CheckpointError: where it cannot be read.
    """
    path = config.distill.teacher
    if path == RANDOM:
        return _random(config)
    found = load.load(path, weights_key=config.distill.weights_key)
    if found.kind != "classifier":
        raise ConfigError(
            f"config.distill.teacher = {path!r} holds a {found.kind}, which has no head to teach "
            "with; fine-tune it first"
        )
    expected = config.distill.variant
    if expected and found.model.encoder != variant_of(expected).encoder:
        raise ConfigError(
            f"config.distill.variant = {expected!r}: {path} is a "
            f"{tower_name(found.model.encoder)}; give that, or '' to take what the file holds"
        )
    model = _on_clips_of(config, found.model)
    like = load.abstract(_maker(model, found.num_classes))
    values, notes = fit.fit(found, like, model)
    log.info("teacher %s: %s", path, found.source)
    for note in (*found.notes, *notes):
        log.info("  %s", note)
    params = jax.tree.map_with_path(lambda p, _: values[tree.path_name(p)], like)
    fingerprint = tree.fingerprint(found.params)
    return Teacher(model, _in_dtype(params, model), found.label_names, fingerprint)


def abstract(config: Config) -> Teacher:
    """The teacher's shapes, for as many classes as the student has.

    Nothing is read where `config.distill.variant` says what it is.

    Raises:
      ConfigError, ConversionError, CheckpointError: as `read`.
    """
    if config.distill.variant or config.distill.teacher == RANDOM:
        model = _named(config)
    else:
        found = load.load(config.distill.teacher, weights_key=config.distill.weights_key)
        model = _on_clips_of(config, found.model)
    like = load.abstract(_maker(model, config.classifier.num_classes))
    return Teacher(model, _in_dtype(like, model))


def _random(config: Config) -> Teacher:
    classes, model = config.classifier.num_classes, _named(config)
    if not classes:
        raise ConfigError(
            "config.classifier.num_classes = 0: neither the data nor a random teacher has classes "
            "to count; give their number"
        )
    params = nnx.to_pure_dict(nnx.split(_maker(model, classes)())[1])
    params = jax.tree.map(np.asarray, params)
    return Teacher(model, _in_dtype(params, model), (), tree.fingerprint(params))


def _named(config: Config) -> ModelConfig:
    """The model of config.distill.variant; the student's where that is not given."""
    model = config.model
    if config.distill.variant:
        model = ModelConfig(
            config.distill.variant, num_frames=model.num_frames, tubelet_size=model.tubelet_size
        )
    return _on_clips_of(config, model)


def _on_clips_of(config: Config, model: ModelConfig) -> ModelConfig:
    """A teacher's model with the student's frames, pixels and type of activations.

    Raises:
      ConfigError: where its patches do not divide them.
    """
    student = config.model
    try:
        return dataclasses.replace(
            model, image_size=student.image_size, num_frames=student.num_frames,
            dtype=student.dtype, remat="none", attention=student.attention,
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(
            f"config.distill.teacher = {config.distill.teacher!r} has to see the student's clips: "
            f"{error}"
        ) from error


def _in_dtype(params: Any, model: ModelConfig) -> Any:
    """The kernels of the encoder in the type that they are multiplied in, which halves them."""

    def leaf(path: tuple, x: Any) -> Any:
        name = tree.path_name(path)
        if not (name.startswith("encoder/") and name.endswith("/kernel")):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, model.dtype)
        return x.astype(jax.numpy.dtype(model.dtype))

    return jax.tree.map_with_path(leaf, params)
