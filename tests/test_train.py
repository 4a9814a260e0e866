"""The loop: the reference's trajectory, devices, accumulation, resuming, stopping, diverging."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import TINY, FakeDataTask, FakeStream, with_settings
from models.test_goldens import MASK, load

from vmae_jax import checkpoint, optim, program, sharding, train, tree
from vmae_jax.config import ConfigError, OptimConfig, to_dict
from vmae_jax.convert import rules
from vmae_jax.metrics import DivergedError


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def final_state(workdir, config):
    """Every array of the last checkpoint, by path."""
    task = FakeDataTask(config)
    tx = optim.optimizer(config.optim)
    shapes = jax.eval_shape(program.make_init(config, task, tx), jax.random.key(0))
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore(checkpoints.latest(), checkpoint.abstract(shapes, shardings))
    checkpoints.close()
    return jax.device_get(state)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def run(config, workdir, task=FakeDataTask):
    return train.train(task(config), workdir)


def test_five_steps_of_the_reference(goldens, monkeypatch):
    """The same weights, clips and masks: five losses and norms, and where the weights end."""
    from vmae_jax.models import layers, mae, masking

    golden = np.load(goldens / "traj_tiny_clip0.02.npz")
    config, graphdef, params, _ = load(goldens, "pretrain_tiny", monkeypatch)
    from flax import nnx

    class Trajectory(FakeDataTask):
        def loss_fn(self, params, batch, key):
            patches = layers.patchify(batch["video"], config.tubelet_size, config.patch_size)
            masks = masking.select(
                batch["hidden"], batch["skipped"], masking.counts(config.grid, MASK)
            )
            return mae.reconstruction_loss(nnx.merge(graphdef, params), patches, masks, True)

    settings = with_settings(TINY, optim=OptimConfig(clip_norm=float(golden["clip"])))
    tx = optim.optimizer(settings.optim)
    state = {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": tx.init(params)}
    step = jax.jit(
        program.make_step(settings, Trajectory(TINY), tx, lambda step: float(golden["lr"]))
    )
    for i in range(5):
        batch = {
            "video": golden["video_u8"][i],
            "hidden": golden["enc_mask"][i],
            "skipped": golden["dec_mask"][i],
        }
        state, metrics = step(state, batch)
        assert abs(float(metrics["loss"]) - golden["losses"][i]) < 5e-6
        assert float(metrics["grad_norm"]) == pytest.approx(golden["grad_norms"][i], rel=1e-5)
    flat = {tree.path_name(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(state["params"])}
    for key in (k for k in golden.files if k.startswith("final/")):
        place = rules.locate(key.removeprefix("final/"))
        found = flat[place.path] if place.layer is None else flat[place.path][place.layer]
        wanted = place.transform(golden[key])
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=2e-5, err_msg=key)


@pytest.fixture(autouse=True)
def one_device(request, monkeypatch):
    """Runs use one of the simulated devices, unless the test is marked to use all."""
    if "all_devices" in request.keywords:
        return
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda c, _=None: make_mesh(c, jax.devices()[:1]))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The folder of five steps on one device."""
    workdir, make_mesh = tmp_path_factory.mktemp("one"), sharding.make_mesh
    with pytest.MonkeyPatch.context() as one:
        one.setattr(sharding, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        run(TINY, workdir)
    return workdir


@pytest.mark.all_devices
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_eight_devices_equal_one(tmp_path, whole_run, shape):
    mesh = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    run(with_settings(TINY, mesh=mesh), tmp_path / "eight")
    a, b = losses(whole_run), losses(tmp_path / "eight")
    assert list(a) == list(b) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(list(b.values()), list(a.values()), atol=1e-5)


@pytest.mark.all_devices
def test_state_is_really_split():
    mesh = sharding.make_mesh(dataclasses.replace(TINY.mesh, data=2, fsdp=2, tensor=2))
    task = FakeDataTask(TINY)
    init = program.make_init(TINY, task, optim.optimizer(TINY.optim))
    shapes = jax.eval_shape(init, jax.random.key(0))
    state = jax.jit(init, out_shardings=sharding.tree_shardings(shapes, mesh))(jax.random.key(0))
    shares = {
        tree.path_name(p): x.addressable_shards[0].data.size / x.size
        for p, x in jax.tree.leaves_with_path(state)
    }
    assert shares["params/encoder/tower/blocks/fc1/kernel"] == 1 / 4
    assert shares["params/encoder/tower/blocks/attn/proj/kernel"] in (1 / 2, 1 / 4)
    assert shares["params/encoder/tower/blocks/norm1/scale"] == 1
    for path, share in shares.items():
        if path.startswith("opt_state/1/mu/"):  # moments lie where their parameter lies
            assert share == shares[path.replace("opt_state/1/mu", "params")], path


def test_accumulation_is_the_mean_over_micro_batches():
    config = with_settings(TINY, optim={"accumulate": 4, "clip_norm": 0.0})
    task = FakeDataTask(config)
    tx = optax.identity()
    state = program.make_init(config, task, tx)(jax.random.key(0))
    batch = {"video": jnp.asarray(next(FakeStream(config, 0))["video"])}
    new, metrics = jax.jit(program.make_step(config, task, tx, lambda step: 1.0))(state, batch)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    value_and_grad = jax.jit(jax.value_and_grad(task.loss_fn, has_aux=True))
    wanted = [
        value_and_grad(state["params"], {"video": batch["video"][i::4]}, jax.random.fold_in(key, i))
        for i in range(4)
    ]
    assert float(metrics["loss"]) == pytest.approx(np.mean([w[0][0] for w in wanted]), rel=1e-6)
    grads = jax.tree.map(lambda *g: sum(g) / 4, *[w[1] for w in wanted])
    found = jax.tree.map(lambda a, b: a - b, state["params"], new["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, grads)


def test_resumed_equals_uninterrupted(tmp_path):
    config = with_settings(TINY, train={"steps": 8}, optim={"ema_decay": 0.9})
    run(config, tmp_path / "whole")

    class Failing(FakeDataTask):
        def data(self, start=0, places=None):
            stream = super().data(start, places)
            fetch = stream.__class__.__next__

            class Broken(FakeStream):
                def __next__(self):
                    if self.position >= 4 * self.config.data.batch_size:
                        raise OSError("disk gone")
                    return fetch(self)

            return Broken(self.config, start)

    with pytest.raises(OSError, match="disk gone"):
        run(config, tmp_path / "parts", Failing)
    saved = checkpoint.Checkpoints(tmp_path / "parts" / "checkpoints")
    assert saved.latest() == 4, "what was learned before the data failed is saved"
    saved.close()
    result = run(config, tmp_path / "parts")
    assert result.step == 8
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_same(final_state(tmp_path / "parts", config), final_state(tmp_path / "whole", config))
    begun = []

    def begin(config):
        return train.train(FakeDataTask(config), str(tmp_path / "parts"), lambda: begun.append(1))

    with pytest.raises(ConfigError, match="was made with other settings"):
        begin(with_settings(config, seed=5))
    again = begin(config)
    assert again.already_done
    assert again.pictures
    assert not begun, "neither what is refused nor what is done begins"


def test_sigterm_saves_and_continues_exactly(tmp_path):
    config = with_settings(TINY, train={"steps": 6})
    run(config, tmp_path / "whole")

    class Terminated(FakeDataTask):
        def data(self, start=0, places=None):
            class Stream(FakeStream):
                def __next__(self):
                    if self.position == 3 * self.config.data.batch_size:
                        os.kill(os.getpid(), signal.SIGTERM)
                        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's, and a parent's
                    return super().__next__()

            return Stream(self.config, start)

    result = run(config, tmp_path / "parts", Terminated)
    assert result.signal == signal.SIGTERM
    assert 0 < result.step < 6
    assert result.checkpoint.endswith(f"/{result.step}")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers are given back"
    run(config, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_same(final_state(tmp_path / "parts", config), final_state(tmp_path / "whole", config))


class Exploding(FakeDataTask):
    """The loss of some steps is not a number."""

    steps = (2,)

    def loss_fn(self, params, batch, key):
        loss, weight = super().loss_fn(params, batch, key)
        bad = jnp.isin(batch["step"][0], jnp.asarray(self.steps))
        return jnp.where(bad, jnp.nan, loss), weight

    inputs = ("video", "step")

    def data(self, start=0, places=None):
        class Stream(FakeStream):
            def __next__(self):
                step = self.position // self.config.data.batch_size
                size = self.config.data.batch_size
                return super().__next__() | {"step": np.full(size, step, np.int32)}

        return Stream(self.config, start)


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    config = with_settings(TINY, train={"steps": 3})
    run(config, tmp_path, Exploding)
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == [0, 0, 1]
    assert np.isnan(rows[2]["loss"])
    skipped = final_state(tmp_path, config)
    assert int(skipped["step"]) == 3
    assert int(skipped["opt_state"][1].count) == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(skipped["params"]))


def test_too_many_such_steps_end_the_run_and_name_the_last_good_checkpoint(tmp_path):
    class Diverging(Exploding):
        steps = tuple(range(4, 100))

    settings = {"steps": 40, "checkpoint_every": 2, "max_skipped": 3, "log_every": 50}
    config = with_settings(TINY, train=settings)
    with pytest.raises(DivergedError, match=r"step 7: 3 steps .*last good checkpoint: .*/\d+"):
        run(config, tmp_path, Diverging)


def test_other_settings_or_data_are_refused_by_name(whole_run):
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1.*--workdir"):
        run(with_settings(TINY, seed=1), whole_run)

    class OtherData(FakeDataTask):
        fingerprint = "other"

    with pytest.raises(ConfigError, match=r"fingerprint fake .* has other"):
        run(TINY, whole_run, OtherData)
    saved = to_dict(TINY)
    del saved["augment"]["mix_group"], saved["distill"]  # a version that did not have them yet
    meta = {"config": saved, "fingerprint": "fake"}
    train.check_resume(TINY, meta, "fake", "its checkpoint")
    mixed = with_settings(TINY, augment={"mix_group": 4})
    with pytest.raises(ConfigError, match=r"augment.mix_group: 0 -> 4"):
        train.check_resume(mixed, meta, "fake", "its checkpoint")


def test_a_run_of_before_keeps_its_own_count_of_steps(tmp_path, whole_run, caplog):
    class Few(FakeDataTask):
        def data(self, start=0, places=None):
            stream = super().data(start, places)
            stream.num_videos = 20
            return stream

        def report(self, params, stream, mesh):
            return {}, {}

    shutil.copytree(whole_run, tmp_path / "run")
    config = with_settings(TINY, train={"steps": 0, "epochs": 2.5})
    note = tmp_path / "run/checkpoints/5/meta/metadata"
    meta = json.loads(note.read_text())
    assert meta["steps_per_epoch"] == 64 / 8
    note.write_text(json.dumps(meta | {"steps_per_epoch": 2}))
    assert run(config, tmp_path / "run", Few).already_done, "20 videos are two batches of 8"
    del meta["steps_per_epoch"]  # as a version left it that counted 2.5
    note.write_text(json.dumps(meta))
    with caplog.at_level("INFO"):
        assert run(config, tmp_path / "run", Few).steps == 6
    assert "its epochs have 2.5 steps, as when it began" in caplog.text
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    own = optim.learning_rate(config.optim, 8, 6, 2.5)
    assert (last["step"], last["lr"]) == (6, pytest.approx(float(own(5))))
    note = tmp_path / "run/checkpoints/6/meta/metadata"
    assert json.loads(note.read_text())["steps_per_epoch"] == 2.5


def test_a_damaged_checkpoint_is_named(tmp_path):
    config = with_settings(TINY, train={"steps": 4, "checkpoint_every": 2})
    run(config, tmp_path)
    for file in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    longer = with_settings(config, train={"steps": 6})
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoints/4: .*continue from step 2"):
        run(longer, tmp_path)


@pytest.mark.all_devices
def test_a_batch_or_mesh_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"6 clips do not split over 8 devices"):
        run(with_settings(TINY, data={"batch_size": 6}), tmp_path)
    with pytest.raises(ConfigError, match=r"3 x 1 x 1 does not fit 8 devices"):
        run(with_settings(TINY, mesh={"data": 3}), tmp_path)
