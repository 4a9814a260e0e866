"""Labels and splits before any video is read: tables, folders, and what is said of guesses.

The videos are empty files: their names alone count here.
"""

import os
import re

import pytest

from vmae_jax.data import synthetic
from vmae_jax.data.build import BuildError
from vmae_jax.data.build.manifest import read_manifest

CAFE = ("cafe\u0301", "caf\xe9")  # one name in the forms NFD and NFC


def tree(root, *paths) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return str(root)


def table(root, text: str, name: str = "labels.csv") -> str:
    (root / name).write_text(text)
    return str(root / name)


def labels(manifest) -> dict[str, str]:
    return {v.path: v.label_name for v in manifest.videos}


def splits(manifest) -> dict[str, str]:
    return {v.path: v.split for v in manifest.videos}


# ---- Tables ----


@pytest.fixture
def three(tmp_path) -> str:
    return tree(tmp_path / "three", "1.mp4", "2.mp4", "3.mp4")


WANTED = {"1.mp4": "run", "2.mp4": "jump"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\n1.mp4,run\n2.mp4,jump\n", []),
        ("\ufeffpath,label\r\n1.mp4,run\r\n2.mp4,jump\r\n", []),
        ("Label, PATH \nrun,1.mp4\n\n,\njump,2.mp4\n", []),
        ("path;label\n1.mp4;run\n2.mp4;jump\n", ["separated by ';', as in line 1"]),
        ("path\tlabel\n1.mp4\trun\n2.mp4\tjump\n", [r"separated by '\\t'"]),
        ("path,label,note,\n1.mp4,run,x,\n2.mp4,jump,y,\n", ["2 columns are not read: note, ''"]),
        ("File Name,class\n1.mp4,run\n2.mp4,jump\n", ["columns File Name as path, class as label"]),
        ("path,label\n1,run\n2,jump\n", ["2 paths are taken .* such as 1 as 1.mp4"]),
        ("path,label\nold/disk/1.mp4,run\nold/disk/2,jump\n", ["read without old/disk/", "2 as 2"]),
        ("path,label\n/old/1.mp4,run\n/old/2.mp4,jump\n", ["read without /old/"]),
        ("path,label\nC:\\a\\1.mp4,run\nC:\\a\\2.mp4,jump\n", ["read without C:/a/"]),
        ("path,label\n1.mp4,run\n2.mp4,jump\n3.mp4,\n", ["1 rows have no label.*4; left out"]),
    ],
)  # fmt: skip
def test_tables_that_people_have(three, tmp_path, text, said):
    manifest = read_manifest(three, table(tmp_path, text))
    assert labels(manifest) == WANTED
    assert manifest.label_names == ("jump", "run")
    assert len(manifest.warnings) == len(said)
    for pattern, warning in zip(said, manifest.warnings, strict=True):
        assert re.search(pattern, warning)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.mp4 0\n2.mp4 1\n", "line 1: found '1.mp4 0', expected the columns path,label or"),
        ("1.mp4,run\n2.mp4,jump\n", "line 1: found '1.mp4,run', expected the columns path,label"),
        ('path,label\n1.mp4,"jump\nhigh"\n2.mp4,run\n', r"line 2: the class 'jump\\nhigh' holds"),
        ('path,label\n1.mp4,run\n2.mp4,"jump\n3.mp4,run\n', "line 3: the class .* holds a line br"),
        ("path,label\n1.mp4,\n2.mp4,\n", "2 rows have no label, .*line 2; leave out --labels"),
        ("path,label\n1,run\n1.mp4,run\n", "line 3: means 1.mp4, as .*line 2 does"),
        ("path,label\nx/1.mp4,run\ny/2.mp4,jump\n", "no video files found; 5 left .*such as y/"),
    ],
)  # fmt: skip
def test_tables_that_are_not_plain_name_their_row(three, tmp_path, text, message):
    with pytest.raises(BuildError, match=message):
        read_manifest(three, table(tmp_path, text))


