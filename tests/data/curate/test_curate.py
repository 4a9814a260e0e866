"""Curation from end to end, on a crawl with known copies and flaws (`planted.py`).

VMAE_PLANTED=300 plants more than the few videos of a quick run.
"""

import collections
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from curate_videos import moving, write
from planted import Planted, plant

from vmae_jax.data import clips, curate
from vmae_jax.data.build import fetch
from vmae_jax.data.build.transcode import Encoding
from vmae_jax.data.curate import looks
from vmae_jax.data.curate.examine import ExamineSettings
from vmae_jax.data.curate.gates import GateLimits
from vmae_jax.data.curate.items import CurationError, Examined
from vmae_jax.data.curate.scenes import ClipRules
from vmae_jax.data.records import open_dataset

COUNT = int(os.environ.get("VMAE_PLANTED", "40"))
ACTIONS = Path(__file__).parents[4] / "shared" / "videos" / "actions"
SUBSETS = (3, 8)


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Planted:
    actions = ACTIONS if ACTIONS.is_dir() else None
    return plant(tmp_path_factory.mktemp("planted"), COUNT, actions)


def run(crawl: Planted, out: Path, **changes) -> curate.Story:
    arguments = {"workers": 1, "author_key": "a secret"}
    arguments |= {k: changes.pop(k) for k in ("workers", "beam_options", "found") if k in changes}
    settings = curate.Settings(**changes)
    return curate.curate(str(crawl.manifest), out, settings, **arguments)


@pytest.fixture(scope="module")
def curated(crawl, tmp_path_factory) -> curate.Story:
    return run(crawl, tmp_path_factory.mktemp("curated") / "set", workers=2, subsets=SUBSETS)


