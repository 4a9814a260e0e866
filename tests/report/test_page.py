"""The report says what a run's files say, whatever they are, and nothing of them becomes HTML."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
from pages import HOSTILE, Reader, assert_needs_nothing_else, shape
from report import workdirs

from vmae_jax.config import to_dict
from vmae_jax.report import data, predictions
from vmae_jax.report import run as run_lib
from vmae_jax.report.page import page
from vmae_jax.report.run import ReportError, number, read


def report(*folders) -> str:
    names = run_lib.unique_names([str(folder) for folder in folders])
    return page([read(str(f), name) for f, name in zip(folders, names, strict=True)])


def sections(content: str) -> list[str]:
    return [section["id"] for section in Reader(content).all("section")]


def totals(content: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", content.split("<nav")[0]))


def titles(content: str) -> list[str]:
    return re.findall(r"<title>([^<]*)</title>", content.split("<body>")[1])


def images(content: str, kind: str) -> list[bytes]:
    found = [i["src"] for i in Reader(content).all("img") if i["class"] == kind]
    return [base64.b64decode(url.split(",")[1]) for url in found]


# ---- What it says ----


def test_figures_are_those_of_the_files(tmp_path):
    content = report(workdirs.pretraining(tmp_path / "run"))
    assert totals(content) == {
        "steps": "200", "loss": "0.01", "clips/s": "100", "waiting": "25.0 %",
        "parameters": "1.23 M"}  # fmt: skip
    told = titles(content)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for value in (row["loss"], row["grad_norm"], row["lr"], 100 * row["data_wait"]):
            assert f"step {row['step']:,}\n{number(value)}" in told
    parts = "curves speed reconstructions masks settings data environment"
    assert sections(content) == parts.split()
    text = Reader(content).text
    assert "No skipped steps and no bad records." in text
    assert "1,600 clips" in text
    assert "f00d" in text
    assert "1.2.3" in text


def test_scores_add_up(tmp_path):
    found = workdirs.scores("abcdef", [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0])
    content = report(workdirs.finetuning(tmp_path / "run", found))
    assert totals(content)["top-1 %"] == number(100 * 4 / 6)
    cells = [re.match(r"(\d+) of (\w+) taken for (\w+)", title) for title in titles(content)]
    counts = {(cell[2], cell[3]): int(cell[1]) for cell in cells if cell}
    assert sum(counts.values()) == 6
    assert counts["walk", "jump"] == counts["sit", "walk"] == 1
    assert "4 of 6 videos right" in Reader(content).text
    wrong, right = content.split("Wrong, and sure of it")[1].split("Right, and sure of it")
    captions = [re.findall(r"</b><bdi>(\w)</bdi></figcaption>", part) for part in (wrong, right)]
    assert captions == [["b", "f"], ["a", "c", "d", "e"]], "the surest first"
    assert "Without frames: /nowhere: no dataset here" in Reader(content).text


def test_films_play_and_can_be_held_still(tmp_path):
    folder = workdirs.pretraining(tmp_path / "run")
    films = sorted((folder / "pictures").glob("*.webp"), reverse=True)
    content = report(folder)
    assert images(content, "playing") == [film.read_bytes() for film in films]
    assert len(images(content, "still")) == 2
    assert all(b"ANIM" not in still for still in images(content, "still"))
    assert [i["id"] for i in Reader(content).all("input")] == ["hold"]
    for film in films:
        film.unlink()
    content = report(folder)  # sheets, as runs left them before there were films
    assert [p[:4] for p in images(content, "picture")] == [b"\x89PNG"] * 2
    assert not Reader(content).all("input")


def test_frames_are_those_of_the_video(tmp_path):
    """A video that could not be read moves those after it."""
    ids = ["broken", "first", "second"]
    dataset = workdirs.videos(tmp_path / "data", ids)
    found = workdirs.scores(ids[1:], [0, 0], [0, 1], failed={"broken": "no video"})
    content = report(workdirs.finetuning(tmp_path / "run", found, dataset))
    shown = [i["alt"] for i in Reader(content).all("img") if i["class"] == "playing"]
    assert shown == ["Frames of second", "Frames of first"], "the wrong one before the right one"
    text = Reader(content).text
    assert "could not be read and have no score: 1," in text
    assert "not in the data set" not in text


def test_frames_are_those_of_what_was_tested(tmp_path):
    """By a command of its own, on other data than the run's."""
    dataset = workdirs.videos(tmp_path / "data", "ab")
    tested = {"dataset": dataset, "split": "train", "views": "5 x 3 views"}
    found = workdirs.scores("ab", [0, 0], [0, 1])
    content = report(workdirs.finetuning(tmp_path / "run", found, "/nowhere", tested))
    shown = [i["alt"] for i in Reader(content).all("img") if i["class"] == "playing"]
    assert shown == ["Frames of b", "Frames of a"]
    text = Reader(content).text
    assert dataset in text
    assert "5 x 3 views" in text


