"""What a build says to type next: it works on what was built."""

import shlex
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags
from tiny_dataset import clip, write_dataset

from vmae_jax import config as config_lib
from vmae_jax.data.build import next_step
from vmae_jax.tasks.finetune import Finetune

CLASSES = ("jump", "run")


def typed(out, *splits):
    """The settings of the command that is printed, as its recipe takes them, and all lines."""
    command, *more = next_step.lines(str(out), splits)
    assert command.startswith("next:    python -m vmae_jax.main --config=configs/")
    words = shlex.split(command.removeprefix("next:    python -m "))
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    values(words)
    assert values.workdir == "runs/my set"
    return config_lib.from_config_dict(values.config), more


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A dataset directory, with labels if asked for; commands are typed in the project's folder."""
    monkeypatch.chdir(Path(__file__).parents[2])

    def build(*labels):
        return write_dataset(tmp_path / "my set", [clip().serialize()] * 3, labels=labels)

    return build


def test_without_labels_it_is_pre_trained(built):
    out = built()
    config, more = typed(out, "train", "val")
    assert (config.task, config.data.dataset, config.data.split) == ("pretrain", out, "train")
    assert not more
    assert typed(out, "b", "a")[0].data.split == "a+b"
    assert typed(out, "val")[0].data.split == "val"


@pytest.mark.parametrize(("splits", "training", "held_out"), [
    (("train", "val"), "train", "val"),
    (("train",), "train", ""),
    (("train", "test"), "train", "test"),
    (("seen", "val"), "seen", "val"),
])  # fmt: skip
def test_with_labels_it_is_fine_tuned(built, splits, training, held_out):
    config, more = typed(built(*CLASSES), *splits)
    assert (config.task, config.mode) == ("finetune", "train")
    assert (config.data.split, config.eval.split) == (training, held_out)
    assert "--config.init_from=" in more[0]
    if splits == ("train",):  # those that are there: its classes are counted
        assert Finetune.from_data(config).num_classes == 2


def test_with_labels_and_nothing_to_train_on_it_is_evaluated(built):
    config, more = typed(built(*CLASSES), "test")
    assert (config.task, config.mode, config.eval.split) == ("finetune", "eval", "test")
    assert (config.init_from, more) == ("YOUR_CLASSIFIER", [])
