"""Recipes and settings: every recipe is valid, and mistakes are named."""

import importlib.util
from pathlib import Path

import pytest

from vmae_jax import config as config_lib
from vmae_jax.config import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
RECIPES = [path for path in CONFIGS if not path.stem.startswith("study_")]


def recipe(path, arg=""):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def test_the_recipes_are_there():
    assert {p.stem for p in RECIPES} == {
        "quickstart", "vitg_tiktok", "vitb_tiktok", "vits_hybrid", "vitb_hybrid", "vitl_hybrid",
        "vith_hybrid", "vitg_hybrid", "vitg_ucf101", "vitg_hmdb51", "vitg_k710", "vitg_k400",
        "vitg_k400_from_k710", "vitg_k600_from_k710", "vitg_ssv2", "vith_k400", "vith_k600",
        "vith_k710", "vith_ssv2", "vitl_k400", "vitl_ssv2", "vitb_k400", "vitb_k710", "vitb_ssv2",
        "finetune_custom", "pretrain_synthetic", "finetune_synthetic", "probe_linear",
        "probe_attentive", "probe_knn", "vitb_k710_from_g", "distill_synthetic",
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_and_its_smoke_variant_are_valid(path):
    config = config_lib.from_config_dict(recipe(path))
    small = config_lib.from_config_dict(recipe(path, "smoke"))
    assert small.model.variant == "tiny"
    assert small.model.patch_size == config.model.patch_size
    assert small.mask == config.mask
    assert f"--config=configs/{path.name}" in path.read_text(), "the docstring gives the command"
    with pytest.raises(ConfigError, match="expected 'smoke'"):
        recipe(path, "smoek")


# Videos per step, base lr, epochs, warm-up, clipping of VideoMAE V2's public recipes.
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("vitb_hybrid", ("B", 32 * 32, 1e-3, 200, 20, 0)),
        ("vitl_hybrid", ("L", 48 * 32, 1e-3, 300, 30, 0)),
        ("vith_hybrid", ("H", 64 * 32, 1e-3, 300, 30, 0)),
        ("vitg_hybrid", ("g", 64 * 32, 6e-4, 300, 30, 0.02)),
        ("vitg_tiktok", ("g", 64 * 32, 6e-4, 300, 30, 0.02)),
    ],
)
def test_recipes_carry_the_published_numbers(name, numbers):
    path = next(p for p in RECIPES if p.stem == name)
    c = config_lib.from_config_dict(recipe(path))
    found = (
        c.model.variant, c.data.batch_size, c.optim.base_lr, c.train.epochs, c.optim.warmup_epochs,
        c.optim.clip_norm,
    )  # fmt: skip
    assert found == numbers
    assert (c.model.num_frames, c.model.image_size, c.data.stride, c.data.views) == (16, 224, 4, 4)
    assert (c.optim.b1, c.optim.b2, c.optim.weight_decay, c.optim.min_lr) == (0.9, 0.95, 0.05, 1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optin": {}}, r"config.optin: no such setting; did you mean 'optim'\?"),
        ({"data": {"datset": "x"}}, r"config.data.datset: .*did you mean 'data.dataset'\?"),
        ({"seed": "one"}, r"config.seed = 'one': expected int, found str"),
        ({"seed": True}, r"config.seed = True: expected int, found bool"),
        ({"model": 3}, r"config.model = 3: expected a group of settings"),
        ({"model": {"variant": "XL"}}, r"config.model.variant = 'XL': expected one of 'tiny', 'S'"),
        (
            {"model": {"image_size": 230}},
            r"a multiple of model.patch_size = 16, such as 224 or 240",
        ),
        (
            {"mask": {"encoder_ratio": 1.0}},
            r"mask.encoder_ratio = 1.0: expected a share in \[0, 1\)",
        ),
        ({"mask": {"encoder": "tubes"}}, r"expected one of 'tube', 'random', 'none'"),
        ({"optim": {"accumulate": 3}}, r"a divisor of data.batch_size \* data.views = 1024"),
        ({"data": {"max_bad_fraction": 2.0}}, r"data.max_bad_fraction = 2.0"),
        (
            {"task": "finetune", "data": {"antialias": True}},
            r"config.data.antialias = True: expected False with task = 'finetune'",
        ),
        ({"model": {"attention": "flash"}}, r"model.attention = 'flash': expected one of 'auto'"),
        ({"init_labels": "k.txt"}, r"config.init_labels = 'k.txt': expected '' without init_from"),
        ({"weights_key": "ema"}, r"config.weights_key = 'ema': expected '' without init_from"),
        ({"train": {"log_every": 0}}, r"config.train.log_every = 0: expected at least 1"),
        ({"task": "distil"}, r"config.task = 'distil': expected one of 'pretrain'"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_lib.from_config_dict(settings)


def test_whole_numbers_are_good_floats():
    assert config_lib.from_config_dict({"optim": {"base_lr": 1}}).optim.base_lr == 1.0


def test_differences_name_nested_keys():
    a = config_lib.to_dict(config_lib.Config())
    b = config_lib.to_dict(config_lib.Config(seed=3, data=config_lib.DataConfig(views=2)))
    assert config_lib.differences(a, b) == {"seed": (0, 3), "data.views": (4, 2)}


# Videos per step, base lr, layer decay, weight decay, drop path, head dropout, epochs, warm-up,
# clipping, stride (0 = sparse) of the public recipes.
@pytest.mark.parametrize(("name", "classes", "numbers"), [
    ("vitg_ucf101", 101, (24, 1e-3, 0.9, 0.05, 0.35, 0.5, 50, 5, 0, 4)),
    ("vitg_hmdb51", 51, (24, 5e-4, 0.9, 0.05, 0.35, 0.5, 15, 5, 0, 2)),
    ("vitg_k710", 710, (96, 1e-3, 0.9, 0.1, 0.3, 0, 35, 5, 5.0, 4)),
    ("vitg_k400", 400, (192, 1e-3, 0.9, 0.1, 0.2, 0, 30, 5, 0, 4)),
    ("vitg_k400_from_k710", 400, (96, 1e-5, 0.9, 0.1, 0.25, 0, 3, 1, 0, 4)),
    ("vitg_k600_from_k710", 600, (96, 1e-5, 0.9, 0.1, 0.25, 0, 3, 1, 0, 4)),
    ("vitg_ssv2", 174, (96, 3e-4, 0.9, 0.05, 0.25, 0, 20, 5, 0, 0)),
    ("vith_k400", 400, (128, 1e-3, 0.8, 0.05, 0.2, 0.5, 40, 5, 0, 4)),
    ("vith_k600", 600, (128, 1e-3, 0.8, 0.05, 0.2, 0.5, 40, 5, 0, 4)),
    ("vith_k710", 710, (128, 1e-3, 0.8, 0.05, 0.2, 0.5, 40, 5, 0, 4)),
    ("vith_ssv2", 174, (128, 5e-4, 0.8, 0.05, 0.2, 0, 20, 5, 0, 0)),
    ("vitl_k400", 400, (192, 2e-3, 0.75, 0.05, 0.2, 0, 35, 5, 0, 4)),
    ("vitl_ssv2", 174, (192, 5e-4, 0.75, 0.05, 0.2, 0, 20, 5, 0, 0)),
    ("vitb_k400", 400, (512, 7e-4, 0.75, 0.05, 0.1, 0, 90, 5, 0, 4)),
    ("vitb_k710", 710, (512, 7e-4, 0.75, 0.05, 0.1, 0, 90, 5, 0, 4)),
    ("vitb_ssv2", 174, (256, 2e-3, 0.65, 0.05, 0.1, 0, 25, 5, 0, 0)),
])  # fmt: skip
def test_fine_tuning_recipes_carry_the_published_numbers(name, classes, numbers):
    c = config_lib.from_config_dict(recipe(next(p for p in RECIPES if p.stem == name)))
    head, optim, sparse = c.classifier, c.optim, c.data.sampling == "sparse"
    found = (
        c.data.batch_size, optim.base_lr, optim.layer_decay, optim.weight_decay, head.drop_path,
        head.head_dropout, c.train.epochs, optim.warmup_epochs, optim.clip_norm,
        0 if sparse else c.data.stride,
    )  # fmt: skip
    assert found == numbers
    assert (c.task, c.model.variant.lower(), head.num_classes) == ("finetune", name[3], classes)
    assert (c.model.num_frames, c.model.image_size, c.data.views) == (16, 224, 2)
    assert (optim.b1, optim.b2, optim.min_lr, head.init_scale) == (0.9, 0.999, 1e-6, 0.001)
    augment = c.augment
    gpu_batch = 2 * {"g": 3, "h": 4, "l": 6, "b": 16}[name[3]]  # two views of each of its videos
    assert augment == config_lib.AugmentConfig(flip=0.0 if sparse else 0.5, mix_group=gpu_batch)
    assert augment.randaugment == "rand-m7-n4-mstd0.5-inc1"
    assert (augment.mixup, augment.cutmix, augment.erase, head.label_smoothing) == (
        0.8,
        1,
        0.25,
        0.1,
    )
    assert (c.eval.clips, c.eval.crops) == ((2, 3) if sparse else (5, 3))


@pytest.mark.parametrize(
    ("videos", "steps", "epochs", "total"),
    [
        (283_582, 0, 300.0, 41_400),  # arXiv 2402.08875: 138 steps, the last 958 videos left out
        (2048, 0, 300.0, 300),
        (2047, 0, 300.0, 300),  # less than a batch: one step, where the reference has none
        (1, 0, 0.5, 1),
        (5000, 0, 2.5, 5),
        (5000, 7, 300.0, 7),
    ],
)
def test_an_epoch_has_the_reference_steps(videos, steps, epochs, total):
    config = config_lib.Config(
        data=config_lib.DataConfig(batch_size=2048),
        train=config_lib.TrainConfig(steps=steps, epochs=epochs),
    )
    per_epoch = config_lib.steps_per_epoch(config, videos)
    assert config_lib.total_steps(config, per_epoch) == total
