"""The benchmark's sides do their work, and its figures add up; how fast it is decides no test."""

import json
import multiprocessing
import os
import subprocess
import sys

import pytest

from vmae_jax.bench import exported, turns
from vmae_jax.config import ModelConfig
from vmae_jax.export import onnx_file


def bench(*flags):
    command = [sys.executable, "-m", "vmae_jax.bench", "--rounds=1", *flags]
    one_device = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.run(command, capture_output=True, text=True, env=one_device)


def test_ratios_are_taken_within_rounds():
    rates = {"ours": [2.0, 8.0, 4.0], "theirs": [1.0, 2.0, 4.0]}
    result = turns.compare(rates, peaks=[0.1, 0.0])
    assert result["ours"]["clips_per_second"] == 4
    assert result["ours"]["mfu"] == pytest.approx(0.4)
    assert result["theirs"]["ratio"] == {"median": 2.0, "range": [1.0, 4.0], "resolved": False}
    table = "\n".join(turns.table("a title", result))
    assert "MFU 40%" in table
    assert "ratio 2.00 (1.00 to 4.00, crosses 1: not resolved)" in table


def _works():
    return turns.Turn(lambda: 1)


def _fails():
    raise ValueError("cannot be measured")


def test_a_side_that_cannot_be_measured_ends_all():
    sides = [turns.Side("ours", _works, ()), turns.Side("theirs", _fails, ())]
    with pytest.raises(turns.SideError, match="theirs: its process ended"):
        turns.take_turns(sides, rounds=1)
    for process in multiprocessing.active_children():
        process.join(timeout=60)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_both_sides_train(task, tmp_path):
    pytest.importorskip("transformers")
    small = ["--variant=tiny", "--image_size=32", "--num_frames=4", "--batch=8", "--steps=1"]
    done = bench("--parts=model", f"--task={task}", *small, "--peer=eager",
                 f"--json={tmp_path / 'out.json'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())["model"]
    assert len(result) == 3, "a title and two sides"
    ours, theirs = (v for v in result.values() if isinstance(v, dict))
    assert min(ours["clips_per_second"], theirs["clips_per_second"]) > 0
    tokens = {"pretrain": "4 tokens, xla for 20", "finetune": "32"}[task]
    assert f"\n    attention: xla for {tokens} tokens\n" in done.stdout
    assert "note" not in theirs


def test_every_side_of_export_classifies():
    if onnx_file.missing():
        pytest.skip("needs the extra onnx")
    model = ModelConfig(variant="tiny", image_size=32, num_frames=4, dtype="float32")
    for side in exported.sides(model, 2):
        turn = side.make(*side.args)
        assert turn.run() == 2 * exported.CALLS, side.name
    result = turns.compare({"ours": [4.0], "theirs": [2.0]}, peaks=[0.0, 0.0])
    assert list(exported.table("a title", result, 2)) == [
        "a title",
        f"  {'ours':<30} {500.0:9.1f} ms",
        f"  {'theirs':<30} {1000.0:9.1f} ms   2.00 x the first (2.00 to 2.00)",
    ]


def test_what_cannot_run_is_one_line():
    done = bench("--parts=model", "--variant=tiny", "--image_size=33")
    assert done.returncode == 1
    assert "config.model.image_size = 33" in done.stderr
    assert "Traceback" not in done.stderr
    done = bench("--parts=speed")
    assert "--parts: speed: expected some of model,data,memory,export" in done.stdout + done.stderr
