"""The notebooks run from top to bottom, on the smallest recipes."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vmae_jax.config import Config, ModelConfig
from vmae_jax.convert import save
from vmae_jax.convert.load import Weights
from vmae_jax.tasks.pretrain import Pretrain

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[1] / "notebooks"
PICTURES = {"reconstructions": 4, "finetune_colab": 4, "data_scaling": 2}
TINY = "--config.model.image_size=32 --config.train.steps=6"
ONE_SIZE = """--config.scratch=False --config.arms.curated.splits='("curated_10",)'"""
SMOKE = {
    "reconstructions": {"quickstart.py": "quickstart.py:smoke"},
    "finetune_colab": {
        "quickstart.py": "quickstart.py:smoke",
        "finetune_custom.py": "finetune_custom.py:smoke",
        "CLIPS_PER_CLASS = 24": "CLIPS_PER_CLASS = 2",
        "--config.model.image_size=48 --config.train.steps=500": TINY,
        "--config.train.steps=300": "--config.train.steps=6",
    },
    "data_scaling": {
        "study_synthetic.py": "study_synthetic.py:smoke",
        'SETTINGS = ""': f"SETTINGS = {ONE_SIZE!r}",
    },
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def pictures(notebook):
    return [o.data["image/jpeg"] for o in outputs(notebook) if "image/jpeg" in o.get("data", {})]


def run(name, folder, changes, monkeypatch, without=()):
    """Executes a notebook with other parameters: what it printed, and its pictures.

    Cells that name anything of `without` are left out.
    """
    notebook = read(name)
    notebook.cells = [c for c in notebook.cells if not any(word in c.source for word in without)]
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    for old, new in changes.items():
        assert old in cell.source
        cell.source = cell.source.replace(old, new)
    monkeypatch.delenv("XLA_FLAGS")  # one device, as a reader has
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return "".join(o.get("text", "") for o in outputs(notebook)), pictures(notebook)


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == SMOKE.keys() == PICTURES.keys()


def test_reconstructions(tmp_path, monkeypatch):
    name = "reconstructions"
    text, shown = run(name, tmp_path, SMOKE[name], monkeypatch)
    assert "is done: step 6 of 6" in text
    assert len(shown) == PICTURES[name]


def test_finetune_from_nothing(tmp_path, monkeypatch):
    """Embedded videos and a model that is pre-trained in the notebook."""
    name = "finetune_colab"
    text, shown = run(name, tmp_path, SMOKE[name], monkeypatch)
    assert text.count("is done: step 6 of 6") == 2, "pre-training and fine-tuning"
    assert "4 videos, 2 x 1 views: top-1" in text
    assert text.count(" of 64)") == 3, "answers for three clips"
    assert "written     my_model (transformers)" in text
    assert "error" not in text.lower()
    assert len(shown) == PICTURES[name]


def test_finetune_a_public_file(tmp_path, monkeypatch):
    """A file in the original layout decides the sizes. What comes after is as from nothing."""
    model = ModelConfig("32x2x2x64+32x1x2x64", image_size=32, num_frames=4, dtype="float32")
    params = Pretrain(Config(model=model)).init(jax.random.key(0))
    params = jax.tree.map(np.asarray, params)
    save.save(
        Weights("pretrain", model, params, (), "", ()), str(tmp_path / "public.safetensors"),
        "original",
    )  # fmt: skip
    name = "finetune_colab"
    changes = {
        "finetune_custom.py": "finetune_custom.py:smoke",
        "CLIPS_PER_CLASS = 24": "CLIPS_PER_CLASS = 1",
        'CHECKPOINT = ""': 'CHECKPOINT = "public.safetensors"',
    }
    without = ("held_out", "my_model")
    text, shown = run(name, tmp_path, changes, monkeypatch, without)
    assert "finetune 32x2x2x64+32x1x2x64" in text
    assert text.count("is done: step 6 of 6") == 1
    assert "4 frames of 32 x 32 pixels" in text
    assert len(shown) == PICTURES[name] - 1, "all but the frames of a prediction"


def test_data_scaling(tmp_path, monkeypatch):
    """A study of one size: two arms, each pre-trained and fine-tuned once."""
    name = "data_scaling"
    text, shown = run(name, tmp_path, SMOKE[name], monkeypatch)
    assert "4/4] raw, 10 clips, seed 0: fine-tuning on motions" in text
    assert "| curated | 10 | 1 |" in text
    assert "curated against raw at 10 clips" in text
    assert len(shown) == PICTURES[name]


@pytest.mark.parametrize("name", SMOKE)
def test_it_is_committed_with_small_pictures(name):
    """For those who read it on the web."""
    notebook = read(name)
    assert len(pictures(notebook)) == PICTURES[name]
    assert all(len(p) < 200_000 for p in pictures(notebook)), "in base64: 150 kB of picture"
    assert not any(o.output_type == "error" for o in outputs(notebook))


@pytest.mark.parametrize("name", SMOKE)
def test_it_names_no_folder_of_the_machine_that_ran_it(name):
    text = "".join(o.get("text", "") for o in outputs(read(name)))
    assert not [w for w in text.split() if w.startswith(("/", "file:")) and w != "/"]
