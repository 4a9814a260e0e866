"""Running a command: its flags, its warnings and errors in one line each, its exit status."""

import errno
import logging
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging

_DISK_FULL = "no space is left on this disk; make room, and the same command goes on"

flags.disclaim_key_flags()  # --help lists no flags as those of this module

# What absl and Python say of flags, and how it reads here.
_PLAINLY = {
    r"flag (--\w+)=None: Flag --\w+ must have a value other than None\.": r"\1 is missing",
    r"^Unknown command line flag '(.*?)'\.?": r"no such flag: --\1;",
    r"Did you mean: (.*?) \?": r"did you mean --\1?",
    r"^flag (--.*?): ": r"\1: ",
    r"invalid literal for int\(\) with base 10: '.*'": "expected a whole number",
    r"could not convert string to float: '.*'": "expected a number",
}

Parser = Callable[[list[str]], list[str]]


def parse(argv: list[str]) -> list[str]:
    """Parses the flags of a command. An error is one line; --help exits with status 0.

    absl's own parser would print two lines of other words, and exit with 1 after --help.
    """
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(f"{_plain(error)}; see --help")
    except SystemExit:  # --help, --helpfull and the like have printed what they print
        sys.exit(0)


def _plain(error: flags.Error) -> str:
    """What absl says of flags, on one line."""
    text = str(error)
    if "Error whilst parsing config file" in text:  # and then a traceback of many lines
        return "the recipe does not run: " + text.strip().splitlines()[-1]
    for pattern, plain in _PLAINLY.items():
        text = re.sub(pattern, plain, text)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()).strip("; ")


def fail(message: object, status: int = 1) -> None:
    """Prints the error and exits."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


class _Plainly(logging.Formatter):
    """Without date, file and thread."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"warning: {text}" if record.levelno == logging.WARNING else text


class _Once(logging.Filter):
    """Passes each different warning once."""

    def __init__(self):
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = record.levelno != logging.WARNING or text not in self._said
        self._said.add(text)
        return new


def speak_plainly() -> None:
    """Sends warnings and errors that this process and its libraries log to stderr, each once."""
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(_Plainly())
    if not handler.filters:
        handler.addFilter(_Once())


def said(error: Exception) -> str:
    """An error as a user reads it: of files without number and quotes."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename}: {_DISK_FULL}" if error.filename else _DISK_FULL
    if isinstance(error, FileExistsError) and error.filename:
        return f"{error.filename}: is there already, and no folder; give another"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def advice(error: Exception) -> str | None:
    """What to say of an error of a library that a user can mend; None of all others."""
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0][:200]
    if isinstance(error, ImportError) and "gcsfs" in text:
        return f"{first}; gs:// needs pip install 'vmae_jax[gcs]'"
    if "No space left on device" in text:  # Orbax says so within its own words
        return _DISK_FULL
    if "RESOURCE_EXHAUSTED" in text:
        return (
            f"out of memory ({first}); take a smaller batch, in recipes with "
            "--config.optim.accumulate or --config.model.remat=full; vmae_jax.plan says what fits"
        )
    return None


def run(
    main: Callable[[list[str]], None],
    known: Sequence[type[Exception]] = (),
    flags_parser: Parser = parse,
    stopped: str = "stopped",
) -> None:
    """Runs a command; an error that the user can mend ends in one line.

    Args:
      main: takes the arguments that are no flags after the program's name.
      known: errors that say what the user can mend, besides those of files.
      flags_parser: `parse`, or one that does more.
      stopped: the last word after Ctrl-C.
    """

    def body(argv: list[str]) -> None:
        speak_plainly()
        try:
            main(argv)
        except app.UsageError as error:  # of which absl would print the whole help
            fail(error)

    try:
        app.run(body, flags_parser=flags_parser)
    except (OSError, *known) as error:
        fail(said(error))
    except Exception as error:
        if not (message := advice(error)):
            raise
        fail(message)
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr, flush=True)
        sys.exit(130)
