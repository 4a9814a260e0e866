"""launch/local.sh: what it would run, and one real run over four simulated devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmae_jax.data import synthetic

ROOT = Path(__file__).parents[1]
COUNT = "--xla_force_host_platform_device_count"


def local(*arguments, **environment):
    return subprocess.run(
        ["bash", "launch/local.sh", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_dry_run_prints_a_command_for_a_shell():
    out = local("--dry-run", "4", "--config=a.py", "--config.data.dataset=my videos", XLA_FLAGS="")
    assert out.returncode == 0, out.stderr
    assert out.stdout == (
        f"JAX_PLATFORMS=cpu XLA_FLAGS={COUNT}=4 {sys.executable} -m vmae_jax.main "
        "--config=a.py --config.data.dataset=my\\ videos\n"
    )


def test_flags_of_the_caller_are_kept():
    out = local("--dry-run", "--config=a.py", XLA_FLAGS="--xla_mine=1")
    assert f"XLA_FLAGS=--xla_mine=1\\ {COUNT}=8 " in out.stdout


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_how(flag):
    out = local(flag)
    assert out.returncode == 0
    assert out.stdout.splitlines()[0].endswith("as if it had several devices:")
    assert "launch/local.sh [--dry-run] [DEVICES] --config=RECIPE" in out.stdout
    assert "set -euo" not in out.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["0", "--config=a.py"], "error: 0 devices: expected a number"),
        (["4x", "--config=a.py"], "error: 4x devices: expected a number"),
        ([], "launch/local.sh [--dry-run] [DEVICES]"),
    ],
)
def test_what_cannot_work_is_said(arguments, says):
    out = local(*arguments)
    assert out.returncode == 2
    assert says in out.stderr


def test_four_devices_share_a_model(tmp_path):
    """Eight devices in the environment of these tests: the script's own number counts."""
    dataset = synthetic.prepare(tmp_path, clips_per_class=1)
    out = local(
        "4", "--config=configs/quickstart.py:smoke", f"--workdir={tmp_path}",
        f"--config.data.dataset={dataset}", "--config.mesh.fsdp=2", "--config.train.steps=2",
        "--config.train.checkpoint_every=2",
    )  # fmt: skip
    assert out.returncode == 0, out.stdout + out.stderr
    assert "pretrain tiny on 4 x cpu" in out.stdout
    assert "is done: step 2 of 2" in out.stdout
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_learning_compares_equals():
    """Pre-trained and fresh models are given the same recipes, flags and seed."""
    out = subprocess.run(
        ["bash", "launch/learning.sh", "--dry-run", "/FOLDER", "7"],
        cwd=ROOT, env=os.environ | {"PYTHON": "python"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    first, *rest = out.stdout.splitlines()
    assert "--config=configs/pretrain_synthetic.py --workdir=/FOLDER/pretrain_7" in first
    pretrained = [line for line in rest if "/pretrained_" in line]
    random = [line for line in rest if "/random_" in line]
    assert len(pretrained) == len(random) == 3
    start = "--config.init_from=/FOLDER/pretrain_7"
    assert all(start in line and "--config.seed=7" in line for line in pretrained)
    as_random = [
        line.replace(start, "--config.init_from=").replace("/pretrained_", "/random_")
        for line in pretrained
    ]
    assert as_random == random
