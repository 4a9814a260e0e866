"""launch/slurm.sh in a SLURM whose commands are scripts that note what they were asked."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = {"SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_ON_NODE": "32"}


@pytest.fixture
def slurm(tmp_path):
    """Starts a job whose srun does `what`; notes of all commands are in tmp_path/calls."""
    started = []

    def start(what, state="RUNNING", **environment):
        scripts = {
            "srun": f'echo $$ >"{tmp_path}/pid"\n{what}',
            "scancel": f'kill -TERM "$(<"{tmp_path}/pid")"',  # as SLURM would, the processes
            "squeue": f"echo {state}",
            "scontrol": "",
        }
        for name, text in scripts.items():
            note = f'echo "{name} $* | $JAX_LOCAL_DEVICE_IDS" >>"{tmp_path}/calls"'
            (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{note}\n{text}\n")
            (tmp_path / name).chmod(0o755)
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python"}
        started.append(
            subprocess.Popen(
                ["bash", "launch/slurm.sh", "--config=a.py", "--config.data.dataset=my videos"],
                cwd=ROOT, env=os.environ | JOB | path | environment, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()


SAVES = "trap 'echo saving; sleep 0.2; exit 143' TERM; echo ready; while :; do sleep 0.02; done"


def calls(tmp_path):
    return [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]


def test_one_process_per_node_sees_all_gpus(slurm, tmp_path):
    process = slurm("exit 0")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert (tmp_path / "calls").read_text() == (
        "srun --cpus-per-task=32 --kill-on-bad-exit=0 --wait=300 python -m vmae_jax.main "
        "--config=a.py --config.data.dataset=my videos | 0,1,2,3\n"
    )
    text = (ROOT / "launch/slurm.sh").read_text()
    assert "#SBATCH --ntasks-per-node=1\n" in text
    assert "#SBATCH --signal=B:USR1@120\n" in text


def test_an_array_of_a_study_runs_the_study(slurm, tmp_path):
    assert slurm("exit 0", MODULE="vmae_jax.study", SLURM_ARRAY_TASK_ID="3").wait(timeout=30) == 0
    assert " python -m vmae_jax.study --config=a.py " in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(("task", "job"), [
    ({}, "17"),
    # 17 would be all tasks of the array.
    ({"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}, "17_3"),
])  # fmt: skip
def test_a_warning_saves_and_goes_back_into_the_queue(slurm, tmp_path, task, job):
    process = slurm(SAVES, **task)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert out.splitlines() == ["saving", "saved; back into the queue"]
    assert calls(tmp_path) == ["srun", "scancel", "squeue", "scontrol"]
    text = (tmp_path / "calls").read_text()
    for command in ("scancel --signal=TERM", "squeue --noheader --format=%T", "scontrol requeue"):
        of = "--jobs=" if command.startswith("squeue") else ""
        assert f"{command} {of}{job} " in text


def test_what_is_cancelled_stays_cancelled(slurm, tmp_path):
    """SIGTERM comes to the processes from SLURM: they are not asked twice."""
    process = slurm(SAVES, state="COMPLETING")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert out == "saving\n"
    assert calls(tmp_path) == ["srun", "squeue"]


def test_an_error_ends_the_job(slurm, tmp_path):
    process = slurm("exit 1")
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert calls(tmp_path) == ["srun"]


def run(*arguments, **environment):
    return subprocess.run(
        ["bash", "launch/slurm.sh", *arguments], cwd=ROOT, capture_output=True, text=True,
        timeout=30, env=os.environ | {"PYTHON": sys.executable} | environment,
    )  # fmt: skip


def test_dry_run_prints_a_command_for_a_shell():
    out = run("--dry-run", "--config=a.py")
    assert out.stdout == (
        "JAX_LOCAL_DEVICE_IDS=0\\,1\\,2\\,3\\,4\\,5\\,6\\,7 srun --cpus-per-task=64 "
        f"--kill-on-bad-exit=0 --wait=300 {sys.executable} -m vmae_jax.main --config=a.py\n"
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        ([], JOB, "no recipe: sbatch launch/slurm.sh --config=RECIPE"),
        (["--config=a.py"], {}, "not in a job: sbatch launch/slurm.sh --config=a.py"),
        (["--config=a.py"], {"SLURM_JOB_ID": "17"}, "a job without GPUs"),
    ],
)
def test_what_cannot_work_is_said(arguments, environment, says):
    out = run(*arguments, **environment)
    assert out.returncode == 2
    assert f"error: {says}" in out.stderr
