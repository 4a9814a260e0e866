r"""Runs a study of scale: python -m vmae_jax.study --config=configs/study_data_scaling.py

Pre-trains on nested subsets, fine-tunes each on the same benchmarks with several seeds, and leaves
a table with intervals, the gain per doubling and a fitted law in FOLDER/study.{md,png,csv,json}.

  # ten motions of embedded videos, some half an hour on two CPU cores
  python -m vmae_jax.study --config=configs/study_synthetic.py

  # what there is to run, and how far it got; the commands
  python -m vmae_jax.study --config=configs/study_data_scaling.py --list
  python -m vmae_jax.study --config=configs/study_data_scaling.py --dry_run

  # one run of the list: on a pod, or as an array of SLURM, whose task number it takes by itself
  python -m vmae_jax.study --config=configs/study_data_scaling.py --index=3

Each run is one of vmae_jax.main in its own folder. What is done is not run again, and the same
command continues what was stopped or killed. Started several times at once, with a GPU each, the
command shares the runs out. When all are done it only writes the results; --results writes those of
what is done by now. A file that ends in :smoke is a small study of the same shape.

Exit status: 0 finished, 1 an error (one line says which), 143 or 130 stopped by SIGTERM or Ctrl-C
after saving.
"""

import functools
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from vmae_jax import command, recipe_flag
from vmae_jax.config import ConfigError
from vmae_jax.data.records import DatasetError, ShardError
from vmae_jax.study import files, settings
from vmae_jax.study import jobs as jobs_lib
from vmae_jax.study import results as results_lib
from vmae_jax.study.jobs import BusyError, Job, StudyError

STUDIES = "a study such as configs/study_synthetic.py"


def define_flags() -> None:
    recipe_flag.define(f"The study: {STUDIES.removeprefix('a study such as ')}, or FILE.py:smoke.")
    flags.DEFINE_string("folder", None, "Folder of the runs and results [runs/<study's name>].")
    flags.DEFINE_integer(
        "index", None, "Runs this one of the list only [SLURM_ARRAY_TASK_ID].", lower_bound=0
    )
    flags.DEFINE_bool("list", False, "Prints the runs with their states, and starts none.")
    flags.DEFINE_bool("dry_run", False, "Prints the commands of the runs, and starts none.")
    flags.DEFINE_bool("results", False, "Writes the results of what is done, and runs nothing.")


def default_folder(config_flag: str) -> str:
    """configs/study_synthetic.py:smoke -> runs/study_synthetic-smoke."""
    path, _, argument = config_flag.partition(":")
    return os.path.join("runs", "-".join(filter(None, [Path(path).stem, argument])))


def table(jobs: Sequence[Job]) -> str:
    """The runs, their states, and where arrays of them have to be cut."""
    lines = [f"{i:5}  {job.state():8} {job.name}" for i, job in enumerate(jobs)]
    first = sum(not job.benchmark for job in jobs)
    lines.append(f"--index=0 to {first - 1} have to be done before {first} to {len(jobs) - 1}.")
    return "\n".join(lines)


def run_one(jobs: Sequence[Job], index: int) -> None:
    """Runs a job in place of this process, unless it is done."""
    job = jobs[index]
    jobs_lib.check(job)
    if job.is_done():
        print(f"{job.name}: is done")
        return
    if job.after and not job.after.is_done():
        before = jobs.index(job.after)
        raise StudyError(f"--index={index}: starts from --index={before}, which is not done yet")
    jobs_lib.become(job)


def run_all(jobs: Sequence[Job], write: Callable[[], object]) -> None:
    """Runs what is not done, a seed after the other; writes the results after each accuracy."""
    from vmae_jax import hosts  # imports jax, which a list of the runs can do without

    if hosts.is_cluster():  # they could disagree on what is done, and wait for each other
        raise StudyError("this is one of several processes: they run one --index=N; see --list")
    # Most runs compile the same programs. On a CPU they fit this machine alone: they are not kept.
    with tempfile.TemporaryDirectory(prefix="vmae-jax-study-") as compiled:
        environment = {"JAX_COMPILATION_CACHE_DIR": compiled, **os.environ}
        for number, job in enumerate(in_turn(jobs), 1):
            if job.is_done() or job.state() == "waiting":  # for what another process runs
                continue
            print(f"\n[{number}/{len(jobs)}] {job.name}", flush=True)
            try:
                status = jobs_lib.run(job, environment)
            except BusyError as error:
                print(error, flush=True)
                continue
            if status in (128 + signal.SIGTERM, 128 + signal.SIGINT):
                sys.exit(status)
            if status or not job.is_done():
                raise StudyError(
                    f"{job.name} ended with status {status}; its own words are above. The same "
                    f"command continues; this run alone: {shlex.join(job.command)}"
                )
            if job.benchmark:
                write()


def in_turn(jobs: Sequence[Job]) -> list[Job]:
    """A seed after the other, every fine-tuning after its pre-training: results come early."""
    place = {job.folder: i for i, job in enumerate(jobs)}
    seeds = list(dict.fromkeys(job.seed for job in jobs))

    def key(job: Job) -> tuple[int, ...]:
        first = job.after or job
        return seeds.index(job.seed), place[first.folder], place[job.folder]

    return sorted(jobs, key=key)


def main(argv: list[str]) -> None:
    del argv
    given = flags.FLAGS
    if "task" in given.config:
        raise ConfigError(
            f"--config={recipe_flag.name()}: is the recipe of one run, which python -m "
            f"vmae_jax.main runs; expected {STUDIES}"
        )
    study = settings.from_config_dict(given.config)
    default = default_folder(recipe_flag.name())
    typed, name = given.folder or default, os.path.basename(default)
    folder = typed if "://" in typed else os.path.abspath(typed)
    index = given.index
    if index is None and "SLURM_ARRAY_TASK_ID" in os.environ:
        index = int(os.environ["SLURM_ARRAY_TASK_ID"])
    jobs = jobs_lib.make_jobs(study, folder)
    if index is not None and index >= len(jobs):
        raise StudyError(f"--index={index}: there are 0 to {len(jobs) - 1}; see --list")
    if given.list:
        print(table(jobs))
        return
    if given.dry_run:
        chosen = jobs if index is None else jobs[index : index + 1]
        print("\n".join(shlex.join(job.command) for job in chosen))
        return
    if index is not None and not given.results:
        run_one(jobs, index)
        return

    def write() -> results_lib.Results:
        found = results_lib.gather(name, study, jobs)
        files.write(found, folder)
        return found

    for job in jobs:
        jobs_lib.check(job)
    if not given.results:
        run_all(jobs, write)
    print("\n" + files.markdown(write()))
    print(f"  files        {typed}/study.md, study.png, study.csv, study.json")


def cli() -> None:
    known = (ConfigError, StudyError, DatasetError, ShardError)
    define_flags()
    command.run(main, known, flags_parser=functools.partial(recipe_flag.parse, expected=STUDIES))


if __name__ == "__main__":
    cli()
