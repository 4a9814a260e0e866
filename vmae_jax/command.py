"""Running a command: its flags, its errors in one line, its exit status."""

import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

flags.disclaim_key_flags()  # --help lists no flags as those of this module

Parser = Callable[[list[str]], list[str]]


def parse(argv: list[str]) -> list[str]:
    """Parses the flags of a command. What is wrong ends in one line, asking for help is no error.

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
    said = re.sub(
        r"flag (--\w+)=None: Flag --\w+ must have a value other than None\.",
        r"\1 is missing",
        str(error),
    )
    said = re.sub(r"^(Unknown command line) flag '(.*?)'\.?", r"no such flag: --\2;", said)
    said = re.sub(r"Did you mean: (.*?) \?", r"did you mean --\1?", said)
    return "; ".join(line.strip() for line in said.splitlines() if line.strip()).strip("; ")


def fail(message: object, status: int = 1) -> None:
    """Prints the error and exits."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def said(error: Exception) -> str:
    """An error as a user reads it: of files without number and quotes."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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
        try:
            main(argv)
        except (app.UsageError, OSError, *known) as error:
            fail(said(error))
        except KeyboardInterrupt:
            print(f"\n{stopped}", file=sys.stderr, flush=True)
            sys.exit(130)

    app.run(body, flags_parser=flags_parser)
