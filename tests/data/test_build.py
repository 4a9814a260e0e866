"""Folders of videos to dataset directories: labels, splits, resuming, kills, processes, Beam."""

import functools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vmae_jax.data import synthetic
from vmae_jax.data.build import BuildError, build
from vmae_jax.data.build.manifest import read_manifest
from vmae_jax.data.clips import Record, decode_frames
from vmae_jax.data.records import open_dataset

NAMES = sorted(synthetic.CLASSES)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """20 tiny videos in 10 class folders. Never written to: it is shared by the tests."""
    folder = tmp_path_factory.mktemp("videos")
    synthetic.write_videos(folder, clips_per_class=2, size=(48, 32), num_frames=20)
    return folder


@pytest.fixture(scope="module")
def reference(videos, tmp_path_factory) -> Path:
    """An undisturbed build in this process."""
    out = tmp_path_factory.mktemp("reference") / "set"
    build(videos, out, labels="folders", num_shards=4, workers=1)
    return out


def content(out: Path) -> dict[str, bytes]:
    """Every file of a dataset directory by its name, the lock aside."""
    files = [path for path in sorted(Path(out).rglob("*")) if path.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in files if p.name != "lock"}


def records(out: Path, split: str = "train") -> list[Record]:
    source = open_dataset(out, split).source
    return [Record.parse(source[i]) for i in range(len(source))]


def command(videos, out, *flags) -> list[str]:
    return [
        sys.executable,
        "-m",
        "vmae_jax.data.build",
        f"--videos={videos}",
        f"--out={out}",
        *flags,
    ]


def run(*args) -> subprocess.CompletedProcess:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=120)


# ---- What comes out ----


def test_records_hold_the_videos(reference, videos):
    found = {r.path: r for r in records(reference)}
    assert sorted(found) == sorted(str(p.relative_to(videos)) for p in videos.rglob("*.mp4"))
    for path, record in found.items():
        assert record.id == path
        assert record.label_name == path.split("/")[0]
        assert record.label == NAMES.index(record.label_name)
        assert (record.width, record.height, record.num_frames) == (48, 32, 20)
        assert decode_frames(record, [0, 19]).shape == (2, 32, 48, 3)
    assert open_dataset(reference).label_names == tuple(NAMES)


def test_tfds_reads_the_directory(reference):
    info = tfds.builder_from_directory(str(reference)).info
    dataset = open_dataset(reference)
    assert info.splits["train"].shard_lengths == [len(i) for i in dataset.source.indexes]
    assert info.features["label"].names == NAMES
    for i in range(len(dataset.source)):
        record = Record.parse(dataset.source[i])
        example = info.features.deserialize_example_np(dataset.source[i])
        assert example["video"] == record.video
        assert example["path"].decode() == record.path
        assert (example["label"], example["num_frames"]) == (record.label, record.num_frames)
        assert example["fps"] == pytest.approx(record.fps)


def test_jpeg_frames(videos, tmp_path):
    build(videos, tmp_path / "set", codec="jpeg", short_side=16, workers=1)
    info = tfds.builder_from_directory(str(tmp_path / "set")).info
    dataset = open_dataset(tmp_path / "set")
    record = Record.parse(dataset.source[0])
    assert (record.codec, record.width, record.height, len(record.frames)) == ("jpeg", 24, 16, 20)
    assert decode_frames(record, [3]).shape == (1, 16, 24, 3)
    example = info.features.deserialize_example_np(dataset.source[0])
    assert list(example["frames"]) == list(record.frames)