def outcomes(story: curate.Story) -> dict[str, dict[str, str]]:
    with open(os.path.join(story.out, "curation", "outcomes.csv"), newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def files(out: str) -> dict[str, bytes]:
    """All that a set consists of, without the builder's notes."""
    paths = (p for p in Path(out).rglob("*") if p.is_file())
    relative = {str(p.relative_to(out)): p for p in paths}
    return {name: p.read_bytes() for name, p in relative.items() if not name.startswith("build/")}


def test_every_planted_flaw_is_caught(crawl, curated):
    found = outcomes(curated)
    reasons = {name: found[name]["reason"] for name in crawl.flaws}
    assert reasons == crawl.flaws


def test_copies_are_found_and_nothing_else(crawl, curated):
    """Of every original and its copies one stays: recall at least 95 %, precision 99 %."""
    family = {name: name for name in crawl.originals} | crawl.copies
    kept = collections.Counter(
        family[name] for name, row in outcomes(curated).items()
        if name in family and row["outcome"] == "kept"
    )  # fmt: skip
    gone = [name for name, row in outcomes(curated).items() if row["reason"] == "near duplicate"]
    missed = sum(count - 1 for count in kept.values())
    print(f"{len(gone)} copies removed of {len(crawl.copies)} planted, {missed} missed")
    wrong = sum(1 for name in gone if name not in family or not kept[family[name]])
    assert missed <= 0.05 * len(crawl.copies), kept.most_common(5)
    assert wrong <= 0.01 * len(gone)
    assert set(kept) == set(crawl.originals), "what is unique stays"


def test_the_longest_scene_is_kept(crawl, curated):
    for name in crawl.scenes:
        (clip,) = [clip for clip in curated.kept.values() if clip.item == name]
        assert clip.start == pytest.approx(1.25)
        assert clip.end == pytest.approx(114 / 24, abs=0.05)


def test_counts_add_up(crawl, curated):
    rows = outcomes(curated)
    assert len(rows) == crawl.count
    kept = sum(row["outcome"] == "kept" for row in rows.values())
    assert kept + sum(row["outcome"] == "left out" for row in rows.values()) == crawl.count
    assert sum(int(row["clips"]) for row in rows.values()) == len(curated.kept)
    assert all(row["reason"] for row in rows.values() if row["outcome"] == "left out")
    splits = json.loads(Path(curated.out, "dataset_info.json").read_text())["splits"]
    assert sum(int(n) for s in splits for n in s["shardLengths"]) == len(curated.kept)
    card = json.loads(Path(curated.out, "data_card.json").read_text())
    assert card["stages"][0]["came"] == crawl.count
    assert card["stages"][-1]["left"] == len(curated.kept)
    with open(os.path.join(curated.out, "curation", "clips.csv"), newline="") as file:
        clip_rows = list(csv.DictReader(file))
    assert sum(row["outcome"] == "kept" for row in clip_rows) == len(curated.kept)


def test_records_say_what_is_known(curated):
    dataset = open_dataset(curated.out, f"train_{SUBSETS[0]}")
    record = clips.Record.parse(dataset.source[0])
    known = json.loads(record.metadata)
    clip = curated.kept[record.id]
    assert set(known["hashtags"]) > {"all"}
    assert known["scores"] == dict(clip.scores)
    assert (known["start"], known["end"]) == (clip.start, clip.end)
    assert known["extra"] == {"place": "Nowhere"}
    assert len(known["sha256"]) == 64
    assert re.fullmatch("[0-9a-f]{16}", known["author"]), "a keyed hash of 'author N'"
    assert record.num_frames == pytest.approx((clip.end - clip.start) * record.fps, abs=1)
    assert clips.decode_frames(record, [0, record.num_frames - 1]).shape[0] == 2


def test_subsets_lie_in_each_other(curated):
    sizes = [len(open_dataset(curated.out, split).source) for split in (
        f"train_{SUBSETS[0]}", f"train_{SUBSETS[0]}+train_{SUBSETS[1]}",
        f"train_{SUBSETS[0]}+train_{SUBSETS[1]}+train_rest",
    )]  # fmt: skip
    assert sizes == [*SUBSETS, len(curated.kept)]


def test_one_worker_beam_and_two_workers_give_the_same_bytes(crawl, curated, tmp_path):
    expected = files(curated.out)
    assert {"data_card.html", "curation/clips.csv", "curation/fingerprints"} <= expected.keys()
    assert files(run(crawl, tmp_path / "set", subsets=SUBSETS).out) == expected
    beam = run(crawl, tmp_path / "beam", beam_options="runner=DirectRunner", subsets=SUBSETS)
    assert files(beam.out) == expected


def test_killed_and_started_again_gives_the_same_bytes(crawl, curated, tmp_path):
    out = tmp_path / "set"
    command = [
        sys.executable, "-m", "vmae_jax.data.curate", f"--manifest={crawl.manifest}",
        f"--out={out}", f"--subset={SUBSETS[0]},{SUBSETS[1]}", "--workers=2",
    ]  # fmt: skip
    environment = {**os.environ, "VMAE_AUTHOR_KEY": "a secret"}
    chance = random.Random(0)
    for _ in range(3):
        child = subprocess.Popen(
            command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(2, 8))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Kept {len(curated.kept)} clips" in done.stdout
    assert files(str(out)) == files(curated.out)


def test_other_limits_need_no_second_look(crawl, curated, tmp_path, monkeypatch):
    found = f"{curated.out}.found"
    monkeypatch.setattr(looks, "examine", None)  # would be called for a second look
    brightness = sorted(clip.scores["brightness"] for clip in curated.kept.values())
    limits = GateLimits(min_brightness=brightness[4])
    story = run(crawl, tmp_path / "set", found=found, gates=limits)
    assert len(story.kept) < len(curated.kept)
    assert min(c.scores["brightness"] for c in story.kept.values()) == brightness[4]


def test_what_another_set_holds_is_left_out(crawl, curated, tmp_path):
    found = f"{curated.out}.found"
    held = open_dataset(curated.out, f"train_{SUBSETS[1]}")
    names = {clips.Record.parse(held.source[i]).id for i in range(len(held.source))}
    against = ((curated.out, f"train_{SUBSETS[1]}"),)
    story = run(crawl, tmp_path / "set", found=found, against=against)
    gone = {r.id for r in story.copies.values() if r.reason == "in another set"}
    assert names <= gone
    assert not names & story.kept.keys()
    with pytest.raises(CurationError, match="no clip is left"):
        run(crawl, tmp_path / "none", found=found, against=((curated.out, ""),))


def test_the_result_trains(curated, tmp_path):
    split = f"train_{SUBSETS[0]}+train_{SUBSETS[1]}"
    for recipe in ("quickstart.py", "vitg_tiktok.py:smoke"):
        done = subprocess.run(
            [
                sys.executable, "-m", "vmae_jax.main", f"--config=configs/{recipe}",
                f"--config.data.dataset={curated.out}", f"--config.data.split={split}",
                "--config.train.steps=3", "--config.data.stride=2",
                "--config.optim.warmup_steps=1", f"--workdir={tmp_path / recipe[:5]}",
            ],
            capture_output=True, text=True, cwd=Path(__file__).parents[3],
            env={**os.environ, "XLA_FLAGS": ""},  # one device: eight take a minute to compile for
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "The run is done: step 3 of 3" in done.stdout


def test_errors_are_one_line(crawl, curated, tmp_path):
    command = [sys.executable, "-m", "vmae_jax.data.curate", f"--out={tmp_path / 'set'}"]
    for flags, expected in {
        "--manifest=none.csv": "--manifest=none.csv: no such file",
        f"--manifest={crawl.manifest} --min_people=0.5": "--people_model=yolo.onnx",
        f"--manifest={crawl.manifest} --against=nowhere": "neither fingerprints nor a dataset",
        f"--manifest={crawl.manifest} --min_views=5000000": "too few views",
    }.items():
        done = subprocess.run([*command, *flags.split()], capture_output=True, text=True)
        assert done.returncode == 1
        assert expected in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def small(folder: Path, videos: dict, rows: list[str], **settings) -> curate.Story:
    """Curates a few videos, given as frames, from the rows of a CSV."""
    folder.mkdir(exist_ok=True)
    for name, frames in videos.items():
        write(folder / name, frames)
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    return curate.curate(
        str(folder / "rows.csv"), folder / "set", curate.Settings(**settings), workers=1
    )


@pytest.fixture(scope="module")
def two_scenes():
    return np.concatenate([moving(1, 60), moving(2, 72)])


def test_all_scenes_of_a_video_go_through_splits_and_shards(tmp_path, two_scenes):
    look = ExamineSettings(clips=ClipRules("all"))
    story = small(tmp_path, {"two.mp4": two_scenes}, ["path", "two.mp4"], look=look, subsets=(1,))
    assert sorted(story.kept) == ["two.mp4#0", "two.mp4#1"]
    assert story.all_splits == "train_1+train_rest"
    source = open_dataset(story.out, story.all_splits).source
    records = [clips.Record.parse(source[i]) for i in range(len(source))]
    assert sorted(record.id for record in records) == sorted(story.kept)
    for record in records:
        clip = story.kept[record.id]
        assert record.num_frames == round(clip.end * 24) - round(clip.start * 24)
        assert record.start == clip.start


def test_what_cannot_be_written_leaves_its_own_clip_alone(tmp_path, two_scenes):
    look = ExamineSettings(clips=ClipRules("all"))
    story = small(
        tmp_path, {"two.mp4": two_scenes}, ["path", "two.mp4"], look=look, subsets=(1,),
        encoding=Encoding(max_frames=65),
    )  # fmt: skip
    source = open_dataset(story.out, story.all_splits).source
    written = {clips.Record.parse(source[i]).id for i in range(len(source))}
    assert written == story.kept.keys() == {"two.mp4#0"}
    assert story.lost["two.mp4#1"].reason == "too long"


def test_a_video_that_changed_since_its_look_is_left_out(tmp_path, monkeypatch):
    def change(story, *_):
        write(tmp_path / "a.mp4", moving(3, 80))

    monkeypatch.setattr(curate, "_remove_copies", change)
    videos = {"a.mp4": moving(1, 60), "b.mp4": moving(2, 60)}
    story = small(tmp_path, videos, ["path", "a.mp4", "b.mp4"])
    assert list(story.kept) == ["b.mp4#0"]
    assert story.lost["a.mp4#0"].reason == "changed"


def test_many_bad_rows_are_counted_and_shown(tmp_path):
    rows = ["path", "a.mp4", *["a.mp4"] * 1001, "../e.mp4"]
    story = small(tmp_path, {"a.mp4": moving(1, 60)}, rows)
    assert dict(story.table.bad_rows) == {"duplicate path": 1001, "path escape": 1}
    with open(tmp_path / "set" / "curation" / "outcomes.csv", newline="") as file:
        last = [row for row in csv.DictReader(file) if row["line"] == "0"]
    assert {row["reason"]: row["detail"] for row in last} == {
        "duplicate path": "1 more rows", "path escape": "1 more rows",
    }  # fmt: skip


def test_a_look_is_kept_whatever_else_is_selected(tmp_path, monkeypatch):
    videos = {f"{i}.mp4": moving(i, 60) for i in range(4)}
    small(tmp_path, videos, ["path", *videos])
    seen = []
    monkeypatch.setattr(
        looks, "examine", lambda item, *_: seen.append(item.id) or Examined(item.id)
    )
    (tmp_path / "rows.csv").write_text("path\n1.mp4\n3.mp4\n")
    arguments = {"workers": 1, "found": str(tmp_path / "set.found")}
    curate.curate(str(tmp_path / "rows.csv"), tmp_path / "fewer", curate.Settings(), **arguments)
    assert seen == []


def test_what_could_not_be_fetched_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_WAITS", ())
    rows = ["path", "a.mp4", "memory://crawl/b.mp4"]
    story = small(tmp_path, {"a.mp4": moving(1, 60)}, rows)
    assert [(r.id, r.reason) for r in story.unusable] == [("memory://crawl/b.mp4", "not fetched")]
    write(tmp_path / "b.mp4", moving(2, 60))
    fsspec.filesystem("memory").pipe("/crawl/b.mp4", (tmp_path / "b.mp4").read_bytes())
    arguments = {"workers": 1, "found": str(tmp_path / "set.found")}
    story = curate.curate(
        str(tmp_path / "rows.csv"), tmp_path / "both", curate.Settings(), **arguments
    )
    assert sorted(story.kept) == ["a.mp4#0", "memory://crawl/b.mp4#0"]
