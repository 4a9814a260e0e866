"""Weights of one model as the first weights of another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.config import ModelConfig
from vmae_jax.convert import rules
from vmae_jax.convert.load import Weights
from vmae_jax.convert.rules import ConversionError, listed
from vmae_jax.models import layers

TOWER, STEM = "encoder/tower/blocks/", "encoder/stem/blocks/"


def fit(
    weights: Weights,
    like: Mapping[str, Any],
    model: ModelConfig,
    *,
    label_map: Sequence[int] | None = None,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What of `weights` fills `like`, by '/'-joined path; what is not named stays as it is.

    As in the reference, a classifier takes the encoder of a pre-trained model without its final
    norm, and the norm before the head starts fresh. A learned position table is interpolated, see
    `resize_positions`.

    Args:
      like: nested dict of what has a shape; the stack of the encoder may be in two parts, stem and
        tower. Low-rank updates are never filled.
      model: of `like`.
      label_map: for each class, its row of the head of `weights`.

    Returns:
      The arrays, and notes on what is dropped, fresh or interpolated.

    Raises:
      ConversionError: listing everything that does not fit.
    """
    wanted = rules.flatten(like)
    found = rules.flatten(weights.params)
    target = "pretrain" if "mask_token" in wanted else "classifier"
    problems = _size_problems(weights, model, target)
    if problems:
        raise ConversionError(
            f"init_from ({weights.source}) does not fit the recipe's model: {listed(problems)}"
        )
    notes = _differences(weights, model, target)
    _fit_ends(found, wanted, weights.kind, target, notes)
    if weights.kind == target == "classifier":
        _fit_head(found, wanted, weights.num_classes, label_map, notes)
    elif label_map is not None:
        raise ConversionError(
            f"classifier.label_map: init_from ({weights.source}) has no classifier's head"
        )
    _fit_positions(found, wanted, weights.model, model, notes)

    values, left = {}, set(found)
    for path, leaf in wanted.items():
        source = path.replace(STEM, TOWER)
        if source not in found:
            continue
        value = found[source]
        if path.startswith(STEM):
            value = value[: leaf.shape[0]]
        elif path.startswith(TOWER):
            value = value[-leaf.shape[0] :]
        if value.shape != leaf.shape:
            problems.append(f"{path} has shape {value.shape}, expected {leaf.shape}")
        left.discard(source)
        values[path] = value
    problems += [f"{path} has no place in it" for path in sorted(left)]
    if problems:
        raise ConversionError(
            f"init_from ({weights.source}) does not fit the recipe's model: {listed(problems)}"
        )
    fresh = sorted(path for path in wanted if path not in values)
    if fresh:
        notes.append(f"fresh: {listed(fresh)}")
    return values, tuple(notes)


def _size_problems(weights: Weights, model: ModelConfig, target: str) -> list[str]:
    """Every size in which the two models differ."""
    pairs = {
        name: (getattr(weights.model, name), getattr(model, name))
        for name in ("patch_size", "tubelet_size")
    }
    towers = ["encoder"] + ["decoder"] * (weights.kind == target == "pretrain")
    for tower in towers:
        for size in ("dim", "depth", "heads", "mlp_dim"):
            found, expected = (getattr(getattr(m, tower), size) for m in (weights.model, model))
            pairs[f"{tower} {size}"] = (found, expected)
    return [f"{name} {a}, expected {b}" for name, (a, b) in pairs.items() if a != b]


def _differences(weights: Weights, model: ModelConfig, target: str) -> list[str]:
    """Settings that do not decide whether the weights fit, but what they compute."""
    notes = []
    for key in ["norm_eps"] + ["head_norm_eps"] * (weights.kind == target):
        here, there = (getattr(m, key) or m.norm_eps for m in (model, weights.model))
        if here != there:
            notes.append(f"model.{key} is {here:g}, the weights were made with {there:g}")
    return notes


