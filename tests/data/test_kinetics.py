"""Kinetics from tiny trees: names of clips, splits, and the numbers of its classes."""

from pathlib import Path

import pytest
from benchmark_trees import HEADER, left_out, read, taken, write

from vmae_jax.data.build import BuildError
from vmae_jax.data.build.benchmarks import read_benchmark


def test_kinetics_finds_all_names_of_clips(tmp_path):
    lists = {
        "train.csv": HEADER + '"air drumming",--id-of_A,10,20,train,0\nabseiling,B,1,11,train,0\n',
        "val.csv": HEADER + "abseiling,C,0,10,validate,0\nzumba,D,0,10,val,0\n",
        "test.csv": "youtube_id,time_start,time_end,split\nE,5,15,test\nF,5,15,test\n",
    }
    videos = (
        "train/air drumming/--id-of_A_000010_000020.mp4",
        "B.mp4",
        "train/B.json",
        "a/C_000000_000010.mkv",
        "test/E_000005_000015.mp4",
        "replacement_for_corrupted_k400/C_000000_000010.mp4",
    )
    manifest = read("kinetics400", tmp_path, lists, videos, max_missing=0.25)
    assert taken(manifest) == {
        videos[0]: ("train", 1, "air drumming"),
        videos[1]: ("train", 0, "abseiling"),
        videos[5]: ("val", 0, "abseiling"),
    }
    assert manifest.label_names == ("abseiling", "air drumming", "zumba")  # found or not
    assert left_out(manifest) == {
        "D_000000_000010": "missing file",
        "train/B.json": "not labelled",
        "a/C_000000_000010.mkv": "duplicate",
        "test/E_000005_000015.mp4": "test video",
    }
    assert manifest.warnings == (
        "kinetics400: found 3 classes, officially 400",
        "kinetics400: 1 of 4 listed videos are missing",
    )
    with pytest.raises(BuildError, match=r"1 of 4 .* missing.*D_000000_000010 .*val.csv, line 3"):
        read("kinetics400", tmp_path, lists, videos)


def test_kinetics_with_a_label_map(tmp_path):
    lists = {"train.csv": HEADER + "b,B,0,1,train,0\na,A,0,1,train,0\n"}
    order = tmp_path / "label_map_k400.txt"
    order.write_text("z\nb\na\n")
    manifest = read("kinetics400", tmp_path, lists, ("A.mp4", "B.mp4"), label_map=str(order))
    assert {path: v[1] for path, v in taken(manifest).items()} == {"A.mp4": 2, "B.mp4": 1}
    order.write_text("z\nb\n")
    with pytest.raises(BuildError, match="no number for 1 of 2 labels, such as a"):
        read("kinetics400", tmp_path, lists, (), label_map=str(order))


def test_a_clip_that_is_held_out_is_not_trained_on(tmp_path):
    lists = {
        "train.csv": HEADER
        + "a,A,0,1,train,0\na,A,0,1,train,0\nb,B,0,1,train,0\nb,C,0,1,train,0\n",
        "val.csv": HEADER + "b,B,0,1,val,0\n",
        "test.csv": HEADER + "b,C,7,8,test,0\n",
    }
    manifest = read("kinetics700", tmp_path, lists, ("A.mp4", "B.mp4", "C.mp4"))
    assert {path: v[0] for path, v in taken(manifest).items()} == {"A.mp4": "train", "B.mp4": "val"}
    assert [(path, reason) for path, reason, _ in manifest.rejected] == [
        ("A.mp4", "duplicate"),
        ("B.mp4", "held out"),
        ("C.mp4", "test video"),  # the file of a training clip too
    ]
    assert "train.csv, line 4; also in " in manifest.rejected[1][2]


