"""Distillation: the loss, the teacher that nothing touches, resuming, devices, mistakes."""

import ast
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from data.tiny_dataset import clip, write_dataset
from fakes import FINETUNE, FakeFinetune, with_settings

from vmae_jax import checkpoint, main, planner, program, sharding, train, tree
from vmae_jax.config import Config, ConfigError, DistillConfig
from vmae_jax.convert.load import Weights, load
from vmae_jax.convert.save import save
from vmae_jax.data import pipeline
from vmae_jax.models import layers
from vmae_jax.models.adapt import TO_TEACHER
from vmae_jax.tasks import finetune
from vmae_jax.tasks import teacher as teachers
from vmae_jax.tasks.distill import Distill
from vmae_jax.tasks.finetune import Finetune

NAMES = ("a", "b", "c")
STUDENT = with_settings(
    FINETUNE, model={"variant": "16x1x2x32", "patch_size": 16}, train={"steps": 2}
)
TEACHER = with_settings(STUDENT, model={"variant": "32x1x4x160"})
DISTILL = dataclasses.replace(
    STUDENT, task="distill", distill=DistillConfig("random", variant=TEACHER.model.variant)
)
# Every part of the loss at once.
ALL = {"temperature": 2.0, "soft_weight": 0.7, "feature_weight": 0.5}


class FakeDistill(Distill):
    """Distillation on fake clips, without evaluation."""

    def __init__(self, config: Config):
        super().__init__(config, NAMES, teachers.read(config).for_classes(NAMES, config))

    data, report = FakeFinetune.data, FakeFinetune.report


@pytest.fixture(autouse=True)
def devices(request, monkeypatch):
    """One device, unless a test asks for all: less to compile."""
    if "all_devices" not in request.keywords:
        make_mesh = sharding.make_mesh
        monkeypatch.setattr(sharding, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))


