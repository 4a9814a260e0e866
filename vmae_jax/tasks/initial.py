"""The first weights of a run: config.init_from, fitted to the model of the recipe."""

import json
import logging
from typing import Any

import numpy as np

from vmae_jax.config import Config, ConfigError
from vmae_jax.convert import fit, load

log = logging.getLogger(__name__)


def weights(config: Config, like: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values of `config.init_from` by '/'-joined path, for parameters shaped as in `like`.

    What stays fresh, was left out or interpolated is logged.

    Raises:
      ConversionError: where the file cannot be read, or does not fit the recipe's model.
    """
    found = load.load(config.init_from)
    values, notes = fit.fit(found, like, config.model, label_map=label_map(config))
    log.info("%s: %s", config.init_from, found.source)
    for note in (*found.notes, *notes):
        log.info("  %s", note)
    return values


def label_map(config: Config) -> list[int] | None:
    """The rows of the source's head for each class, from the file classifier.label_map."""
    path = config.classifier.label_map
    if not path:
        return None
    try:
        with open(path) as file:
            rows = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.classifier.label_map = {path!r}: {error}") from error
    if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
        raise ConfigError(
            f"config.classifier.label_map = {path!r}: expected a JSON list of row numbers"
        )
    return rows