K710 = {
    "k400/train.csv": HEADER + "drinking,A,0,10,train,0\narchery,B,0,10,train,0\n"
    "archery,F,0,10,train,0\n",
    "k400/val.csv": HEADER + "archery,C,0,10,val,0\n",
    "k600/train.csv": HEADER + "sipping cup,A,0,10,train,0\narchery,C,3,13,train,0\n"
    "archery,D,0,10,train,0\nluge,G,0,10,train,0\nchopping vegetables,K,0,10,train,0\n",
    "k600/val.csv": HEADER + "luge,E,0,10,val,0\n",
    "k700/train.csv": HEADER + "sipping cup,H,0,10,train,0\narchery,I,0,10,train,0\n"
    "luge,E,0,10,train,0\n",
    "k700/test.csv": "youtube_id,time_start,time_end\nB,0,10\n",
    "k700/val.csv": HEADER + "luge,J,0,10,val,0\n",
}
K710_VIDEOS = (
    *("k400/A.mp4", "k400/B.mp4", "k400/C.mp4"),
    *("k600/A_000000_000010.mp4", "k600/C_000003_000013.mp4", "k600/D.mp4", "k600/G.mp4"),
    *("k600/E.mp4", "k600/K.mp4", "k700/H.mp4", "k700/I.mp4", "k700/E.mp4", "k700/J.mp4"),
    "k700/F.mp4",
)
# As VideoMAE V2's folder misc: shuffled but for the first, some labels under another name, one
# ("chopping vegetables") under none; rows of heads by the lines of the maps.
MISC = {
    "label_map_k400.txt": "archery\nsipping cup\n",
    "label_map_k600.txt": "luge\nthrowing ball\narchery\nsipping cup",
    "label_map_k700.txt": "sipping cup\narchery\nluge",
    "label_map_k710.txt": "luge\nsipping cup\narchery\nthrowing ball\nzumba",
    "label_710to400.json": "[2, 1]",
    "label_710to600.json": "[0, 3, 2, 1]",
    "label_710to700.json": "[1, 2, 0]",
    "k710_identical_label_merge.json": '{"drinking": "sipping cup"}',
}
K710_CSV = (
    "label,number\nluge,0\nsipping cup,1\ndrinking,1\narchery,2\nthrowing ball,3\n"
    "chopping vegetables,3\nzumba,4\n"
)
K710_JSON = (
    '{"luge": 0, "sipping cup": 1, "drinking": 1, "archery": 2, "throwing ball": 3, '
    '"chopping vegetables": 3, "zumba": 4}'
)
GUESS = "lacks labels of Kinetics-600; paired by exclusion: 'chopping vegetables' is its 'throwing"


@pytest.mark.parametrize("label_map", ["misc", "misc/label_map_k710.txt", "map.csv", "map.json"])
def test_kinetics710(tmp_path, label_map):
    write(tmp_path / "misc", MISC)
    write(tmp_path, {"map.csv": K710_CSV, "map.json": K710_JSON})
    path = str(tmp_path / label_map)
    manifest = read("kinetics710", tmp_path, K710, K710_VIDEOS, label_map=path, max_missing=0.2)
    assert manifest.label_names == ("luge", "sipping cup", "archery", "throwing ball", "zumba")
    assert taken(manifest) == {
        "k400/A.mp4": ("train", 1, "sipping cup"),  # there called drinking
        "k400/C.mp4": ("val", 2, "archery"),
        "k600/D.mp4": ("train", 2, "archery"),
        "k600/G.mp4": ("train", 0, "luge"),
        "k600/E.mp4": ("val", 0, "luge"),
        "k600/K.mp4": ("train", 3, "throwing ball"),
        "k700/H.mp4": ("train", 1, "sipping cup"),
        "k700/I.mp4": ("train", 2, "archery"),
        "k700/J.mp4": ("val", 0, "luge"),
    }
    assert left_out(manifest) == {
        "k400/B.mp4": "held out",  # Kinetics-700's test set
        "k400/F_000000_000010": "missing file",
        "k600/A_000000_000010.mp4": "duplicate",
        "k600/C_000003_000013.mp4": "held out",
        "k700/E.mp4": "held out",
        "k700/F.mp4": "not labelled",  # a file of Kinetics-700 is none of Kinetics-400
    }
    assert any(GUESS in warning for warning in manifest.warnings) == ("misc" in label_map)
    name = {"misc": "label_map_k710.txt"}.get(label_map, Path(label_map).name)
    assert manifest.class_order == f"the numbers of {name}"


def test_a_folder_above_that_of_kinetics710_is_not_searched_but_named(tmp_path):
    write(tmp_path / "csv", K710)
    misc = str(write(tmp_path / "misc", MISC))
    with pytest.raises(BuildError, match=rf"k400/train.csv.*annotations={tmp_path / 'csv'}$"):
        read_benchmark("kinetics710", str(tmp_path), str(tmp_path), misc)


