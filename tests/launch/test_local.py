"""launch/local.sh: what it would run, one real run over four simulated devices, and processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmae_jax.data import synthetic

ROOT = Path(__file__).parents[2]
COUNT = "--xla_force_host_platform_device_count"
UNSET = {"XLA_FLAGS": "", "PJRT_NPROC": ""}


def local(*arguments, **environment):
    return subprocess.run(
        ["bash", "launch/local.sh", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_dry_run_prints_a_command_for_a_shell():
    out = local("--dry-run", "4", "--config=a.py", "--config.data.dataset=my videos", **UNSET)
    assert out.returncode == 0, out.stderr
    assert out.stdout == (
        f"JAX_PLATFORMS=cpu XLA_FLAGS={COUNT}=4 PJRT_NPROC=8 {sys.executable} -m vmae_jax.main "
        "--config=a.py --config.data.dataset=my\\ videos\n"
    )


def test_flags_of_the_caller_are_kept():
    out = local("--dry-run", "--config=a.py", XLA_FLAGS="--xla_mine=1")
    assert f"XLA_FLAGS=--xla_mine=1\\ {COUNT}=8 " in out.stdout


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_how(flag):
    out = local(flag)
    assert out.returncode == 0
    assert "as if it had several devices" in out.stdout.splitlines()[0]
    assert "launch/local.sh [--dry-run] [--processes=N] [DEVICES] --config=RECIPE" in out.stdout
    assert "set -euo" not in out.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["0", "--config=a.py"], "error: 0 devices: expected a number"),
        (["4x", "--config=a.py"], "error: 4x devices: expected a number"),
        (["--processes=0", "4", "--config=a.py"], "error: 0 processes: expected a number"),
        ([], "launch/local.sh [--dry-run] [--processes=N] [DEVICES]"),
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


def test_dry_run_of_processes_prints_a_command_each():
    out = local("--dry-run", "--processes=2", "4", "--config=a.py", **UNSET)
    lines = out.stdout.splitlines()
    address = lines[0].split("JAX_COORDINATOR_ADDRESS=localhost:")[1].split()[0]
    assert 20000 <= int(address) < 32000
    assert lines == [
        f"JAX_PLATFORMS=cpu XLA_FLAGS={COUNT}=4 PJRT_NPROC=8 "
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo "
        f"JAX_COORDINATOR_ADDRESS=localhost:{address} JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={i} "
        f"{sys.executable} -m vmae_jax.main --config=a.py"
        for i in range(2)
    ]


@pytest.fixture
def processes(tmp_path):
    """local.sh --processes=3 with a script as its Python; gives the started local.sh."""
    started = []

    def start(what, **environment):
        python = tmp_path / "python"
        python.write_text(f"#!/usr/bin/env bash\nI=$JAX_PROCESS_ID\n{what}\n")
        python.chmod(0o755)
        started.append(
            subprocess.Popen(
                ["bash", "launch/local.sh", "--processes=3", "2", "--config=a.py"], cwd=ROOT,
                env=os.environ | {"PYTHON": str(python), "TMPDIR": str(tmp_path)} | environment,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                # A shell in the background, where tests may run, has SIGINT ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_processes_share_an_address_and_the_first_prints(processes, tmp_path):
    tell = 'echo "$I of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $*"'
    process = processes(f'{tell}; {tell} >"{tmp_path}/$I"')
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    told = [(tmp_path / str(i)).read_text() for i in range(3)]
    assert out == told[0]
    assert out.endswith(": -m vmae_jax.main --config=a.py\n")
    assert [line[2:] for line in told] == [out[2:]] * 3
    assert "processes 1 to 2 write to" in err
    assert not list(tmp_path.glob("vmae_jax.*")), "logs of a run without errors are not kept"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_every_process_once(processes, tmp_path, number, status):
    process = processes(
        f"trap 'echo got >>\"{tmp_path}/got_$I\"; ended={status}' TERM INT\n"
        f'touch "{tmp_path}/ready_$I"\n'
        "for i in {1..1500}; do [[ -z ${ended-} ]] || break; sleep 0.02; done\n"
        "sleep 0.2; exit $ended"
    )
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("ready_*"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    assert [(tmp_path / f"got_{i}").read_text() for i in range(3)] == ["got\n"] * 3


def test_one_failure_ends_all_with_its_status(processes, tmp_path):
    """The others have GRACE seconds; what they started goes with them."""
    process = processes(
        'if [[ $I == 1 ]]; then echo "no such recipe" >&2; exit 7; fi\n'
        f'sleep 300 & echo $! >"{tmp_path}/child_$I"; trap : TERM INT; wait; wait; exit 9',
        GRACE="1",
    )
    _, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "process 1 ended with status 7\nno such recipe\n" in err
    assert "killing the other 2" in err
    for i in (0, 2):
        pid = (tmp_path / f"child_{i}").read_text().strip()
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    (log,) = tmp_path.glob("vmae_jax.*/process_1.log")
    assert log.read_text() == "no such recipe\n"


def test_the_first_failure_counts(processes, tmp_path):
    process = processes(
        f'if [[ $I == 2 ]]; then touch "{tmp_path}/failed"; exit 3; fi\n'
        f'until [[ -e "{tmp_path}/failed" ]]; do sleep 0.02; done; sleep 0.5; exit 4'
    )
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "killing" not in err


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


def test_students_differ_in_their_teacher_alone():
    out = subprocess.run(
        ["bash", "launch/learning.sh", "--distill", "--dry-run", "/FOLDER", "7"],
        cwd=ROOT, env=os.environ | {"PYTHON": "python"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    *_, teacher, distilled, labelled = out.stdout.splitlines()
    assert "--workdir=/FOLDER/pretrained_finetune_7 " in teacher
    taught = "--config.distill.teacher=/FOLDER/pretrained_finetune_7"
    assert taught in distilled
    assert labelled == distilled.replace(taught, "--config.task=finetune").replace(
        "/distilled_", "/labelled_"
    )
