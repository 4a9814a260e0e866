"""Fine-tuning: labelled clips, a classifier on the pre-trained encoder, soft targets."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from vmae_jax import checkpoint, evaluate, lists, tree
from vmae_jax.config import (
    Config,
    ConfigError,
    ModelConfig,
    differences,
    for_platform,
    from_config_dict,
)
from vmae_jax.convert.load import Weights
from vmae_jax.data import pipeline
from vmae_jax.data.records import DatasetError, open_dataset
from vmae_jax.models import adapt, classifier, layers, mixing
from vmae_jax.tasks import initial

log = logging.getLogger(__name__)


class Finetune:
    """The task of VideoMAE V2's later stages; see `program.Task` for the interface.

    `config.classifier.num_classes` has to be known: `from_data` counts the classes of a data set.
    """

    inputs: tuple[str, ...] = ("video", "label")
    teacher: Any = None

    def __init__(self, config: Config, label_names: tuple[str, ...] = ()):
        self.config = config = for_platform(config, jax.default_backend())
        self.label_names = label_names
        self.report_every = config.eval.every
        self.meta: Mapping[str, Any] = {"label_names": list(label_names)}
        self.num_classes = config.classifier.num_classes
        self.flops_per_clip = classifier.training_flops(
            config.model, config.classifier, self.num_classes
        )
        model = nnx.eval_shape(lambda: self._fresh(nnx.Rngs(0)))
        self._graphdef, _ = nnx.split(model)

    @classmethod
    def from_data(cls, config: Config) -> "Finetune":
        """The task of a labelled data set.

        Raises:
          ConfigError: where it has no labels, or another number of classes than the recipe.
        """
        names = open_dataset(config.data.dataset, config.data.split).label_names
        if not names:
            raise ConfigError(
                f"config.data.dataset = {config.data.dataset!r}: its videos have no labels; build "
                "it with --labels=folders or a CSV"
            )
        asked = config.classifier.num_classes
        if asked not in (0, len(names)):
            raise ConfigError(
                f"config.classifier.num_classes = {asked}: {config.data.dataset} holds "
                f"{len(names)} classes ({lists.shown(names)}); set it to {len(names)}, or to "
                "0 to count them"
            )
        check_evaluation(config, names)
        counted = dataclasses.replace(config.classifier, num_classes=len(names))
        return cls(dataclasses.replace(config, classifier=counted), tuple(names))

    def _fresh(self, rngs: nnx.Rngs) -> nnx.Module:
        config = self.config
        return classifier.Classifier(config.model, config.classifier, self.num_classes, rngs=rngs)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters as a nested dict of float32 arrays."""
        return nnx.to_pure_dict(nnx.split(self._fresh(nnx.Rngs(key)))[1])

    def model(self, params: dict[str, Any]) -> classifier.Classifier:
        return nnx.merge(self._graphdef, params)

    def is_frozen(self, path: str) -> bool:
        return adapt.is_frozen(path, self.config.classifier)

    def initial_weights(self, like: dict[str, Any]) -> dict[str, np.ndarray]:
        return initial.weights(self.config, like, self.label_names)

    def patches(self, video: jax.Array) -> jax.Array:
        """Pixels [B, T, height, width, 3] -> [B, N, P]."""
        return layers.patchify(video, self.config.model.tubelet_size, self.config.model.patch_size)

    def loss_fn(
        self, params: dict[str, Any], batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Cross-entropy with soft targets, and the clips that it is the mean of.

        Args:
          batch: video uint8 [B, T, height, width, 3] and label int32 [B].
        """
        video, targets, key = self.augmented(batch, key)
        logits = self.model(params)(self.patches(video), key)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        return loss, jnp.float32(len(video))

    def augmented(
        self, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Erased and mixed: video normalised [B, T, height, width, 3], targets [B, C].

        The third is the key that is left for the model.
        """
        augment, head = self.config.augment, self.config.classifier
        erase_key, mix_key, model_key = jax.random.split(key, 3)
        video = layers.normalize_pixels(batch["video"])
        targets = mixing.smooth(batch["label"], self.num_classes, head.label_smoothing)
        if augment.erase:
            video = mixing.erase(erase_key, video, augment.erase)
        video, targets = mixing.mix(mix_key, video, targets, augment)
        return video, targets, model_key

    def probabilities(self, params: dict[str, Any], views: jax.Array) -> jax.Array:
        """Views of one video uint8 [V, T, height, width, 3] -> mean softmax float32 [C]."""
        return jax.nn.softmax(self.model(params)(self.patches(views))).mean(0)

    def data(self, start: int = 0, places: Sequence[int] | None = None) -> pipeline.ClipStream:
        return pipeline.open_clips(self.config, places=places, start=start)

    @functools.cached_property
    def _score(self) -> evaluate.Scorer:
        return evaluate.Scorer(self.probabilities, self.config, self.label_names)

    def report(
        self, params: dict[str, Any], stream: pipeline.ClipStream, mesh: Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Accuracy on one central view of each video of `config.eval.split`."""
        if not (self.config.eval.split and self.config.eval.every):
            return {}, {}
        scores = self._score(params, mesh, views="center")
        return {f"{self.config.eval.split}_{k}": v for k, v in scores.summary().items()}, {}

    def test(self, params: Any, mesh: Mesh) -> evaluate.Scores:
        """Multi-view scores of every video of `config.eval.split`."""
        return self._score(params, mesh)


def check_evaluation(config: Config, names: Sequence[str]) -> None:
    """Raises ConfigError where the run could not be evaluated at its end."""
    if not config.eval.split:
        return
    try:
        held_out = open_dataset(config.data.dataset, config.eval.split).label_names
    except DatasetError as error:
        raise ConfigError(
            f"config.eval.split = {config.eval.split!r}: {error}; hold videos out with "
            "data.build --split=train:0.9,val:0.1, or set eval.split to '' to train without"
        ) from error
    evaluate.class_numbers(held_out, names)


def trained(
    config: Config, workdir: str, make: Callable[..., Finetune] = Finetune
) -> tuple[Finetune, dict[str, Any]]:
    """The classifier of the workdir's last checkpoint, or else of config.init_from.

    Its model is the checkpoint's; data and evaluation are the recipe's.

    Raises:
      ConfigError: where there is neither, or init_from is no classifier.
      CheckpointError, ConversionError: where it cannot be read.
    """
    if checkpoint.exists(workdir):
        meta, params = checkpoint.load_params(workdir)
        saved = from_config_dict(meta["config"])
        if saved.task != config.task:
            raise ConfigError(
                f"{workdir} holds a run with task = {saved.task!r}, the recipe has "
                f"{config.task!r}; evaluate it with its own recipe, or use a new --workdir"
            )
        log.info("evaluating the last checkpoint of %s", workdir)
        model = _as_trained(saved.model, config.model)
        same = {"model": model, "classifier": saved.classifier, "probe": saved.probe}
        names = tuple(meta["label_names"])
        if not names:  # of a teacher that named none
            names = _of_data(config, saved.classifier.num_classes, workdir)
            hint = f"--config.init_from={workdir} --config.init_labels=FILE names them"
            initial.say_unnamed(config, workdir, names, hint)
        return make(dataclasses.replace(config, **same), names), params
    if not config.init_from:
        raise ConfigError(
            f"nothing to evaluate: {workdir} has no checkpoint; train first, or give a classifier "
            "as --config.init_from"
        )
    found = initial.source(config)
    if found.kind != "classifier":
        raise ConfigError(
            f"config.init_from = {config.init_from!r} holds a {found.kind}, which has no head to "
            "evaluate; fine-tune it first (--config.mode=train)"
        )
    log.info("evaluating %s", config.init_from)
    names, rows = _tested(config, found)
    head = dataclasses.replace(
        config.classifier, num_classes=len(names), label_map=rows, train_blocks=-1, lora_rank=0
    )
    # Norms differ by layout in what they add to the variance: the file's is part of its model.
    model = dataclasses.replace(
        config.model, norm_eps=found.model.norm_eps, head_norm_eps=found.model.head_norm_eps
    )
    task = make(dataclasses.replace(config, model=model, classifier=head), names)
    like = jax.eval_shape(task.init, jax.random.key(0))
    values = task.initial_weights(like)
    fresh = sorted(set(tree.paths(like)) - set(values))
    if fresh:
        raise ConfigError(
            f"config.init_from = {config.init_from!r} has no {', '.join(fresh)}, which this recipe "
            "would have to train first (--config.mode=train)"
        )
    return task, jax.tree.map_with_path(lambda path, _: values[tree.path_name(path)], like)


def _tested(config: Config, found: Weights) -> tuple[tuple[str, ...], str]:
    """Names of a file's classes that are tested, and classifier.label_map where it selects them.

    Raises:
      ConfigError: where the classes have no names of their own, nor are they the data's.
    """
    label_map, classes = config.classifier.label_map, found.num_classes
    if label_map:
        names = open_dataset(config.data.dataset, config.eval.split).label_names
        same = classes == len(names)
        # The map that a recipe names may not be there: who only tests a head of the end needs none.
        rows = [] if same and not os.path.exists(label_map) else initial.label_map(config)
        selects = max(rows, default=classes) < classes
        if len(rows) == len(names) and (selects or not same):  # compared with the weights taken
            return names, label_map
        if selects and not same:
            return initial.named_rows(config, found, rows) or names, label_map
        log.warning(
            "config.classifier.label_map = %r: is left out: it does not lead from the %d classes "
            "of %s to the %d of %s",
            label_map, classes, config.init_from, len(names), config.data.dataset,
        )  # fmt: skip
    return found.label_names or _of_data(config, classes, config.init_from), ""


def _of_data(config: Config, classes: int, head: str) -> tuple[str, ...]:
    """The data's classes, for a head of as many that does not name them."""
    data = config.data.dataset
    names = pipeline.open_labelled(data, config.eval.split).label_names
    if classes != len(names):
        raise ConfigError(
            f"{head} tells {classes} classes apart, which it does not name; {data} has "
            f"{len(names)} ({lists.shown(names)}): with config.init_from={head}, select "
            "their rows by config.classifier.label_map (label_710to400.json and the like of "
            "VideoMAE V2), or name all classes by config.init_labels"
        )
    return names


def _as_trained(saved: ModelConfig, asked: ModelConfig) -> ModelConfig:
    """The checkpoint's model, computed as the recipe asks; says which settings do not count."""
    machine = {key: getattr(asked, key) for key in ("dtype", "remat", "attention")}
    model = dataclasses.replace(saved, **machine)
    for key, (found, wanted) in differences(
        dataclasses.asdict(model), dataclasses.asdict(asked)
    ).items():
        log.warning("config.model.%s = %r: the checkpoint has %r, which counts", key, wanted, found)
    return model
