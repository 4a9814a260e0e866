"""environment.json of a workdir: the recipe that was started, with which versions, on what."""

import datetime
import json
import platform
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib
from etils import epath

from vmae_jax import checkpoint, whole
from vmae_jax.config import Config, to_dict
from vmae_jax.data.cores import cores

FILE = "environment.json"
STARTS = 20  # kept of a run that was preempted more often: the first and the last


def write(workdir: str, config: Config, recipe: str, changed: Mapping[str, Any]) -> None:
    """Adds one more start of the run to its environment.json.

    Args:
      recipe: FILE.py or FILE.py:ARGUMENT, as it was typed.
      changed: settings of the recipe that the command line changed.
    """
    path = epath.Path(workdir) / FILE
    starts = [*_earlier(path), _start(recipe, changed)]
    starts = starts[:1] + starts[1:][-(STARTS - 1) :]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"config": to_dict(config), "starts": starts}
    whole.write(path, json.dumps(content, indent=1, default=str) + "\n")


def _earlier(path: epath.Path) -> list[Any]:
    try:
        starts = json.loads(path.read_text())["starts"] if path.exists() else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []  # not ours, or damaged: nothing of it is kept
    return starts if isinstance(starts, list) else []


def _start(recipe: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "time": now.isoformat(sep=" ", timespec="seconds"),
        "recipe": recipe,
        "changed": dict(changed),
        "versions": checkpoint.versions()
        | {"jaxlib": jaxlib.__version__, "python": platform.python_version()},
        "machine": {
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
            "cores": cores(),
            "system": platform.platform(),
        },
    }
