"""--help of every command: it is no error, has an example to copy, and explains every flag."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in (ROOT / "vmae_jax").rglob("*.py")
    if '\nif __name__ == "__main__"' in path.read_text()
)

# One process imports what all need, and is forked for each: flags are global, starting takes long.
ASK = """
import os, runpy, sys, vmae_jax.model
for name in sys.argv[1:]:
    if not os.fork():
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 1)
        sys.argv = [name, "--help"]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert os.wait()[1] == 0, name
"""


@pytest.fixture(scope="module")
def helps(tmp_path_factory) -> Path:
    """A folder with what each command prints."""
    folder = tmp_path_factory.mktemp("helps")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, *COMMANDS],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_explains_every_flag(helps, name):
    text = (helps / name).read_text()
    assert re.search(rf"^ +python -m {re.escape(name)} [\w\-]", text, re.MULTILINE), text
    flags = re.findall(r"^  --(\S+): *(.*)", text, re.MULTILINE)
    assert flags
    assert not [flag for flag, words in flags if len(words.split()) < 2 and flag != "out"]
    assert all(len(line) <= 100 or line.startswith("/") for line in text.splitlines())
