"""The runs of a study: what they are, how far they got, and running one.

Each is a run of vmae_jax.main in a folder of its own, which continues when it is started again.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from vmae_jax import config as config_lib
from vmae_jax import whole
from vmae_jax.config import Config, ConfigError, merged
from vmae_jax.data import records
from vmae_jax.study.settings import EMBEDDED, Runs, Study, flat

MAIN = (sys.executable, "-m", "vmae_jax.main")
SCRATCH = "scratch"  # instead of an arm
# May change while a study is under way: they say where and how fast, not what.
FREE = (
    "init_from", "mesh.", "model.remat", "model.attention", "data.dataset", "data.threads",
    "data.workers", "eval.batch_size", "train.log_every", "train.checkpoint_every",
    "train.keep_checkpoints", "train.picture_every",
)  # fmt: skip


class StudyError(RuntimeError):
    """A study that cannot go on; the message says where and what to do."""


class BusyError(StudyError):
    """Another process works at the job."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run. `benchmark` is empty for pre-training, `clips` 0 without it."""

    arm: str
    clips: int
    seed: int
    benchmark: str
    folder: str  # the run's --workdir
    runs: Runs
    config: Config
    fingerprint: str  # of its data
    after: "Job | None" = None  # the pre-training that it starts from

    @property
    def name(self) -> str:
        what = f"fine-tuning on {self.benchmark}" if self.benchmark else "pre-training"
        on = f"{self.arm}, {self.clips:,} clip{'s' * (self.clips > 1)}" if self.clips else SCRATCH
        return f"{on}, seed {self.seed}: {what}"

    @property
    def command(self) -> list[str]:
        """What a user would type."""
        settings = flat(self.runs.settings) | {"seed": self.seed, "init_from": ""}
        if self.after:
            settings["init_from"] = self.after.folder
        values = [f"--config.{key}={value}" for key, value in settings.items()]
        return [*MAIN, f"--config={self.runs.recipe}", f"--workdir={self.folder}", *values]

    @property
    def summary(self) -> epath.Path:
        """Where a classifier's accuracies are, at the end."""
        return epath.Path(self.folder) / "eval" / "summary.json"

    def steps(self) -> int:
        """Of the whole run, as its checkpoints count them."""
        per_epoch = config_lib.steps_per_epoch(self.config, self.clips, _meta(self.folder))
        return config_lib.total_steps(self.config, per_epoch)

    def is_done(self) -> bool:
        if self.benchmark:
            return self.summary.exists()
        last = epath.Path(self.folder) / "checkpoints" / str(self.steps())
        if self.folder.startswith("gs://"):  # not renamed when it is whole, as on a disk: marked
            last /= "commit_success.txt"
        return last.exists()

    def state(self) -> str:
        """done, begun, ready, or waiting for its pre-training."""
        if self.is_done():
            return "done"
        if self.after and not self.after.is_done():
            return "waiting"
        return "begun" if (epath.Path(self.folder) / "job.json").exists() else "ready"


def _meta(folder: str) -> Mapping[str, Any] | None:
    """What a checkpoint of the run says of it; None before the first."""
    kept = epath.Path(folder) / "checkpoints"
    for saved in kept.iterdir() if kept.exists() else ():
        with contextlib.suppress(FileNotFoundError):  # the run keeps a few, and removes others
            if saved.name.isdigit():
                return json.loads((saved / "meta" / "metadata").read_text())
    return None


def make_jobs(study: Study, folder: str) -> list[Job]:
    """All runs of a study: every pre-training, then what starts from them, the first seeds first.

    Embedded videos are made on the way.

    Raises:
      ConfigError, DatasetError, ShardError: for recipes, settings and data that cannot be used.
    """
    study = _with_embedded(study, folder)
    subsets = [
        (name, records.open_dataset(arm.dataset, split))
        for name, arm in study.arms.items()
        for split in arm.subsets()
    ]
    pretraining = [
        _pretraining(study, folder, arm, subset, seed)
        for seed in study.seeds
        for arm, subset in subsets
    ]
    tests = {name: _benchmark(name, runs) for name, runs in study.benchmarks.items()}
    for name, (config, _) in tests.items():
        _check_models(pretraining[0].config, config, name)
    finetuning = []
    for seed in study.seeds:
        starts = [job for job in pretraining if job.seed == seed]
        for after in [*starts, *([None] if study.scratch else [])]:
            for name, (config, fingerprint) in tests.items():
                of = (after.arm, after.clips) if after else (SCRATCH, 0)
                finetuning.append(
                    Job(
                        *of, seed, name, _workdir(folder, *of, seed, f"finetune_{name}"),
                        study.benchmarks[name], dataclasses.replace(config, seed=seed),
                        fingerprint, after,
                    )
                )  # fmt: skip
    return [*pretraining, *finetuning]


