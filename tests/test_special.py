"""What is no file has a name, and is refused before anything opens it."""

import os

import pytest

from vmae_jax import recipe_flag, special
from vmae_jax.data.build import manifest
from vmae_jax.data.curate import hashtags
from vmae_jax.data.curate import manifest as curated
from vmae_jax.data.curate.items import CurationError


def test_files_and_folders_and_nothing_are_no_special_kind(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "none", "a\0b"):
        assert special.kind(path) == ""
        special.check(path)


def test_lists_of_labels_and_videos_are_not_opened_where_they_are_fifos(tmp_path):
    """One that nobody writes to would hang for good."""
    fifo = str(tmp_path / "x.csv")
    os.mkfifo(fifo)
    (tmp_path / "link.csv").symlink_to("x.csv")
    for path in (fifo, str(tmp_path / "link.csv")):
        with pytest.raises(special.SpecialFileError, match=r"^is a FIFO, expected a file$"):
            special.check(path)
    with pytest.raises(manifest.BuildError, match=r"cannot be read \(is a FIFO, .*\)$"):
        manifest.read_manifest(str(tmp_path), fifo)
    with pytest.raises(manifest.BuildError, match="is a FIFO, expected a folder or a list"):
        manifest.read_manifest(fifo)
    with pytest.raises(CurationError, match="is a FIFO"):
        hashtags.read_views(fifo)
    with pytest.raises(CurationError, match="is a FIFO"):
        curated.read_items(fifo)
    with pytest.raises(special.SpecialFileError):
        recipe_flag.parse(["main", f"--config={fifo}:smoke"])
    os.unlink(fifo)
    (tmp_path / "a.mp4").write_bytes(b"x")
    os.mkfifo(tmp_path / "b.mp4")
    found = manifest.read_manifest(str(tmp_path))
    assert ("b.mp4", "missing file", "a FIFO") in found.rejected
