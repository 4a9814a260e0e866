"""The page in a browser: what it shows in light and dark, on a desk and on a phone."""

import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from pages import Reader
from report import workdirs

from vmae_jax.report.page import page
from vmae_jax.report.run import read

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAPER = {"light": (251, 250, 247), "dark": (21, 24, 27)}  # --paper of page.css
WIDTHS = {"desk": 1200, "phone": 390}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Opens a file in headless Chromium: (stdout, what it complains of)."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(path, *flags: str) -> tuple[str, list[str]]:
        done = subprocess.run(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--enable-logging=stderr", "--virtual-time-budget=1000",
             f"--user-data-dir={profile}", *flags, f"file://{path}"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, re.findall(r".*:CONSOLE.*", done.stderr)

    return run


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


def screenshot(browser, file, scheme: str, width: str) -> np.ndarray:
    """RGB u8 [height, width, 3]. Chromium's window is at least 500 wide: a phone is a frame."""
    frame = file.with_name(f"{width}.html")
    frame.write_text(
        f'<body style="margin:0"><iframe src="{file.name}" width="{WIDTHS[width]}" height="3000" '
        'style="border:0"></iframe>'
    )
    picture = file.with_name(f"{scheme}_{width}.png")
    _, complaints = browser(
        frame, f"--window-size={max(WIDTHS[width], 500)},3000", f"--screenshot={picture}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
    )  # fmt: skip
    assert not complaints
    return cv2.imread(str(picture))[:, : WIDTHS[width], ::-1]


def test_it_reads_the_page_without_complaint(browser, file):
    text, complaints = browser(file, "--dump-dom")
    assert not complaints
    seen, written = Reader(text), Reader(file.read_text())
    assert seen.text.split() == written.text.split()
    assert [name for name, _ in seen.elements] == [name for name, _ in written.elements]


@pytest.mark.parametrize("scheme", PAPER)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_looks_as_it_should(browser, file, scheme, width):
    seen = screenshot(browser, file, scheme, width)
    paper = (np.abs(seen.astype(int) - PAPER[scheme]) <= 3).all(-1)
    assert 0.5 < paper.mean() < 0.98, "text and pictures on paper"
    # Nothing reaches over the margins, which would make the page scroll sideways.
    assert paper[:, :12].all()
    assert paper[:, -12:].all()
    bands = np.array_split(~paper, 10)
    assert all(band.any() for band in bands), "no empty stretch"
    contrast = np.abs(seen.astype(int).sum(-1) - sum(PAPER[scheme]))
    assert (contrast > 450).mean() > 0.002, "text can be read"
    curve = (np.abs(seen.astype(int) - {"light": (47, 111, 115), "dark": (111, 184, 180)}[scheme])
             <= 30).all(-1)  # fmt: skip
    assert curve.sum() > 200, "lines in the colour of the scheme"
