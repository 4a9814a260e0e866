"""What a run has left in its workdir, read from its files alone. None of them is trusted."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from vmae_jax import environment
from vmae_jax.config import Config, ConfigError, from_config_dict
from vmae_jax.evaluate import Scores

_FILES = ("metrics.jsonl", environment.FILE, "checkpoints", "eval/scores.npz", "pictures")
_LARGEST_STEP = 2**53  # exact in a float


class ReportError(Exception):
    """A workdir of which nothing can be told; the message says which, and what is expected."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One logged number over the run: steps i64 [n], ascending, and values f64 [n], NaN or inf."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        return self.values[np.isfinite(self.values)]

    @property
    def last(self) -> float:
        return float(self.values[-1])


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, as far as its files tell of it: what is missing is empty."""

    name: str
    folder: epath.Path
    curves: Mapping[str, Curve]
    config: Mapping[str, Any]  # nested, as `config.to_dict` makes it
    starts: tuple[Mapping[str, Any], ...]  # of environment.json
    checkpoint: int | None  # step of the last whole one
    meta: Mapping[str, Any]  # of that checkpoint
    parameters: int  # of the model; 0 = not known
    scores: Scores | None
    tested: Mapping[str, Any]  # of eval/summary.json: data set, split, views
    pictures: Mapping[str, tuple[tuple[int, epath.Path], ...]]  # kind -> (step, file), ascending
    problems: tuple[str, ...]  # what could not be read, in one sentence each

    @property
    def step(self) -> int:
        """The last one that was logged or saved."""
        logged = [int(curve.steps[-1]) for curve in self.curves.values()]
        return max([*logged, self.checkpoint or 0])

    @property
    def changed(self) -> Mapping[str, Any]:
        """What the command line changed of the recipe."""
        return _mapping(self.starts[-1].get("changed")) if self.starts else {}

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting by its dotted name."""
        found: Any = self.config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return default if found is None else found

    def checked_config(self) -> Config:
        """The settings as code reads them.

        Raises:
          ConfigError: where none were kept, or another version wrote them.
        """
        if not self.config:
            raise ConfigError("the run's settings were not kept")
        return from_config_dict(self.config)


def read(workdir: str, name: str = "") -> Run:
    """Reads a workdir.

    Args:
      name: of the run on the page; '' = that of its folder.

    Raises:
      ReportError: where there is no such folder, or nothing of a run in it.
    """
    folder = epath.Path(workdir)
    if not folder.is_dir():
        raise ReportError(f"{workdir}: no such folder; expected the --workdir of a run")
    if not any((folder / file).exists() for file in _FILES):
        raise ReportError(
            f"{workdir}: nothing of a run in it (none of {', '.join(_FILES)}); expected the "
            "--workdir of a run that has logged, saved or tested something"
        )
    problems: list[str] = []
    kept = _mapping(_json(folder / environment.FILE, problems))
    step, meta = _checkpoint(folder / "checkpoints", problems)
    starts = kept.get("starts")
    summary = _mapping(_json(folder / "eval" / "summary.json", problems))
    return Run(
        name=name or folder.resolve().name,
        folder=folder,
        curves=_curves(folder / "metrics.jsonl", problems),
        config=_mapping(meta.get("config")) or _mapping(kept.get("config")),
        starts=tuple(map(_mapping, starts)) if isinstance(starts, list) else (),
        checkpoint=step,
        meta=meta,
        parameters=_parameters(_bytes(folder / "parameters.txt", problems)),
        scores=_scores(folder / "eval", summary, problems),
        tested=summary,
        pictures=_pictures(folder / "pictures"),
        problems=tuple(problems),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _bytes(path: epath.Path, problems: list[str]) -> bytes:
    """The content of a file; nothing where there is none."""
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror or error})")
        return b""


def _json(path: epath.Path, problems: list[str]) -> Any:
    """The content of a JSON file; None where there is none."""
    content = _bytes(path, problems)
    try:
        return json.loads(content) if content or path.is_file() else None
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return None


