r"""Runs a recipe: pre-training, fine-tuning, distillation, probes and testing.

  # embedded videos, minutes on a CPU
  python -m vmae_jax.main --config=configs/quickstart.py

  # any recipe in seconds, to see it run
  python -m vmae_jax.main --config=configs/vitg_tiktok.py:smoke

  # your own videos (from vmae_jax.data.build), other settings, a folder of your choice
  python -m vmae_jax.main --config=configs/quickstart.py --config.data.dataset=datasets/mine \
      --config.train.steps=500 --workdir=runs/mine

  # a run's classifier on the held-out videos, or a public one with --config.init_from=FILE.pth
  python -m vmae_jax.main --config=configs/finetune_custom.py --config.mode=eval \
      --config.data.dataset=datasets/mine --workdir=runs/custom

Every setting of config.py is a flag: --config.GROUP.NAME=VALUE. The same command continues a run
that was stopped or killed.

Exit status: 0 finished, 1 an error (one line says which), 143 or 130 stopped by SIGTERM or Ctrl-C
after saving.
"""

import dataclasses
import logging
import os
import shlex
import sys
from pathlib import Path

from absl import app, flags

from vmae_jax import command, recipe_flag
from vmae_jax import config as config_lib

log = logging.getLogger("vmae_jax")

recipe_flag.define()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run's checkpoints, metrics and pictures [runs/<recipe's name>]."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0 of several [JAX_COORDINATOR_ADDRESS; TPU pods and "
    "SLURM are recognised]."
)  # fmt: skip
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Processes of the job [JAX_NUM_PROCESSES].", lower_bound=1
)
_PROCESS = flags.DEFINE_integer(
    "process", None, "Number of this one, from 0 [JAX_PROCESS_ID].", lower_bound=0
)


def default_workdir(config_flag: str) -> str:
    """configs/quickstart.py:smoke -> runs/quickstart-smoke."""
    path, _, argument = config_flag.partition(":")
    return os.path.join("runs", "-".join(filter(None, [Path(path).stem, argument])))


def check_workdir(workdir: str) -> None:
    """Raises ConfigError where a file is in a run's way."""
    place = next(path for path in (Path(workdir), *Path(workdir).parents) if path.exists())
    if not place.is_dir():
        raise config_lib.ConfigError(
            f"--workdir={workdir}: {place} is a file; expected a folder, there or to be made"
        )


def make_task(config: config_lib.Config):
    if config.task == "pretrain":
        from vmae_jax.tasks.pretrain import Pretrain

        return Pretrain(config)
    return classifier_task(config).from_data(config)


def classifier_task(config: config_lib.Config):
    """The class of a task with labels."""
    if config.task == "probe":
        from vmae_jax.tasks.probe import Probe

        return Probe
    if config.task == "distill":
        from vmae_jax.tasks.distill import Distill

        return Distill
    from vmae_jax.tasks.finetune import Finetune

    return Finetune


def is_knn(config: config_lib.Config) -> bool:
    """Whether there is nothing to train."""
    return config.task == "probe" and config.probe.kind == "knn"


def with_dataset(config: config_lib.Config, workdir: str) -> config_lib.Config:
    """Makes the embedded data set where the recipe asks for it, and names its folder."""
    if config.data.dataset != "synthetic":
        return config
    from vmae_jax.data import synthetic

    if "://" in workdir:  # videos are written and encoded on a disk
        workdir = default_workdir(recipe_flag.name())
    folder = os.path.join(os.path.abspath(workdir), "synthetic")
    if not os.path.isdir(folder):
        log.info("making the embedded videos and building their shards in %s", folder)
    directory = synthetic.prepare(folder)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, dataset=directory))


def keep_compiled(workdir: str) -> None:
    """Restarts, on other machines too, find the compiled step beside the checkpoints.

    JAX_COMPILATION_CACHE_DIR goes first. CPUs compile for the very machine they run on.
    """
    import jax

    if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.join(workdir, "compiled"))


def summary(result, task: str, workdir: str, again: str) -> str:
    """The last words of a run: where everything is, and what to type next."""
    if result.signal:
        head = f"Stopped at step {result.step} of {result.steps} and saved."
        return f"\n{head} The same command continues it:\n  {again}"
    state = "was already done" if result.already_done else "is done"
    lines = [f"\nThe run {state}: step {result.step} of {result.steps}."]
    lines += [f"  checkpoint   {result.checkpoint}"]
    lines += [f"  metrics      {os.path.join(workdir, 'metrics.jsonl')}"]
    lines += [f"  tensorboard  {os.path.join(workdir, 'tensorboard')}"]
    lines += [f"  picture      {path}" for path in result.pictures[-1:]]
    lines += ["Next:", f"  tensorboard --logdir={shlex.quote(workdir)}"]
    return "\n".join(lines + [f"  {command}" for command in next_commands(task, workdir)])


