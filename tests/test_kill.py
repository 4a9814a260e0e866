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
from fakes import TINY, with_settings
from test_train import assert_same, final_state, losses

from vmae_jax import config as config_lib
from vmae_jax.data import synthetic

ROOT = Path(__file__).parents[1]
KILLS, STEPS = 10, 90
MODEL = {"variant": "tiny", "image_size": 32, "num_frames": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return synthetic.prepare(tmp_path_factory.mktemp("synthetic"), clips_per_class=1)


def start(workdir, dataset, *flags):
    """The command a user types, in a process group of its own; one device, as a user has."""
    settings = {
        "data.dataset": dataset, "data.views": 1, "train.steps": STEPS, "train.log_every": 1,
        "train.checkpoint_every": 4, "model.image_size": 32, "model.num_frames": 8,
        "data.stride": 2,
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


def kill(process, workdir, reached):
    """kill -9 once the run has logged step `reached`, or at a random moment of its start."""
    deadline = time.monotonic() + 300
    if reached is None:
        time.sleep(random.Random(KILLS).uniform(0.5, 4))
    while reached is not None and last_step(workdir) < reached and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_ten_times_equals_uninterrupted(tmp_path, dataset):
    finish(start(tmp_path / "whole", dataset))
    rng = random.Random(0)
    moments = [None, *sorted(rng.sample(range(1, STEPS - 15), KILLS - 1))]
    for reached in moments:
        kill(start(tmp_path / "killed", dataset), tmp_path / "killed", reached)
    output = finish(start(tmp_path / "killed", dataset))
    assert "continuing from step" in output
    whole, killed = losses(tmp_path / "whole"), losses(tmp_path / "killed")
    assert list(whole) == list(range(1, STEPS + 1))
    assert killed == whole
    config = with_settings(TINY, model=config_lib.ModelConfig(**MODEL, dtype="float32"))
    assert_same(final_state(tmp_path / "killed", config), final_state(tmp_path / "whole", config))
    assert np.isfinite(list(whole.values())).all()


def test_sigterm_saves_says_so_and_continues(tmp_path, dataset):
    process = start(tmp_path, dataset)
    while last_step(tmp_path) < 5:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "and saved. The same command continues it:" in output
    assert "is done: step 90 of 90" in finish(start(tmp_path, dataset))
    assert "was already done" in finish(start(tmp_path, dataset))
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    # What was already done is no start.
    assert [start["changed"]["train.steps"] for start in starts] == [STEPS] * 2
    assert {start["recipe"] for start in starts} == {"configs/quickstart.py"}
