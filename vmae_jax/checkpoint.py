"""Atomic, asynchronous checkpoints: the state as a plain tree, and what is needed to go on."""

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vmae_jax import tree

PACKAGES = ("vmae_jax", "jax", "flax", "optax", "orbax-checkpoint", "grain")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says which, why and what to do."""


class Checkpoints:
    """The checkpoints of one run: `directory/<step>/{state,meta}`.

    Orbax writes to a temporary name and renames, so a run killed at any moment leaves either a
    whole checkpoint or none.
    """

    def __init__(self, directory: str, keep: int = 2):
        self.directory = epath.Path(directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, create=True
        )
        self._manager = ocp.CheckpointManager(
            self.directory, item_names=("state", "meta"), options=options
        )

    def latest(self) -> int | None:
        """The last whole checkpoint's step, or None."""
        return self._manager.latest_step()

    def path(self, step: int) -> str:
        return str(self.directory / str(step))

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts saving; the state may be donated to the next step as soon as this returns."""
        if step in self._manager.all_steps():
            return
        meta = json.loads(json.dumps(dict(meta) | {"versions": versions()}))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
        )

    def meta(self, step: int) -> dict[str, Any]:
        try:
            return self._manager.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )["meta"]
        except Exception as error:
            raise self._broken(step, error) from error

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step` with the structure, dtypes and shardings of `like`.

        `like` holds `jax.ShapeDtypeStruct`s; its shardings may be of another mesh than the one
        that saved.
        """
        try:
            return self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
            )["state"]
        except Exception as error:
            raise self._broken(step, error) from error

    def params(self, step: int) -> Any:
        """All parameters, frozen ones too, as NumPy arrays; averaged where the run kept them so.

        Nothing needs to be known of the run: shapes come from the checkpoint, and the optimizer's
        state stays on disk.
        """
        path = epath.Path(self.path(step)) / "state"
        try:
            with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
                saved = reader.metadata(path).tree
                name = "ema_params" if "ema_params" in saved else "params"
                like = {part: saved[part] for part in (name, "frozen") if part in saved}
                as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
                args = ocp.args.PyTreeRestore(like, restore_args=as_numpy, partial_restore=True)
                parts = reader.restore(path, args=args)
                return tree.join(parts[name], parts.get("frozen", {}))
        except Exception as error:
            raise self._broken(step, error) from error

    def _broken(self, step: int, error: Exception) -> CheckpointError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        others = [s for s in self._manager.all_steps() if s != step]
        if "do not match" in reason:
            advice = "it was saved by another version or with other settings: use a new workdir"
            return CheckpointError(f"{self.path(step)}: cannot be restored ({reason}); {advice}")
        advice = f"delete it to continue from step {max(others)}" if others else "use a new workdir"
        return CheckpointError(f"{self.path(step)}: cannot be restored ({reason[:300]}); {advice}")

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def exists(workdir: str) -> bool:
    """Whether a run has saved a whole checkpoint."""
    directory = _directory(workdir)
    if not directory.is_dir():
        return False
    with contextlib.closing(Checkpoints(str(directory))) as checkpoints:
        return checkpoints.latest() is not None


def _directory(workdir: str) -> epath.Path:
    return epath.Path(workdir if "://" in workdir else os.path.abspath(workdir)) / "checkpoints"


def load_params(workdir: str) -> tuple[dict[str, Any], Any]:
    """The meta and the parameters (see `Checkpoints.params`) of a run's last checkpoint.

    Raises:
      CheckpointError: if the run has none, or one that is damaged.
    """
    directory = _directory(workdir)
    if directory.is_dir():
        with contextlib.closing(Checkpoints(str(directory))) as checkpoints:
            step = checkpoints.latest()
            if step is not None:
                return checkpoints.meta(step), checkpoints.params(step)
    raise CheckpointError(
        f"{workdir}: has no checkpoint; give the --workdir of a run that has saved one"
    )


def abstract(arrays: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs of a tree (abstract or not) with the given shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), arrays, shardings
    )


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