def test_settings_that_differ_and_who_changed_them(tmp_path):
    folder = workdirs.pretraining(tmp_path / "run", data={"threads": 3})
    start = {
        "recipe": "configs/x.py:smoke",
        "changed": {"data.threads": 3},
        "machine": {"cores": 7},
    }
    (folder / "environment.json").write_text(json.dumps({"starts": [start, start]}))
    content = report(folder)
    row = re.search(r"<tr><th[^>]*><bdi>data.threads</bdi></th>(.*?)</tr>", content)[1]
    assert re.sub("<[^>]*>", " ", row).split() == ["3", "command", "line", "0"]
    text = Reader(content).text
    assert "configs/x.py:smoke" in text
    assert "Started 2 times" in text


def test_runs_are_compared(tmp_path):
    folders = [
        workdirs.pretraining(tmp_path / name / "run", optim={"base_lr": lr})
        for name, lr in (("a", 0.5), ("b", 0.25))
    ]
    workdirs.write_metrics(folders[1], loss=lambda step: 4.0 / step)
    content = report(*folders)
    figures = re.search(r'<section id="figures">(.*?)</section>', content)[1]
    rows = [re.sub("<[^>]*>", " ", row).split() for row in figures.split("<tr>")[2:]]
    assert [row[0] for row in rows] == ["a/run", "b/run"]
    assert "0.01" in rows[0]
    assert "0.02" in rows[1]
    assert "step 10\na/run: 0.2\nb/run: 0.4" in titles(content)
    differ = content.split('aria-label="Where the runs differ"')[1].split("</table>")[0]
    assert re.findall(r'scope="row"><bdi>(.*?)</bdi>', differ) == ["optim.base_lr"]
    assert len(Reader(content).all("h2")) == len(set(sections(content)))


# ---- What is missing or broken ----


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(ReportError, match="no such folder; expected the --workdir of a run"):
        read(str(tmp_path / "none"))
    with pytest.raises(ReportError, match="nothing of a run in it"):
        read(str(tmp_path))


def test_a_killed_run(tmp_path):
    """Its last line is cut, it has no checkpoint and no pictures."""
    workdirs.write_metrics(tmp_path, steps=(10, 20))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')
    text = Reader(report(tmp_path)).text
    for words in ("Lines of metrics.jsonl that could not be read and are left out: 1",
                  "saved no checkpoint",
                  "settings were not kept"):  # fmt: skip
        assert words in text, words


def test_an_unfinished_run_without_scores(tmp_path):
    config = to_dict(workdirs.with_settings(workdirs.FINETUNE, train={"steps": 1000}))
    (tmp_path / "environment.json").write_text(json.dumps({"config": config, "starts": []}))
    workdirs.write_metrics(tmp_path)
    content = report(tmp_path)
    assert totals(content)["steps"] == "200 of 1,000"
    assert "not finished: step 200 of 1,000" in Reader(content).text
    assert "was not tested" in Reader(content).text


def test_scores_alone(tmp_path):
    (tmp_path / "eval").mkdir()
    workdirs.write_scores(tmp_path, workdirs.scores("ab", [0, 1], [0, 0]))
    content = report(tmp_path)
    assert sections(content) == ["missing", "confusion", "predictions"]
    assert "No steps were logged" in Reader(content).text
    assert totals(content) == {"top-1 %": "50", "top-5 %": "100"}


