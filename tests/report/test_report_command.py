"""The command: one file, or one line of what is wrong."""

import subprocess
import sys

import pytest
from pages import Reader
from report import workdirs

from vmae_jax.report import __main__ as command
from vmae_jax.report.run import ReportError


def report(folder, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vmae_jax.report", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_it_writes_one_file(tmp_path):
    workdirs.pretraining(tmp_path / "runs" / "mine")
    done = report(tmp_path, "runs/mine", "runs/mine/", "--out=pages/new/mine.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pages/new/mine.html")
    assert "2 runs" in done.stdout
    assert [p.name for p in (tmp_path / "pages" / "new").iterdir()] == ["mine.html"]
    assert Reader((tmp_path / "pages" / "new" / "mine.html").read_text()).all("section")


def test_what_is_wrong_is_one_line(tmp_path):
    done = report(tmp_path, ".")
    assert done.returncode == 1
    assert done.stderr.startswith("error: .: nothing of a run in it")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_file_for_a_page(tmp_path):
    folder = workdirs.pretraining(tmp_path / "run")
    done = report(tmp_path, str(folder), f"--out={tmp_path}")
    assert done.returncode == 1
    assert "expected a file's name, such as report.html" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "no run given"), (["a"] * 13, "at most 12 fit on one page")]
)
def test_too_few_and_too_many(arguments, message):
    with pytest.raises(ReportError, match=message):
        command.main(["report", *arguments])
