"""The notebooks run from top to bottom, on the smallest recipe."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_pictures(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    assert "configs/quickstart.py" in cell.source
    cell.source = cell.source.replace("quickstart.py", "quickstart.py:smoke")
    monkeypatch.delenv("XLA_FLAGS")  # one device, as a reader has
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert "is done: step 6 of 6" in "".join(o.get("text", "") for o in outputs)
    assert sum("image/jpeg" in o.get("data", {}) for o in outputs) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_with_small_pictures(path):
    """For those who read it on the web."""
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [o.data["image/jpeg"] for o in outputs if "image/jpeg" in o.get("data", {})]
    assert len(pictures) == 3
    assert all(len(p) < 200_000 for p in pictures), "bytes in base64: 150 kB of picture"
    assert not any(o.output_type == "error" for o in outputs)
