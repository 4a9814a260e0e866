"""A run as one HTML page: settings, curves, speed, pictures, predictions; or several, compared.

  # one run: settings, curves, speed, reconstructions that play, confusion, best and worst
  python -m vmae_jax.report runs/quickstart

  # several, compared: curves over one another, a table of what they came to
  python -m vmae_jax.report runs/small runs/large --out=compared.html

The page needs nothing beside it, no network and no script. It is made of the run's files alone, at
any time, also of runs that are going or were killed; frames of tested videos are added where the
run's data set can be reached.
"""

import datetime
import os

import jax
from absl import flags

from vmae_jax import command, whole
from vmae_jax.report.run import ReportError

_OUT = flags.DEFINE_string("out", "report.html", "File of the page.")


def main(argv: list[str]) -> None:
    from vmae_jax.report import page, run

    workdirs = argv[1:]
    if not workdirs:
        raise ReportError(
            "no run given: python -m vmae_jax.report WORKDIR, such as runs/quickstart"
        )
    if len(workdirs) > page.MAX_RUNS:
        raise ReportError(f"{len(workdirs)} workdirs: at most {page.MAX_RUNS} fit on one page")
    if os.path.isdir(_OUT.value) or _OUT.value.endswith("/"):
        raise ReportError(f"--out={_OUT.value}: expected a file's name, such as report.html")
    names = run.unique_names(workdirs)
    runs = [run.read(folder, name) for folder, name in zip(workdirs, names, strict=True)]
    content = page.page(runs, f"{datetime.date.today():%-d %B %Y}").encode()
    if "://" not in _OUT.value:
        os.makedirs(os.path.dirname(os.path.abspath(_OUT.value)), exist_ok=True)
    whole.write(_OUT.value, content)
    size = len(content) / 1e6
    print(f"{_OUT.value}  {size:.1f} MB, {len(runs)} run{'s' * (len(runs) > 1)}; open it anywhere")


def cli() -> None:
    """Runs `main`; an error that the user can mend ends in one line."""
    jax.config.update("jax_platforms", "cpu")  # a run may be using the accelerator
    command.run(main, (ReportError,))


if __name__ == "__main__":
    cli()
