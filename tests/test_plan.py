"""Plans: what is read from compiled programs, and what is said of a machine that is not here."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import FINETUNE, TINY, FakeDataTask, with_settings
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax import hardware, hlo, plan, planner, program, sharding
from vmae_jax.config import ConfigError, MeshConfig
from vmae_jax.tasks.finetune import Finetune

ROOT = Path(__file__).parents[1]


def compiled(function, *shapes, specs, mesh):
    arrays = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, spec))
        for s, spec in zip(shapes, specs, strict=True)
    ]
    return hlo.Program(jax.jit(function).lower(*arrays).compile().as_text())


@pytest.mark.all_devices
def test_collectives_are_counted_as_often_as_they_run():
    mesh = sharding.make_mesh(MeshConfig(data=8))

    def summed(x):
        def body(carry, row):
            total = jax.lax.psum((row * carry).sum(), "data")
            return carry + total, None

        return jax.lax.scan(body, jnp.zeros(()), x)[0]

    summed = jax.shard_map(summed, mesh=mesh, in_specs=P(None, "data"), out_specs=P())
    found = compiled(summed, (5, 64), specs=[P(None, "data")], mesh=mesh).collectives()
    assert [(c.kind, c.times, c.group, c.size) for c in found] == [("all-reduce", 5, 8, 4)]
    assert found[0].wire_bytes == pytest.approx(5 * 4 * 2 * 7 / 8)

    def gathered(x):
        return jax.lax.all_gather(x, "data", tiled=True) * 2

    gathered = jax.shard_map(
        gathered, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False
    )
    (found,) = compiled(gathered, (64, 4), specs=[P("data")], mesh=mesh).collectives()
    assert (found.kind, found.size, found.group, found.slices) == ("all-gather", 1024, 8, False)


@pytest.mark.parametrize(("written", "group"), [
    ("replica_groups={{0,2},{1,3}}", 2),
    ("replica_groups=[2,4]<=[8]", 4),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
    ("replica_groups=mesh['a'=2,'b'=4] {'a'}", 2),
    ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
    ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", 2),
])  # fmt: skip
def test_groups_of_devices_in_all_their_spellings(written, group):
    assert hlo._group(written, 8) == group


def test_what_leaves_a_slice_is_told_from_other_sends():
    # As the TPU compiler writes the sum of a gradient over two slices, and a send to the host.
    data = "bf16[18,8,128]{2,1,0:T(8,128)(2,1)}"
    note = '_xla_host_transfer_handler_name="x",_xla_megascale_transfer_type="ALL_REDUCE"'
    text = f"""
