"""Distillation: the loss, the teacher that nothing touches, resuming, devices, mistakes."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.tiny_dataset import clip, write_dataset
from fakes import FINETUNE, FakeDataTask, FakeFinetune, with_settings

from vmae_jax import checkpoint, main, planner, program, sharding, train, tree
from vmae_jax.config import AugmentConfig, Config, ConfigError, DistillConfig
from vmae_jax.convert.load import load
from vmae_jax.data import pipeline
from vmae_jax.models import layers
from vmae_jax.models.adapt import TO_TEACHER
from vmae_jax.tasks import finetune
from vmae_jax.tasks import teacher as teachers
from vmae_jax.tasks.distill import Distill

NAMES = ("a", "b", "c")
SMALL = with_settings(
    FINETUNE, model={"variant": "24x2x3x48", "patch_size": 16}, train={"steps": 2}
)
DISTILL = dataclasses.replace(
    SMALL, task="distill", distill=DistillConfig("random", variant="16x1x2x32")
)
# Every part of the loss at once.
ALL = {"temperature": 2.0, "soft_weight": 0.7, "feature_weight": 0.5}


class FakeDistill(Distill):
    """Distillation on fake clips, without evaluation."""

    def __init__(self, config: Config):
        super().__init__(config, NAMES, teachers.read(config).for_classes(NAMES, "the file"))

    data, report = FakeFinetune.data, FakeFinetune.report


@pytest.fixture(autouse=True)
def devices(request, monkeypatch):
    """One device, unless a test asks for all: less to compile."""
    if "all_devices" not in request.keywords:
        make_mesh = sharding.make_mesh
        monkeypatch.setattr(sharding, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))


@pytest.fixture
def taught(tmp_path):
    """The workdir of a classifier of the classes a, b and c."""
    train.train(FakeFinetune(SMALL), str(tmp_path / "teacher"))
    return str(tmp_path / "teacher")


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def batch_of(config, clips=4):
    size = config.model.image_size
    shape = (clips, config.model.num_frames, size, size, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return {"video": video, "label": (np.arange(clips) % 3).astype(np.int32)}


def noisy(params, scale=0.2):
    """Parameters that say something of every clip."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    shaken = [x + rng.normal(0, scale, x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(structure, shaken)


def params_of(task):
    own = noisy(jax.jit(task.init)(jax.random.key(0)))
    return {**own, "teacher": noisy(task.teacher)}


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def test_the_loss_equals_numpy():
    task = FakeDistill(with_settings(DISTILL, distill=ALL, classifier={"label_smoothing": 0.1}))
    params, batch = params_of(task), batch_of(DISTILL)
    loss, clips = jax.jit(task.loss_fn)(params, batch, jax.random.key(0))
    assert clips == len(batch["video"])

    video = layers.normalize_pixels(jnp.asarray(batch["video"]))
    features, logits = task._teacher(params["teacher"], video)
    student = task.model(params)
    own = student.features(task.patches(video))
    p, q = log_softmax(logits / 2.0), log_softmax(student.logits(own) / 2.0)
    soft = 4 * (np.exp(p) * (p - q)).sum(1).mean()
    labels = 0.9 * np.eye(3)[batch["label"]] + 0.1 / 3
    hard = -(labels * log_softmax(student.logits(own))).sum(1).mean()
    mapped = np.asarray(own @ params[TO_TEACHER]["kernel"], np.float64)

    def standard(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    distance = np.square(standard(mapped) - standard(np.asarray(features, np.float64))).mean()
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


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path, taught):
    settings = {"teacher": taught, "variant": "", "feature_weight": 1.0}
    config = with_settings(
        DISTILL, distill=settings, init_from=taught, augment=AugmentConfig(randaugment=""),
        train={"steps": 1},
    )  # fmt: skip
    train.train(FakeDistill(config), str(tmp_path / "run"))
    (loss,) = losses(tmp_path / "run")
    assert abs(loss) < 1e-6
    others = with_settings(config, init_from="")
    train.train(FakeDistill(others), str(tmp_path / "fresh"))
    assert losses(tmp_path / "fresh")[0] > 0.1