def _workdir(folder: str, arm: str, clips: int, seed: int, run: str) -> str:
    of = f"{arm}_{clips}" if clips else arm
    return os.path.join(folder, f"{of}_seed{seed}", run)


def _pretraining(study: Study, folder: str, arm: str, subset: records.Dataset, seed: int) -> Job:
    data = {"data": {"dataset": subset.path, "split": subset.split}}
    runs = dataclasses.replace(study.pretrain, settings=merged(study.pretrain.settings, data))
    config = dataclasses.replace(runs.config("pretrain"), seed=seed)
    if config.task != "pretrain":
        raise ConfigError(
            f"config.pretrain.recipe = {runs.recipe!r}: expected a recipe whose task is "
            f"'pretrain', found {config.task!r}"
        )
    if config.init_from:
        raise ConfigError(
            f"config.pretrain.recipe = {runs.recipe!r}: starts from {config.init_from!r}; expected "
            "a recipe without init_from, as each subset's run starts from nothing"
        )
    clips = len(subset.source)
    workdir = _workdir(folder, arm, clips, seed, "pretrain")
    return Job(arm, clips, seed, "", workdir, runs, config, subset.fingerprint)


def _benchmark(name: str, runs: Runs) -> tuple[Config, str]:
    """Settings, and the fingerprint of what is learned from and tested on."""
    config = runs.config(f"benchmarks.{name}")
    if config.task == "pretrain" or config.mode != "train" or not config.eval.split:
        raise ConfigError(
            f"config.benchmarks.{name}.recipe = {runs.recipe!r}: expected a recipe that fine-tunes "
            "or probes and then tests (task, mode = 'train', eval.split)"
        )
    splits = (config.data.split, config.eval.split)
    prints = [records.open_dataset(config.data.dataset, split).fingerprint for split in splits]
    return config, "+".join(prints)


def _check_models(pretrained: Config, tuned: Config, name: str) -> None:
    """Raises ConfigError where one cannot start from the other."""
    for key in ("encoder", "patch_size", "tubelet_size"):
        of, on = (getattr(config.model, key) for config in (pretrained, tuned))
        if of != on:
            raise ConfigError(
                f"config.benchmarks.{name}: its model has {key} {on}, that of config.pretrain "
                f"{of}; name recipes of one model"
            )


def _with_embedded(study: Study, folder: str) -> Study:
    """Makes the embedded videos where the study asks for them, and names their folder."""
    benchmarks = {n: r.config(f"benchmarks.{n}").data.dataset for n, r in study.benchmarks.items()}
    if EMBEDDED not in [*(arm.dataset for arm in study.arms.values()), *benchmarks.values()]:
        return study
    from vmae_jax.data import synthetic
    from vmae_jax.data.build import BuildError

    if "://" in folder:
        raise StudyError(
            f"--folder={folder}: embedded videos are made on a disk; name a folder there"
        )
    wanted, place = study.embedded, os.path.join(folder, "synthetic")
    if not os.path.isdir(place):
        print(f"making the embedded videos and building their shards in {place}", flush=True)
    os.makedirs(place, exist_ok=True)
    lock = _locked(os.path.join(place, "lock"), wait=True)  # several may begin a study at once
    try:
        path = synthetic.prepare_study(
            place, wanted.sizes, clips_per_class=wanted.train_clips,
            val_clips_per_class=wanted.val_clips,
        )  # fmt: skip
    except BuildError as error:
        raise StudyError(str(error)) from error
    finally:
        _release(lock)
    arms = {
        name: dataclasses.replace(arm, dataset=path) if arm.dataset == EMBEDDED else arm
        for name, arm in study.arms.items()
    }
    data = {"data": {"dataset": path}}
    tests = {
        name: dataclasses.replace(runs, settings=merged(runs.settings, data))
        if benchmarks[name] == EMBEDDED
        else runs
        for name, runs in study.benchmarks.items()
    }
    return dataclasses.replace(study, arms=arms, benchmarks=tests)