def test_kinetics710_needs_a_label_map_that_fits(tmp_path):
    options = {"videos": K710_VIDEOS, "lists": K710, "tmp_path": tmp_path}
    with pytest.raises(BuildError, match=r"label_map is missing: .*misc of VideoMAE"):
        read("kinetics710", **options)
    misc = write(tmp_path / "misc", MISC)
    (misc / "label_map_k600.txt").unlink()
    with pytest.raises(BuildError, match="no number for 1 of 4 labels, such as chopping vegetab"):
        read("kinetics710", **options, label_map=str(misc))
    write(misc, {"k710_identical_label_merge.json": '{"drinking": 1}'})
    with pytest.raises(BuildError, match=r"merge.json, entry 1: found 1, expected another name of"):
        read("kinetics710", **options, label_map=str(misc))
    (misc / "label_map_k710.txt").unlink()
    with pytest.raises(BuildError, match=r"misc: has no label_map_k710.txt; expected the folder"):
        read("kinetics710", **options, label_map=str(misc))


def test_kinetics600_in_either_order(tmp_path):
    lists = {name[5:]: text for name, text in K710.items() if name.startswith("k600")}
    videos = [name[5:] for name in K710_VIDEOS if name.startswith("k600")]
    plain = read("kinetics600", tmp_path, lists, videos)
    assert plain.label_names == ("archery", "chopping vegetables", "luge", "sipping cup")
    assert taken(plain)["K.mp4"][1] == 1
    assert "sorted" in plain.class_order
    assert [w for w in plain.warnings if "heads of VideoMAE V2 have that of its label_map" in w]
    misc = str(write(tmp_path / "misc", MISC))
    theirs = read("kinetics600", tmp_path, {}, (), label_map=misc)
    assert theirs.label_names == ("luge", "throwing ball", "archery", "sipping cup")
    assert {path: v[1] for path, v in taken(theirs).items()} == {
        "A_000000_000010.mp4": 3, "C_000003_000013.mp4": 2, "D.mp4": 2, "G.mp4": 0, "E.mp4": 0,
        "K.mp4": 1,
    }  # fmt: skip
    assert [w for w in theirs.warnings if GUESS in w]
    assert theirs.class_order == "the numbers of label_map_k600.txt"


def test_a_map_in_the_order_of_the_labels_tells_their_other_names_by_their_places(tmp_path):
    labels = ("archery", "golf", "hugging", "luge", "opening bottle", "zumba")
    lists = {"val.csv": HEADER + "".join(f"{x},{x[:2]},0,1,val,0\n" for x in labels)}
    order = tmp_path / "label_map_k400.txt"
    order.write_text("archery\ngolf\nhugging baby\nluge\nopening wine bottle\nzumba\n")
    videos = [f"{label[:2]}.mp4" for label in labels]
    manifest = read("kinetics400", tmp_path, lists, videos, label_map=str(order))
    assert [taken(manifest)[video][1] for video in videos] == [0, 1, 2, 3, 4, 5]
    assert [w for w in manifest.warnings if "'opening bottle' is its 'opening wine bottle'" in w]
    order.write_text("golf\narchery\nhugging baby\nluge\nopening wine bottle\nzumba\n")
    with pytest.raises(BuildError, match="no number for 2 of 6 labels, such as hugging, opening"):
        read("kinetics400", tmp_path, {}, (), label_map=str(order))


def test_kinetics_without_a_training_list_or_headers(tmp_path):
    lists = {
        "k400_val.csv": "abseiling,A,10,20,validate,0\nzumba,B,0,10,validate,0\n",
        "k400_test.csv": "C,5,15,test\n",
    }
    manifest = read("kinetics400", tmp_path, lists, ("A_000010_000020.mp4", "B.mp4", "C.mp4"))
    assert taken(manifest) == {
        "A_000010_000020.mp4": ("val", 0, "abseiling"),
        "B.mp4": ("val", 1, "zumba"),
    }
    assert left_out(manifest) == {"C.mp4": "test video"}
    text = "\n".join(manifest.warnings)
    assert "lists: no list for train among k400_test.csv, k400_val.csv; there will be no" in text
    assert (
        "k400_test.csv: has no header; its columns are read as youtube_id,time_start,time" in text
    )
