"""The command to run after a build; it depends on what was built."""

import os
import shlex
from collections.abc import Collection, Mapping

from vmae_jax.data.records import label_names

HELD_OUT = ("val", "valid", "validation", "dev", "test")  # to test on, the first counts


def lines(out: str, splits: Collection[str]) -> list[str]:
    """The command, and a setting to add, for the terminal.

    With labels: fine-tuning, or evaluation if there is no training split. Without: pre-training.

    Args:
      out: the dataset directory.
      splits: names of those that hold videos.
    """
    held_out = next((name for name in HELD_OUT if name in splits), "")
    others = [name for name in splits if name not in HELD_OUT]
    training = "train" if "train" in others else "+".join(sorted(others))
    if not label_names(out):
        return [_command("quickstart", out, {"data.split": training or held_out})]
    if not training:
        settings = {"mode": "eval", "init_from": "YOUR_CLASSIFIER", "eval.split": held_out}
        return [_command("finetune_custom", out, settings)]
    settings = {"data.split": training, "eval.split": held_out}
    return [
        _command("finetune_custom", out, settings),
        "         --config.init_from=YOUR_CHECKPOINT starts it from a pre-trained model",
    ]


def _command(recipe: str, out: str, settings: Mapping[str, str]) -> str:
    """The command of a recipe on the data set, without the settings that the recipe has itself."""
    usual = {"data.split": "train", "eval.split": "val"}
    changed = {key: value for key, value in settings.items() if usual.get(key) != value}
    flags = [f"--config.{key}={value}" for key, value in {"data.dataset": out, **changed}.items()]
    workdir = os.path.join("runs", os.path.basename(out))
    typed = [f"--config=configs/{recipe}.py", *flags, f"--workdir={workdir}"]
    return f"next:    python -m vmae_jax.main {shlex.join(typed)}"
