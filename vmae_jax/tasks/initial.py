"""The first weights of a run: config.init_from, fitted to the model of the recipe."""

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax import class_order, lists
from vmae_jax.config import Config, ConfigError
from vmae_jax.convert import files, fit, load
from vmae_jax.convert.load import Weights
from vmae_jax.convert.rules import ConversionError
from vmae_jax.data import records

log = logging.getLogger(__name__)


def source(config: Config) -> Weights:
    """`config.init_from`, with the classes' names of `config.init_labels`.

    Raises:
      ConfigError: where these are not names of its classes.
      ConversionError, CheckpointError: where one of the two cannot be read.
    """
    found = load.load(config.init_from, weights_key=config.weights_key)
    if not config.init_labels:
        return found
    names = files.read_names(config.init_labels)
    key = f"config.init_labels = {config.init_labels!r}"
    if len(names) != found.num_classes:
        raise ConfigError(
            f"{key}: names {len(names)} classes, {config.init_from} "
            f"has {found.num_classes or 'none'}"
        )
    if conflict := class_order.conflict(names, found.label_names):
        raise ConfigError(f"{key}: {conflict}")
    return dataclasses.replace(found, label_names=names)


def weights(
    config: Config, like: dict[str, Any], label_names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Values of `config.init_from` by '/'-joined path, for parameters shaped as in `like`.

    What stays fresh, was left out or interpolated is logged. A head's rows are put into the order
    of the run's classes where both sides have names; where these are others, the head is left out.

    Args:
      label_names: of the run's classes.

    Raises:
      ConfigError: where the label map's rows are other classes than the run's.
      ConversionError: where the file cannot be read, or does not fit the recipe's model.
    """
    found = source(config)
    log.info("%s: %s", config.init_from, found.source)
    rows = label_map(config)
    if label_names and found.kind == "classifier":
        found, rows = _in_order(config, found, rows, label_names)
    values, notes = fit.fit(found, like, config.model, label_map=rows)
    if found.kind == config.task == "pretrain":
        was, now = found.normalize_target, config.normalize_target
        notes += (f"normalize_target is {now}, the weights were made with {was}",) * (was != now)
    for note in (*found.notes, *notes):
        log.info("  %s", note)
    return values


def _in_order(
    config: Config, found: Weights, rows: list[int] | None, label_names: Sequence[str]
) -> tuple[Weights, list[int] | None]:
    """The weights, and the rows of their head for the run's classes in their order."""
    taken = list(range(found.num_classes)) if rows is None else rows
    if len(taken) != len(label_names) or max(taken) >= found.num_classes:
        return found, rows  # there is nothing to compare
    names = named_rows(config, found, rows)
    if not names:
        say_unnamed(config, config.init_from, label_names, "config.init_labels=FILE names them")
        return found, rows
    match = class_order.match(label_names, names, renamed=rows is not None)
    if match is None and rows is None:
        same = len(label_names) - len(class_order.unknown(label_names, names))
        hint = "; {} are the same: data.build --label_map=FILE takes the head's".format
        log.info(
            "  its %d classes have other names: the head starts fresh%s",
            len(label_names),
            hint(same) if same else "",
        )
        params = {k: v for k, v in found.params.items() if k != "head"}
        return dataclasses.replace(found, kind="encoder", params=params), None
    if match is None:
        raise ConfigError(
            f"config.classifier.label_map = {config.classifier.label_map!r}: its rows are "
            f"{lists.shown(names)}; the classes of {config.data.dataset} are "
            f"{lists.shown(label_names)}; build the data in the rows' order (data.build "
            "--label_map=FILE), or give a label map for the data's"
        )
    if match.said:
        log.warning("  head: %s", match.said)
    if rows is None and match.numbers == tuple(taken):
        return found, None
    return found, [taken[i] for i in match.numbers]


def say_unnamed(config: Config, head: str, names: Sequence[str], hint: str) -> None:
    """Warns that a head without names of classes is taken for one of the data's, `names`."""
    told = records.class_order(config.data.dataset)
    log.warning(
        "%s: its classes have no names: they are taken for the data's, %s%s; %s, and then they "
        "are compared", head, lists.shown(names), f", in the order of {told}" if told else "",
        hint,
    )  # fmt: skip


def named_rows(config: Config, found: Weights, rows: list[int] | None) -> tuple[str, ...]:
    """Names of the head's rows that are taken, () where nothing tells.

    Beside VideoMAE V2's label_710to600.json lies label_map_k600.txt, whose lines they are.
    """
    if found.label_names:
        return found.label_names if rows is None else tuple(found.label_names[r] for r in rows)
    folder, name = os.path.split(config.classifier.label_map)
    public = re.fullmatch(r"label_\d+to(\d+)\.json", name)
    beside = os.path.join(folder, f"label_map_k{public[1]}.txt") if rows and public else ""
    names = files.read_names(beside) if os.path.isfile(beside) else ()
    return names if rows and len(names) == len(rows) else ()


def label_map(config: Config) -> list[int] | None:
    """The rows of the source's head for each class, from the file classifier.label_map."""
    path = config.classifier.label_map
    if not path:
        return None
    try:
        return files.read_rows(path)
    except ConversionError as error:
        raise ConfigError(f"config.classifier.label_map: {error}") from None