def _fit_ends(
    found: dict[str, np.ndarray], wanted: Mapping[str, Any], kind: str, target: str, notes: list
) -> None:
    """Leaves out what only the other kind of model has."""
    dropped = []
    if target == "classifier":
        dropped += ["encoder/norm/"]
    if kind == "pretrain" and target == "classifier":
        dropped += ["to_decoder/", "mask_token", "decoder/", "norm/", "head/"]
    if kind != "pretrain" and target == "pretrain":
        dropped += ["norm/", "head/"]
    gone = [path for path in found if path.startswith(tuple(dropped))]
    for path in gone:
        del found[path]
    names = [name.rstrip("/") for name in dropped if any(p.startswith(name) for p in gone)]
    if names:
        notes.append(f"left out, a {target} has none of it: {', '.join(names)}")


def _fit_head(
    found: dict[str, np.ndarray],
    wanted: Mapping[str, Any],
    rows: int,
    label_map: Sequence[int] | None,
    notes: list[str],
) -> None:
    """Selects the head's rows, or leaves it out where the classes are others."""
    classes = wanted["head/bias"].shape[0]
    if label_map is not None:
        if len(label_map) != classes or not rows or not all(0 <= r < rows for r in label_map):
            raise ConversionError(
                f"classifier.label_map: expected {classes} row numbers below {rows}, found "
                f"{len(label_map)} from {min(label_map, default=0)} to {max(label_map, default=0)}"
            )
        index = np.asarray(label_map)
        found["head/kernel"] = found["head/kernel"][:, index]
        found["head/bias"] = found["head/bias"][index]
        notes.append(f"head: {classes} of {rows} rows, by the label map")
    elif rows != classes:
        for path in ("head/kernel", "head/bias"):
            found.pop(path, None)
        notes.append(f"head starts fresh: {rows} classes in the file, {classes} here")
    else:
        notes.append(f"head kept: both have {classes} classes; they should be the same ones")


def _fit_positions(
    found: dict[str, np.ndarray],
    wanted: Mapping[str, Any],
    source: ModelConfig,
    model: ModelConfig,
    notes: list[str],
) -> None:
    path = "encoder/positions"
    was, now = ("x".join(map(str, m.grid)) for m in (source, model))
    if path in found and path not in wanted:
        raise ConversionError(
            "init_from has a learned position table: set config.model.positions = 'learned'"
        )
    if path in found and was != now:
        found[path] = resize_positions(found[path], source.grid, model.grid)
        notes.append(
            f"learned positions interpolated from {was} to {now} (frames x rows x columns)"
        )
    elif path in wanted and path not in found:
        found[path] = layers.position_table(model.num_tokens, model.encoder.dim)
        notes.append("learned positions start as the fixed sine-cosine table of the weights")
    elif was != now:
        notes.append(f"fixed positions of {now} tokens (frames x rows x columns) instead of {was}")


def resize_positions(
    table: np.ndarray, old: tuple[int, int, int], new: tuple[int, int, int]
) -> np.ndarray:
    """A learned table [T*H*W, D] for another grid of (frames, rows, columns).

    Rows and columns by bicubic interpolation of each frame's map, as the reference does with
    PyTorch (a = -0.75, corners not aligned, edges repeated). It never changes the number of frames;
    here that is linear in time.
    """
    x = table.reshape(*old, -1).astype(np.float64)
    if old[1:] != new[1:]:
        x = np.einsum("Hh,thwd->tHwd", _weights(old[1], new[1], cubic=True), x)
        x = np.einsum("Ww,thwd->thWd", _weights(old[2], new[2], cubic=True), x)
    if old[0] != new[0]:
        x = np.einsum("Tt,thwd->Thwd", _weights(old[0], new[0], cubic=False), x)
    return x.reshape(-1, table.shape[-1]).astype(np.float32)


def _weights(old: int, new: int, *, cubic: bool) -> np.ndarray:
    """[new, old]: how much each old sample counts in each new one."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(at).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3) if cubic else range(2):
        distance = np.abs(at - first - tap)
        weight = _cubic(distance) if cubic else 1 - distance
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), weight)
    return weights


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' kernel (1981) for distances below 2."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)
