"""Progress: a bar on a terminal, a line now and then in a file."""

import sys
import time

import pytest

from vmae_jax import metrics, progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds, set by the test."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def at(seconds):
        now[0] = seconds

    return at


def test_in_a_file_there_is_a_line_every_30_seconds(clock, capsys):
    with progress.Progress() as told:
        told("videos", 20, 100)  # these were done by an earlier run
        for second in range(1, 71):
            clock(second)
            told("videos", 20 + second, 100)
    found = capsys.readouterr()
    assert found.err == "videos 50/100  ETA 0:00:50\nvideos 80/100  ETA 0:00:20\n" + (
        "videos 90/100  ETA 0:00:10\n"  # where it stopped
    )
    assert not found.out


def test_what_takes_less_is_silent(clock, capsys):
    with progress.Progress() as told:
        for done in range(4):
            told("looking", done, 3)
        clock(29)
        told("writing", 0, 3)
        clock(58)
        told("writing", 3, 3)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_of_each_step(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.Progress() as told:
        told("looking", 1, 2)
        told("looking", 2, 2)
        told("writing", 0, 3, "loss 0.5")
    bars = capsys.readouterr().err
    assert "looking: 100%" in bars
    assert "2/2" in bars
    assert "writing:   0%" in bars
    assert "loss 0.5" in bars


def test_a_run_says_its_loss(clock, capsys):
    writer = metrics.TerminalWriter("pretrain", 0, 60)
    for step in range(1, 61):
        clock(step)
        if step % 10 == 0:
            writer.write_scalars(step, {"loss": 1 / step, "clips_per_second": 8.0})
        writer.advance(step)
    writer.write_scalars(60, {"val_top1": 50.0})
    writer.close()
    found = capsys.readouterr()
    assert found.err == (
        "pretrain 30/60  loss 0.0333, 8.0 clips/s  ETA 0:00:30\n"
        "pretrain 60/60  loss 0.0167, 8.0 clips/s\n"
    )
    assert found.out == "step 60/60  val_top1 50.00\n"