def next_commands(task: str, workdir: str) -> list[str]:
    """What a user types after a run."""
    folder = shlex.quote(workdir)
    if task == "pretrain":
        return [
            "python -m vmae_jax.data.build --videos=YOUR_VIDEOS --out=YOUR_DATASET",
            f"python -m vmae_jax.features --checkpoint={folder} --out=FEATURES YOUR_VIDEOS",
        ]
    if task in ("finetune", "distill"):
        return [
            f"python -m vmae_jax.predict --checkpoint={folder} YOUR_VIDEO.mp4",
            f"python -m vmae_jax.convert --input={folder} --to=transformers --output=YOUR_MODEL",
        ]
    return []


def main(argv: list[str]) -> None:
    command.speak_plainly()
    log.setLevel(logging.INFO)
    workdir = _WORKDIR.value or default_workdir(recipe_flag.name())
    if "://" not in workdir:
        workdir = os.path.abspath(workdir)
        check_workdir(workdir)
    config = recipe_flag.config()

    import jax

    from vmae_jax import environment, hosts, sharding, train

    if _COORDINATOR.value or hosts.is_cluster():
        hosts.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    devices = sharding.devices()
    keep_compiled(workdir)
    if jax.process_index() == 0:
        together = f" of {jax.process_count()} processes" if hosts.several() else ""
        print(
            f"{config.task} {config.model.variant} on {len(devices)} x {devices[0].device_kind}"
            f"{together}, workdir {workdir}",
            flush=True,
        )
    else:  # one process speaks for all; warnings and errors are everybody's own
        log.setLevel(logging.WARNING)
    config = hosts.first_alone(lambda: with_dataset(config, workdir))

    def note() -> None:
        if jax.process_index() == 0:
            environment.write(workdir, config, recipe_flag.name(), recipe_flag.changes())

    if config.mode == "train" and is_knn(config):
        note()
    elif config.mode == "train":
        result = train.train(make_task(config), workdir, note)
        again = "python -m vmae_jax.main " + shlex.join(sys.argv[1:])
        if jax.process_index() == 0:
            print(summary(result, config.task, workdir, again))
        if result.signal:
            sys.exit(128 + result.signal)
    if is_knn(config) or (config.task != "pretrain" and config.eval.split):
        test(config, workdir)


def test(config: config_lib.Config, workdir: str) -> None:
    """Multi-view testing of the run's classifier, or k-NN; writes <workdir>/eval."""
    import jax

    from vmae_jax import sharding
    from vmae_jax.tasks import finetune, probe

    if is_knn(config):
        scores, views = probe.nearest_neighbors(config), "k-NN on the central view"
    else:
        task, params = finetune.trained(config, workdir, classifier_task(config))
        mesh = sharding.make_mesh(config.mesh)
        scores = task.test(jax.device_put(params, sharding.replicated(mesh)), mesh)
        views = f"{config.eval.clips} x {config.eval.crops} views"
    folder = os.path.join(workdir, "eval")
    if jax.process_index() == 0:
        tested = {"dataset": config.data.dataset, "split": config.eval.split, "views": views}
        scores.write(folder, tested)
        print(scores.report(views))
        print(f"  files        {folder}")


def cli() -> None:
    """Runs `main`; an error that the user can mend ends in one line."""
    from vmae_jax.checkpoint import CheckpointError
    from vmae_jax.convert.rules import ConversionError
    from vmae_jax.data.build.items import BuildError
    from vmae_jax.data.pipeline import TooManyBadRecords
    from vmae_jax.data.records import DatasetError, RecordError, ShardError
    from vmae_jax.metrics import DivergedError

    known = (
        config_lib.ConfigError, DatasetError, ShardError, RecordError, TooManyBadRecords,
        CheckpointError, ConversionError, DivergedError, BuildError, OSError,
    )  # fmt: skip
    from vmae_jax import hosts

    try:
        app.run(main, flags_parser=recipe_flag.parse)
    except known as error:
        hosts.fail(command.said(error))
    except Exception as error:
        if message := hosts.lost_peer(error) or command.advice(error):
            hosts.fail(message)
        hosts.crash(error)
    except KeyboardInterrupt:  # outside the loop, which saves first
        hosts.fail("stopped", 130)


if __name__ == "__main__":
    cli()
