"""Files of other people that were once read wrongly, and what is right, in `shared/cases`."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vmae_jax.convert import files, load
from vmae_jax.data import clips
from vmae_jax.data.build import BuildError, build
from vmae_jax.data.build.manifest import read_manifest
from vmae_jax.data.build.transcode import Encoding, transcode
from vmae_jax.data.records import open_dataset
from vmae_jax.data.videos import open_video, stream_video
from vmae_jax.data.views import EvalViews, Windows


@pytest.fixture(scope="module")
def cases() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/cases beside the project")
    return folder


# ---- Time ----


def bars(frames) -> list[int]:
    """The numbers that are painted on pictures as eight bars, the lowest bit first."""
    found = []
    for frame in frames:
        height, width = frame.shape[0], frame.shape[1] / 8
        rows = frame[height // 4 : -height // 4]
        bits = (rows[:, int(width * (b + 0.25)) : int(width * (b + 0.75))] for b in range(8))
        found.append(sum(1 << b for b, part in enumerate(bits) if part.mean() > 125))
    return found


def built(path) -> np.ndarray:
    (record,) = transcode(str(path), Encoding())
    return clips.decode_frames(record, np.arange(record.num_frames))


def three_ways(path) -> list[list[int]]:
    """Numbers of the pictures in one pass, by number, and of the built record."""
    video = open_video(path)
    by_number = video.frames(np.arange(video.num_frames), 64)
    return [bars(stream_video(path, 64)), bars(by_number), bars(built(path))]


@pytest.mark.parametrize("name", ["exo_mkv_sample.mkv", "exo_flv_sample.flv", "exo_mp4_sample.mp4"])
def test_the_rate_is_that_of_the_pictures(cases, name):
    path = cases / "01_fps_1000" / name
    video = open_video(path)
    assert video.num_frames == 30
    assert video.fps == pytest.approx(30, abs=0.5)
    assert video.shown.tolist() == list(range(30))
    windows = Windows(EvalViews(1, 1, 16, 64, "dense", 1), every=4)
    assert sum(1 for _ in windows(str(path))) == 4


@pytest.mark.parametrize("name", ["chrome_30_j6_nofps.webm", "same_30.mp4"])
def test_a_browser_s_recording(cases, name):
    video = open_video(cases / "01_fps_1000" / name)
    assert video.fps == pytest.approx(30, abs=0.5)
    assert abs(video.num_frames - 150) <= 3


def test_a_pause_thins_no_motion(cases):
    folder = cases / "02_vfr_pause"
    mp4, mkv = open_video(folder / "pause.mp4"), open_video(folder / "pause.mkv")
    assert mp4.fps == pytest.approx(mkv.fps, abs=0.05) == pytest.approx(30, abs=0.5)
    assert mp4.shown.tolist() == mkv.shown.tolist()
    for path in (folder / "pause.mp4", folder / "pause.mkv"):
        for seen in three_ways(path):
            assert seen[:150] == list(range(150))


@pytest.mark.parametrize("name", ["bf5.avi", "x264_veryslow.avi"])
def test_many_b_frames_in_avi(cases, name):
    for seen in three_ways(cases / "03_avi_bframes" / name):
        assert seen == list(range(100))


@pytest.mark.parametrize("name", ["cat_vob.mpg", "cat_cc.ts", "twice.ts"])
def test_time_that_starts_again(cases, name):
    path = cases / "04_time_restarts" / name
    for seen in three_ways(path):
        assert seen == [*range(100), *range(100)]
    assert any("starts anew after 100 pictures" in note for note in open_video(path).notes)


def test_packets_without_times_lead(cases):
    for seen in three_ways(cases / "04_time_restarts" / "trim_neg.mkv"):
        assert seen == list(range(15, 100))


def test_wild_times_among_good_ones(cases):
    for seen in three_ways(cases / "04_time_restarts" / "spike22.mp4"):
        assert abs(len(seen) - 100) <= 2
        assert seen == sorted(seen)
        assert len(set(seen)) >= 98


@pytest.mark.parametrize(
    ("name", "pictures"), [("water_180_mvhevc_5frames.mov", 5), ("mjpeg_exif_o1.avi", 30)]
)
def test_side_data_of_unknown_kinds(cases, name, pictures):
    assert open_video(cases / "05_side_data" / name).num_frames == pictures


# ---- Labels ----


def by_name(manifest) -> dict[str, str]:
    return {Path(v.path).stem: v.label_name for v in manifest.videos}


@pytest.mark.parametrize("name", ["ls.csv", "nel.csv"])
def test_odd_separators_shift_no_class(cases, tmp_path, name):
    folder = cases / "06_labels_splitlines"
    build(folder, tmp_path / "set", labels=str(folder / name), workers=1)
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset.label_names) == 3
    for payload in map(dataset.source.__getitem__, range(len(dataset.source))):
        record = clips.Record.parse(payload)
        assert dataset.label_names[record.label] == record.label_name


def test_a_line_feed_in_a_name_is_refused(cases):
    folder = cases / "06_labels_splitlines"
    with pytest.raises(BuildError, match=r"nl\.csv, line 2: .* holds a line break"):
        read_manifest(str(folder), str(folder / "nl.csv"))


def test_folders_named_as_splits(cases):
    manifest = read_manifest(str(cases / "07_split_folders" / "tree"), "folders")
    assert manifest.label_names == ("jump", "run")
    splits = {video.path.split("/")[0]: video.split for video in manifest.videos}
    assert splits == {"train": "train", "val": "val"}
    assert len(manifest.videos) == 8
    assert any("train" in line and "val" in line for line in manifest.warnings)


@pytest.mark.parametrize("name", ["root", "thumbs"])
def test_a_class_is_a_folder_that_holds_a_video(cases, name):
    manifest = read_manifest(str(cases / "08_phantom_classes" / name), "folders")
    assert manifest.label_names == ("jump", "run")
    assert len(manifest.videos) == 2


def test_a_byte_order_mark_is_no_part_of_a_name(cases):
    manifest = read_manifest(str(cases / "09_bom_list" / "list.txt"))
    assert sorted(v.path for v in manifest.videos) == ["1.mp4", "2.mp4", "3.mp4"]
    assert not manifest.rejected


def test_one_order_of_classes_whatever_the_hash_seed(cases, tmp_path):
    for name in ("1", "3", "4"):
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    table = cases / "10_class_order" / "leadzero.csv"
    code = (
        "from vmae_jax.data.build.manifest import read_manifest\n"
        f"print(read_manifest({str(tmp_path)!r}, {str(table)!r}).label_names)"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")  # gave all three orders once
    }
    assert len(orders) == 1


def test_two_unicode_forms_are_one_class(cases):
    manifest = read_manifest(str(cases / "13_nfd" / "nfd"), "folders")
    assert len(manifest.label_names) == 1
    assert manifest.warnings


# ---- Checkpoints ----


def test_checkpoints_as_others_wrap_them(cases):
    names = ("args_path.pth", "mmaction2.pth", "model_state_dict.pt", "state_dict_ema.pth")
    loaded = [load.load(cases / "12_checkpoints" / name, heads=3) for name in names]
    for weights in loaded:
        assert weights.kind == "classifier"
        assert weights.num_parameters == loaded[0].num_parameters


# ---- Lists ----


@pytest.fixture
def two_videos(cases, tmp_path) -> Path:
    data = (cases / "09_bom_list" / "1.mp4").read_bytes()
    for name in ("1.mp4", "2.mp4", "3.mp4"):
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["caps.csv", "extra.csv", "nosuffix.csv", "prefixed.csv", "semicolon.csv", "swapped.csv",
     "tab.tsv"],
)  # fmt: skip
def test_lists_that_people_have(cases, two_videos, name):
    manifest = read_manifest(str(two_videos), str(cases / "14_lists" / name))
    assert by_name(manifest) == {"1": "run", "2": "jump"}


def test_rows_without_a_label_are_counted_and_left_out_or_kept(cases, two_videos):
    table = str(cases / "14_lists" / "emptylabel.csv")
    manifest = read_manifest(str(two_videos), table)
    assert by_name(manifest) == {"1": "run", "3": "jump"}
    assert any("1 rows have no label" in line for line in manifest.warnings)
    kept = read_manifest(str(two_videos), table, empty_labels="keep")
    assert by_name(kept) == {"1": "run", "2": "", "3": "jump"}


def test_a_list_without_a_header_names_what_is_accepted(cases, two_videos):
    with pytest.raises(BuildError, match=r"videomae\.csv, line 1: found '1\.mp4 0', expected the "):
        read_manifest(str(two_videos), str(cases / "14_lists" / "videomae.csv"))


@pytest.mark.parametrize("name", ["lab.csv", "lab_id2.json", "lab_map.json"])
def test_names_of_classes_in_a_file(cases, name):
    names = ("run", "jump", "sit", "lie", "fly", "swim")
    assert files.read_names(str(cases / "14_lists" / name)) == names
