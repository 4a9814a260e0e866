"""The page in a browser: what it shows in light and dark, on a desk and on a phone."""

import browser
import cv2
import numpy as np
import pytest
from pages import Reader
from report import workdirs

from vmae_jax.report.page import page
from vmae_jax.report.run import read

PAPER = {"light": (251, 250, 247), "dark": (21, 24, 27)}  # --paper of page.css
WIDTHS = {"desk": 1200, "phone": 390}
SHOWN = 3000  # pixels from the top


@pytest.fixture(scope="module")
def tab():
    if browser.find() is None:
        pytest.skip("needs Chromium")
    with browser.open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page of two runs that together have every section."""
    folder = tmp_path_factory.mktemp("runs")
    dataset = workdirs.videos(folder / "data", "abcd")
    found = workdirs.scores("abcd", [0, 0, 1, 2], [0, 1, 1, 0])
    workdirs.finetuning(folder / "finetuned", found, dataset)
    workdirs.pretraining(folder / "pretrained")
    path = folder / "report.html"
    path.write_text(page([read(str(folder / name)) for name in ("finetuned", "pretrained")]))
    return path


def test_it_reads_the_page_without_complaint(tab, file):
    tab.open(f"file://{file}")
    seen = Reader(tab.run("document.documentElement.outerHTML"))
    written = Reader(file.read_text())
    assert seen.text.split() == written.text.split()
    assert [name for name, _ in seen.elements] == [name for name, _ in written.elements]
    assert not tab.complaints


@pytest.mark.parametrize("scheme", PAPER)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_looks_as_it_should(tab, file, scheme, width):
    picture = file.with_name(f"{scheme}_{width}.png")
    tab.open(f"file://{file}", WIDTHS[width], SHOWN, scheme)
    tab.screenshot(picture)
    seen = cv2.imread(str(picture))[:SHOWN, :, ::-1]
    assert seen.shape[1] == WIDTHS[width], "nothing makes the page scroll sideways"
    paper = (np.abs(seen.astype(int) - PAPER[scheme]) <= 3).all(-1)
    assert 0.5 < paper.mean() < 0.98, "text and pictures on paper"
    assert paper[:, :12].all()
    assert paper[:, -12:].all()
    bands = np.array_split(~paper, 10)
    assert all(band.any() for band in bands), "no empty stretch"
    contrast = np.abs(seen.astype(int).sum(-1) - sum(PAPER[scheme]))
    assert (contrast > 450).mean() > 0.002, "text can be read"
    curve = (np.abs(seen.astype(int) - {"light": (47, 111, 115), "dark": (111, 184, 180)}[scheme])
             <= 30).all(-1)  # fmt: skip
    assert curve.sum() > 200, "lines in the colour of the scheme"
