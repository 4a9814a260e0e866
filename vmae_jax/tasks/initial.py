"""The first weights of a run: config.init_from, fitted to the model of the recipe."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax import special
from vmae_jax.config import Config, ConfigError
from vmae_jax.convert import fit, load

log = logging.getLogger(__name__)


def weights(
    config: Config, like: dict[str, Any], label_names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Values of `config.init_from` by '/'-joined path, for parameters shaped as in `like`.

    What stays fresh, was left out or interpolated is logged. A head of as many classes is taken
    over only where the classes can be the same.

    Args:
      label_names: of the run's classes.

    Raises:
      ConversionError: where the file cannot be read, or does not fit the recipe's model.
    """
    found = load.load(config.init_from, weights_key=config.weights_key)
    log.info("%s: %s", config.init_from, found.source)
    rows = label_map(config)
    named = len(found.label_names) == len(label_names) > 0
    if named and rows is None and tuple(label_names) != found.label_names:
        if set(label_names) == set(found.label_names):
            rows = [found.label_names.index(name) for name in label_names]
        else:
            params = {k: v for k, v in found.params.items() if k != "head"}
            found = dataclasses.replace(found, kind="encoder", params=params)
            log.info("  its %d classes have other names: the head starts fresh", len(label_names))
    values, notes = fit.fit(found, like, config.model, label_map=rows)
    if found.kind == config.task == "pretrain":
        was, now = found.normalize_target, config.normalize_target
        notes += (f"normalize_target is {now}, the weights were made with {was}",) * (was != now)
    for note in (*found.notes, *notes):
        log.info("  %s", note)
    return values


def label_map(config: Config) -> list[int] | None:
    """The rows of the source's head for each class, from the file classifier.label_map."""
    path = config.classifier.label_map
    if not path:
        return None
    try:
        special.check(path)
        with open(path) as file:
            rows = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.classifier.label_map = {path!r}: {error}") from error
    if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
        raise ConfigError(
            f"config.classifier.label_map = {path!r}: expected a JSON list of row numbers"
        )
    return rows