def test_values_that_are_no_numbers(tmp_path):
    bad = {50: float("nan"), 60: float("inf"), 200: float("nan")}
    workdirs.write_metrics(tmp_path, loss=lambda step: bad.get(step, 1.0 / step))
    content = report(tmp_path)
    assert totals(content)["loss"] == "NaN"
    assert "loss was no finite number at 3 of 20 logged steps, first at step 50" in content
    assert content.count("no finite number</title>") == 3
    for path in re.findall(r' (?:d|x|y|cx|cy|width)="([^"]*)"', content):
        assert not re.search("nan|inf", path), path
    workdirs.write_metrics(tmp_path, loss=lambda step: float("nan"))
    assert "No value that can be drawn" in report(tmp_path)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e300, 5e-324, -1.7e308])
def test_any_number_is_drawn(tmp_path, value):
    workdirs.write_metrics(tmp_path, loss=lambda step: value if step > 100 else -value)
    workdirs.write_metrics(tmp_path / "one", steps=(7,), loss=lambda step: value)
    for folder in (tmp_path, tmp_path / "one"):
        assert not re.search(r"[ ,M](nan|-?inf)\b", report(folder))


@pytest.mark.parametrize(
    "line",
    ["", "[]", "null", '{"step": "1"}', '{"step": -1, "loss": 1}', '{"loss": 1}', "{" * 5000,
     '{"step": 1.5, "loss": 1}', '{"step": 1e400, "loss": 1}', '{"step": 1, "loss": "x"}',
     '{"step": 1, "loss": 1' + "0" * 400 + "}", "\x00\xff"],
)  # fmt: skip
def test_broken_lines_are_counted(tmp_path, line):
    workdirs.write_metrics(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert totals(report(tmp_path))["loss"] == "0.01"


@pytest.mark.parametrize(
    "file",
    ["eval/scores.npz", "eval/summary.json", "environment.json", "parameters.txt",
     "checkpoints/200/meta/metadata", "pictures/film_0000200.webp"],
)  # fmt: skip
@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00{", b"RIFF", b"PK\x03\x04", b"[1]", b'{"a": 1}']
)
def test_a_damaged_file_does_not_cost_the_rest(tmp_path, file, content):
    folder = workdirs.finetuning(tmp_path, workdirs.scores("ab", [0, 1], [0, 0]))
    workdirs.write_pictures(folder)
    (folder / file).write_bytes(content)
    assert "curves" in sections(report(folder))


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "parameters.txt", "environment.json", "eval/scores.npz",
     "pictures/film_0000300.webp"],
)  # fmt: skip
def test_a_folder_in_place_of_a_file_does_not_cost_the_rest(tmp_path, name):
    folder = workdirs.finetuning(tmp_path, workdirs.scores("ab", [0, 1], [0, 0]))
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir(parents=True)
    assert "settings" in sections(report(folder))


def test_a_seed_that_is_none_does_not_cost_the_rest(tmp_path):
    folder = workdirs.pretraining(tmp_path)
    path = folder / "checkpoints/200/meta/metadata"
    path.write_text(path.read_text().replace('"seed": 0', f'"seed": {2**70}'))
    content = report(folder)
    assert "Not drawn: " in content
    assert "curves" in sections(content)


def test_a_data_set_behind_an_error_of_its_own_does_not_cost_the_rest(tmp_path, monkeypatch):
    class RefusedError(Exception):
        """Of a bucket's library, say."""

    def refuse(*args, **kwargs):
        raise RefusedError("401: anonymous caller")

    monkeypatch.setattr(data, "_splits", refuse)
    monkeypatch.setattr(predictions, "open_dataset", refuse)
    found = workdirs.scores("ab", [0, 1], [0, 0])
    text = Reader(report(workdirs.finetuning(tmp_path, found))).text
    assert "cannot be reached from here: 401: anonymous caller" in text
    assert "Without frames: 401: anonymous caller" in text


