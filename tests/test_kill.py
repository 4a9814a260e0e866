"""A run that is killed -9 again and again ends exactly as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import TINY
from test_train import assert_same, final_state, losses

from vmae_jax.data import synthetic

ROOT = Path(__file__).parents[1]
KILLS, STEPS = 10, 180
LAST = 100  # step until which it is killed: no run may end before the signal reaches it
SIZES = ("variant", "patch_size", "image_size", "num_frames")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return synthetic.prepare(tmp_path_factory.mktemp("synthetic"), clips_per_class=1)


def start(workdir, dataset, *flags):
    """The command a user types, in a process group of its own; one device, as a user has."""
    settings = {
        "data.dataset": dataset, "data.views": 1, "train.steps": STEPS, "train.log_every": 1,
        "train.checkpoint_every": 4, "data.stride": 2, "data.batch_size": 4,
        **{f"model.{name}": getattr(TINY.model, name) for name in SIZES},
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [
            sys.executable, "-m", "vmae_jax.main", "--config=configs/quickstart.py",
            f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in settings.items()), *flags,
        ],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def last_step(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed(lines):  # the last one may be half written
        try:
            return json.loads(line)["step"]
        except ValueError:
            continue
    return 0


def reach(process, workdir, step):
    """Waits until the run has logged a step."""
    deadline = time.monotonic() + 300
    while last_step(workdir) < step and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def kill(process, workdir, reached):
    """kill -9 once the run has logged step `reached`, or at a random moment of its start."""
    if reached is None:
        time.sleep(random.Random(KILLS).uniform(0.5, 4))
    else:
        reach(process, workdir, reached)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def terminate(process, workdir, reached):
    """SIGTERM, after which the run saves and says how to go on."""
    reach(process, workdir, reached)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "and saved. The same command continues it:" in output


def test_killed_ten_times_and_stopped_equals_uninterrupted(tmp_path, dataset):
    finish(start(tmp_path / "whole", dataset))
    killed = tmp_path / "killed"
    rng = random.Random(0)
    moments = [None, *sorted(rng.sample(range(1, LAST), KILLS - 1))]
    for reached in moments:
        kill(start(killed, dataset), killed, reached)
    terminate(start(killed, dataset), killed, LAST)
    output = finish(start(killed, dataset))
    assert "continuing from step" in output
    assert f"is done: step {STEPS} of {STEPS}" in output
    environment = (killed / "environment.json").read_text()
    starts = json.loads(environment)["starts"]
    assert KILLS + 1 <= len(starts) <= KILLS + 2, "the first was killed before or after it began"
    assert {start["changed"]["train.steps"] for start in starts} == {STEPS}
    assert {start["recipe"] for start in starts} == {"configs/quickstart.py"}
    assert "was already done" in finish(start(killed, dataset))
    assert (killed / "environment.json").read_text() == environment, "that is no start"
    expected = losses(tmp_path / "whole")
    assert list(expected) == list(range(1, STEPS + 1))
    assert losses(killed) == expected
    assert_same(final_state(killed, TINY), final_state(tmp_path / "whole", TINY))
    assert np.isfinite(list(expected.values())).all()