def test_a_name_with_two_suffixes_is_not_guessed(tmp_path):
    root = tree(tmp_path / "root", "1.mp4", "1.avi")
    with pytest.raises(BuildError, match=r"line 2: 1 may be 1.avi or 1.mp4; give its suffix"):
        read_manifest(root, table(tmp_path, "path,label\n1,run\n"))


def test_paths_from_other_machines(tmp_path):
    root = tree(tmp_path / "root", f"{CAFE[0]}/1.mp4", "run/2.mp4")
    text = f"path,label\n{CAFE[1]}/1.mp4,{CAFE[1]}\nrun\\2.mp4,run\n"
    manifest = read_manifest(root, table(tmp_path, text))
    assert labels(manifest) == {f"{CAFE[0]}/1.mp4": CAFE[1], "run/2.mp4": "run"}


def test_rows_without_a_label_may_be_kept(three, tmp_path):
    rows = table(tmp_path, "path,label\n1.mp4,run\n2.mp4,\n3.mp4,jump\n")
    manifest = read_manifest(three, rows, empty_labels="keep")
    assert {v.path: v.label for v in manifest.videos} == {"1.mp4": 1, "2.mp4": -1, "3.mp4": 0}
    assert "line 3; kept, but fine-tuning stops at them" in manifest.warnings[0]
    manifest = read_manifest(three, rows)
    assert ("2.mp4", "not labelled", f"no label in {rows}, line 3") in manifest.rejected


def test_a_split_column_goes_before_the_flag_and_says_so(three, tmp_path):
    rows = table(tmp_path, "path,label,split\n1.mp4,run,train\n2.mp4,jump,val\n")
    manifest = read_manifest(three, rows, split="test")
    assert splits(manifest) == {"1.mp4": "train", "2.mp4": "val"}
    assert manifest.warnings == (
        f"{rows}: its column split decides, not --split=test",
        "1 classes have no video in train: jump",
    )


def test_a_file_in_two_splits_and_a_split_without_videos_are_said(tmp_path):
    root = tree(tmp_path, "train/run/1.mp4", "val/run/2.mp4")
    os.symlink(tmp_path / "train/run/1.mp4", tmp_path / "val/run/1.mp4")
    said = "1 files are linked, 1 into several splits, such as train/run/1.mp4 and val/run/1.mp4"
    assert said in read_manifest(root, "folders").warnings
    warnings = read_manifest(root, split="train:0.9,val:0.1").warnings
    assert "--split=train:0.9,val:0.1: too few videos, no video for val" in warnings


def test_the_order_of_equal_numbers_does_not_follow_the_hash_seed(tmp_path):
    names = [*("0" * i + "1" for i in range(12)), "2", "10", "0"]
    root = tree(tmp_path / "root", *(f"{name}/a.mp4" for name in names))
    manifest = read_manifest(root, "folders")
    ones = sorted(names[:12])  # one of 12! orders
    assert manifest.label_names == ("0", *ones, "2", "10")
    assert manifest.warnings[0].startswith(f"12 classes look alike: {ones[0]!r}, {ones[1]!r}")


def test_names_in_two_unicode_forms_are_one_class_in_all_splits(tmp_path):
    root = tree(
        tmp_path, *(f"{s}/{c}/{s}.mp4" for s, c in zip(("train", "val"), CAFE, strict=True))
    )
    manifest = read_manifest(root, "folders")
    assert manifest.label_names == (CAFE[0],)  # as first seen
    assert {(v.split, v.label, v.label_name) for v in manifest.videos} == {
        ("train", 0, CAFE[0]),
        ("val", 0, CAFE[0]),
    }
    assert r"the class 'cafe\u0301' is spelled as 'caf\xe9' too" in manifest.warnings


