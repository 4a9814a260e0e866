"""Schedules, decay and clipping against the reference's own values."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vmae_jax import optim, tree
from vmae_jax.config import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    steps_per_epoch,
    total_steps,
)
from vmae_jax.convert import rules
from vmae_jax.models import mae


def test_schedules_equal_the_reference(goldens):
    cases = json.loads((goldens / "cosine_schedules.json").read_text())
    assert len(cases) == 5
    for name, case in cases.items():
        k = case["kwargs"]
        warmup = k.get("warmup_steps") or int(k.get("warmup_epochs", 0) * k["niter_per_ep"])
        schedule = optim.warmup_cosine(
            k["base_value"], k["final_value"], k["epochs"] * k["niter_per_ep"], warmup,
            k.get("start_warmup_value", 0.0),
        )  # fmt: skip
        found = np.asarray(schedule(jnp.arange(len(case["values"]))))
        np.testing.assert_allclose(found, case["values"], rtol=2e-6, atol=1e-9, err_msg=name)


def test_a_recipe_has_the_reference_schedule_although_its_last_batch_is_not_full(goldens):
    cases = json.loads((goldens / "cosine_schedules.json").read_text()).values()
    cases = [case for case in cases if not case["kwargs"].get("start_warmup_value")]
    for case in cases:
        k = case["kwargs"]
        config = Config(
            data=DataConfig(batch_size=256),
            optim=OptimConfig(
                base_lr=k["base_value"], min_lr=k["final_value"],
                warmup_epochs=float(k.get("warmup_epochs", 0)),
                warmup_steps=max(0, k.get("warmup_steps", 0)),
            ),
            train=TrainConfig(epochs=float(k["epochs"])),
        )  # fmt: skip
        per_epoch = steps_per_epoch(config, 256 * k["niter_per_ep"] + 255)
        steps = total_steps(config, per_epoch)
        assert steps == len(case["values"])
        found = optim.learning_rate(config.optim, 256, steps, per_epoch)(jnp.arange(steps))
        np.testing.assert_allclose(found, case["values"], rtol=2e-6, atol=1e-9)


def test_decay_mask_equals_the_reference(goldens):
    golden = np.load(goldens / "traj_tiny_clip0.02.npz")
    model = nnx.eval_shape(
        lambda: mae.MaskedAutoencoder(ModelConfig(variant="tiny", image_size=32), rngs=nnx.Rngs(0))
    )
    mask = optim.decay_mask(nnx.to_pure_dict(nnx.split(model)[1]))
    flat = {tree.path_name(p): m for p, m in jax.tree.leaves_with_path(mask)}
    covered = set()
    for name, decay in zip(golden["wd_names"], golden["wd_vals"], strict=True):
        path = rules.locate(str(name)).path
        assert flat[path] == (decay > 0), name
        covered.add(path)
    assert covered == flat.keys(), "every parameter's decay is checked"


def test_clipping_divides_by_the_norm_plus_epsilon():
    grads = {"a": jnp.array([3e-7]), "b": jnp.array([4e-7])}
    clip = optim.clip_by_global_norm(1e-7)
    clipped, _ = clip.update(grads, clip.init(grads))
    np.testing.assert_allclose(clipped["a"], 3e-7 * 1e-7 / (5e-7 + 1e-6), rtol=1e-5)
    untouched, _ = optim.clip_by_global_norm(1.0).update(grads, clip.init(grads))
    np.testing.assert_array_equal(untouched["b"], grads["b"])


def test_rates_scale_with_videos_per_step():
    config = OptimConfig(base_lr=6e-4, min_lr=1e-5, warmup_epochs=30)
    schedule = optim.learning_rate(config, 2048, steps=3000, steps_per_epoch=10)
    values = np.asarray(schedule(jnp.arange(3000)))
    assert values[0] == 0
    assert values.max() == pytest.approx(6e-4 * 8)
    assert values[-1] == pytest.approx(1e-5 * 8, rel=0.01)


def test_a_warm_up_in_steps_does_not_grow_with_the_data_set():
    config = OptimConfig(base_lr=1e-3, warmup_steps=20)
    schedule = optim.learning_rate(config, 256, steps=500, steps_per_epoch=1e6)
    values = np.asarray(schedule(jnp.arange(500)))
    assert values.argmax() in (19, 20)
    assert values[0] == 0


def test_a_warm_up_longer_than_the_run_is_an_error():
    with pytest.raises(ConfigError, match="warm-up takes 200 steps but the run has 100"):
        optim.learning_rate(OptimConfig(), 256, steps=100, steps_per_epoch=10)