def test_splits_that_the_build_did_not_report_keep_their_columns(tmp_path, monkeypatch):
    splits = {"train": {"videos": 5, "clips": 6}, "val": {"clips": 7}}
    monkeypatch.setattr(data, "_splits", lambda path: splits)
    content = report(workdirs.pretraining(tmp_path))
    rows = content.split('aria-label="Splits"')[1].split("</table>")[0].split("<tr>")
    cells = [re.sub("<[^>]*>", " ", row).split() for row in rows[2:]]
    assert cells == [["train", "5", "6"], ["val", "–", "7"]]


def test_scores_that_contradict_themselves_are_refused(tmp_path):
    good = workdirs.scores("ab", [0, 1], [0, 0])
    for change in ({"labels": np.array([0, 3])}, {"labels": np.array([0])}, {"ids": ("a",)},
                   {"probabilities": np.full((2, 3), np.nan)}):  # fmt: skip
        workdirs.write_scores(tmp_path, dataclasses.replace(good, **change))
        assert "eval/scores.npz cannot be read" in Reader(report(tmp_path)).text


# ---- Hostile text, bounds ----


def hostile(folder, text: str) -> str:
    """A run whose every text is `text`."""
    other = text + "2"
    found = workdirs.scores([text, other], [0, 1], [0, 0], (text, other, "c"), {text: text})
    workdirs.finetuning(folder, workdirs.scores("ab", [0, 1], [0, 0]))
    workdirs.write_scores(folder, found)
    config = json.loads((folder / "checkpoints/200/meta/metadata").read_text())["config"]
    config["data"] |= {"dataset": text, "split": text}
    config["task"] = config["new"] = text
    start = {"time": text, "recipe": text, "changed": {text: text}, "versions": {text: text},
             "machine": {text: text, "devices": text}}  # fmt: skip
    (folder / "environment.json").write_text(json.dumps({"starts": [start, start]}))
    meta = {"config": config, "fingerprint": text, "label_names": [text], "examples": text}
    (folder / "checkpoints/200/meta/metadata").write_text(json.dumps(meta))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps({"step": s, text: 1.0}) + "\n" for s in (1, 2)))
    return page([read(str(folder), text)])


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_part_of_the_page(tmp_path, text):
    content = hostile(tmp_path / "a", text)
    assert shape(content) == shape(hostile(tmp_path / "b", "x" * 30))
    content.encode()
    assert not re.search(r"[\x00-\x08\x0e-\x1f]", content)
    assert "<script" not in content.lower()


def test_the_page_needs_nothing_else_and_allows_nothing_else(tmp_path):
    content = report(workdirs.pretraining(tmp_path / "run"))
    assert_needs_nothing_else(content)
    assert all(image["alt"] for image in Reader(content).all("img"))


def test_a_long_run_gives_a_small_page_that_hides_no_peak(tmp_path):
    steps = range(1, 100_001)
    peaks = {31_415: 50.0, 99_998: 1e-9}
    workdirs.write_metrics(tmp_path, steps, loss=lambda step: peaks.get(step, 1.0))
    content = report(tmp_path)
    assert len(content) < 600_000
    assert totals(content)["steps"] == "100,000"
    band = re.search(r'd="M([^"]*)L[^"]*" class="band', content)[1]
    heights = [float(point.split(",")[1]) for point in band.split()]
    assert min(heights) < 30, "the peak reaches the top of its chart"


def test_many_classes_and_pictures_stay_bounded(tmp_path):
    names = [f"class {i}" for i in range(700)]
    ids, labels = [f"video {i}" for i in range(3000)], [i % 700 for i in range(3000)]
    found = workdirs.scores(ids, labels, [i % 699 for i in range(3000)], names)
    folder = workdirs.finetuning(tmp_path, found)
    for step in range(10):
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "pictures" / f"film_{step:07}.webp").write_bytes(b"RIFF" + bytes(5 << 20))
    content = report(folder)
    assert len(content) < 2_000_000
    assert "Pictures left out, as damaged or too large for one page: 4." in Reader(content).text