def test_classes_that_look_alike_are_said_and_stay(tmp_path):
    root = tree(tmp_path, *(f"{n}/a.mp4" for n in ("Jump", "jump", "ball_up", "ball up", "run ")))
    manifest = read_manifest(root, "folders")
    assert manifest.label_names == ("Jump", "ball up", "ball_up", "jump", "run")
    said = "\n".join(manifest.warnings)
    assert "2 classes look alike: 'ball up', 'ball_up'" in said
    assert "2 classes look alike: 'Jump', 'jump'" in said
    assert "the class 'run' is spelled as 'run ' too" in said


def test_a_name_that_is_no_text_is_refused(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"r\xfcn")
    os.mkdir(folder)
    open(os.path.join(folder, b"1.mp4"), "wb").close()
    with pytest.raises(BuildError, match=r"the class .* is not Unicode text"):
        read_manifest(str(tmp_path), "folders")


# ---- Folders ----


def test_split_folders_are_splits(tmp_path):
    paths = [f"{s}/{c}/1.mp4" for s in ("Train", "validation", "test") for c in ("jump", "run")]
    manifest = read_manifest(tree(tmp_path, *paths, "README.md", "Train/notes.txt"), "folders")
    assert splits(manifest) == {p: {"T": "train", "v": "val", "t": "test"}[p[0]] for p in paths}
    assert labels(manifest) == {p: p.split("/")[1] for p in paths}
    assert manifest.label_names == ("jump", "run")
    assert {path for path, *_ in manifest.rejected} == {"README.md", "Train/notes.txt"}
    line = "the folders Train, test, validation are the splits test, train, val; "
    assert line + "--split=NAME takes all as one" in manifest.warnings


def test_a_split_that_is_asked_for_goes_before_the_folders(tmp_path):
    paths = [f"{s}/{c}/1.mp4" for s in ("train", "val") for c in ("jump", "run")]
    root = tree(tmp_path, *paths)
    for given, made in (("train", {"train"}), ("train:0.5,val:0.5", {"train", "val"})):
        manifest = read_manifest(root, "folders", given)
        assert set(splits(manifest).values()) == made
        assert manifest.label_names == ("jump", "run")
        line = f"the folders train, val are not taken as splits, all their videos go to {given}"
        assert manifest.warnings[0].startswith(line)


def test_split_folders_without_classes(tmp_path):
    root = tree(tmp_path, "train/1.mp4", "valid/2.mp4", "README.md")
    manifest = read_manifest(root)  # as ever, but not without a word
    assert set(splits(manifest).values()) == {"train"}
    assert "--split=folders makes them splits" in manifest.warnings[0]
    manifest = read_manifest(root, split="folders")
    assert splits(manifest) == {"train/1.mp4": "train", "valid/2.mp4": "val"}
    assert manifest.rejected == (("README.md", "not in a split folder", "and no video"),)
    manifest = read_manifest(root, "folders")  # of their videos, these are the classes
    assert manifest.label_names == ("train", "valid")
    assert "the classes are named train, valid, like splits" in manifest.warnings[1]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/jump/1.mp4", "val/jump/2.mp4", "run/3.mp4"], "1 videos beside them: run/3.mp4"),
        (["train/jump/1.mp4", "train/2.mp4"], "1 videos beside them: train/2.mp4; move those"),
        (["train/val/jump/1.mp4"], "in the folders of 2 splits, train and val"),
        (["jump/1.mp4", "2.mp4"], "1 files lie in no class folder .*2.mp4"),
        (["jump/1.txt"], "no folder of .* holds a video"),
    ],
)
def test_folders_that_are_not_plain_are_refused(tmp_path, paths, message):
    with pytest.raises(BuildError, match=message):
        read_manifest(tree(tmp_path, *paths), "folders")


def test_a_folder_named_as_a_split_without_classes_is_a_class(tmp_path):
    manifest = read_manifest(tree(tmp_path, "train/1.mp4", "boat/2.mp4"), "folders")
    assert (manifest.label_names, manifest.warnings) == (("boat", "train"), ())
    assert set(splits(manifest).values()) == {"train"}


