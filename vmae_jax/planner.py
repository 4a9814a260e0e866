"""A recipe's training step on a machine that is not here: compiled, read and held against peaks."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from vmae_jax import hardware, hlo, program, sharding
from vmae_jax.config import Config, ConfigError
from vmae_jax.tasks import teacher
from vmae_jax.tasks.distill import Distill
from vmae_jax.tasks.finetune import Finetune
from vmae_jax.tasks.pretrain import Pretrain
from vmae_jax.tasks.probe import Probe

BUDGET = 0.85  # of a chip's memory; fragments and the runtime want the rest

# What a topology's name and its extra arguments are for the compiler.
_ARGUMENTS: Mapping[str, Mapping[str, str]] = {"v4": {"chip_config_name": "megacore"}}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips of one kind: `count` of them in `slices` equal parts."""

    chip: hardware.Chip
    count: int
    slices: int = 1

    def __str__(self) -> str:
        parts = f" in {self.slices} slices" if self.slices > 1 else ""
        return f"{self.count} x {self.chip.name}{parts}"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of one step on one chip, in bytes."""

    state: int
    batch: int
    temporary: int  # activations, gradients, workspace
    traffic: int  # from and to memory
    collectives: tuple[hlo.Collective, ...]

    @property
    def memory(self) -> int:
        return self.state + self.batch + self.temporary


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe on a machine. FLOPs and seconds are of one step, per chip where it says so."""

    recipe: str
    machine: Machine
    parameters: int
    clips: int  # per step
    model_flops: float  # of all clips: forward, backward
    chip_flops: float  # what one chip multiplies, recomputation included
    state: int  # bytes per chip
    batch: int  # bytes per chip
    compiled: Compiled | None = None
    exceeded: str = ""  # what the compiler said of a step that does not fit

    @property
    def times(self) -> dict[str, float]:
        """Seconds that each part of the chip would take alone."""
        chip = self.machine.chip
        times = {"products": self.chip_flops / chip.flops}
        if self.compiled:
            sent = self.compiled.collectives
            times["memory"] = self.compiled.traffic / chip.bandwidth
            times["links"] = sum(c.wire_bytes for c in sent if not c.slices) / chip.links
            if self.machine.slices > 1:
                times["network"] = sum(c.wire_bytes for c in sent if c.slices) / chip.network
        return times

    @property
    def seconds(self) -> float:
        return max(self.times.values())

    @property
    def mfu(self) -> float:
        """Share of the peak that the model's own products take at that speed."""
        return self.model_flops / (self.seconds * self.machine.count * self.machine.chip.flops)

    @property
    def memory(self) -> int:
        """Bytes on one chip; without the compiler, activations are not among them."""
        return self.compiled.memory if self.compiled else self.state + self.batch

    @property
    def fits(self) -> bool:
        return not self.exceeded and self.memory <= BUDGET * self.machine.chip.memory


def parse_machine(topology: str, platform: str, devices: int, slices: int) -> Machine:
    """--topology=v5p:4x4x4 or --platform=gpu:h200 --devices=8.

    Raises:
      ConfigError: for anything else.
    """
    name, _, shape = (topology or platform.removeprefix("gpu:")).partition(":")
    chip = hardware.CHIPS.get(name)
    if chip is None:
        raise ConfigError(
            f"{'--topology=' + topology if topology else '--platform=' + platform}: expected "
            f"v5p:4x4x4 or gpu:h200, of {', '.join(hardware.CHIPS)}"
        )
    if not topology:
        return Machine(chip, devices)
    if not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ConfigError(f"--topology={topology}: expected its shape in chips, as in v5p:4x4x4")
    return Machine(chip, slices * math.prod(map(int, shape.split("x"))), slices)


def tpu_devices(topology: str, machine: Machine) -> Sequence[Any]:
    """The devices of a TPU that is not here.

    Raises:
      ConfigError: without libtpu, or for a topology that it does not know.
    """
    from jax.experimental import topologies

    arguments = dict(_ARGUMENTS.get(machine.chip.name, {}))
    if machine.slices > 1:
        arguments["num_slices"] = machine.slices
    try:
        return topologies.get_topology_desc(topology, "tpu", **arguments).devices
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        if "not installed" in reason:
            reason = "there is no TPU compiler here: pip install 'vmae_jax[tpu]'"
        raise ConfigError(f"--topology={topology}: {reason}") from error


