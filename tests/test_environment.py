"""environment.json tells of every start, within bounds."""

import json

import pytest
from fakes import TINY

from vmae_jax import environment
from vmae_jax.config import from_config_dict


def starts(folder):
    return json.loads((folder / "environment.json").read_text())["starts"]


def test_every_start_is_told(tmp_path):
    folder = tmp_path / "new" / "run"
    environment.write(str(folder), TINY, "configs/a.py", {"seed": 1})
    environment.write(str(folder), TINY, "configs/b.py", {})
    first, second = starts(folder)
    assert (first["recipe"], second["recipe"]) == ("configs/a.py", "configs/b.py")
    assert first["changed"] == {"seed": 1}
    assert {"jax", "python", "vmae_jax"} <= first["versions"].keys()
    assert first["machine"]["devices"] == "8 x cpu"
    kept = json.loads((folder / "environment.json").read_text())["config"]
    assert from_config_dict(kept) == TINY
    assert [path.name for path in folder.iterdir()] == ["environment.json"]


def test_a_run_that_is_stopped_often_keeps_its_first_and_last_starts(tmp_path):
    for i in range(25):
        environment.write(str(tmp_path), TINY, f"{i}", {})
    assert [start["recipe"] for start in starts(tmp_path)] == ["0", *map(str, range(6, 25))]


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"starts": 1}', "null"])
def test_a_damaged_file_is_replaced(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    environment.write(str(tmp_path), TINY, "a", {})
    assert len(starts(tmp_path)) == 1
