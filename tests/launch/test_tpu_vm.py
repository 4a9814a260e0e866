"""launch/tpu_vm.sh and launch/worker.sh, with a gcloud whose workers are folders."""

import contextlib
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "TPU_ENV": "/dev/null",  # no settings of whoever tests
    "TPU_PROJECT": "lab", "TPU_ZONE": "us-east5-a", "TPU_TYPE": "v5p-16", "TPU_NAME": "vmae",
}  # fmt: skip
FLAGS = ["--config=a.py", "--workdir=gs://bucket/runs/a"]
PLACE = "--project=lab --zone=us-east5-a --quiet"
QUEUED = "gcloud compute tpus queued-resources"
# What the workers run as their Python: says what it was given, then does what a test wants.
PYTHON = """#!/usr/bin/env bash
echo $$ >>"$FAKE/pids"
printf '%s\\n' "args: $*" "flags: ${LIBTPU_INIT_ARGS-}"
life=$(<"$FAKE/lives")
"""
UNTIL_TERM = "trap 'echo saved; exit 143' TERM; while :; do sleep 0.02; done"


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Cloud:
    """The fake gcloud, the workers' uv and Python, and launch/tpu_vm.sh."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        fake = Path(__file__).with_name("fake_gcloud.py")
        line = f'exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(fake))} "$@"\n'
        script(folder / "bin/gcloud", "#!/bin/sh\n" + line)
        script(
            folder / "bin/uv",
            '#!/bin/sh\necho "uv $*" >>"$FAKE/uv"\n[ ! -e "$FAKE/no_network" ] || exit 1\n'
            'mkdir -p .venv/bin && cp "$FAKE/python" .venv/bin/python\n',
        )
        self.run_does("exit 0")

    def run_does(self, what: str) -> None:
        script(self.folder / "python", PYTHON + what + "\n")

    def environment(self, **settings: str) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        mine = {"PATH": path, "FAKE": str(self.folder), "TPU_POLL": "0.02"}
        return os.environ | SETTINGS | mine | settings

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "launch/tpu_vm.sh", *arguments], cwd=ROOT, env=self.environment(**settings),
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """What gcloud was asked to do, without the group of commands and the flags."""
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line)[3] for line in lines]

    def log(self, worker: int = 0) -> str:
        return (self.folder / f"w{worker}/vmae_jax/runs/worker/log").read_text()

    def wait_for(self, words: str, worker: int = 0) -> None:
        deadline = time.monotonic() + 30
        while words not in self.log(worker):
            assert time.monotonic() < deadline, self.log(worker)
            time.sleep(0.02)

    def up(self) -> None:
        for verb in ("create", "install"):
            out = self(verb)
            assert out.returncode == 0, out.stdout + out.stderr


@pytest.fixture
def cloud(tmp_path):
    cloud = Cloud(tmp_path)
    yield cloud
    pids = tmp_path / "pids"  # of all that ever ran, workers that were deleted too
    for pid in pids.read_text().split() if pids.exists() else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def dry(*arguments, **settings):
    out = subprocess.run(
        ["bash", "launch/tpu_vm.sh", "--dry-run", *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=60, env=os.environ | SETTINGS | {"PATH": "/usr/bin:/bin"} | settings,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def test_create_asks_for_a_place_in_the_queue():
    assert dry("create") == [
        f"{QUEUED} create vmae {PLACE} --runtime-version=v2-alpha-tpuv5 --node-id=vmae "
        "--accelerator-type=v5p-16"
    ]


def test_create_asks_for_several_slices_at_spot_prices():
    assert dry("create", TPU_SLICES="2", TPU_SPOT="yes", TPU_TYPE="v6e-256") == [
        f"{QUEUED} create vmae {PLACE} --runtime-version=v2-alpha-tpuv6e --node-count=2 "
        "--node-prefix=vmae --accelerator-type=v6e-256 --spot"
    ]


def test_create_without_a_queue_and_with_flags_of_the_users():
    (line,) = dry("create", TPU_QUEUE="no", TPU_CREATE_FLAGS="--reserved --network=lab")
    assert line == (
        f"gcloud compute tpus tpu-vm create vmae {PLACE} --version=v2-alpha-tpuv5 "
        "--accelerator-type=v5p-16 --reserved --network=lab"
    )


def test_a_dry_watch_prints_every_command_as_a_shell_reads_it():
    lines = dry("--delete", "watch", "LIBTPU_INIT_ARGS=--a=1 --b", *FLAGS)
    verbs = ["describe", "delete", "create", "-coz", "scp", "ssh", "ssh", "ssh", "delete"]
    words = [shlex.split(line) for line in lines]
    assert [w[2 if w[0] == "git" else 4] for w in words] == verbs
    (start,) = [w[-1] for w in words if "worker.sh start" in w[-1]]
    assert shlex.split(start.removeprefix("--command="))[2:] == [
        "env", "LIBTPU_INIT_ARGS=--a=1 --b", ".venv/bin/python", "-m", "vmae_jax.main", *FLAGS,
    ]  # fmt: skip
    assert all("--node=all" in w and "--worker=all" in w for w in words if w[4] in ("ssh", "scp"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"TPU_ZONE": "", "TPU_TYPE": ""}, "not set: TPU_ZONE TPU_TYPE"),
        ({"TPU_TYPE": "tpu7x-16"}, "TPU_TYPE=tpu7x-16: no software known for it"),
        ({"TPU_SPOT": "maybe"}, "TPU_SPOT=maybe: expected yes or no"),
        ({"TPU_SLICES": "0"}, "TPU_SLICES=0: expected a number from 1 on"),
        ({"TPU_SLICES": "2", "TPU_QUEUE": "no"}, "TPU_SLICES=2 needs TPU_QUEUE=yes"),
    ],
)
def test_what_is_missing_is_one_line(cloud, settings, says):
    out = cloud("create", **settings)
    assert out.returncode == 1
    assert f"error: {says}" in out.stderr
    assert len(out.stderr.splitlines()) == 1


@pytest.mark.parametrize("verb", ["run", "watch"])
@pytest.mark.parametrize("flags", [["--config=a.py"], ["--config=a.py", "--workdir=runs/a"]])
def test_a_run_wants_a_folder_that_outlives_its_machines(cloud, verb, flags):
    out = cloud(verb, *flags)
    assert out.returncode == 1
    assert "error: no --workdir=gs://BUCKET/RUN" in out.stderr


@pytest.mark.parametrize("verb", ["", "creat"])
def test_an_unknown_command_lists_the_known(cloud, verb):
    out = cloud(*filter(None, [verb]))
    assert out.returncode == 1
    assert "expected create, install, run, logs, status, stop, delete or watch" in out.stderr


def test_settings_may_be_lines_of_a_file(tmp_path):
    """The environment comes first. An editor on Windows may have saved the file."""
    (tmp_path / "launch").mkdir()
    script, example = ((ROOT / "launch" / n).read_text() for n in ("tpu_vm.sh", "tpu.env.example"))
    (tmp_path / "launch/tpu_vm.sh").write_text(script)
    example = "".join(f"{line}\r\n" for line in example.split("\n") if line[:1] not in ("", "#"))
    (tmp_path / "launch/tpu.env").write_bytes(example.encode("utf-8-sig"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TPU_")}
    out = subprocess.run(
        ["bash", "launch/tpu_vm.sh", "--dry-run", "create"], cwd=tmp_path, capture_output=True,
        text=True, timeout=60, env=environment | {"TPU_NAME": "mine"},
    )  # fmt: skip
    assert "create mine --project=YOUR_PROJECT --zone=us-east5-a" in out.stdout, out.stderr
    assert "--accelerator-type=v5p-128" in out.stdout


def test_a_run_by_hand(cloud):
    """create, install, run, status, a second run, stop, run, delete."""
    out = cloud("create")
    assert out.returncode == 0, out.stderr
    assert "waiting (PROVISIONING)" in out.stderr
    assert out.stderr.endswith("vmae: ready\n")
    assert "worker: none" in cloud("status").stdout
    out = cloud("install")
    assert out.returncode == 0, out.stdout + out.stderr
    for worker in ("w0", "w1"):
        assert (cloud.folder / worker / "vmae_jax/vmae_jax/main.py").is_file()
    pip = "uv pip install --quiet --python .venv/bin/python -e .[tpu,gcs]"
    assert pip in (cloud.folder / "uv").read_text()

    cloud.run_does(UNTIL_TERM)
    cloud("install")
    out = cloud("run", "LIBTPU_INIT_ARGS=--a=1 --b='c'", *FLAGS)
    assert out.returncode == 0, out.stderr
    for worker in range(2):
        cloud.wait_for("flags: --a=1 --b='c'", worker)
        assert f"args: -m vmae_jax.main {' '.join(FLAGS)}" in cloud.log(worker)
    status = cloud("status").stdout
    assert status.startswith("vmae: ready\n")
    assert status.count(": running: flags:") == 2
    out = cloud("run", *FLAGS)
    assert out.returncode == 1
    assert "error: a run is under way" in out.stderr

    out = cloud("stop")
    assert out.returncode == 0, out.stderr
    assert out.stdout.count(": stopped 143: saved") == 2
    cloud.run_does("echo all good; exit 0")
    assert cloud("install").returncode == 0
    assert cloud("run", *FLAGS).returncode == 0
    cloud.wait_for("all good")
    assert cloud("delete").returncode == 0
    assert cloud("status").stdout == "vmae: missing\n"


def test_watch_brings_a_run_through_a_preemption(cloud):
    (cloud.folder / "preempt").touch()
    cloud.run_does(f'if [[ $life == 1 ]]; then {UNTIL_TERM}; fi; echo "life $life"; exit 0')
    out = cloud("watch", *FLAGS)
    assert out.returncode == 0, out.stdout + out.stderr
    told = [line.split(maxsplit=1)[1] for line in out.stderr.splitlines() if "vmae: " in line]
    assert [line for line in told if "waiting" not in line] == [
        "vmae: missing", "vmae: absent", "vmae: running", "vmae: lost (SUSPENDED)", "vmae: absent",
        "vmae: finished",
    ]  # fmt: skip
    verbs = [verb for verb in cloud.calls() if verb not in ("describe", "ssh")]
    assert verbs == ["create", "scp", "delete", "create", "scp"]
    assert "life 2" in cloud.log()
    assert "the machines cost until: launch/tpu_vm.sh delete" in out.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"TPU_SLICES": "2"}, "lost (vmae-1: PREEMPTED)"),  # the request stays active
        ({"TPU_QUEUE": "no"}, "lost (PREEMPTED)"),
    ],
)
def test_watch_sees_a_node_go(cloud, settings, says):
    (cloud.folder / "nodes").write_text("READY\nREADY\nREADY\nPREEMPTED\nREADY")
    cloud.run_does(f"if [[ $life == 1 ]]; then {UNTIL_TERM}; fi; exit 0")
    out = cloud("watch", *FLAGS, **settings)
    assert out.returncode == 0, out.stdout + out.stderr
    assert f"vmae: {says}" in out.stderr
    assert cloud.calls().count("create") == 2


def test_watch_follows_a_run_that_is_under_way_and_cleans_up(cloud):
    cloud.run_does(f"{UNTIL_TERM.replace('while :', 'while [[ ! -e $FAKE/go ]]')}; exit 0")
    cloud.up()
    cloud("run", *FLAGS)
    watch = subprocess.Popen(
        ["bash", "launch/tpu_vm.sh", "--delete", "watch", *FLAGS], cwd=ROOT,
        env=cloud.environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "vmae: running" in watch.stderr.readline()
    (cloud.folder / "go").touch()
    assert watch.wait(60) == 0
    watch.stderr.close()
    assert cloud.calls().count("scp") == 1
    assert cloud.calls()[-1] == "delete"


def test_watch_ends_with_an_error_of_the_run(cloud):
    cloud.run_does("echo 'error: no such recipe' >&2; exit 1")
    out = cloud("watch", *FLAGS)
    assert out.returncode == 1
    assert ": exit 1: error: no such recipe" in out.stderr
    assert "the run failed" in out.stderr
    assert cloud.calls().count("scp") == 1


def test_watch_ends_when_the_run_is_stopped(cloud):
    """By somebody: a second process of the script."""
    cloud.run_does(UNTIL_TERM)
    watch = subprocess.Popen(
        ["bash", "launch/tpu_vm.sh", "watch", *FLAGS], cwd=ROOT, env=cloud.environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in watch.stderr:
        if "vmae: running" in line:
            break
    assert cloud("stop").returncode == 0
    with watch.stderr:
        rest = watch.stderr.read()
    assert watch.wait(60) == 143
    assert "the run was stopped; the same command continues it" in rest


def test_watch_continues_what_saved_itself(cloud):
    """SIGTERM of the machine, not of `stop`: as often as it comes."""
    cloud.run_does('echo x >>"$HOME/runs"; [[ $(wc -l <"$HOME/runs") -gt 2 ]] && exit 0; exit 143')
    out = cloud("watch", *FLAGS, TPU_RETRIES="0")
    assert out.returncode == 0, out.stderr


def test_watch_gives_up_after_crashes(cloud):
    cloud.run_does("kill -SEGV $$")
    out = cloud("--delete", "watch", *FLAGS, TPU_RETRIES="1")
    assert out.returncode == 1
    assert "given up after 2 failures: crashed" in out.stderr
    assert cloud.calls().count("scp") == 2
    assert cloud.calls()[-1] == "delete"


def test_watch_gives_up_where_it_cannot_install(cloud):
    (cloud.folder / "no_network").touch()
    out = cloud("watch", *FLAGS, TPU_RETRIES="0")
    assert out.returncode == 1
    assert "given up after 1 failures: absent" in out.stderr


def test_watch_waits_where_gcloud_fails(cloud):
    """What cannot be seen is neither created nor deleted."""
    real = (cloud.folder / "bin/gcloud").read_text().splitlines()[1]
    script(
        cloud.folder / "bin/gcloud",
        '#!/bin/sh\necho x >>"$FAKE/tries"\n'
        '[ $(wc -l <"$FAKE/tries") -gt 3 ] || { echo "ERROR: no network" >&2; exit 1; }\n' + real,
    )
    out = cloud("watch", *FLAGS)
    assert out.returncode == 0, out.stderr
    assert out.stderr.count("ERROR: no network") == 3
    assert cloud.calls().count("create") == 1


def test_a_worker_that_died_without_a_word_is_lost(cloud):
    cloud.run_does(UNTIL_TERM)
    cloud.up()
    cloud("run", *FLAGS)
    cloud.wait_for("flags:")
    folder = cloud.folder / "w0/vmae_jax/runs/worker"
    pid = int((folder / "pid").read_text())
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    out = cloud("status").stdout
    assert ": lost: flags:" in out
    assert ": running: flags:" in out
