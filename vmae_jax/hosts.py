"""Several processes as one job: joining, agreeing on when to stop, and ending together."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

# Without a sign of life for so long, a process counts as lost and the runtime ends the others.
# Where the transport notices first (sockets on CPUs and GPUs), it takes seconds.
HEARTBEAT_SECONDS = 60

T = TypeVar("T")


def is_cluster(environment: dict[str, str] | None = None) -> bool:
    """Whether the environment says that several processes form one job."""
    env = os.environ if environment is None else environment
    return (
        "JAX_COORDINATOR_ADDRESS" in env
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in env  # several TPU slices
        or int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    )


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Makes this process part of the job; before anything else touches a device.

    What is None comes from the environment, where JAX knows it: TPU pods, GKE, SLURM.
    """
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator,
        _number("JAX_NUM_PROCESSES") if processes is None else processes,
        _number("JAX_PROCESS_ID") if process is None else process,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def _number(name: str) -> int | None:
    return int(os.environ[name]) if name in os.environ else None


def first_alone(prepare: Callable[[], T]) -> T:
    """Runs `prepare` on process 0, and then, when its files are there, on the others."""
    if several() and jax.process_index():
        multihost_utils.sync_global_devices("prepared by process 0")
    result = prepare()
    if several() and not jax.process_index():
        multihost_utils.sync_global_devices("prepared by process 0")
    return result


def several() -> bool:
    return jax.process_count() > 1


def stop_agreed(step: int) -> int:
    """The signal that stops the job before `step`, the same on all processes; 0 = none.

    A process that gets SIGTERM tells the others through JAX's coordination service, and all agree
    on a step that none of them has passed.
    """
    return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0


def fail(message: str, status: int = 1) -> None:
    """Prints the error and exits. One of several processes does not wait for the others.

    They could not go on without it, and a farewell would hold back its error until they time out.
    """
    below = "\n" * sys.stderr.isatty()  # a progress bar
    print(f"{below}error: {message}", file=sys.stderr, flush=True)
    _exit(status)


def crash(error: BaseException) -> None:
    """What `fail` is for errors that nobody foresaw: with the traceback."""
    traceback.print_exception(error)
    _exit(1)


def _exit(status: int) -> None:
    if jax.distributed.is_initialized() and several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def lost_peer(error: Exception) -> str | None:
    """What to say of an error of the runtime that means that another process is gone; or None."""
    if not (isinstance(error, jax.errors.JaxRuntimeError) and several()):
        return None
    reason = str(error).strip().splitlines()[0][:200]
    return (
        f"process {jax.process_index()} of {jax.process_count()} lost the others ({reason}); the "
        "one that failed says why in its own output. The same command continues from the last "
        "checkpoint"
    )