ENTRY %main (p: bf16[18,8,128]) -> token[] {{
  %p = {data} parameter(0)
  %t = token[] after-all()
  %s = ({data}, u32[], token[]) send(%p, %t), channel_id=8, frontend_attributes={{{note}}}
  %h = ({data}, u32[], token[]) send(%p, %t), channel_id=9, is_host_transfer=true
  ROOT %d = token[] send-done(%s), channel_id=8
}}
"""
    (found,) = hlo.Program(text).collectives(slices=2)
    assert found == hlo.Collective("all-reduce", 18 * 8 * 128 * 2, 1, 2, slices=True)
    assert found.wire_bytes == 18 * 8 * 128 * 2  # of two, each sends all that it has


def test_a_loop_s_weights_are_read_a_layer_at_a_time():
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])

    def tower(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    layers, width, rows = 20, 256, 8
    shapes = (rows, width), (layers, width, width)
    traffic = compiled(tower, *shapes, specs=[P(), P()], mesh=mesh).memory_traffic()
    read = layers * width * width * 4
    assert read <= traffic < 4 * read  # all of the stack in every layer would be 20 times as much


def test_sizes_as_stored():
    text = "T(8,128)(2,1)"
    assert hlo.Array("bf16", (16, 160, 100), "2,1,0:" + text).size == 16 * 160 * 128 * 2
    assert hlo.Array("f32", (3,), "0").size == 12
    assert hlo.Array("pred", (), "").size == 1
    assert not hlo.Array("f32", (8, 128), "1,0:T(8,128)S(1)").in_memory


def test_products_are_those_of_the_formula():
    for task in (FakeDataTask(TINY), Finetune(FINETUNE)):
        model, clips = task.config.model, 2
        video = jnp.zeros((clips, model.num_frames, model.image_size, model.image_size, 3), "uint8")
        batch = {"video": video, "label": jnp.zeros(clips, jnp.int32)}
        params = jax.eval_shape(task.init, jax.random.key(0))
        loss = jax.make_jaxpr(lambda p, t=task, b=batch: t.loss_fn(p, b, jax.random.key(0))[0])
        assert planner.products(loss(params).jaxpr) == clips * task.flops_per_clip / 3


def step_text(shape):
    config = with_settings(
        TINY, mesh=dict(zip(sharding.AXES, shape, strict=True)), data={"batch_size": 16}
    )
    mesh = sharding.make_mesh(config.mesh)
    run = program.Program.on(mesh, FakeDataTask(config), lambda step: 1e-4)
    with jax.set_mesh(mesh):
        step = run.step.lower(run.state, planner._batch(config, mesh)).compile()
    return run.state, hlo.Program(step.as_text()).collectives()


@pytest.mark.all_devices
def test_no_activation_travels():
    """Split over data, only gradients are summed; split over fsdp, only parameters gathered."""
    state, found = step_text((8, 1, 1))
    largest = max(x.size * 4 for x in jax.tree.leaves(state["params"]))
    parameters = sum(x.size * 4 for x in jax.tree.leaves(state["params"]))
    assert {c.kind for c in found} == {"all-reduce"}
    assert sum(c.size * c.times for c in found) < 1.1 * parameters
    _, found = step_text((2, 4, 1))
    gathers = [c for c in found if c.kind == "all-gather"]
    assert gathers
    assert max(c.size for c in gathers) <= largest
    assert sum(c.size * c.times for c in gathers) < 3.1 * parameters
    assert not [c for c in found if c.kind == "all-to-all"]


def test_a_machine_by_name():
    machine = planner.parse_machine("v5p:4x4x4", "", 8, 2)
    assert (machine.chip.name, machine.count, str(machine)) == ("v5p", 128, "128 x v5p in 2 slices")
    assert planner.parse_machine("", "gpu:h200", 8, 1).count == 8
    for topology, platform in (("v9:2x2", ""), ("v5p", ""), ("v5p:44", ""), ("", "gpu:x")):
        with pytest.raises(ConfigError, match=r"expected .*v5p:4x4x4"):
            planner.parse_machine(topology, platform, 8, 1)


def test_chips_by_the_names_that_jax_gives_them():
    names = {"TPU v5 lite": "v5e", "TPU v5p": "v5p", "TPU v5": "v5p", "TPU v4": "v4",
             "TPU v6 lite": "v6e", "NVIDIA H200": "h200", "NVIDIA H100 80GB": "h100"}  # fmt: skip
    assert {kind: hardware.of_kind(kind).name for kind in names} == names
    assert hardware.of_kind("cpu") is None


def made(config, **facts):
    machine = planner.parse_machine("", "gpu:h200", 8, 1)
    found = planner.make("mine.py", config, machine, compiling=False)
    return dataclasses.replace(found, **facts)


def test_a_report_adds_up():
    config = with_settings(TINY, data={"batch_size": 16, "views": 2})
    found = made(config)
    assert found.clips == 32
    assert found.state == 4 * 3 * found.parameters + 2 * 4  # two counters
    assert found.batch == 4 * 8 * 32 * 32 * 3
    text = plan.report(found, config, videos=1000, seconds=10)
    assert "whole run   5 steps" in text
    assert "Its state fits; activations are not counted." in text
    sent = (hlo.Collective("all-reduce", 900, 40, 8), hlo.Collective("all-gather", 80, 3, 8))
    facts = planner.Compiled(state=10**9, batch=10**6, temporary=10**12, traffic=48 * 10**9,
                             collectives=sent)  # fmt: skip
    found = made(config, compiled=facts)
    assert found.times["memory"] == pytest.approx(0.01)
    assert found.seconds == pytest.approx(0.01)
    text = plan.report(found, config, videos=1000, seconds=10)
    assert "40 all-reduce" in text
    assert "3 all-gather" in text
    assert "It does not fit: 932.25 GiB" in text
    assert (
        "--config.model.remat=full or --config.mesh.fsdp=2 or --config.optim.accumulate=2" in text
    )
    assert json.loads(json.dumps(plan.as_json(found)))["fits"] is False


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "vmae_jax.plan", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def test_the_command_without_a_compiler():
    out = command("--config=configs/vitg_tiktok.py", "--platform=gpu:h200", "--devices=64",
                  "--videos=283582")  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert "1026.3 M" in out.stdout
    assert "41400 steps" in out.stdout
    out = command("--config=configs/vitg_tiktok.py")
    assert out.returncode == 1
    assert out.stderr.strip().startswith("error: expected --topology")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra 'tpu'")
def test_the_real_compiler():
    out = command("--config=configs/quickstart.py", "--topology=v5e:2x2", "--format=json",
                  "--config.model.variant=32x2x2x64+32x1x2x64")  # fmt: skip
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    assert found["fits"]
    assert found["compiled"]["collectives"]
    assert np.isfinite(found["mfu"])
