"""Labelled benchmarks from tiny trees of the shape in which their owners ship them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_trees import HEADER, left_out, read, taken, write

from vmae_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from vmae_jax.data import synthetic
from vmae_jax.data.build import BuildError, annotations, build
from vmae_jax.data.build.benchmarks import BENCHMARKS, read_benchmark
from vmae_jax.data.clips import Record
from vmae_jax.data.evaluation import open_eval
from vmae_jax.data.pipeline import open_clips
from vmae_jax.data.records import class_order, open_dataset

UCF = {
    "classInd.txt": "1 ApplyEyeMakeup\n2 Archery\n3 HandstandPushups\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
    "Archery/v_Archery_g08_c01.avi 2\r\n",
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n"
    "HandstandPushups/v_HandStandPushups_g01_c01.avi\n",
}
UCF_VIDEOS = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "Archery/v_Archery_g08_c01.avi",
    "HandstandPushups/v_HandstandPushups_g01_c01.avi",
)
HMDB = {
    "wave_test_split2.txt": "#20_wave_f_cm_np1.avi 2 \nb_wave_f_cm_np1.avi 1 \nc_wave.avi 0 \n",
    "brush_hair_test_split2.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n",
    "wave_test_split1.txt": "#20_wave_f_cm_np1.avi 1 \n",
}
HMDB_VIDEOS = (
    "wave/#20_wave_f_cm_np1.avi",
    "wave/b_wave_f_cm_np1.avi",
    "wave/c_wave.avi",
    "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
)
SSV2 = {
    "something-something-v2-labels.json": json.dumps(
        {"Holding something": "1", "Approaching something with your camera": "0"}
    ),
    "something-something-v2-train.json": json.dumps(
        [
            {"id": "78687", "label": "holding a cup", "template": "Holding [something]"},
            {"id": "7", "template": "Approaching [something] with your camera"},
        ]
    ),
    "something-something-v2-validation.json": json.dumps(
        [{"id": "74225", "template": "Holding [something]"}]
    ),
    "something-something-v2-test.json": json.dumps([{"id": "5"}, {"id": "6"}]),
}


# ---- One benchmark after the other ----


def test_ucf101(tmp_path):
    more = ("Archery/v_Archery_g02_c01.avi", "readme.txt")
    manifest = read("ucf101:1", tmp_path, UCF, UCF_VIDEOS + more)
    assert taken(manifest) == {
        UCF_VIDEOS[0]: ("val", 0, "ApplyEyeMakeup"),
        UCF_VIDEOS[1]: ("train", 0, "ApplyEyeMakeup"),
        UCF_VIDEOS[2]: ("train", 1, "Archery"),
        UCF_VIDEOS[3]: ("val", 2, "HandstandPushups"),  # whose case differs from the list's
    }
    assert manifest.label_names == ("ApplyEyeMakeup", "Archery", "HandstandPushups")
    assert left_out(manifest) == dict.fromkeys(more, "not labelled")
    assert manifest.warnings == (
        "ucf101:1: found 3 classes, officially 101",
        "ucf101:1: the lists have 2 videos for train, officially 9537",
        "ucf101:1: the lists have 2 videos for val, officially 3783",
    )


def test_hmdb51(tmp_path):
    manifest = read("hmdb51:2", tmp_path, HMDB, HMDB_VIDEOS)
    assert taken(manifest) == {
        HMDB_VIDEOS[0]: ("val", 1, "wave"),
        HMDB_VIDEOS[1]: ("train", 1, "wave"),
        HMDB_VIDEOS[3]: ("train", 0, "brush_hair"),
    }
    assert left_out(manifest) == {HMDB_VIDEOS[2]: "unused video"}
    assert "hmdb51:2: the lists have 1 videos for unused, officially 1666" in manifest.warnings


def test_ssv2(tmp_path):
    videos = ("78687.webm", "parts/7.webm", "74225.webm", "5.webm")
    manifest = read("ssv2", tmp_path, SSV2, videos)
    assert taken(manifest) == {
        "78687.webm": ("train", 1, "Holding something"),
        "parts/7.webm": ("train", 0, "Approaching something with your camera"),
        "74225.webm": ("val", 1, "Holding something"),
    }
    assert left_out(manifest) == {"5.webm": "test video"}
    assert "ssv2: the lists have 2 videos for test, officially 27157" in manifest.warnings
    (tmp_path / "lists/something-something-v2-test.json").unlink()  # need not be there
    manifest = read("ssv2", tmp_path, {}, ())
    assert left_out(manifest) == {"5.webm": "not labelled"}
    assert not [warning for warning in manifest.warnings if "for test" in warning]


@pytest.mark.parametrize("benchmark", ["ucf101:1", "hmdb51:2"])
def test_videos_encoded_again_or_in_one_folder_are_found(tmp_path, benchmark):
    lists, names = {"ucf101:1": (UCF, UCF_VIDEOS), "hmdb51:2": (HMDB, HMDB_VIDEOS)}[benchmark]
    own = read(benchmark, tmp_path, lists, names)
    assert not [w for w in own.warnings if "rest of their names" in w]
    flat = [f"all/{Path(name).stem}.MKV" for name in names]
    videos = write(tmp_path / "flat", flat)
    again = read_benchmark(benchmark, str(videos), str(tmp_path / "lists"))
    stems = {Path(path).stem.lower(): v for path, v in taken(own).items()}
    assert {Path(path).stem.lower(): v for path, v in taken(again).items()} == stems
    assert [w for w in again.warnings if f"{len(stems)} videos, such as all/" in w]


def test_what_was_not_found_is_said_with_where_it_was_sought(tmp_path):
    lists, videos = write(tmp_path / "zip/lists", UCF), write(tmp_path / "videos", ("a.avi",))
    with pytest.raises(BuildError, match=r"videos: none of the 4 listed .* found 1 others, such a"):
        read_benchmark("ucf101:1", str(videos), str(lists), max_missing=1.0)
    for up in (tmp_path / "zip", tmp_path):
        with pytest.raises(BuildError, match=rf"no file classInd.txt; give.*annotations={lists}$"):
            read_benchmark("ucf101:1", str(videos), str(up))


# ---- What does not fit ----


@pytest.mark.parametrize(
    ("benchmark", "file", "text", "message"),
    [
        ("ucf101:1", "classInd.txt", "1 A\n3 B\n", r"classInd.txt, line 2: found '3 B', .*'2 "),
        ("ucf101:1", "trainlist01.txt", "Archery/a.avi 1\n", "trainlist01.txt, line 1: found"),
        ("ucf101:1", "trainlist01.txt", "Archery/a.avi 2\nBogus/b.avi 2\n", "list01.txt, line 2: "),
        ("ucf101:1", "testlist01.txt", "\nArchery/../../a.avi\n", "line 2: .*folder of videos"),
        ("ucf101:1", "testlist01.txt", "Archery/..\n", "line 1: found '..', .*folder of videos"),
        ("hmdb51:2", "wave_test_split2.txt", "a.avi 1 \nb.avi 3 \n", "split2.txt, line 2: found"),
        ("hmdb51:2", "wave_test_split2.txt", "../../etc/a.avi 1\n", "line 1: .*folder of videos"),
        ("kinetics400", "train.csv", "label,id\n", "train.csv, line 1: .*header with youtube_id"),
        ("kinetics400", "train.csv", HEADER + "a,B,0,1,train\n", "line 2: found '5 columns: "),
        ("kinetics400", "train.csv", HEADER + "a,B,0,x,train,0\n", "line 2: .*whole seconds"),
        ("kinetics400", "train.csv", HEADER + "a,../B,0,1,train,0\n", "line 2: .*folder of videos"),
        ("kinetics400", "train.csv", HEADER + "a,B,0,1,extra,0\n", "line 2: found 'extra'"),
        ("kinetics400", "train.csv", HEADER + ",B,0,1,train,0\n", "line 2: B has no label"),
        ("kinetics400", "train.csv", HEADER + 'a,B,0,1,train,"0\nb,C,0,1,train,0\n', "line 2: "),
        ("ssv2", "something-something-v2-train.json", "[\n{]", "train.json, line 2: "),
        ("ssv2", "something-something-v2-train.json", "{}", "expected a JSON list"),
        ("ssv2", "something-something-v2-train.json", "[1]", "train.json, entry 1: found 1"),
        (
            "ssv2",
            "something-something-v2-train.json",
            '[{"id": "1", "template": "Holding [something]"}, {"id": "2", "template": "Eating"}]',
            "train.json, entry 2: found 'Eating'",
        ),
        (
            "ssv2",
            "something-something-v2-train.json",
            '[{"id": "../1", "template": "Holding [something]"}]',
            "entry 1: .*folder of videos",
        ),
        ("ssv2", "something-something-v2-labels.json", '{"A": "0", "B": "2"}', "without.* are 1"),
        ("ssv2", "something-something-v2-labels.json", '{"A": "x"}', "entry 1: .*number of 'A'"),
        ("ssv2", "something-something-v2-labels.json", '{"A\\n": "0"}', "entry 1: .*number of"),
        ("ssv2", "more-labels.json", "{}", r"expected one file \*labels.json, found 2"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, benchmark, file, text, message):
    lists = {"ucf101:1": UCF, "hmdb51:2": HMDB, "kinetics400": {}, "ssv2": SSV2}[benchmark]
    with pytest.raises(BuildError, match=message) as error:
        read(benchmark, tmp_path, {**lists, file: text}, ("x.mp4",))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    lists = write(tmp_path / "lists", UCF)
    (lists / "trainlist01.txt").write_bytes(b"Archery/a.avi 2\nArchery/\xff.avi 2\n")
    with pytest.raises(BuildError, match=r"trainlist01.txt, line 2: not UTF-8"):
        annotations.ucf101(str(lists), 1)


def test_wrong_arguments_are_one_clear_error(tmp_path):
    lists, videos = write(tmp_path / "lists", UCF), write(tmp_path / "videos", UCF_VIDEOS)
    for benchmark, options, message in [
        ("ucf101", {}, "expected ucf101:1 or ucf101:2 or ucf101:3"),
        ("ucf101:4", {}, "expected ucf101:1"),
        ("ssv2:1", {}, "expected ssv2"),
        ("imagenet", {}, "expected one of ucf101, hmdb51, kinetics400"),
        ("ucf101:2", {}, "trainlist02.txt: cannot be read"),
        ("ucf101:1", {"annotations": None}, r"annotations is missing; .*ucfTrainTestlist"),
        ("ucf101:1", {"videos": "nowhere"}, "videos=nowhere: no such folder.*unrar x UCF101.rar"),
        ("ucf101:1", {"label_map": "a.txt"}, "label_map=a.txt"),
        ("ucf101:1", {"max_missing": 2.0}, "max_missing=2.0"),
        ("ucf101:1", {"labels": "folders"}, "its own labels and splits"),
        ("hmdb51:1", {}, "found no file CLASS_test_split1.txt"),
        ("", {}, "--annotations: is read with --benchmark only"),
        ("", {"annotations": None, "label_map": "a"}, "--label_map: is read with --benchmark only"),
        ("", {"annotations": None, "empty_labels": "keep"}, "is read with --labels=TABLE only"),
    ]:
        given = {"videos": str(videos), "annotations": str(lists)} | options
        with pytest.raises(BuildError, match=message):
            build(out=tmp_path / "set", benchmark=benchmark, **given)
    assert not (tmp_path / "set").exists()


def test_the_table_counts_as_the_owners_do():
    totals = {sum(counts.values()) for counts in BENCHMARKS["ucf101"].counts.values()}
    assert totals == {13320}
    assert sum(BENCHMARKS["ssv2"].counts[0].values()) == 220847
    assert {sum(counts.values()) for counts in BENCHMARKS["hmdb51"].counts.values()} == {6766}
    train, val = (51 * number for number in (70, 30))
    assert all((c["train"], c["val"]) == (train, val) for c in BENCHMARKS["hmdb51"].counts.values())


# ---- From the files to a data set ----


def test_command_builds_a_dataset(tmp_path):
    sources = synthetic.write_videos(
        tmp_path / "source", clips_per_class=1, size=(48, 32), num_frames=20
    )
    videos, lists = tmp_path / "UCF-101", write(tmp_path / "UCF-101/lists", UCF)
    for clip, name in zip(sources, UCF_VIDEOS, strict=False):
        (videos / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, videos / name)
    (videos / UCF_VIDEOS[1]).write_bytes(b"broken")
    flags = {"benchmark": "ucf101:1", "videos": videos, "annotations": lists, "out": "set"}
    done = subprocess.run(
        [sys.executable, "-m", "vmae_jax.data.build", "--workers=1"]
        + [f"--{name}={value}" for name, value in flags.items()],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    warning = "ucf101:1: the lists have 2 videos for train, officially 9537"
    assert f"warning: {warning}\n" in done.stderr  # before the work
    assert (done.stderr + done.stdout).count(warning) == 1
    assert "cannot be opened: 1" in done.stdout
    assert "classes: in the order of the lines of classInd.txt" in done.stdout
    assert "not labelled" not in done.stdout  # the lists lie among the videos
    report = json.loads((tmp_path / "set/report.json").read_text())
    assert warning in report["warnings"]
    found = {}
    assert class_order(str(tmp_path / "set")) == "the lines of classInd.txt"
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path / "set", split)
        assert dataset.label_names == ("ApplyEyeMakeup", "Archery", "HandstandPushups")
        records = [Record.parse(dataset.source[i]) for i in range(len(dataset.source))]
        found |= {r.path: (split, r.label, r.label_name) for r in records}
    assert found == {
        UCF_VIDEOS[0]: ("val", 0, "ApplyEyeMakeup"),
        UCF_VIDEOS[2]: ("train", 1, "Archery"),
        UCF_VIDEOS[3]: ("val", 2, "HandstandPushups"),
    }
    config = Config(
        task="finetune",
        model=ModelConfig("tiny", image_size=16, num_frames=4),
        data=DataConfig(str(tmp_path / "set"), batch_size=1, views=1, stride=2),
        eval=EvalConfig(split="val", clips=1, crops=1, batch_size=2),
    )
    with open_clips(config) as clips:
        assert next(clips)["label"].tolist() == [1]
    with open_eval(config) as stream:
        assert sorted(next(stream)["label"].tolist()) == [0, 2]