def check(job: Job) -> None:
    """Raises StudyError where the job's folder holds a run of other settings or data.

    Those of the pre-training that it started from count as well. A run that failed before it kept
    anything may be begun again with better settings.
    """
    kept = epath.Path(job.folder) / "checkpoints"
    if not (job.is_done() or (kept.exists() and any(p.name.isdigit() for p in kept.iterdir()))):
        return
    try:
        noted = json.loads((epath.Path(job.folder) / "job.json").read_text())
    except (FileNotFoundError, ValueError):  # not begun, or killed in that moment
        return
    changed = _changes(noted, job)
    if job.after and noted.get("after"):
        before = _changes(noted["after"], job.after)
        changed |= {f"pre-training's {key}": values for key, values in before.items()}
    if changed:
        listed = ", ".join(f"{k}: {old!r} -> {new!r}" for k, (old, new) in changed.items())
        raise StudyError(
            f"{job.folder}: was run with other settings ({listed}); set them back, remove that "
            "folder to run it again, or name another --folder"
        )


def _changes(noted: Mapping[str, Any], job: Job) -> dict[str, tuple]:
    """What differs from the job as it was noted: {setting: (old, new)}."""
    changed = config_lib.changes(noted["config"], job.config)
    changed = {k: v for k, v in changed.items() if not k.startswith(FREE)}
    if noted["fingerprint"] != job.fingerprint:
        changed["fingerprint of the data"] = (noted["fingerprint"], job.fingerprint)
    return changed


def _note(job: Job) -> dict[str, Any]:
    """What the job is, and the one that it starts from."""
    return {
        "config": config_lib.to_dict(job.config),
        "fingerprint": job.fingerprint,
        "after": _note(job.after) if job.after else None,
    }


def _locked(path: str, wait: bool) -> int | None:
    """The descriptor of a lock's file, for `_release`; None where files cannot be locked.

    Raises:
      BlockingIOError: if another process holds it, unless we are to wait.
    """
    lock = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return lock
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):  # some of a cluster's disks
            return None
        raise


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


@contextlib.contextmanager
def begun(job: Job) -> Iterator[int | None]:
    """Notes that the job begins; holds its folder, so that it is run once at a time.

    Gives a file descriptor for the run to inherit, as it may outlive us; None where there is no
    lock: in buckets, on disks that have none, and for a run of several processes, which all begin
    the same job.

    Raises:
      BusyError: if it is run already.
    """
    from vmae_jax import hosts

    folder, lock = epath.Path(job.folder), None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if "://" not in job.folder and not hosts.is_cluster():
            try:
                lock = _locked(os.path.join(job.folder, "lock"), wait=False)
            except BlockingIOError as error:
                raise BusyError(
                    f"{job.name}: is run by another process ({job.folder}/lock is held); wait for "
                    "it, or end it"
                ) from error
        whole.write(folder / "job.json", json.dumps(_note(job), indent=1) + "\n")
        yield lock
    finally:
        _release(lock)


def run(job: Job, environment: Mapping[str, str]) -> int:
    """Runs or continues the job; its exit status, 143 or 130 where we were asked to stop."""
    with begun(job) as lock:
        # In a session of its own: Ctrl-C comes to us alone, and the run is asked to stop once.
        process = subprocess.Popen(
            job.command,
            env=environment,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
        asked = []

        def ask(number: int, frame: Any) -> None:
            asked.append(number)
            process.send_signal(number)

        old = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            status = process.wait()
            return 128 + asked[0] if asked else status
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def become(job: Job) -> None:
    """Runs the job in place of this process: signals and the exit status are the run's own."""
    with begun(job) as lock:
        if lock is not None:
            os.set_inheritable(lock, True)
        sys.stdout.flush()
        os.execv(job.command[0], job.command)
