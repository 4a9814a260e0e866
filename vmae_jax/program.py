"""What a run executes on a mesh: the state's first values and the training step.

State is the plain tree {step, params, opt_state[, frozen][, ema_params]}; distillation adds a
teacher, which no checkpoint holds.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from vmae_jax import checkpoint, optim, sharding, tree
from vmae_jax.config import Config

PARTS = ("params", "frozen")  # of the state: together all parameters of the model


class Stream(Protocol):
    """Batches of this process in an order that depends on the seed alone (`data.pipeline`)."""

    fingerprint: str
    num_videos: int
    bad_records: Mapping[int, str]  # record -> what is wrong with it

    def __next__(self) -> dict[str, np.ndarray]: ...
    def close(self) -> None: ...


class Task(Protocol):
    """What is optimised."""

    config: Config  # complete: with what only the data could tell
    inputs: tuple[str, ...]  # the entries of a batch that go to the device
    flops_per_clip: float  # of a training step, without what is computed twice to save memory
    report_every: int  # steps; 0 = only after the last
    meta: Mapping[str, Any]  # what a checkpoint has to say besides the config
    teacher: Any  # host arrays that the loss sees as params["teacher"]; None = no distillation

    def init(self, key: jax.Array) -> Any: ...
    def loss_fn(self, params: Any, batch: dict, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean loss, and the weight of that mean when micro-batches are put together."""

    def data(self, start: int, places: Sequence[int]) -> Stream:
        """Batches from video `start` on, of this process's places in each global batch."""

    def is_frozen(self, path: str) -> bool:
        """Whether the parameter at a '/'-joined path keeps its value."""

    def initial_weights(self, like: Any) -> Mapping[str, np.ndarray]:
        """Values from config.init_from, by '/'-joined path, for parameters shaped as in `like`."""

    def report(
        self, params: Any, stream: Stream, mesh: Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Numbers, and pictures of how good the parameters are.

        A picture is RGB uint8 [height, width, 3], or with T frames to play [T, height, width, 4].
        """


def make_init(config: Config, task: Task, tx: optax.GradientTransformation) -> Callable:
    """init(key) -> state. Jitted with out_shardings, no model ever sits on one device."""

    def init(key: jax.Array) -> dict[str, Any]:
        params, frozen = tree.partition(task.init(key), task.is_frozen)
        state = {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": tx.init(params)}
        if frozen:
            state["frozen"] = frozen
        if config.optim.ema_decay:
            state["ema_params"] = params
        return state

    return init


def whole(state: Mapping[str, Any], params: Any) -> Any:
    """All parameters of the model: those given, and the frozen ones of the state."""
    return tree.join(params, state.get("frozen", {}))


def saved(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of the state: a teacher comes from a file of its own."""
    return {part: value for part, value in state.items() if part != "teacher"}


def with_teacher(state: Mapping[str, Any], task: Task, like: Mapping[str, Any]) -> dict[str, Any]:
    """What was saved as the step takes it: where `like` has a teacher, the task's, in its place."""
    if "teacher" not in like:
        return dict(state)

    def place(value: np.ndarray, to: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(to.shape, to.sharding, lambda index: value[index])

    return {**state, "teacher": jax.tree.map(place, task.teacher, like["teacher"])}


def with_weights(state: Any, weights: Mapping[str, np.ndarray], shardings: Any) -> Any:
    """The fresh state, its parameters at the paths of `weights` replaced, shard by shard."""

    def leaf(path: tuple, fresh: jax.Array, sharding: NamedSharding) -> jax.Array:
        value = weights.get(tree.path_name(path))
        if value is None:
            return fresh
        return jax.make_array_from_callback(fresh.shape, sharding, lambda index: value[index])

    parts = {k: jax.tree.map_with_path(leaf, state[k], shardings[k]) for k in PARTS if k in state}
    if "ema_params" in state:
        parts["ema_params"] = jax.tree.map(jnp.copy, parts["params"])
    return {**state, **parts}


def make_step(
    config: Config, task: Task, tx: optax.GradientTransformation, schedule: optim.Schedule
) -> Callable:
    """step(state, batch) -> (state, metrics): one update, or none where it is not finite."""
    micro_batches = config.optim.accumulate

    def gradients(state: Any, batch: dict, key: jax.Array) -> tuple[jax.Array, Any]:
        def loss_fn(params: Any, batch: dict, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            seen = whole(state, params)
            if "teacher" in state:  # never an argument of the gradient
                seen["teacher"] = state["teacher"]
            return task.loss_fn(seen, batch, key)

        params = state["params"]
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        if micro_batches == 1:
            (loss, _), grads = grad_fn(params, batch, key)
            return loss, grads

        def split(x: jax.Array) -> jax.Array:  # strided, so that every device keeps its rows
            return x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1)

        def accumulate(total: Any, part: tuple[jax.Array, dict]) -> tuple[Any, None]:
            index, rows = part
            (loss, weight), grads = grad_fn(params, rows, jax.random.fold_in(key, index))
            update = jax.tree.map(lambda x: x * weight, (loss, grads))
            return jax.tree.map(jnp.add, total, (*update, weight)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
        parts = (jnp.arange(micro_batches), jax.tree.map(split, batch))
        (loss, grads, weight), _ = jax.lax.scan(accumulate, zero, parts)
        return jax.tree.map(lambda x: x / jnp.maximum(weight, 1), (loss, grads))

    def step(state: dict[str, Any], batch: dict) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state["step"])
        loss, grads = gradients(state, batch, key)
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        lr = schedule(state["step"])
        params = jax.tree.map(lambda p, u: p - lr * u, state["params"], updates)
        new = {"params": params, "opt_state": opt_state}
        if config.optim.ema_decay:
            new["ema_params"] = optax.incremental_update(
                new["params"], state["ema_params"], 1 - config.optim.ema_decay
            )
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, {k: state[k] for k in new})
        new["step"] = state["step"] + 1
        new |= {part: state[part] for part in ("frozen", "teacher") if part in state}
        return new, {"loss": loss, "grad_norm": norm, "lr": lr, "skipped": ~finite}

    return step


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run executes on a mesh. Nothing is computed yet: `plan` compiles it for others."""

    init: Callable  # key -> state, without a teacher
    state: Any  # ShapeDtypeStructs with shardings
    step: Callable  # jitted (state, batch) -> (state, metrics); call it with the mesh set

    @classmethod
    def on(cls, mesh: Mesh, task: Task, schedule: optim.Schedule) -> "Program":
        config = task.config
        tx = optim.optimizer(config.optim, config.model.encoder.depth)
        init = make_init(config, task, tx)
        shapes = jax.eval_shape(init, jax.random.key(config.seed))
        if task.teacher is not None:
            shapes["teacher"] = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), task.teacher
            )
        shardings = sharding.tree_shardings(shapes, mesh)
        step = jax.jit(
            make_step(config, task, tx, schedule),
            donate_argnums=0,
            out_shardings=(shardings, sharding.replicated(mesh)),
        )
        return cls(init, checkpoint.abstract(shapes, shardings), step)


def fresh_state(task: Task, program: Program) -> Any:
    """The state of step 0: random, or with the weights of config.init_from."""
    like = saved(program.state)
    shardings = jax.tree.map(lambda x: x.sharding, like)
    state = jax.jit(program.init, out_shardings=shardings)(jax.random.key(task.config.seed))
    if task.config.init_from:
        weights = task.initial_weights(whole(like, like["params"]))
        state = with_weights(state, weights, shardings)
    return with_teacher(state, task, program.state)
