"""Reading what a run has learned, without knowing the run."""

import jax
import numpy as np
import pytest
from fakes import TINY, FakeDataTask, with_settings

from vmae_jax import checkpoint, optim, program, sharding
from vmae_jax import config as config_lib
from vmae_jax.tasks import pretrain


def save_run(workdir, config):
    """A checkpoint as a run over two devices leaves it; returns the state in it."""
    task = FakeDataTask(config)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:2])
    init = program.make_init(config, task, optim.optimizer(config.optim))
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
    state = jax.device_put(state, sharding.tree_shardings(shapes, mesh))
    checkpoints = checkpoint.Checkpoints(str(workdir / "checkpoints"))
    checkpoints.save(1, state, {"config": config_lib.to_dict(config)})
    checkpoints.close()
    return state


@pytest.mark.parametrize(("ema_decay", "name"), [(0.0, "params"), (0.9, "ema_params")])
def test_a_run_is_loaded_from_its_folder_alone(tmp_path, monkeypatch, ema_decay, name):
    """On one device, whatever the run's mesh was; the averaged parameters where there are any."""
    config = with_settings(TINY, mesh={"fsdp": 2}, optim={"ema_decay": ema_decay})
    state = save_run(tmp_path / "run", config)
    monkeypatch.chdir(tmp_path)  # a relative folder will do
    task, params = pretrain.load("run")
    assert task.config == config
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(state[name]))


def test_a_folder_without_a_run_is_named_and_left_alone(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"/missing: has no checkpoint"):
        pretrain.load(str(tmp_path / "missing"))
    assert not list(tmp_path.iterdir())


def test_a_damaged_run_is_named(tmp_path):
    save_run(tmp_path, with_settings(TINY, mesh={"fsdp": 2}))
    for file in (tmp_path / "checkpoints" / "1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoints/1: cannot be restored"):
        pretrain.load(str(tmp_path))
