"""A file is there whole or not at all."""

import pytest

from vmae_jax import whole


def test_what_fails_midway_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    whole.write(path, "ä\n")

    def fail():
        with whole.opened(path, "w") as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text(encoding="utf-8") == "ä\n"
    whole.write(str(path), b"new")
    assert path.read_bytes() == b"new"
