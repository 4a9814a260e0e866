r"""Will it fit, how long will it take: a recipe on a machine that is not paid for yet.

  # 64 chips of a TPU v5p, by compiling the recipe's training step with the real TPU compiler
  python -m vmae_jax.plan --config=configs/vitg_tiktok.py --topology=v5p:4x4x4 --videos=283582

  # two slices of them; GPUs, without compiling
  python -m vmae_jax.plan --config=configs/vitg_tiktok.py --topology=v5p:4x4x4 --slices=2
  python -m vmae_jax.plan --config=configs/vitg_k400.py --platform=gpu:h200 --devices=8

The compiler comes with pip install 'vmae_jax[tpu]' and needs no TPU. Times are bounds: the longest
of what products, memory and links would take alone at the chips' peaks. Exit status: 0 it fits, 3
it does not, 1 an error.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from vmae_jax import command, hardware, hlo, planner, recipe_flag
from vmae_jax import config as config_lib
from vmae_jax.config import Config, ConfigError

DECODED_PER_CORE = 37.0  # videos/s, 4 views each, from default shards: `vmae_jax.bench`
RECORD_RATE = 97e3  # bytes of a default shard per second of video (256 px, H.264)
BEST_RECORD_SECONDS = 3  # a clip of 16 frames at stride 4 and some room

Rows = list[tuple[str, str]]
PARTS = ("products", "memory", "links", "network")
HEAD = f"""\
| recipe | chips | memory | ms of {", ".join(PARTS)} | step at best | clips/s | MFU |
|---|---|---|---|---|---|---|"""


def report(plan: planner.Plan, config: Config, videos: int, seconds: float) -> str:
    """The plan as a table for a terminal.

    Args:
      videos: of the data set, 0 = not known.
      seconds: of a record, which decides how much is read.
    """
    machine, chip = plan.machine, plan.machine.chip
    speed = plan.clips / plan.seconds
    again = plan.chip_flops * machine.count / plan.model_flops - 1
    bounds = ", ".join(f"{name} {1e3 * t:.0f}" for name, t in plan.times.items())
    sent = plan.compiled.collectives if plan.compiled else ()
    rows = [
        ("parameters", f"{plan.parameters / 1e6:.1f} M"),
        ("step", f"{plan.clips} clips, {plan.clips / machine.count:g} per chip"),
        ("products", f"{plan.model_flops / plan.clips / 1e9:.1f} GFLOP per clip, forward and back"),
        ("", f"{plan.model_flops / 1e15:.2f} PFLOP per step, {again:+.0%} to save memory"),
        *_memory_rows(plan),
        *_exchange_rows(sent),
        ("bounds, ms", bounds),
        ("", f"at {chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:.0f} GB/s of memory, "
         f"{chip.links / 1e9:.0f} GB/s of links"),
        ("at best", f"{plan.seconds:.3f} s per step, {speed:.0f} clips/s, MFU {plan.mfu:.0%}"),
        *_run_rows(plan, config, videos),
        *_host_rows(plan, config, speed, seconds),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:{width}}  {value}" for name, value in rows]
    return "\n".join([f"\n{plan.recipe} on {machine}", *lines, f"\n{_verdict(plan, config)}"])


def _gib(size: float) -> str:
    return f"{size / hardware.GIB:.2f} GiB"


def _memory_rows(plan: planner.Plan) -> Rows:
    of, c = _gib(plan.machine.chip.memory), plan.compiled
    if c is None:
        held = f"state {_gib(plan.state)}, batch {_gib(plan.batch)}, activations not counted"
        return [("memory", f"{held}, of {of}")]
    share = c.memory / plan.machine.chip.memory
    return [
        ("memory", f"{_gib(c.memory)} of {of} per chip ({share:.0%})"),
        ("", f"state {_gib(c.state)}, batch {_gib(c.batch)}, activations {_gib(c.temporary)}"),
    ]


def _exchange_rows(collectives: Sequence[hlo.Collective]) -> Rows:
    """One row per kind: how many a step runs and what one chip sends."""
    rows, name = [], "exchanges"
    for kind in sorted({(c.kind, c.slices) for c in collectives}):
        same = [c for c in collectives if (c.kind, c.slices) == kind]
        where = " between slices" if kind[1] else ""
        sent = sum(c.wire_bytes for c in same) / 1e9
        rows.append((name, f"{sum(c.times for c in same)} {kind[0]}{where}, {sent:.2f} GB sent"))
        name = ""
    return rows


def _run_rows(plan: planner.Plan, config: Config, videos: int) -> Rows:
    if not (videos or config.train.steps):
        epochs = f"{config.train.epochs:g} epochs"
        return [("whole run", f"{epochs}; --videos=N says how long that is")]
    steps = config_lib.total_steps(config, config_lib.steps_per_epoch(config, videos))
    hours = steps * plan.seconds / 3600
    spent = hours * plan.machine.count
    return [("whole run", f"{steps} steps, {hours:.1f} hours, {spent:.0f} chip-hours at best")]


def _host_rows(plan: planner.Plan, config: Config, speed: float, seconds: float) -> Rows:
    hosts = math.ceil(plan.machine.count / plan.machine.chip.per_host)
    videos = speed / config.data.views
    cores = videos / hosts / DECODED_PER_CORE
    read = videos * RECORD_RATE * seconds / 1e9
    rows = [
        ("hosts", f"{hosts}, each decodes {videos / hosts:.0f} videos/s: about {cores:.0f} cores"),
        ("", f"{read:.2f} GB/s are read in all, with records of {seconds:g} s"),
    ]
    if read > 1 and seconds > BEST_RECORD_SECONDS:
        less = read * BEST_RECORD_SECONDS / seconds
        rows += [("", f"--segment_seconds={BEST_RECORD_SECONDS} of data.build: {less:.2f} GB/s")]
    return rows


def _verdict(plan: planner.Plan, config: Config) -> str:
    if plan.fits:
        return "It fits." if plan.compiled else "Its state fits; activations are not counted."
    remedies = []
    if config.model.remat != "full":
        remedies.append("--config.model.remat=full")
    if config.mesh.fsdp < plan.machine.count:
        remedies.append(f"--config.mesh.fsdp={2 * config.mesh.fsdp}")
    remedies.append(f"--config.optim.accumulate={2 * config.optim.accumulate}")
    found = plan.exceeded or _gib(plan.memory)
    limit = f"{planner.BUDGET:.0%} of {_gib(plan.machine.chip.memory)}"
    return f"It does not fit: {found}, expected at most {limit}. Try {' or '.join(remedies)}."


def row(plan: planner.Plan) -> str:
    """The plan as a row of a Markdown table, under `HEAD`."""
    name = os.path.basename(plan.recipe).removesuffix(".py")
    memory = "too much" if plan.exceeded else f"{plan.memory / plan.machine.chip.memory:.0%}"
    times = (plan.times.get(part) for part in PARTS)
    bounds = ", ".join("-" if t is None else f"{1e3 * t:.0f}" for t in times)
    speed = f"{plan.seconds:.2f} s | {plan.clips / plan.seconds:.0f} | {plan.mfu:.0%}"
    return f"| {name} | {plan.machine} | {memory} | {bounds} | {speed} |"


def as_json(plan: planner.Plan) -> dict[str, Any]:
    """The plan for a program."""
    flat = dataclasses.asdict(plan)
    flat["times"], flat["seconds"], flat["mfu"] = plan.times, plan.seconds, plan.mfu
    return flat | {"fits": plan.fits, "machine": str(plan.machine)}


def define_flags() -> None:
    recipe_flag.define()
    flags.DEFINE_string("topology", "", "TPU and its shape in chips, as in v5p:4x4x4.")
    flags.DEFINE_integer("slices", 1, "Slices of that topology.", lower_bound=1)
    flags.DEFINE_string("platform", "", "Instead: chips by name, as in gpu:h200; nothing compiles.")
    flags.DEFINE_integer("devices", 8, "Chips of --platform.", lower_bound=1)
    flags.DEFINE_integer("videos", 0, "Videos of the data set. 0 = not known.", lower_bound=0)
    flags.DEFINE_float(
        "record_seconds", 10.0, "Length of a record of the data set.", lower_bound=0.1
    )
    flags.DEFINE_enum(
        "format",
        "text",
        ("text", "json", "markdown"),
        "Of what is printed; markdown: a row of a table.",
    )


def main(argv: list[str]) -> None:
    del argv
    given = flags.FLAGS
    if bool(given.topology) == bool(given.platform):
        raise ConfigError("expected --topology=v5p:4x4x4 or --platform=gpu:h200, one of them")
    machine = planner.parse_machine(given.topology, given.platform, given.devices, given.slices)
    config = config_lib.for_platform(recipe_flag.config(), "tpu" if given.topology else "gpu")
    plan = planner.make(recipe_flag.name(), config, machine, given.topology, bool(given.topology))
    if given.format == "json":
        print(json.dumps(as_json(plan), indent=2))
    elif given.format == "markdown":
        print(row(plan))
    else:
        print(report(plan, config, given.videos, given.record_seconds))
    sys.exit(0 if plan.fits else 3)


def cli() -> None:
    # The compiler must neither look for a TPU, nor for the service that knows of one, nor be alone.
    jax.config.update("jax_platforms", "cpu")
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    define_flags()
    command.run(main, (ConfigError,), flags_parser=recipe_flag.parse)


if __name__ == "__main__":
    cli()
