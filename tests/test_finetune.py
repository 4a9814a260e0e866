"""Fine-tuning on the loop: devices, resuming, frozen parts, where the first weights come from."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from data.tiny_dataset import clip, write_dataset
from fakes import FINETUNE, TINY, FakeDataTask, FakeFinetune, with_settings

from vmae_jax import checkpoint, main, optim, program, sharding, train, tree
from vmae_jax.config import AugmentConfig, ConfigError
from vmae_jax.convert import rules
from vmae_jax.tasks import finetune
from vmae_jax.tasks.finetune import Finetune


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def flat(params):
    return {tree.path_name(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(params)}


@pytest.fixture(autouse=True)
def devices(request, monkeypatch):
    """One device, unless a test asks for all: less to compile."""
    if "all_devices" not in request.keywords:
        make_mesh = sharding.make_mesh
        monkeypatch.setattr(sharding, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))


def on_devices(count, config, workdir, monkeypatch):
    make_mesh = sharding.make_mesh
    with monkeypatch.context() as m:
        m.setattr(sharding, "make_mesh", lambda c: make_mesh(c, jax.devices()[:count]))
        train.train(FakeFinetune(config), str(workdir))
    return losses(workdir)


def test_layer_decay_equals_the_reference(goldens):
    golden = json.loads((goldens / "layer_decay_vit_base.json").read_text())
    config = with_settings(
        FINETUNE, model={"variant": "B", "patch_size": 16, "image_size": 224, "num_frames": 16}
    )
    shapes = jax.eval_shape(Finetune(config).init, jax.random.key(0))
    scales = flat(optim.layer_scales(shapes, golden["layer_decay"], depth=golden["num_layers"]))
    decays = flat(optim.decay_mask(shapes))
    covered = set()
    for name, (scale, decay) in golden["params"].items():
        place = rules.locate(name, rules.rules_of("classifier", "original"))
        found = scales[place.path]
        assert float(found.ravel()[place.layer or 0]) == scale, name
        assert golden["weight_decay"] * decays[place.path] == decay, name
        covered.add(place.path)
    assert covered == scales.keys(), "every parameter's scale is checked"


@pytest.mark.all_devices
def test_eight_devices_equal_one(tmp_path, monkeypatch):
    config = with_settings(
        FINETUNE, augment=AugmentConfig(), classifier={"drop_path": 0.2, "head_dropout": 0.2}
    )
    one = on_devices(1, config, tmp_path / "one", monkeypatch)
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    eight = on_devices(8, with_settings(config, mesh=mesh), tmp_path / "eight", monkeypatch)
    np.testing.assert_allclose(list(eight.values()), list(one.values()), atol=1e-5)


@pytest.mark.parametrize("settings", [
    {"optim": {"ema_decay": 0.9, "layer_decay": 0.7}},
    {"classifier": {"train_blocks": 1}, "optim": {"accumulate": 2, "layer_decay": 0.7}},
])  # fmt: skip
def test_resumed_equals_uninterrupted(tmp_path, settings):
    config = with_settings(FINETUNE, **settings)
    train.train(FakeFinetune(with_settings(config, train={"steps": 6})), str(tmp_path / "whole"))
    part = with_settings(config, train={"steps": 6, "checkpoint_every": 3})

    class Killed(FakeFinetune):
        def report(self, params, stream, mesh):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(Killed(part), str(tmp_path / "parts"))
    result = train.train(FakeFinetune(part), str(tmp_path / "parts"))
    assert result.step == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    (_, a), (_, b) = (checkpoint.load_params(str(tmp_path / d)) for d in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("settings", [{"lora_rank": 2}, {"train_blocks": 1}, {"train_blocks": 0}])
def test_frozen_parameters_keep_their_values_and_have_no_moments(tmp_path, settings):
    task = FakeFinetune(with_settings(FINETUNE, classifier=settings))
    train.train(task, str(tmp_path))
    before = flat(task.init(jax.random.key(task.config.seed)))
    meta, params = checkpoint.load_params(str(tmp_path))
    after = flat(params)
    assert meta["label_names"] == list(task.label_names)
    assert before.keys() == after.keys()
    for path, value in after.items():
        if task.is_frozen(path):
            np.testing.assert_allclose(value, before[path], rtol=1e-6, err_msg=path)
        else:
            assert (value != before[path]).any(), path
    tx = optim.optimizer(task.config.optim, depth=4)
    state = jax.eval_shape(program.make_init(task.config, task, tx), jax.random.key(0))
    moments = flat(jax.tree.map(lambda x: x.size, state["opt_state"][1].mu))
    assert moments.keys() == {path for path in after if not task.is_frozen(path)}


def test_training_starts_from_a_pre_trained_workdir(tmp_path, caplog):
    train.train(FakeDataTask(with_settings(TINY, train={"steps": 2})), str(tmp_path / "mae"))
    config = with_settings(FINETUNE, init_from=str(tmp_path / "mae"), optim={"ema_decay": 0.9})
    task = FakeFinetune(config)
    _, source = checkpoint.load_params(str(tmp_path / "mae"))
    values = task.initial_weights(jax.eval_shape(task.init, jax.random.key(0)))
    np.testing.assert_array_equal(
        values["encoder/tower/blocks/fc1/kernel"],
        source["encoder"]["tower"]["blocks"]["fc1"]["kernel"],
    )
    assert not any(path.startswith(("norm", "head", "decoder")) for path in values)
    with caplog.at_level("INFO", logger="vmae_jax"):
        train.train(task, str(tmp_path / "classifier"))
        assert "starting from the weights of" in caplog.text
        longer = with_settings(config, train={"steps": 7})
        train.train(FakeFinetune(longer), str(tmp_path / "classifier"))
    assert "its checkpoint goes before init_from" in caplog.text
    frozen = FakeFinetune(with_settings(config, classifier={"train_blocks": 0}))
    stem = frozen.initial_weights(jax.eval_shape(frozen.init, jax.random.key(0)))
    np.testing.assert_array_equal(
        stem["encoder/stem/blocks/fc1/kernel"], values["encoder/tower/blocks/fc1/kernel"]
    )


def test_a_run_is_found_again_for_evaluation(tmp_path):
    config = with_settings(FINETUNE, classifier={"train_blocks": 1})
    train.train(FakeFinetune(config), str(tmp_path / "run"))
    task, params = finetune.trained(FINETUNE, str(tmp_path / "run"))
    assert task.config.classifier.train_blocks == 1
    assert task.label_names == FakeFinetune(config).label_names
    assert set(params["encoder"]) == {"patch_embed", "stem", "tower"}
    # The same weights as a file of their own: one plain stack.
    as_file = with_settings(FINETUNE, init_from=str(tmp_path / "run"))
    task, plain = finetune.trained(as_file, str(tmp_path / "elsewhere"))
    assert set(plain["encoder"]) == {"patch_embed", "tower"}
    np.testing.assert_array_equal(plain["head"]["kernel"], params["head"]["kernel"])


def test_a_head_is_kept_only_for_classes_of_the_same_names(tmp_path, caplog):
    task = FakeFinetune(with_settings(FINETUNE, train={"steps": 2}))
    train.train(task, str(tmp_path / "abc"))
    config = with_settings(FINETUNE, init_from=str(tmp_path / "abc"))
    like = jax.eval_shape(task.init, jax.random.key(0))
    kept = Finetune(config, ("a", "b", "c")).initial_weights(like)
    turned = Finetune(config, ("c", "a", "b")).initial_weights(like)
    np.testing.assert_array_equal(turned["head/kernel"], kept["head/kernel"][:, [2, 0, 1]])
    with caplog.at_level("INFO", logger="vmae_jax"):
        others = Finetune(config, ("x", "b", "c")).initial_weights(like)
    assert "head/kernel" not in others
    assert "encoder/patch_embed/linear/kernel" in others
    assert "3 classes have other names: the head starts fresh" in caplog.text


def test_there_is_nothing_to_evaluate(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing to evaluate: .* train first"):
        finetune.trained(FINETUNE, str(tmp_path))
    train.train(FakeDataTask(with_settings(TINY, train={"steps": 2})), str(tmp_path / "mae"))
    config = with_settings(FINETUNE, init_from=str(tmp_path / "mae"))
    with pytest.raises(ConfigError, match="holds a pretrain, which has no head"):
        finetune.trained(config, str(tmp_path))


def test_classes_are_counted_and_a_wrong_count_says_what_the_data_holds(tmp_path):
    record = dataclasses.replace(clip(), label=1, label_name="run")
    names = ("jump", "run", "sit")
    directory = write_dataset(tmp_path / "data", [record.serialize()] * 3, labels=names)
    config = with_settings(
        FINETUNE,
        data={"dataset": directory}, classifier={"num_classes": 0}, eval={"split": "train"},
    )  # fmt: skip
    task = Finetune.from_data(config)
    assert (task.num_classes, task.label_names) == (3, names)
    wrong = with_settings(config, classifier={"num_classes": 4})
    with pytest.raises(ConfigError, match=r"num_classes = 4: .* 3 classes \(jump, run, sit\)"):
        Finetune.from_data(wrong)
    with pytest.raises(
        ConfigError, match=r"eval.split = 'val': .*train.*--split=train:0.9,val:0.1"
    ):
        Finetune.from_data(with_settings(config, eval={"split": "val"}))
    unlabelled = write_dataset(tmp_path / "bare", [clip().serialize()] * 3)
    with pytest.raises(ConfigError, match="no labels; build it with --labels"):
        Finetune.from_data(with_settings(config, data={"dataset": unlabelled}))


def test_the_task_of_a_config_is_made(tmp_path):
    assert type(main.make_task(TINY)).__name__ == "Pretrain"


def test_a_workdir_is_a_folder_or_to_be_made(tmp_path):
    main.check_workdir(str(tmp_path))
    main.check_workdir(str(tmp_path / "new" / "run"))
    (tmp_path / "notes.txt").write_text("")
    for workdir in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "run"):
        with pytest.raises(ConfigError, match=r"notes\.txt is a file; expected a folder"):
            main.check_workdir(str(workdir))