def _curves(path: epath.Path, problems: list[str]) -> dict[str, Curve]:
    """What was logged by name; where a step was logged twice, the later line counts."""
    found: dict[str, dict[int, float]] = {}
    bad = 0
    for line in _bytes(path, problems).splitlines():
        row = _row(line)
        bad += row is None
        for name, value in (row or {}).items():
            if name != "step":
                found.setdefault(name, {})[int(row["step"])] = value
    if bad:
        problems.append(f"Lines of {path.name} that could not be read and are left out: {bad:,}")
    return {name: _curve(values) for name, values in found.items()}


def _row(line: bytes) -> dict[str, float] | None:
    """One line's numbers, among them 'step'; None where it is no such line."""
    try:
        row = json.loads(line)
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float)}
        step = numbers["step"]
    except (ValueError, AttributeError, KeyError, OverflowError, RecursionError):
        return None
    return numbers if step.is_integer() and 0 <= step < _LARGEST_STEP else None


def _curve(values: Mapping[int, float]) -> Curve:
    steps = sorted(values)
    return Curve(np.array(steps, np.int64), np.array([values[s] for s in steps]))


def _checkpoint(folder: epath.Path, problems: list[str]) -> tuple[int | None, Mapping[str, Any]]:
    """The last whole checkpoint's step, and what it says of the run.

    Orbax would tidy up in the folder of a run that may still be going, so its file is read as is.
    """
    if not folder.is_dir():
        return None, {}
    steps = [int(p.name) for p in folder.iterdir() if re.fullmatch(r"\d{1,15}", p.name)]
    for step in sorted(steps, reverse=True):
        path = folder / str(step) / "meta" / "metadata"
        if path.exists():
            return step, _mapping(_json(path, problems))
    return None, {}


def _parameters(text: bytes) -> int:
    """The sum below the table of parameters."""
    found = re.search(rb"^Total: ([\d,]{1,30})", text, re.MULTILINE)
    return int(found[1].replace(b",", b"")) if found else 0


def _pictures(folder: epath.Path) -> dict[str, tuple[tuple[int, epath.Path], ...]]:
    found: dict[str, list[tuple[int, epath.Path]]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        parts = re.fullmatch(r"(\w+)_(\d{7,15})\.(png|webp)", path.name)
        if parts:
            found.setdefault(parts[1], []).append((int(parts[2]), path))
    return {kind: tuple(sorted(files)) for kind, files in sorted(found.items())}


def _scores(folder: epath.Path, summary: Mapping[str, Any], problems: list[str]) -> Scores | None:
    path = folder / "scores.npz"
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            scores = Scores(
                tuple(map(str, arrays["ids"])),
                arrays["labels"].astype(np.int64),
                arrays["probabilities"].astype(np.float32),
                tuple(map(str, arrays["label_names"])),
                {str(k): str(v) for k, v in _mapping(summary.get("failed")).items()},
            )
            _check(scores)
    except Exception as error:  # zip files and arrays break in many ways
        problems.append(f"eval/{path.name} cannot be read ({error or type(error).__name__})")
        return None
    return scores


def _check(scores: Scores) -> None:
    shape, labels = (len(scores.ids), len(scores.label_names)), scores.labels
    if scores.probabilities.shape != shape or labels.shape != shape[:1] or 0 in shape:
        raise ValueError(
            f"{shape[0]} videos and {shape[1]} classes, but scores {scores.probabilities.shape} "
            f"and labels {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} of {shape[1]} classes")
    if not np.isfinite(scores.probabilities).all():
        raise ValueError("scores that are no finite numbers")


def unique_names(workdirs: list[str]) -> Iterator[str]:
    """A name for each: the end of its path, as long as it takes to tell them apart."""
    parts = [epath.Path(workdir).resolve().parts for workdir in workdirs]
    for mine in parts:
        length = 1
        while length < len(mine) and sum(p[-length:] == mine[-length:] for p in parts) > 1:
            length += 1
        yield "/".join(mine[-length:])


def number(value: float) -> str:
    """A number of four digits or fewer, to be read: 0.01741, 328.4, 1.2e-07, NaN."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:,.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
