"""What a study says: the runs of its grid, as frozen dataclasses made from a configs/study_*.py."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from vmae_jax import config as config_lib
from vmae_jax import recipe_flag
from vmae_jax.config import Config, ConfigError

EMBEDDED = "synthetic"  # a dataset of this name is made of embedded videos
KINDS = ("curated", "raw")  # of embedded videos: how the names of their splits begin
METRICS = ("top1", "top5", "mean_class")


def _check(ok: bool, key: str, found: Any, expected: str) -> None:
    if not ok:
        raise ConfigError(f"config.{key} = {found!r}: expected {expected}")


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs of one kind."""

    recipe: str = ""  # configs/vitb_tiktok.py, or with an argument: configs/vitb_tiktok.py:smoke
    settings: dict = dataclasses.field(default_factory=dict)  # in groups, in place of the recipe's

    def config(self, name: str) -> Config:
        """The recipe with the settings, checked; `name` says where in the study this stands."""
        for key, instead in (("seed", "config.seeds"), ("init_from", "the study's pre-training")):
            if key in self.settings:
                raise ConfigError(
                    f"config.{name}.settings.{key}: cannot be set, it comes from {instead}"
                )
        path, _, argument = self.recipe.partition(":")
        if not (os.path.isfile(path) and path.endswith(".py")):
            raise ConfigError(
                f"config.{name}.recipe = {self.recipe!r}: no such file; expected a recipe such as "
                "configs/vitb_tiktok.py"
            )
        try:
            spec = importlib.util.spec_from_file_location("recipe", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            recipe = module.get_config(argument).to_dict()
            return config_lib.from_config_dict(config_lib.merged(recipe, self.settings))
        except ConfigError as error:
            raise ConfigError(f"config.{name}, {self.recipe}: {error}") from error
        except Exception as error:
            reason = recipe_flag.reason(error)
            raise ConfigError(f"config.{name}, {self.recipe}: {reason}") from error


@dataclasses.dataclass(frozen=True)
class Arm:
    """One kind of clips to pre-train on, in nested subsets."""

    dataset: str = ""
    # Each adds to those before it: the n-th subset is the first n together, and a sum 'a+b' adds
    # several at once. `data.curate --subset` and `synthetic.prepare_study` write such splits.
    splits: tuple = ()

    def subsets(self) -> list[str]:
        """The subsets as `records.open_dataset` reads them: 'a', 'a+b', ..."""
        return ["+".join(self.splits[:i]) for i in range(1, len(self.splits) + 1)]


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The embedded videos, for arms and benchmarks whose dataset is 'synthetic'.

    Arms find the splits curated_N and raw_N, benchmarks train and val.
    """

    sizes: tuple = (100, 400, 1600)  # videos of the nested subsets
    train_clips: int = 40  # labelled, of each class
    val_clips: int = 40

    def __post_init__(self):
        _check(
            len(self.sizes) > 0
            and all(type(n) is int and n >= 1 for n in self.sizes)
            and list(self.sizes) == sorted(set(self.sizes)),
            "embedded.sizes", self.sizes, "rising numbers of videos",
        )  # fmt: skip
        for key in ("train_clips", "val_clips"):
            _check(getattr(self, key) >= 1, f"embedded.{key}", getattr(self, key), "at least 1")


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid: arms x their subsets x seeds, each pre-trained once and fine-tuned per benchmark."""

    pretrain: Runs = Runs()
    # Arm by name, in the alphabet's order; the first is compared with each other one.
    arms: dict = dataclasses.field(default_factory=dict)
    benchmarks: dict = dataclasses.field(default_factory=dict)  # Runs by name
    seeds: tuple = (0, 1, 2)  # of pre-training and of what follows it
    scratch: bool = True  # also fine-tune without pre-training
    metric: str = "top1"  # of eval/summary.json: top1, top5 or mean_class
    confidence: float = 0.95  # of all intervals
    embedded: Embedded = Embedded()

    def __post_init__(self):
        _check(self.metric in METRICS, "metric", self.metric, f"one of {', '.join(METRICS)}")
        _check(0.5 <= self.confidence < 1, "confidence", self.confidence, "a share in [0.5, 1)")
        _check(
            len(self.seeds) > 0
            and all(type(seed) is int and seed >= 0 for seed in self.seeds)
            and len(set(self.seeds)) == len(self.seeds),
            "seeds", self.seeds, "different whole numbers, such as (0, 1, 2)",
        )  # fmt: skip
        for group in ("arms", "benchmarks"):
            names = getattr(self, group)
            _check(len(names) > 0, group, names, "at least one")
            for name in names:  # part of the names of folders
                ok = re.fullmatch("[a-z0-9][a-z0-9_]*", name) and name != "scratch"
                _check(bool(ok), group, name, "names of lower case letters, digits and '_'")
        for name, arm in self.arms.items():
            _check(bool(arm.dataset), f"arms.{name}.dataset", arm.dataset, "a dataset directory")
            _check(
                len(arm.splits) > 0 and all(type(split) is str and split for split in arm.splits),
                f"arms.{name}.splits", arm.splits, "names, such as ('train_6000', 'train_25000')",
            )  # fmt: skip
            parts = "+".join(arm.splits).split("+")
            _check(
                len(set(parts)) == len(parts), f"arms.{name}.splits", arm.splits,
                "each split once: every one adds to those before it",
            )  # fmt: skip


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train': {'steps': 5}} -> {'train.steps': 5}."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def defaults() -> ml_collections.ConfigDict:
    """A study without arms and benchmarks, for a configs/study_*.py to start from."""
    made = {f.name: f for f in dataclasses.fields(Study)}
    values = {name: f.default for name, f in made.items() if f.default is not dataclasses.MISSING}
    groups = {name: dataclasses.asdict(values[name]) for name in ("pretrain", "embedded")}
    return ml_collections.ConfigDict(values | groups | {"arms": {}, "benchmarks": {}})


def from_config_dict(study: Mapping[str, Any]) -> Study:
    """Checks a study and freezes it.

    Raises:
      ConfigError: for an unknown key, a wrong type or an impossible value.
    """
    if isinstance(study, ml_collections.ConfigDict):
        study = study.to_dict()
    values = dict(study)
    for group, kind in (("arms", Arm), ("benchmarks", Runs)):
        members = values.get(group, {})
        if not isinstance(members, Mapping):
            raise ConfigError(f"config.{group} = {members!r}: expected a group by name")
        for name, member in members.items():
            if not isinstance(member, Mapping):
                raise ConfigError(f"config.{group}.{name} = {member!r}: expected a group")
        values[group] = {
            name: config_lib.build(kind, member, f"{group}.{name}.")
            for name, member in members.items()
        }
    return config_lib.build(Study, values, "")


def beside(study_file: str, name: str) -> str:
    """The recipe `name` in the folder of a study's file, as a path from the current folder."""
    return os.path.relpath(os.path.join(os.path.dirname(study_file), name))


def recipe(study: ml_collections.ConfigDict, arg: str) -> ml_collections.ConfigDict:
    """Ends a configs/study_*.py: applies what follows the colon in --config=FILE.py:smoke."""
    if arg not in ("", "smoke"):
        raise ConfigError(f"study argument {arg!r}: expected 'smoke' or nothing")
    return smoke(study) if arg == "smoke" else study


def smoke(study: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same grid in minutes on a CPU: smoke recipes, a few embedded videos, one seed."""
    study.embedded.update(sizes=(10, 20, 40), train_clips=1, val_clips=1)
    study.seeds = study.seeds[:1]
    for i, arm in enumerate(study.arms.values()):
        kind = arm.splits[0].partition("_")[0]
        if kind not in KINDS:
            kind = KINDS[min(i, 1)]
        splits = tuple(f"{kind}_{n}" for n in study.embedded.sizes)
        arm.update(dataset=EMBEDDED, splits=splits[: len(arm.splits)])
    for runs in (study.pretrain, *study.benchmarks.values()):
        runs.recipe = f"{runs.recipe.partition(':')[0]}:smoke"
        runs.settings = ml_collections.ConfigDict()
    return study
