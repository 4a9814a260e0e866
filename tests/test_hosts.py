"""Real processes with simulated devices: one job, whatever dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_train import losses

from vmae_jax.data import synthetic

ROOT = Path(__file__).parents[1]
STEPS = 24
SETTINGS = {
    "data.views": 1, "data.batch_size": 8, "data.stride": 2, "data.threads": 1,
    "train.steps": STEPS, "train.log_every": 1, "train.checkpoint_every": 6,
    "train.picture_every": 0, "model.image_size": 32, "model.num_frames": 8, "mesh.fsdp": 2,
    "model.variant": "64x2x2x128+64x1x2x128", "model.patch_size": 8,
}  # fmt: skip
PATIENCE = 240  # seconds that anything here may take on a busy machine


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return synthetic.prepare(tmp_path_factory.mktemp("synthetic"), clips_per_class=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, dataset):
    """Losses of two processes with two devices each that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    job = Job(folder, dataset, 2, 2)
    assert job.end() == [0, 0], job.outputs
    assert "4 x cpu of 2 processes" in job.outputs[0]
    assert "is done: step 24 of 24" in job.outputs[0]
    assert "24/24  loss" in job.outputs[0]
    assert "24/24" not in job.outputs[1]  # one process speaks
    return losses(folder)


class Job:
    """The command a user types, on several processes of this machine."""

    def __init__(self, workdir, dataset, processes, devices, **settings):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        settings = SETTINGS | {"data.dataset": dataset} | settings
        command = [
            sys.executable, "-m", "vmae_jax.main", "--config=configs/quickstart.py",
            f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in settings.items()),
        ]  # fmt: skip
        device_flag = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": device_flag}
        self.workdir, self.outputs = workdir, []
        self.processes = []
        for rank in range(processes):
            if processes > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": str(processes),
                    "JAX_PROCESS_ID": str(rank),
                }
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )

    def reach(self, step):
        """Waits until process 0 has logged `step`."""
        metrics, deadline = self.workdir / "metrics.jsonl", time.monotonic() + PATIENCE
        while not metrics.exists() or len(metrics.read_text().splitlines()) < step:
            assert time.monotonic() < deadline
            assert [p.poll() for p in self.processes] == [None] * len(self.processes)
            time.sleep(0.02)
        return self

    def end(self):
        """Exit statuses; the outputs are in `outputs`."""
        try:
            self.outputs = [p.communicate(timeout=PATIENCE)[0] for p in self.processes]
        finally:
            for process in self.processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return [process.returncode for process in self.processes]


def saved_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_a_job_loses_processes_is_stopped_and_ends_as_if_left_alone(tmp_path, dataset, whole):
    job = Job(tmp_path / "killed", dataset, 2, 2).reach(8)
    job.processes[1].kill()
    began = time.monotonic()
    status = job.end()
    assert status[1] == -signal.SIGKILL
    assert status[0] not in (0, None)
    assert time.monotonic() - began < 120
    assert "lost the others" in job.outputs[0] or "distributed service" in job.outputs[0]

    job = Job(tmp_path / "killed", dataset, 2, 2).reach(12)
    job.processes[1].send_signal(signal.SIGTERM)  # one of them is told
    assert job.end() == [143, 143], job.outputs
    assert "and saved. The same command continues it" in job.outputs[0]
    stopped = saved_steps(tmp_path / "killed")[-1]
    assert stopped >= 12

    job = Job(tmp_path / "killed", dataset, 2, 2)
    assert job.end() == [0, 0], job.outputs
    assert f"continuing from step {stopped}" in job.outputs[0]
    assert losses(tmp_path / "killed") == whole


def test_one_job_on_other_processes_and_meshes(tmp_path, dataset, whole):
    four = Job(tmp_path / "moved", dataset, 4, 2, **{"mesh.tensor": 2}).reach(8)
    four.processes[0].send_signal(signal.SIGTERM)
    assert four.end() == [143] * 4, four.outputs
    one = Job(tmp_path / "moved", dataset, 1, 4, **{"mesh.fsdp": 4})
    assert one.end() == [0], one.outputs
    found = losses(tmp_path / "moved")
    assert list(found) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(whole.values()), rtol=2e-4)


def test_what_ends_all_is_said_before_anybody_waits(tmp_path):
    """Shards that go bad under a run: every process meets them, none waits for another."""
    dataset = synthetic.prepare(tmp_path / "synthetic", clips_per_class=1)
    job = Job(tmp_path / "run", dataset, 2, 2, **{"train.steps": 100_000}).reach(2)
    for shard in Path(dataset).glob("*-of-?????"):
        with shard.open("r+b") as file:
            file.write(bytes(shard.stat().st_size))
    began = time.monotonic()
    status = job.end()
    assert time.monotonic() - began < 120
    assert status == [1, 1], job.outputs
    assert any("error: " in output and "records are bad" in output for output in job.outputs)