def random_params(like, seed=1):
    """Parameters that say something of every clip."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), like)


def teacher_file(folder, seed):
    """Weights of a classifier of the classes a, b and c."""
    like = jax.eval_shape(Finetune(TEACHER).init, jax.random.key(0))
    path = str(folder / f"teacher{seed}.safetensors")
    weights = Weights("classifier", TEACHER.model, random_params(like, seed), NAMES, "random", ())
    save(weights, path, "original")
    return path


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return teacher_file(tmp_path_factory.mktemp("teacher"), seed=1)


def taught_by(path, config=DISTILL, **settings):
    return with_settings(config, distill={"teacher": path, "variant": "", **settings})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, taught):
    """A run of four steps with all of the loss, and its config."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    config = with_settings(
        taught_by(taught, **ALL),
        train={"steps": 4, "checkpoint_every": 2}, optim={"ema_decay": 0.9, "accumulate": 2},
    )  # fmt: skip
    make_mesh = sharding.make_mesh
    with pytest.MonkeyPatch.context() as m:
        m.setattr(sharding, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))
        train.train(FakeDistill(config), str(folder))
    return folder, config


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def batch_of(config, clips=4):
    size = config.model.image_size
    shape = (clips, config.model.num_frames, size, size, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return {"video": video, "label": (np.arange(clips) % 3).astype(np.int32)}


def params_of(task):
    like = jax.eval_shape(task.init, jax.random.key(0))
    return {**random_params(like), "teacher": random_params(task.teacher, seed=2)}


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def test_the_loss_equals_numpy():
    task = FakeDistill(with_settings(DISTILL, distill=ALL, classifier={"label_smoothing": 0.1}))
    params, batch = params_of(task), batch_of(DISTILL)
    loss, clips = jax.jit(task.loss_fn)(params, batch, jax.random.key(0))
    assert clips == len(batch["video"])

    @jax.jit
    def parts(params):
        video = layers.normalize_pixels(batch["video"])
        student = task.model(params)
        patches = task.patches(video)
        own = student.tokens(patches) @ params[TO_TEACHER]["kernel"]
        return *task._teacher(params["teacher"], video), student(patches), own

    tokens, logits, own_logits, own = (np.asarray(x, np.float64) for x in parts(params))
    p, q = log_softmax(logits / 2.0), log_softmax(own_logits / 2.0)
    soft = 4 * (np.exp(p) * (p - q)).sum(1).mean()
    labels = 0.9 * np.eye(3)[batch["label"]] + 0.1 / 3
    hard = -(labels * log_softmax(own_logits)).sum(1).mean()

    def standard(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    distance = np.square(standard(own) - standard(tokens)).mean()
    assert min(soft, hard, distance) > 0.01
    np.testing.assert_allclose(loss, 0.7 * soft + 0.3 * hard + 0.5 * distance, rtol=1e-5)


def test_nothing_is_learned_in_the_teacher():
    task = FakeDistill(with_settings(DISTILL, distill=ALL))
    params, batch = params_of(task), batch_of(DISTILL)
    grads = jax.jit(jax.grad(lambda p: task.loss_fn(p, batch, jax.random.key(0))[0]))(params)
    of_teacher = grads.pop("teacher")
    assert all(not np.any(g) for g in jax.tree.leaves(of_teacher))
    assert all(np.any(g) for g in jax.tree.leaves(grads))
    mesh = sharding.make_mesh(DISTILL.mesh)
    run = program.Program.on(mesh, task, lambda step: 1e-4)
    of_student = jax.eval_shape(task.init, jax.random.key(0))
    moments = [p for p in tree.paths(run.state["opt_state"]) if "/mu/" in p]
    assert len(moments) == len(tree.paths(run.state["params"])) == len(tree.paths(of_student))
    assert tree.paths(run.state["teacher"]) == tree.paths(task.teacher)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(taught):
    config = dataclasses.replace(DISTILL, model=TEACHER.model)
    task = FakeDistill(taught_by(taught, config, feature_weight=1.0, temperature=2.0))
    loss_fn = jax.jit(lambda p: task.loss_fn(p, batch_of(DISTILL), jax.random.key(0))[0])
    assert abs(loss_fn({**task.teacher, "teacher": task.teacher})) < 1e-6
    assert loss_fn({**random_params(task.teacher, seed=2), "teacher": task.teacher}) > 0.1


def test_resumed_equals_uninterrupted(tmp_path, whole, taught):
    folder, config = whole
    parts = shutil.copytree(folder, tmp_path / "parts")
    shutil.rmtree(parts / "checkpoints" / "4")
    moved = shutil.copy(taught, tmp_path / "moved.safetensors")  # it is known by its weights
    again = with_settings(config, distill={"teacher": str(moved)})
    assert train.train(FakeDistill(again), str(parts)).step == 4
    assert losses(parts) == losses(folder)
    (meta, a), (_, b) = (checkpoint.load_params(str(d)) for d in (folder, parts))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert meta["teacher"] == tree.fingerprint(load(taught).params)


def test_another_teacher_does_not_go_on(tmp_path, whole):
    folder, config = whole
    path = teacher_file(tmp_path, seed=2)
    config = with_settings(config, distill={"teacher": path}, train={"steps": 6})
    with pytest.raises(ConfigError, match=r"was taught by weights .*teacher2.* has .*same teacher"):
        train.train(FakeDistill(config), str(folder))


def test_no_checkpoint_holds_the_teacher_nor_needs_it(whole):
    folder, config = whole
    state = folder / "checkpoints" / "4" / "state"
    saved = json.loads((state / "_METADATA").read_text())["tree_metadata"]
    parts = {ast.literal_eval(name)[0] for name in saved}
    assert parts == {"step", "params", "opt_state", "ema_params"}
    found = load(folder)
    assert (found.kind, found.label_names) == ("classifier", NAMES)
    assert TO_TEACHER not in found.params
    gone = with_settings(config, distill={"teacher": "gone.pth"}, optim={"ema_decay": 0.0})
    task, params = finetune.trained(gone, str(folder), Distill)
    assert TO_TEACHER in params
    scores = jax.jit(task.probabilities)(params, batch_of(config)["video"])
    np.testing.assert_allclose(scores.sum(), 1, rtol=1e-5)


@pytest.mark.all_devices
def test_eight_devices_equal_one(tmp_path, whole):
    folder, config = whole
    task = FakeDistill(with_settings(config, mesh={"data": 2, "fsdp": 2, "tensor": 2}))
    train.train(task, str(tmp_path))
    np.testing.assert_allclose(losses(tmp_path), losses(folder), atol=1e-5)
    run = program.Program.on(sharding.make_mesh(task.config.mesh), task, lambda step: 1e-4)
    kernel = run.state["teacher"]["encoder"]["tower"]["blocks"]["fc1"]["kernel"]
    assert tuple(kernel.sharding.spec) == (None, "fsdp", "tensor")


def test_a_teacher_in_bfloat16_says_the_same_from_half_the_memory():
    config = with_settings(DISTILL, model={"dtype": "bfloat16"})
    teacher, whole = teachers.read(config), teachers.read(DISTILL)
    assert teacher.params["encoder"]["tower"]["blocks"]["fc1"]["kernel"].dtype == jnp.bfloat16
    assert teacher.params["encoder"]["tower"]["blocks"]["norm1"]["scale"].dtype == np.float32
    assert teacher.params["head"]["kernel"].dtype == np.float32
    video = layers.normalize_pixels(jnp.asarray(batch_of(DISTILL)["video"]))
    see = jax.jit(teacher.__call__)
    for a, b in zip(see(teacher.params, video), see(whole.params, video), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["workdir", "pth", "transformers"])
def test_a_teacher_comes_from_any_checkpoint(tmp_path, taught, whole, kind):
    expected, path = load(taught), str(tmp_path / "teacher.pth")
    if kind == "workdir":
        path = str(whole[0])  # a distilled student teaches on
        expected = load(path)
    elif kind == "pth":
        save(expected, path, "original")
    else:
        path = str(tmp_path / "teacher")
        save(expected, path, "transformers")
    teacher = teachers.read(taught_by(path))
    assert teacher.label_names == NAMES
    jax.tree.map(np.testing.assert_array_equal, teacher.params, expected.params)


def test_classes_are_matched_by_name(taught):
    config = taught_by(taught)
    teacher = teachers.read(config)
    turned = teacher.for_classes(("c", "a"), taught_by(taught))  # it may know more of them
    for name, x in teacher.params["head"].items():
        np.testing.assert_array_equal(turned.params["head"][name], x[..., [2, 0]])
    with pytest.raises(ConfigError, match=r"distill.teacher = '.*': .*not trained for: x"):
        teacher.for_classes(("a", "b", "x"), taught_by(taught))
    four = with_settings(config, classifier={"num_classes": 4})
    unnamed = dataclasses.replace(teacher, label_names=())
    with pytest.raises(ConfigError, match="tells 3 classes apart, the student 4; give a teacher"):
        Distill(four, (), unnamed.for_classes(("a", "b", "c", "d"), config))


@pytest.mark.parametrize(("settings", "message"), [
    ({"temperature": 0.0}, "distill.temperature = 0.0: expected more than 0"),
    ({"soft_weight": 1.5}, r"distill.soft_weight = 1.5: expected a share in \[0, 1\]"),
    ({"soft_weight": 0.0}, "nothing would be learned of the teacher"),
    ({"variant": "XL"}, "config.distill.variant = 'XL': expected one of"),
    ({"teacher": ""}, "distill.teacher = '': expected a classifier: a workdir"),
])  # fmt: skip
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(DISTILL, distill=settings)


def test_bad_teachers_are_named(tmp_path, taught):
    def read(**settings):
        return teachers.read(taught_by(taught, **settings))

    with pytest.raises(ConfigError, match=r"distill.variant = 'B': .*is a 32x1x4x160; give that"):
        read(variant="B")
    patches = with_settings(taught_by(taught), model={"patch_size": 8, "image_size": 40})
    with pytest.raises(ConfigError, match=r"see the student's clips: .*image_size = 40.*32 or 48"):
        teachers.read(patches)
    with pytest.raises(ConfigError, match="holds a pretrain, which has no head to teach with"):
        read(teacher=tiny_models.checkpoint(tmp_path, "pretrain"))


def test_labels_are_read_only_where_they_count(tmp_path, taught):
    bare = write_dataset(tmp_path / "bare", [clip().serialize()] * 3)
    config = with_settings(
        taught_by(taught), model={"dtype": "auto"}, data={"dataset": bare},
        classifier={"num_classes": 0}, eval={"split": ""},
    )  # fmt: skip
    task = main.make_task(config)
    assert (task.inputs, task.label_names, task.num_classes) == (("video",), NAMES, 3)
    with pipeline.open_clips(task.config) as stream:
        assert set(next(stream)["label"]) == {-1}
    records = [dataclasses.replace(clip(), label=0, label_name="x")] * 3
    other = write_dataset(tmp_path / "other", [r.serialize() for r in records], labels=("x",))
    assert main.make_task(with_settings(config, data={"dataset": other})).label_names == NAMES
    with pytest.raises(ConfigError, match=r"eval.split = 'val': .* has no labels to test on"):
        main.make_task(with_settings(config, eval={"split": "val"}))
    with pytest.raises(ConfigError, match="its videos have no labels; build it with --labels"):
        main.make_task(with_settings(config, distill={"soft_weight": 0.5}))


def test_a_distillation_runs_and_evaluates(tmp_path):
    records = [dataclasses.replace(clip(), label=i, label_name=NAMES[i]) for i in range(3)]
    payloads = [record.serialize() for record in records]
    directory = write_dataset(tmp_path / "data", payloads, labels=NAMES)
    config = with_settings(
        DISTILL, data={"dataset": directory, "batch_size": 2}, optim={"warmup_steps": 1},
        classifier={"num_classes": 0}, eval={"split": "train", "clips": 1, "crops": 1},
    )  # fmt: skip
    train.train(main.make_task(config), str(tmp_path / "run"))
    main.test(config, str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "eval" / "summary.json").read_text())
    assert summary["videos"] == 3


def test_a_plan_counts_the_teacher_and_reads_no_file():
    config = with_settings(DISTILL, distill={"teacher": "gone.pth"}, data={"batch_size": 4})
    machine = planner.parse_machine("", "gpu:h200", 1, 1)
    plan, alone = (
        planner.make("recipe", c, machine, compiling=False)
        for c in (config, dataclasses.replace(config, task="finetune"))
    )
    teacher = teachers.abstract(config)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(teacher.params))
    assert plan.state - alone.state == size
    assert plan.parameters == alone.parameters
    assert plan.chip_flops > alone.chip_flops


@pytest.mark.parametrize("patch", [16, 8], ids=["token by token", "on average"])
def test_products_are_those_of_the_formula(patch):
    config = with_settings(TEACHER, model={"patch_size": patch})
    like = jax.eval_shape(Finetune(config).init, jax.random.key(0))
    settings = with_settings(DISTILL, distill={"feature_weight": 1.0})
    task = Distill(settings, NAMES, teachers.Teacher(config.model, like))
    batch = batch_of(DISTILL, clips=2)
    shapes = jax.eval_shape(task.init, jax.random.key(0)) | {"teacher": task.teacher}

    def products(function):
        return planner.products(jax.make_jaxpr(function)(shapes).jaxpr)

    forward = products(lambda p: task.loss_fn(p, batch, jax.random.key(0))[0])
    teacher = products(lambda p: task._teacher(p["teacher"], jnp.asarray(batch["video"])))
    # The student's backward pass has two products for each of its forward's, the teacher's none.
    assert 3 * (forward - teacher) + teacher == 2 * task.flops_per_clip
