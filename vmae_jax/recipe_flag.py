"""The flag --config=FILE.py[:ARGUMENT], and any setting after it, of commands that run recipes."""

import os
import traceback
from typing import Any

from absl import flags
from ml_collections import config_flags

from vmae_jax import command, special
from vmae_jax import config as config_lib

flags.disclaim_key_flags()  # --help lists the flag as that of the command

RECIPES = "a recipe such as configs/quickstart.py"


def define(
    what: str = "Recipe, such as configs/quickstart.py or configs/vitb_tiktok.py:smoke.",
) -> None:
    flags.declare_key_flag(config_flags.DEFINE_config_file("config", None, what).name)


def name() -> str:
    """What the user typed: FILE.py or FILE.py:ARGUMENT."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def changes() -> dict[str, Any]:
    """What the command line changed of the recipe: {setting: value}."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def config() -> config_lib.Config:
    """The recipe with the settings of the command line, checked."""
    if "arms" in flags.FLAGS.config:
        raise config_lib.ConfigError(
            f"--config={name()}: is a study of many runs; run it with python -m vmae_jax.study"
        )
    return config_lib.from_config_dict(flags.FLAGS.config)


def parse(argv: list[str], expected: str = RECIPES) -> list[str]:
    """Parses the command line; what is wrong with a recipe or a setting ends in one line."""
    for argument in argv:  # reading a FIFO would hang
        if argument.startswith("--config="):
            special.check(argument.partition("=")[2].partition(":")[0])
    try:
        rest = command.parse(argv)
    except config_lib.ConfigError:
        raise
    except Exception as error:
        raise config_lib.ConfigError(reason(error)) from error
    if not flags.FLAGS["config"].present:
        raise config_lib.ConfigError(f"--config is missing; expected {expected}")
    path = name().partition(":")[0]
    if not os.path.isfile(path):
        raise config_lib.ConfigError(f"--config={name()}: no such file; expected {expected}")
    if len(rest) > 1:
        raise config_lib.ConfigError(
            f"unexpected argument {rest[1]!r}; settings go as --config.KEY=VALUE"
        )
    return rest


def reason(error: Exception) -> str:
    """Why a recipe is not to be had: no such setting, or the recipe, which is a program, fails."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, (AttributeError, KeyError)) and "ml_collections" in at.filename:
        # It says what there is not, and what may be meant, in lines or in an error of its own.
        found = str(getattr(error.args[0], "args", error.args)[0]).split("\n")
        return f"no setting {'; '.join(found).lower()}"
    where = "" if isinstance(error, SyntaxError) else f"{at.filename}, line {at.lineno}: "
    return f"the recipe does not run: {where}{type(error).__name__}: {error}"
