"""The loop: restore or start, step, log, save, show pictures, stop cleanly. It knows no model.

Everything random in a step comes from (seed, step) and the data position is one integer, so a run
that was killed goes on exactly as if it had not been.
"""

import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh

from vmae_jax import checkpoint, hosts, metrics, optim, sharding
from vmae_jax.config import (
    Config,
    ConfigError,
    changes,
    steps_per_epoch,
    to_dict,
    total_steps,
)
from vmae_jax.program import Program, Stream, Task, fresh_state, saved, whole, with_teacher

log = logging.getLogger(__name__)

# Changed on resume, these would give other shapes, another order of data, masks or targets.
FIXED_SETTINGS = (
    "seed", "task", "normalize_target", "mask.", "classifier.", "probe.", "augment.",
    "distill.temperature", "distill.soft_weight", "distill.feature_weight",
    "model.variant", "model.image_size", "model.num_frames", "model.tubelet_size",
    "model.patch_size", "model.positions", "model.norm_eps", "model.head_norm_eps",
    "model.encoder_norm",
    "data.batch_size", "data.views", "data.sampling", "data.stride", "data.split", "data.antialias",
    "optim.accumulate", "optim.layer_decay",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    steps: int
    checkpoint: str
    pictures: tuple[str, ...]
    already_done: bool = False
    signal: int = 0  # that stopped it early; 0 = none


class Preemption:
    """Notes SIGTERM and SIGINT, so that the loop can save before it exits.

    Of several processes, all have to save the same step: there JAX watches for SIGTERM.
    """

    def __init__(self):
        self.signal = 0  # none yet

    def stops(self, step: int) -> bool:
        """Whether the run ends before `step`, the same on all processes."""
        if hosts.several():
            self.signal = self.signal or hosts.stop_agreed(step)
        return bool(self.signal)

    @contextlib.contextmanager
    def watch(self) -> Iterator["Preemption"]:
        def note(number: int, frame: Any) -> None:
            if self.signal and number == signal.SIGINT:  # the user does not want to wait
                raise KeyboardInterrupt
            if self.signal:  # schedulers may tell every process, and parents their children
                return
            self.signal = number
            log.warning("%s: saving after this step", signal.Signals(number).name)

        watched = () if hosts.several() else (signal.SIGTERM, signal.SIGINT)
        old = {n: signal.signal(n, note) for n in watched}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def every(step: int, interval: int, last: int) -> bool:
    """Whether something due each `interval` steps (0 = never) and after the last one is due now."""
    return step == last or (interval > 0 and step % interval == 0)


def check_resume(config: Config, meta: dict[str, Any], fingerprint: str, path: str) -> None:
    """Raises unless the checkpoint's run is this run; says which harmless settings changed."""
    changed = changes(meta["config"], config)
    fixed = {k: v for k, v in changed.items() if k.startswith(FIXED_SETTINGS)}
    average = changed.get("optim.ema_decay", (1, 1))
    if bool(average[0]) != bool(average[1]):  # the state has one tree more, or less
        fixed["optim.ema_decay"] = average
    if fixed:
        listed = ", ".join(f"{k}: {old!r} -> {new!r}" for k, (old, new) in fixed.items())
        raise ConfigError(
            f"{path} was made with other settings ({listed}); set them back to continue, "
            "or use a new --workdir to start afresh"
        )
    if meta["fingerprint"] != fingerprint:
        raise ConfigError(
            f"{path} was trained on data with fingerprint {meta['fingerprint']} "
            f"({meta['config']['data']['dataset']}), but {config.data.dataset} has {fingerprint}; "
            "give the same data to continue, or use a new --workdir to start afresh"
        )
    for key, (old, new) in changed.items():
        log.warning("config.%s changed since the checkpoint: %r -> %r", key, old, new)


def check_teacher(config: Config, meta: dict[str, Any], found: str | None, path: str) -> None:
    """Raises unless the checkpoint's run had the same teacher, wherever its file lies now."""
    if meta.get("teacher") != found:
        raise ConfigError(
            f"{path} was taught by weights with fingerprint {meta.get('teacher')} "
            f"({meta['config']['distill']['teacher']}), but config.distill.teacher = "
            f"{config.distill.teacher!r} has {found}; give the same teacher to continue, or use a "
            "new --workdir to start afresh"
        )


def train(task: Task, workdir: str, begins: Callable[[], None] = lambda: None) -> Result:
    """Runs or continues a run in `workdir` until its last step or a signal.

    `begins` is called once nothing speaks against it: the checkpoint there, if any, is this run's.
    """
    config, folder = task.config, epath.Path(workdir)
    with contextlib.ExitStack() as stack:
        checkpoints = checkpoint.Checkpoints(
            str(folder / "checkpoints"), config.train.keep_checkpoints
        )
        stack.callback(checkpoints.close)
        start = checkpoints.latest()
        meta = checkpoints.meta(start) if start is not None else None
        mesh = sharding.make_mesh(config.mesh)
        videos, views = config.data.batch_size, config.data.views
        clips = videos * views // config.optim.accumulate
        sharding.check_batch("data.batch_size * data.views / optim.accumulate", clips, mesh)
        places = sharding.places_of_process("data.batch_size", videos, views, mesh)
        stream = task.data(meta["examples"] if meta else 0, places)
        stack.callback(stream.close)
        per_epoch = steps_per_epoch(config, stream.num_videos, meta)
        steps = total_steps(config, per_epoch)
        if start is not None:
            check_resume(config, meta, stream.fingerprint, checkpoints.path(start))
            check_teacher(config, meta, task.meta.get("teacher"), checkpoints.path(start))
            if start >= steps:
                found = tuple(sorted(str(p) for p in (folder / "pictures").glob("*.png")))
                return Result(start, steps, checkpoints.path(start), found, already_done=True)

        schedule = optim.learning_rate(config.optim, config.data.batch_size, steps, per_epoch)
        program = Program.on(mesh, task, schedule)
        begins()
        _tell_epochs(config, stream.num_videos, per_epoch)
        log.info("%s: %s", workdir, _beginning(config, start, steps))
        if start is None:
            state = fresh_state(task, program)
            _write_overview(folder, whole(state, state["params"]))
        else:
            state = checkpoints.restore(start, saved(program.state))
            state = with_teacher(state, task, program.state)
        # The mesh tells kernels and activations where they are.
        stack.enter_context(jax.set_mesh(mesh))
        run = Run(config, task, stream, checkpoints, mesh, folder / "pictures", per_epoch, steps)
        advance, writer = _writers(config, workdir, start or 0, steps)
        stack.callback(writer.close)
        preemption = stack.enter_context(Preemption().watch())
        try:
            return run.loop(state, start or 0, program.step, writer, advance, preemption)
        except metrics.DivergedError as error:
            checkpoints.wait()
            latest = checkpoints.latest()
            last = "none was saved" if latest is None else checkpoints.path(latest)
            raise metrics.DivergedError(f"{error}; last good checkpoint: {last}") from None


def _tell_epochs(config: Config, videos: int, per_epoch: float) -> None:
    """Says where the epochs of a run are not what their number suggests."""
    if config.train.steps and (config.optim.warmup_steps or not config.optim.warmup_epochs):
        return  # none are counted
    batch = config.data.batch_size
    if per_epoch != steps_per_epoch(config, videos):
        log.info("its epochs have %.6g steps, as when it began: the last batch counts", per_epoch)
    elif videos < batch:
        log.warning(
            "%d videos are fewer than data.batch_size = %d: an epoch is one step, in which they "
            "come again", videos, batch,
        )  # fmt: skip


def _beginning(config: Config, start: int | None, steps: int) -> str:
    """Where the parameters come from: a checkpoint goes before init_from, that before chance."""
    if start is not None:
        instead = f" (its checkpoint goes before init_from = {config.init_from})"
        return f"continuing from step {start} of {steps}{instead if config.init_from else ''}"
    source = f"the weights of {config.init_from}" if config.init_from else "scratch"
    return f"starting from {source}, {steps} steps"


def _writers(
    config: Config, workdir: str, start: int, steps: int
) -> tuple[Callable[[int], None], metrics.MultiWriter]:
    """What hears of every step, and what writes numbers and pictures: one process does for all."""
    if jax.process_index() != 0:
        return lambda step: None, metrics.MultiWriter([])
    folder = epath.Path(workdir)
    terminal = metrics.TerminalWriter(config.task, start, steps)
    jsonl = metrics.JsonlWriter(str(folder / "metrics.jsonl"), start)
    events = metrics.TensorBoardWriter(str(folder / "tensorboard"), start)
    return terminal.advance, metrics.MultiWriter([terminal, jsonl, events])


@dataclasses.dataclass
class Run:
    """What the loop works with."""

    config: Config
    task: Task
    stream: Stream
    checkpoints: checkpoint.Checkpoints
    mesh: Mesh
    pictures: epath.Path
    steps_per_epoch: float
    steps: int

    def save(self, step: int, state: Any) -> None:
        meta = {
            "examples": step * self.config.data.batch_size,
            "config": to_dict(self.config),
            "fingerprint": self.stream.fingerprint,
            "steps_per_epoch": self.steps_per_epoch,
            **self.task.meta,
        }
        self.checkpoints.save(step, saved(state), meta)

    def next_batch(self) -> dict[str, jax.Array]:
        batch = next(self.stream)
        clips = self.config.data.batch_size * self.config.data.views
        return sharding.shard_batch({k: batch[k] for k in self.task.inputs}, self.mesh, clips)

    def report(self, step: int, state: Any, writer: metrics.MetricWriter) -> tuple[str, ...]:
        params = whole(state, state.get("ema_params", state["params"]))
        scalars, images = self.task.report(params, self.stream, self.mesh)
        if jax.process_index() != 0:
            return ()
        if scalars:
            writer.write_scalars(step, scalars)
        writer.write_images(step, images)
        paths = [
            metrics.write_picture(self.pictures, f"{name}_{step:07}", image)
            for name, image in images.items()
        ]
        return tuple(map(str, paths))

    def scalars(self, meter: metrics.Meter) -> dict[str, float]:
        """What is logged, in the order in which it is written."""
        return {
            **meter.drain(),
            **meter.speed(),
            "bad_records": len(self.stream.bad_records),
            "skipped": meter.skipped,
        }

    def loop(
        self,
        state: dict[str, Any],
        start: int,
        step_fn: Callable,
        writer: metrics.MetricWriter,
        advance: Callable[[int], None],
        preemption: Preemption,
    ) -> Result:
        config, steps, paths = self.config.train, self.steps, ()
        clips = self.config.data.batch_size * self.config.data.views
        meter = metrics.Meter(self.config, clips, self.task.flops_per_clip)
        batch = self.next_batch()
        step = start
        while step < steps and not preemption.stops(step):
            with jax.transfer_guard("disallow"):  # a hidden transfer would stall every step
                state, step_metrics = step_fn(state, batch)
            step += 1
            meter.add(step, step_metrics)
            failure = None
            if step < steps:  # fetched while the device works on the step above
                asked = time.perf_counter()
                try:
                    batch = self.next_batch()
                except Exception as error:  # log and keep what was learned, then fail
                    failure = error
                meter.waited += time.perf_counter() - asked
            if every(step, config.log_every, steps):
                writer.write_scalars(step, self.scalars(meter))
            elif step == start + 1:  # the first step compiles and says nothing about speed
                meter.drain()
                meter.restart()
            advance(step)
            # DO NOT SAVE BEFORE REPORTING AND FLUSHING: a run killed in between would start after
            # them and never make up for what is missing.
            with meter.pause():
                if every(step, self.task.report_every, steps) and not failure:
                    try:
                        paths = self.report(step, state, writer)
                    except Exception as error:
                        failure = error
                if failure and hosts.several():  # the others save nothing here, or fail as well
                    raise failure
                if failure or every(step, config.checkpoint_every, steps):
                    writer.flush()
                    self.save(step, state)
            if failure:
                raise failure
        if step < steps:
            writer.flush()
            self.save(step, state)
        self.checkpoints.wait()
        path = self.checkpoints.path(self.checkpoints.latest())
        return Result(step, steps, path, paths, signal=preemption.signal)


def _write_overview(workdir: epath.Path, params: Any) -> None:
    """parameters.txt: every parameter's name, shape and size."""
    if jax.process_index() == 0:
        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        (workdir / "parameters.txt").write_text(table + "\n")