def make(
    recipe: str, config: Config, machine: Machine, topology: str = "", compiling: bool = True
) -> Plan:
    """Plans a recipe; with `compiling`, by the TPU compiler for `topology`."""
    task = _task(config)
    clips = config.data.batch_size * config.data.views
    if compiling:
        mesh = sharding.make_mesh(config.mesh, tpu_devices(topology, machine))
    else:
        shape = sharding.mesh_shape(config.mesh, machine.count)
        mesh = AbstractMesh(shape, sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    share = clips // config.optim.accumulate
    sharding.check_batch("data.batch_size * data.views / optim.accumulate", share, mesh)
    run = program.Program.on(mesh, task, lambda step: 1e-4)
    batch = _batch(config, mesh)
    traced = run.step.trace(run.state, batch)  # without a mesh: attention as two products
    parameters = jax.tree.leaves(program.whole(run.state, run.state["params"]))
    plan = Plan(
        recipe, machine, sum(x.size for x in parameters), clips,
        model_flops=float(task.flops_per_clip * clips),
        chip_flops=products(traced.jaxpr.jaxpr) / machine.count,
        state=_bytes(run.state), batch=_bytes(batch),
    )  # fmt: skip
    if not compiling:
        return plan
    try:
        with jax.set_mesh(mesh):
            compiled = run.step.lower(run.state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = re.search(r"Used [^.]*\.\d+\w* of [^.]*\.\d+\w*[^.]*", str(error))
        return dataclasses.replace(plan, exceeded=said[0] if said else "out of memory")
    return dataclasses.replace(plan, compiled=_facts(compiled, plan, machine))


def _task(config: Config) -> program.Task:
    """The recipe's task, without its data."""
    if config.task == "pretrain":
        return Pretrain(config)
    if not config.classifier.num_classes:
        raise ConfigError(
            "config.classifier.num_classes = 0: a plan counts no data; give the number of classes"
        )
    if config.task == "distill":
        return Distill(config, teacher=teacher.abstract(config))
    return (Probe if config.task == "probe" else Finetune)(config)


def _batch(config: Config, mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """The entries of a batch that go to the device."""
    split = NamedSharding(mesh, sharding.BATCH)
    model, clips = config.model, config.data.batch_size * config.data.views
    video = (clips, model.num_frames, model.image_size, model.image_size, 3)
    batch = {"video": jax.ShapeDtypeStruct(video, np.uint8, sharding=split)}
    if config.needs_labels:
        batch["label"] = jax.ShapeDtypeStruct((clips,), np.int32, sharding=split)
    return batch


def _bytes(arrays: Any) -> int:
    """Of one chip's part of the arrays."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(arrays)
    )


def _facts(compiled: Any, plan: Plan, machine: Machine) -> Compiled:
    memory = compiled.memory_analysis()
    grown = memory.output_size_in_bytes - memory.alias_size_in_bytes
    text = hlo.Program(compiled.as_text())
    return Compiled(
        state=memory.argument_size_in_bytes - plan.batch,
        batch=plan.batch,
        temporary=memory.temp_size_in_bytes + max(0, grown),
        traffic=text.memory_traffic(),
        collectives=tuple(text.collectives(machine.slices)),
    )


def products(jaxpr: Any) -> float:
    """FLOPs of all matrix products of a traced function, loops as often as they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval, equation.outvars[0].aval
            total += 2.0 * math.prod(out.shape) * math.prod(left.shape[i] for i in contracted)
            continue
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(products(inner) for inner in _inner(equation.params))
    return total


def _inner(parameters: Mapping[str, Any]) -> list[Any]:
    """The functions that an equation calls; of a conditional's branches, the first."""
    values = [v[0] if k == "branches" else v for k, v in parameters.items() if v]
    found = (getattr(value, "jaxpr", value) for value in values)
    return [value for value in found if hasattr(value, "eqns")]