@pytest.mark.parametrize("settings", [ALL, {"feature_weight": 0.0}])
def test_resumed_equals_uninterrupted_and_no_checkpoint_holds_the_teacher(
    tmp_path, taught, settings
):
    config = with_settings(
        DISTILL, distill={"teacher": taught, "variant": "", **settings},
        train={"steps": 4, "checkpoint_every": 2}, optim={"ema_decay": 0.9, "accumulate": 2},
    )  # fmt: skip
    for name in ("whole", "parts"):
        train.train(FakeDistill(config), str(tmp_path / name))
    parts = tmp_path / "parts" / "checkpoints"
    shutil.rmtree(parts / "4")
    moved = shutil.move(taught, tmp_path / "moved")  # a teacher is known by its weights
    again = with_settings(config, distill={"teacher": str(moved)})
    assert train.train(FakeDistill(again), str(tmp_path / "parts")).step == 4
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    (meta, a), (_, b) = (checkpoint.load_params(str(tmp_path / d)) for d in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert meta["teacher"] == tree.fingerprint(load(moved).params)
    saved = json.loads((parts / "4" / "state" / "_METADATA").read_text())["tree_metadata"]
    assert saved
    assert not any("'teacher'" in name for name in saved)


def test_another_teacher_does_not_go_on(tmp_path, taught):
    config = with_settings(DISTILL, distill={"teacher": taught, "variant": ""})
    train.train(FakeDistill(config), str(tmp_path / "run"))
    other = with_settings(SMALL, seed=1)
    train.train(FakeFinetune(other), str(tmp_path / "other"))
    config = with_settings(config, distill={"teacher": str(tmp_path / "other")}, train={"steps": 4})
    with pytest.raises(ConfigError, match=r"was taught by weights .*other' has .*same teacher"):
        train.train(FakeDistill(config), str(tmp_path / "run"))


@pytest.mark.all_devices
def test_eight_devices_equal_one(tmp_path, monkeypatch):
    config = with_settings(
        DISTILL,
        distill=ALL | {"variant": "64x2x4x128"},  # large enough to be split
        augment=AugmentConfig(), classifier={"drop_path": 0.2, "head_dropout": 0.2},
    )  # fmt: skip
    make_mesh, found = sharding.make_mesh, {}
    for count, mesh in ((1, {}), (8, {"data": 2, "fsdp": 2, "tensor": 2})):
        with monkeypatch.context() as m:
            m.setattr(sharding, "make_mesh", lambda c, n=count: make_mesh(c, jax.devices()[:n]))
            task = FakeDistill(with_settings(config, mesh=mesh))
            train.train(task, str(tmp_path / str(count)))
        found[count] = losses(tmp_path / str(count))
    np.testing.assert_allclose(found[8], found[1], atol=1e-5)
    run = program.Program.on(make_mesh(task.config.mesh), task, lambda step: 1e-4)
    kernel = run.state["teacher"]["encoder"]["tower"]["blocks"]["fc1"]["kernel"]
    assert kernel.sharding.spec == (None, "fsdp", "tensor")


def test_a_checkpoint_is_a_classifier_like_any_other(tmp_path):
    train.train(FakeDistill(with_settings(DISTILL, distill=ALL)), str(tmp_path / "run"))
    found = load(tmp_path / "run")
    assert (found.kind, found.label_names) == ("classifier", NAMES)
    assert TO_TEACHER not in found.params
    gone = with_settings(DISTILL, distill={"teacher": "gone.pth"})
    task, params = finetune.trained(gone, str(tmp_path / "run"), Distill)
    views = batch_of(DISTILL)["video"]
    np.testing.assert_allclose(task.probabilities(params, views).sum(), 1, rtol=1e-5)


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


def test_classes_are_matched_by_name(taught):
    config = with_settings(DISTILL, distill={"teacher": taught, "variant": ""})
    teacher = teachers.read(config)
    turned = teacher.for_classes(("c", "a"), taught)  # it may know more of them
    for name, x in teacher.params["head"].items():
        np.testing.assert_array_equal(turned.params["head"][name], x[..., [2, 0]])
    with pytest.raises(ConfigError, match=r"distill.teacher = '.*teacher': .*not trained for: x"):
        teacher.for_classes(("a", "b", "x"), taught)
    four = with_settings(config, classifier={"num_classes": 4})
    unnamed = dataclasses.replace(teacher, label_names=())
    with pytest.raises(ConfigError, match="tells 3 classes apart, the student 4; give a teacher"):
        Distill(four, (), unnamed.for_classes(("a", "b", "c", "d"), taught))


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
        return teachers.read(with_settings(DISTILL, distill={"teacher": taught, **settings}))

    with pytest.raises(ConfigError, match=r"distill.variant = 'B': .*teacher is a 24x2x3x48; give"):
        read(variant="B")
    patches = with_settings(
        DISTILL, model={"patch_size": 8, "image_size": 40}, distill={"teacher": taught}
    )
    with pytest.raises(ConfigError, match=r"see the student's clips: .*image_size = 40.*32 or 48"):
        teachers.read(patches)
    train.train(FakeDataTask(with_settings(SMALL, task="pretrain")), str(tmp_path / "mae"))
    with pytest.raises(ConfigError, match="holds a pretrain, which has no head to teach with"):
        read(teacher=str(tmp_path / "mae"))


def test_labels_are_read_only_where_they_count(tmp_path, taught):
    bare = write_dataset(tmp_path / "bare", [clip().serialize()] * 3)
    config = with_settings(
        DISTILL, distill={"teacher": taught, "variant": ""}, data={"dataset": bare},
        classifier={"num_classes": 0}, eval={"split": ""},
    )  # fmt: skip
    task = main.make_task(config)
    assert (task.inputs, task.label_names, task.num_classes) == (("video",), NAMES, 3)
    with pipeline.open_clips(task.config) as stream:
        assert set(next(stream)["label"]) == {-1}
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


def test_products_are_those_of_the_formula():
    task = FakeDistill(with_settings(DISTILL, distill={"feature_weight": 1.0}))
    batch = batch_of(DISTILL, clips=2)
    shapes = jax.eval_shape(task.init, jax.random.key(0)) | {"teacher": task.teacher}

    def products(function):
        return planner.products(jax.make_jaxpr(function)(shapes).jaxpr)

    forward = products(lambda p: task.loss_fn(p, batch, jax.random.key(0))[0])
    teacher = products(lambda p: task._teacher(p["teacher"], jnp.asarray(batch["video"])))
    # The student's backward pass has two products for each of its forward's, the teacher's none.
    assert 3 * (forward - teacher) + teacher == 2 * task.flops_per_clip
