"""The owners' real lists, over trees of names: every number as an independent reading has it.

Of Kinetics' lists a few rows of each label, which decide all numbers, are enough here.
"""

import csv
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from vmae_jax.data.build.benchmarks import read_benchmark

MERGED = "k710_identical_label_merge.json"
FILES = {400: "kinetics-400_{}.csv", 600: "kinetics-600_{}.csv", 700: "{}.csv"}
LEFT_OVER = {
    400: {"hugging": "hugging baby", "opening bottle": "opening wine bottle"},
    600: {"chopping vegetables": "throwing ball"},
    700: {"archaeological excavation": "throwing ball"},
}


@pytest.fixture(scope="module")
def owners(shared) -> Path:
    if not (shared / "annotations").is_dir():
        pytest.skip("needs the owners' lists in shared/annotations")
    return shared / "annotations"


def names_of(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text().split("\n") if line.strip()]


@pytest.fixture(scope="module")
def tree(owners, tmp_path_factory) -> tuple[Path, dict[str, tuple[int, str]]]:
    """Lists of two rows of each label, and of testing, in csv/; a file for each in videos/.

    Their folder, and version and label of each video to build, by the stem of its file.
    """
    root, listed = tmp_path_factory.mktemp("kinetics"), {}
    clip = root / "clip.mp4"
    clip.touch()
    for version, pattern in FILES.items():
        lists, videos = (root / kind / f"k{version}" for kind in ("csv", "videos"))
        lists.mkdir(parents=True)
        videos.mkdir(parents=True)
        for use in ("val", "test"):
            name = pattern.format("validate" if (version, use) == (700, "val") else use)
            with open(owners / f"kinetics_k{version}" / name, newline="") as file:
                header, *rows = itertools.islice(csv.reader(file), None if use == "val" else 3)
            seen: Counter[str] = Counter()
            with open(lists / name, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(header)
                for row in rows:
                    cells = dict(zip(header, row, strict=True))
                    label = cells.get("label", "")
                    seen[label] += 1
                    if seen[label] > 2:
                        continue
                    writer.writerow(row)
                    start, end = int(cells["time_start"]), int(cells["time_end"])
                    stem = f"{cells['youtube_id']}_{start:06d}_{end:06d}"
                    os.link(clip, videos / f"{stem}.mp4")
                    if label:
                        listed[f"k{version}/{stem}"] = version, label
    return root, listed


@pytest.mark.parametrize("version", FILES)
def test_kinetics_by_the_reference_s_map_and_by_sorted_labels(owners, tree, version):
    root, listed = tree
    misc = owners / "videomaev2_misc"
    merged = json.loads((misc / MERGED).read_text())
    lines = names_of(misc / f"label_map_k{version}.txt")
    own = {stem[5:]: label for stem, (v, label) in listed.items() if v == version}
    labels = sorted(set(own.values()))
    folders = [str(root / kind / f"k{version}") for kind in ("videos", "csv")]
    for label_map in (misc, misc / f"label_map_k{version}.txt", None):
        found = read_benchmark(f"kinetics{version}", *folders, label_map and str(label_map))
        assert {Path(v.path).stem for v in found.videos} == own.keys()
        for video in found.videos:
            label = own[Path(video.path).stem]
            name = LEFT_OVER[version].get(label, label)
            name = name if name in lines else merged[label]
            wanted = (lines.index(name), name) if label_map else (labels.index(label), label)
            assert (video.label, video.label_name) == wanted
        guesses = [w for w in found.warnings if "lacks labels of Kinetics" in w]
        assert len(guesses) == bool(label_map)
        assert all(repr(label) in guess for guess in guesses for label in LEFT_OVER[version])
    assert [w for w in found.warnings if "no list for train" in w]


@pytest.mark.parametrize("source", ["videomaev2_misc", "mmaction2_label_map_k710.txt"])
def test_kinetics710(owners, tree, source):
    root, listed = tree
    misc, theirs = owners / "videomaev2_misc", source == "videomaev2_misc"
    merged = json.loads((misc / MERGED).read_text())
    lines = names_of(misc / "label_map_k710.txt" if theirs else owners / source)
    folders = [str(root / kind) for kind in ("videos", "csv")]
    found = read_benchmark("kinetics710", *folders, str(owners / source))
    assert len(found.videos) > 3000  # less those that several versions have
    for video in found.videos:
        version, label = listed[video.path.removesuffix(".mp4")]
        name = label if label in lines else merged.get(label)
        if theirs and (version, label) == (600, "chopping vegetables"):
            name = "throwing ball"
        if not theirs and label == "throwing ball (not baseball or American football)":
            name = "throwing ball"
        assert (video.label, video.label_name) == (lines.index(name), name)
    assert {video.label for video in found.videos} == set(range(710))
    assert found.class_order == "the numbers of " + ("label_map_k710.txt" if theirs else source)


def test_rows_of_heads_follow_the_maps(owners):
    """Row i of label_710toN.json is the class of line i of label_map_kN.txt, of the same name."""
    misc = owners / "videomaev2_misc"
    head = names_of(misc / "label_map_k710.txt")
    for version in FILES:
        rows = json.loads((misc / f"label_710to{version}.json").read_text())
        assert [head[row] for row in rows] == names_of(misc / f"label_map_k{version}.txt")


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_ucf101_whose_lists_have_windows_line_ends(owners, tmp_path, suffix):
    lists = owners / "ucf101"
    assert b"\r\n" in (lists / "classInd.txt").read_bytes()
    numbers = dict(reversed(line.split()) for line in names_of(lists / "classInd.txt"))
    listed, clip = {}, tmp_path / "clip"
    clip.touch()
    for use, stem in (("train", "trainlist"), ("val", "testlist")):
        for line in names_of(lists / f"{stem}01.txt")[::8]:
            listed[Path(line.split()[0]).stem] = use, int(numbers[line.partition("/")[0]]) - 1
    videos = tmp_path / "videos"
    videos.mkdir()
    for stem in listed:
        os.link(clip, videos / f"{stem}{suffix}")
    found = read_benchmark("ucf101:1", str(videos), str(lists), max_missing=0.9)
    assert {Path(v.path).stem: (v.split, v.label) for v in found.videos} == listed
    assert "13320 listed videos are missing" in found.warnings[-1]
    assert f"{len(listed)} videos, such as" in found.warnings[0]


def test_hmdb51(owners, tmp_path):
    lists, uses = owners / "hmdb51", {"1": "train", "2": "val"}
    end = "_test_split1.txt"
    classes = sorted(file.name.removesuffix(end) for file in lists.glob(f"*{end}"))
    listed, clip = {}, tmp_path / "clip"
    clip.touch()
    for number, name in enumerate(classes):
        folder = tmp_path / "videos" / name
        folder.mkdir(parents=True)
        for line in names_of(lists / f"{name}{end}")[::5]:
            name, use = line.rsplit(" ", 1)
            os.link(clip, folder / name)
            if use in uses:
                listed[f"{folder.name}/{name}"] = uses[use], number
    found = read_benchmark("hmdb51:1", str(tmp_path / "videos"), str(lists), max_missing=0.9)
    assert {v.path: (v.split, v.label) for v in found.videos} == listed
    assert len(found.label_names) == 51
    assert len(found.warnings) == 1  # that many are missing here


def test_ssv2(owners, tmp_path):
    real = owners / "ssv2"
    (tmp_path / "lists").mkdir()
    of = "something-something-v2-{}.json".format
    (tmp_path / "lists" / of("labels")).symlink_to(real / of("labels"))
    (tmp_path / "lists" / of("train")).write_text('[{"id": "1", "template": "Holding something"}]')
    numbers = json.loads((real / of("labels")).read_text())
    validation = json.loads((real / of("validation")).read_text())[::20]
    (tmp_path / "lists" / of("validation")).write_text(json.dumps(validation))
    videos, listed = tmp_path / "videos", {}
    videos.mkdir()
    for value in validation:
        (videos / f"{value['id']}.webm").touch()
        name = value["template"].replace("[", "").replace("]", "")
        listed[f"{value['id']}.webm"] = "val", int(numbers[name]), name
    found = read_benchmark("ssv2", str(videos), str(tmp_path / "lists"), max_missing=1.0)
    assert {v.path: (v.split, v.label, v.label_name) for v in found.videos} == listed
    assert set(found.label_names) == numbers.keys()
