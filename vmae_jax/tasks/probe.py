"""Frozen evaluation: how much of the classes lies in an encoder's features as they are.

Linear and attentive probes are fine-tuning with a frozen encoder; k-NN learns nothing. Without
config.init_from the features are a random encoder's, the baseline that a pre-trained one has to
beat.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vmae_jax import evaluate, sharding, tree
from vmae_jax.config import Config
from vmae_jax.models.probe import AttentiveClassifier
from vmae_jax.tasks.finetune import Finetune

_ROWS = 256  # queries that are compared with all neighbours at a time


class Probe(Finetune):
    """Fine-tuning of a head on a frozen encoder; of `config.probe.kind`."""

    def __init__(self, config: Config, label_names: tuple[str, ...] = ()):
        head = dataclasses.replace(config.classifier, train_blocks=0, lora_rank=0, drop_path=0.0)
        super().__init__(dataclasses.replace(config, classifier=head), label_names)

    def _fresh(self, rngs: nnx.Rngs) -> nnx.Module:
        config = self.config
        if config.probe.kind != "attentive":
            return super()._fresh(rngs)
        return AttentiveClassifier(config.model, config.classifier, self.num_classes, rngs=rngs)

    def embed(self, params: dict[str, Any], views: jax.Array) -> jax.Array:
        """Views of one video uint8 [V, T, height, width, 3] -> mean of all tokens float32 [D]."""
        tokens = self.model(params).tokens(self.patches(views))
        return tokens.astype(jnp.float32).mean((0, 1))


def nearest_neighbors(config: Config) -> evaluate.Scores:
    """k-NN scores of the videos of `config.eval.split`, from those of `config.data.split`.

    The features of a video are the mean of the tokens of its central view, less the mean over the
    training videos, of length 1.

    Raises:
      ConfigError: where the data has no labels, or init_from does not fit.
      ConversionError, CheckpointError: where init_from cannot be read.
      TooManyBadRecords: past `data.max_bad_fraction`.
    """
    task, mesh = Probe.from_data(config), sharding.make_mesh(config.mesh)
    params = _first_params(task, mesh)

    def features(split: str) -> evaluate.Scores:  # with features in the place of probabilities
        of_split = dataclasses.replace(config, eval=dataclasses.replace(config.eval, split=split))
        scorer = evaluate.Scorer(task.embed, of_split, task.label_names)
        return scorer(params, mesh, views="center")

    known, asked = features(config.data.split), features(config.eval.split)
    mean = known.probabilities.mean(0)
    votes = neighbor_votes(
        _unit(known.probabilities - mean),
        known.labels,
        _unit(asked.probabilities - mean),
        task.num_classes,
        neighbors=config.probe.neighbors,
        temperature=config.probe.temperature,
    )
    failed = known.failed | asked.failed
    return dataclasses.replace(asked, probabilities=votes, failed=failed)


def _first_params(task: Probe, mesh: Mesh) -> dict[str, Any]:
    """Random parameters, or those of config.init_from; on every device."""
    on_all = sharding.replicated(mesh)
    params = jax.jit(task.init, out_shardings=on_all)(jax.random.key(task.config.seed))
    if not task.config.init_from:
        return params
    values = task.initial_weights(params)
    with_values = jax.tree.map_with_path(
        lambda path, fresh: values.get(tree.path_name(path), fresh), params
    )
    return jax.device_put(with_values, on_all)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def neighbor_votes(
    known: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    num_classes: int,
    *,
    neighbors: int,
    temperature: float,
) -> np.ndarray:
    """Share of each class in the votes of a query's nearest neighbours, f32 [n, C].

    A neighbour's vote counts exp(cosine similarity / temperature).

    Args:
      known: [m, D] of length 1, with their `labels` [m].
      queries: [n, D] of length 1.
      neighbors: asked per query, or all that are known if those are fewer.
    """
    shares = np.zeros((len(queries), num_classes), np.float32)
    asked = min(neighbors, len(known))
    for first in range(0, len(queries), _ROWS):
        similar = queries[first : first + _ROWS] @ known.T
        nearest = np.argpartition(-similar, asked - 1, axis=1)[:, :asked]
        close = np.take_along_axis(similar, nearest, axis=1)
        weight = np.exp((close - close.max(1, keepdims=True)) / temperature)
        rows = first + np.arange(len(similar))[:, None]
        np.add.at(shares, (rows, labels[nearest]), weight / weight.sum(1, keepdims=True))
    return shares