def test_split_shares_are_exact_disjoint_and_repeatable(videos, tmp_path):
    for out in ("a", "b"):
        report = build(videos, tmp_path / out, split="train:0.75,val:0.25", workers=1)
    train, val = (records(tmp_path / "a", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 5)
    assert not {r.path for r in train} & {r.path for r in val}
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert report.splits["val"]["clips"] == 5


def test_segments_have_their_own_names_and_starts(videos, tmp_path):
    build(videos, tmp_path / "set", segment_seconds=8 / 24, workers=1)
    first = sorted(
        (r for r in records(tmp_path / "set") if "zoom_in_000" in r.path), key=lambda r: r.start
    )
    assert [r.id for r in first] == [f"zoom_in/zoom_in_000.mp4#{i}" for i in range(3)]
    assert [r.num_frames for r in first] == [8, 8, 4]
    assert [r.start for r in first] == pytest.approx([0, 8 / 24, 16 / 24])


def test_odd_videos_keep_11_of_12(shared, tmp_path):
    report = build(shared / "videos/odd", tmp_path / "set")
    assert (report.num_kept, report.num_rejected) == (11, 1)
    (broken,) = report.rejected["stream breaks"]
    assert (broken["path"], broken["frames"]) == ("corrupt_stream.mp4", 28)
    sizes = {r.path: (r.width, r.height, r.num_frames) for r in records(tmp_path / "set")}
    assert sizes["rotated.mp4"] == (256, 454, 17)
    assert sizes["rotated_90_3_frames.mov"] == (256, 454, 3)
    assert sizes["four_frames.gif"] == (64, 48, 4)
    for record in records(tmp_path / "set"):
        assert len(decode_frames(record, range(record.num_frames))) == record.num_frames
    written = json.loads((tmp_path / "set/report.json").read_text())
    assert written["rejected"] == {"stream breaks": [broken]}
    assert written["videos_kept"] == 11
    assert "corrupt_stream.mp4: after 28 frames, 2.8 s" in report.table()

    partial = build(shared / "videos/odd", tmp_path / "partial", keep_partial=True)
    assert partial.num_kept == 12
    assert [v["path"] for v in partial.partial] == ["corrupt_stream.mp4"]
    assert {r.path: r.num_frames for r in records(tmp_path / "partial")}["corrupt_stream.mp4"] == 28


def test_real_clips_are_all_kept(shared, tmp_path):
    report = build(shared / "videos/actions", tmp_path / "set", short_side=64)
    assert (report.num_kept, report.num_rejected) == (7, 0)
    assert report.splits["train"]["frames"] == 1444


# ---- The same bytes, whatever happens ----


def test_workers_do_not_change_the_bytes(videos, reference, tmp_path):
    build(videos, tmp_path / "set", labels="folders", num_shards=4, workers=2)
    assert content(tmp_path / "set") == content(reference)


def test_beam_does_not_change_the_bytes(videos, reference, tmp_path):
    pytest.importorskip("apache_beam", reason="Beam is not installed (extra 'build')")
    build(
        videos,
        tmp_path / "set",
        labels="folders",
        num_shards=4,
        beam_options="runner=DirectRunner,direct_num_workers=1",
    )
    assert content(tmp_path / "set") == content(reference)
    with pytest.raises(BuildError, match="no_such_option"):
        build(videos, tmp_path / "other", beam_options="no_such_option=1")


def test_finished_shards_are_not_built_again(videos, reference, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(reference, out)
    shards = sorted(out.glob("*.tfrecord-*-of-*4"))
    shards[1].with_name(shards[1].name + ".idx").unlink()
    before = {path: path.stat().st_mtime_ns for path in shards}
    build(videos, out, labels="folders", num_shards=4, workers=1)
    assert [p for p in shards if p.stat().st_mtime_ns != before[p]] == [shards[1]]
    assert content(out) == content(reference)


def test_a_cut_shard_is_built_again(videos, reference, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(reference, out)
    shard = sorted(out.glob("*.tfrecord-*-of-*4"))[2]
    shard.write_bytes(shard.read_bytes()[:-7])
    build(videos, out, labels="folders", num_shards=4, workers=1)
    assert content(out) == content(reference)


def test_an_unfinished_build_of_an_earlier_version_goes_on_and_says_so(
    videos, reference, tmp_path, caplog
):
    """Its plan has no rule of times: finished shards are as that version made them."""
    out = tmp_path / "set"
    shutil.copytree(reference, out)
    plan = json.loads((out / "build/plan.json").read_text())
    del plan["time_rule"]
    (out / "build/plan.json").write_text(json.dumps(plan))
    again = functools.partial(build, videos, out, labels="folders", num_shards=4, workers=1)
    again()
    assert "timed videos" not in caplog.text  # a finished set stays as it is
    (out / "dataset_info.json").unlink()
    again()
    assert "timed videos of variable rate differently" in caplog.text


def test_kill_9_leaves_nothing_half_and_a_restart_finishes(videos, reference, tmp_path):
    out, flags = tmp_path / "set", ("--labels=folders", "--num_shards=4", "--workers=2")
    draw = random.Random(0)
    killed = 0
    for _ in range(4):
        child = subprocess.Popen(
            command(videos, out, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Waits for an event, not for a time: some number of finished or begun files.
        target = draw.randrange(1, 9)
        while child.poll() is None and len(list(out.glob("*.tfrecord-*"))) < target:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        wanted = content(reference)
        for name, data in content(out).items():
            if name.endswith(".incomplete") or name == "build/plan.json":
                continue
            if not name.endswith(".json"):
                assert data == wanted[name], name
    assert killed
    assert run(videos, out, *flags).returncode == 0
    assert content(out) == content(reference)


def test_a_worker_that_dies_is_an_error_that_names_its_videos(videos, tmp_path):
    def kill_a_worker(begun, total):
        if begun == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(BuildError, match=r"a worker process died.*\.mp4"):
        build(videos, tmp_path / "set", num_shards=4, workers=2, progress=kill_a_worker)
    build(videos, tmp_path / "set", num_shards=4, workers=2)
    assert len(records(tmp_path / "set")) == 20


def test_a_bucket_as_out_is_refused_in_words(tmp_path):
    with pytest.raises(BuildError, match=r"--out=gs://b/x: expected a folder .* copy"):
        build(tmp_path, "gs://b/x")


def test_two_builds_do_not_share_a_directory(videos, tmp_path):
    child = subprocess.Popen(
        command(videos, tmp_path / "set", "--workers=1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while child.poll() is None and not (tmp_path / "set/build/plan.json").exists():
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BuildError, match="another build"):
            build(videos, tmp_path / "set", workers=1)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()


def test_other_settings_or_videos_are_refused_by_name(videos, reference, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(reference, out)
    with pytest.raises(BuildError, match="short_side was 256, is 64"):
        build(videos, out, labels="folders", num_shards=4, short_side=64)
    more = tmp_path / "videos"
    shutil.copytree(videos, more)  # keeps the files' times
    (more / "thumbs").mkdir()
    (more / "thumbs/1.jpg").touch()
    report = build(more, out, labels="folders", num_shards=4)  # the same videos elsewhere
    assert [v["path"] for v in report.rejected["not in a class folder"]] == ["thumbs/1.jpg"]
    assert list(report.warnings) == json.loads((out / "report.json").read_text())["warnings"]
    assert "1 files in folders without a video are left out" in report.warnings[0]
    build(videos, out, labels="folders", num_shards=4)
    (more / "zoom_in/new.mp4").write_bytes(b"new")
    os.utime(more / "zoom_out/zoom_out_000.mp4")
    with pytest.raises(BuildError, match=r"1 videos added.*new\.mp4.*1 videos changed.*zoom_out_0"):
        build(more, out, labels="folders", num_shards=4)
    assert content(out) == content(reference)


# ---- What goes in ----


def test_rejected_videos_may_leave_a_shard_empty(videos, tmp_path):
    source = tmp_path / "videos"
    source.mkdir()
    shutil.copy(videos / "zoom_in/zoom_in_000.mp4", source / "good.mp4")
    for i in range(3):
        (source / f"bad{i}.mp4").write_bytes(b"nothing")
    (source / ".hidden").write_bytes(b"")
    (source / "notes.txt").write_text("not a video\n" * 20)
    cv2.imwrite(str(source / "still.png"), np.zeros((8, 8, 3), np.uint8))
    report = build(source, tmp_path / "set", num_shards=6, workers=1)
    assert report.num_kept == 1
    assert {k: [v["path"] for v in vs] for k, vs in report.rejected.items()} == {
        "cannot be opened": ["bad0.mp4", "bad1.mp4", "bad2.mp4", "notes.txt"],
        "not a video": ["still.png"],
    }
    dataset = open_dataset(tmp_path / "set")
    assert sorted(map(len, dataset.source.indexes)) == [0, 0, 0, 0, 0, 1]
    assert dataset.label_names == ()
    assert Record.parse(dataset.source[0]).label == -1


def test_csv_gives_labels_and_splits(videos, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "path,label,split\n"
        "zoom_in/zoom_in_000.mp4,10,train\n"
        "zoom_out/zoom_out_000.mp4,9,train\n"
        "move_up/move_up_000.mp4,,val\n"
        '"gone, with a comma.mp4",9,train\n'
    )
    report = build(videos, tmp_path / "set", labels=str(table), empty_labels="keep", workers=1)
    assert open_dataset(tmp_path / "set").label_names == ("9", "10")  # numbers sort as numbers
    assert {r.path: r.label for r in records(tmp_path / "set")} == {
        "zoom_in/zoom_in_000.mp4": 1,
        "zoom_out/zoom_out_000.mp4": 0,
    }
    assert [r.label for r in records(tmp_path / "set", "val")] == [-1]
    (missing,) = report.rejected["missing file"]
    assert missing["path"] == "gone, with a comma.mp4"
    assert "line 5" in missing["detail"]
    assert len(report.rejected["not labelled"]) == 17
    missing, warning = report.warnings
    assert missing == "1 of 4 paths name no file, such as gone, with a comma.mp4"
    assert "1 rows have no label, such as" in warning
    assert "line 4; kept, but fine-tuning stops at them" in warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,x\n", "line 1: .*path,label"),
        ("path,label\na.mp4\n", "line 2: found 1 columns, expected 2"),
        ("path,label\na.mp4,x\nb.mp4,y\na.mp4,z\n", "line 4: a.mp4 is on line 2 too"),
        ("path,label,split\na.mp4,x,all\n", "line 2: split 'all'"),
        ("path,label\n\n,x\n", "line 3: the path is empty"),
        ("path,label\n", "no row"),
    ],
)
def test_csv_errors_name_the_line(videos, tmp_path, text, message):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(BuildError, match=message):
        read_manifest(str(videos), str(table))


def test_a_list_file_names_the_videos(videos, tmp_path):
    listing = tmp_path / "list.txt"
    inside = tmp_path / "clips"
    inside.mkdir()
    shutil.copy(videos / "zoom_in/zoom_in_000.mp4", inside / "a.mp4")
    outside = videos / "zoom_out/zoom_out_000.mp4"
    listing.write_text(f"clips/a.mp4\n\n{inside / 'a.mp4'}\n{outside}\nclips/gone.mp4\n")
    manifest = read_manifest(str(listing), "folders")
    assert {v.path: v.label_name for v in manifest.videos} == {
        "clips/a.mp4": "clips",
        str(outside): "zoom_out",
    }
    assert [r[:2] for r in manifest.rejected] == [("clips/gone.mp4", "missing file")]


def test_wrong_arguments_are_one_clear_error(videos, tmp_path):
    for options, message in [
        ({"labels": "no.csv"}, "no.csv: no such file"),
        ({"split": "train:0.9,val:0.2"}, "add up to 1"),
        ({"short_side": 33}, "short_side=33"),
        ({"codec": "vp9"}, "h264, jpeg"),
        ({"name": "My Set"}, "name=My Set"),
    ]:
        with pytest.raises(BuildError, match=message):
            build(videos, tmp_path / "set", **options)
    with pytest.raises(BuildError, match="no such folder or list"):
        build(tmp_path / "nowhere", tmp_path / "set")
    with pytest.raises(BuildError, match="lie in no class folder"):
        build(videos / "zoom_in", tmp_path / "set", labels="folders")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").write_text("x")
    with pytest.raises(BuildError, match="was not made by this builder"):
        build(videos, tmp_path / "mine")


# ---- The command ----


def test_command_prints_a_summary_and_what_to_do_next(videos, tmp_path):
    done = run(videos / "zoom_in", tmp_path / "set", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert "2 videos kept, 0 rejected" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert "python -m vmae_jax.main" in last
    assert last.endswith(f"--config.data.dataset={tmp_path / 'set'} --workdir=runs/set")
    assert not done.stderr, "a bar is for terminals"


def test_command_fails_in_one_line_when_nothing_is_left(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_bytes(b"nothing")
    done = run(tmp_path / "videos", tmp_path / "set")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no video is left of 1 (cannot be opened: a.mp4)" in done.stderr.splitlines()[-1]
    assert "a.mp4" in (tmp_path / "set/report.json").read_text()