def test_classes_of_several_folders_are_said(tmp_path):
    paths = [
        f"{split}/{name}/{split}.mp4" for split in ("train1", "dev") for name in ("run", "sit")
    ]
    said = (
        "--labels=folders: 2 classes lie in several folders, which make no splits: run, sit; "
        "the first in dev, train1"
    )
    manifest = read_manifest(tree(tmp_path, *paths), "folders")
    assert (set(splits(manifest).values()), manifest.warnings) == ({"train"}, (said,))


def test_a_class_is_a_folder_that_holds_a_video(tmp_path):
    junk = ["README.md", "thumbs/1.jpg", "run/subs/1.srt", "run/subs/data.bin"]
    root = tree(tmp_path, *junk, "jump/1.MP4", "jump/notes.txt", "run/1.webm", "run/slow/1.mp4")
    manifest = read_manifest(root, "folders")
    assert manifest.label_names == ("jump", "run", "slow")
    assert [path for path, *_ in manifest.rejected] == sorted(junk)
    first, second = manifest.warnings
    assert first == (
        "--labels=folders: 4 files in folders without a video are left out, and make no class: "
        + ", ".join(sorted(junk))
    )
    assert second == "--labels=folders: 1 classes lie in folders of other classes: run/slow"
    assert "jump/notes.txt" in labels(manifest)  # reading it says what it is, as ever


def test_videos_without_a_suffix_make_a_class_too(tmp_path):
    synthetic.write_videos(tmp_path / "made", clips_per_class=1, size=(32, 32), num_frames=2)
    root = tree(tmp_path / "root", "jump/1.mp4", "run/README")
    os.rename(next((tmp_path / "made").rglob("*.mp4")), tmp_path / "root/run/clip")
    assert read_manifest(root, "folders").label_names == ("jump", "run")


# ---- Lists ----


def test_a_list_of_any_editor_names_the_videos(tmp_path):
    names = ["1.mp4", "a\u2028b.mp4", "3.mp4"]
    tree(tmp_path, *names)
    listing = tmp_path / "list.txt"
    for encoding in ("utf-8-sig", "utf-16"):
        listing.write_bytes("\r\n".join(names).encode(encoding))
        manifest = read_manifest(str(listing))
        assert sorted(v.path for v in manifest.videos) == sorted(names)
        assert manifest.rejected == ()


def test_folders_above_all_listed_videos_are_no_splits(tmp_path):
    root = tree(tmp_path / "test/home", "jump/1.mp4", "run/2.mp4")
    (tmp_path / "lists").mkdir()
    listing = tmp_path / "lists/list.txt"
    listing.write_text("".join(f"{root}/{p}\n" for p in ("jump/1.mp4", "run/2.mp4")))
    for path in (listing, root):
        manifest = read_manifest(str(path), "folders")
        assert {v.split for v in manifest.videos} == {"train"}
        assert manifest.warnings == ()


def test_sound_folders_say_nothing_and_keep_their_order(tmp_path):
    names = [f"{c}/{i}.mp4" for c in ("b", "a b", "c,d") for i in range(3)]
    manifest = read_manifest(tree(tmp_path, *names), "folders")
    assert (manifest.label_names, manifest.warnings, manifest.rejected) == (
        ("a b", "b", "c,d"), (), (),
    )  # fmt: skip
    assert len(manifest.videos) == 9


def test_a_list_that_names_a_video_again_says_so(tmp_path):
    root = tree(tmp_path, "1.mp4", "2.mp4")
    listing = tmp_path / "list.txt"
    listing.write_text(f"2.mp4\n1.mp4\n./2.mp4\n{root}/2.mp4\n")
    manifest = read_manifest(str(listing))
    assert sorted(v.path for v in manifest.videos) == ["1.mp4", "2.mp4"]
    (said,) = manifest.warnings
    assert said.endswith("2 lines name a video again, such as 2.mp4; each video is taken once")
