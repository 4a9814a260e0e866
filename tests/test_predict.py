"""Top-5 of video files: which, what is printed, what a broken one does to the others."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from tiny_models import CONFIG, LABELS, checkpoint, random_weights, write_video

from vmae_jax import model as model_lib
from vmae_jax import predict, viz
from vmae_jax.convert.rules import ConversionError
from vmae_jax.data import inputs
from vmae_jax.data.build import manifest
from vmae_jax.data.videos import open_video
from vmae_jax.data.views import EvalViews

VIEWS = EvalViews(1, 1, CONFIG.num_frames, CONFIG.image_size, "dense", 4)


@pytest.fixture(scope="module")
def model():
    return model_lib.from_weights(random_weights())


def command(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vmae_jax.predict", *args], capture_output=True, text=True
    )


# ---- Which files ----


def test_files_folders_and_patterns_are_found_once(tmp_path):
    for name in ("b.mp4", "a.mp4", ".hidden.mp4", "deep/er/c.avi", ".git/d.mp4", "deep/x[1].mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = str(tmp_path)
    everything = ["a.mp4", "b.mp4", "deep/x[1].mp4", "deep/er/c.avi"]
    assert inputs.find([root]) == [f"{root}/{name}" for name in everything]
    assert inputs.find([f"{root}/*.mp4", f"{root}/a.mp4"]) == [f"{root}/a.mp4", f"{root}/b.mp4"]
    assert inputs.find([f"{root}/**/*.avi", f"{root}/d*"]) == [
        f"{root}/deep/er/c.avi", f"{root}/deep/x[1].mp4"
    ]  # fmt: skip
    assert inputs.find([f"{root}/deep/x[1].mp4"]) == [f"{root}/deep/x[1].mp4"]
    (tmp_path / "empty").mkdir()
    unknown = [f"{root}/none.mp4", f"{root}/*.mkv", f"{root}/empty"]
    assert inputs.find(unknown) == unknown


def test_a_folder_s_videos_are_those_with_a_video_s_suffix(tmp_path, caplog):
    for name in ("a.MP4", "a.srt", "b/c.webm", "b/c.json", "out/a.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    root = str(tmp_path)
    assert inputs.find([root], leave_out=f"{root}/out") == [f"{root}/a.MP4", f"{root}/b/c.webm"]
    assert "2 files are no videos by their names and left out" in caplog.text
    assert inputs.find([f"{root}/a.srt", f"{root}/b/*"]) == [
        f"{root}/a.srt", f"{root}/b/c.json", f"{root}/b/c.webm"
    ]  # fmt: skip


def test_what_is_no_file_is_named_and_never_opened(model, tmp_path, capsys):
    """A FIFO that nobody writes to would not even open; the clip after it is answered."""
    folder = tmp_path / "clips"
    folder.mkdir()
    os.mkfifo(folder / "a.mp4")
    (folder / "b.mp4").symlink_to("nowhere")
    (folder / "c.mp4").symlink_to("/dev/zero")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(os.path.relpath(folder / "d.mp4"))
        clips = [*inputs.find([str(folder)]), write_video(tmp_path / "good.mp4")]
        failures = predict.run(clips, model, LABELS, VIEWS, as_json=True)
    kinds = ("a FIFO", "a dangling link", "a device", "a socket")
    assert failures == [
        f"{clip}: cannot be opened: {kind}" for clip, kind in zip(clips[:4], kinds, strict=True)
    ]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clip"] == clips[4]


def test_linked_folders_are_searched_once_and_unreadable_ones_are_errors(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "videos").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.mp4").touch()
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "videos" / "linked_too").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "videos")
    root = str(tmp_path / "videos")
    assert inputs.find([root]) == [f"{root}/linked/a.mp4"]
    assert [v.path for v in manifest.read_manifest(root).videos] == ["linked/a.mp4"]
    # Of a link and the folder itself, the folder counts, whichever is the first by its name.
    (tmp_path / "store" / "alias").symlink_to(tmp_path / "store" / "jump")
    (tmp_path / "store" / "jump").mkdir()
    (tmp_path / "store" / "jump" / "b.mp4").touch()
    caplog.clear()
    assert inputs.find([str(tmp_path / "store")]) == [
        f"{tmp_path}/store/a.mp4", f"{tmp_path}/store/jump/b.mp4"
    ]  # fmt: skip
    assert "3 links to folders are left out" in caplog.text

    def locked(path):
        if str(path).endswith("linked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    scandir = os.scandir  # the super-user may read everything, so no mode does
    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError):
        inputs.find([root])
    with pytest.raises(manifest.BuildError, match=r"linked cannot be read \(Permission denied\)"):
        manifest.read_manifest(root)


def test_jobs_take_turns_in_an_order_of_their_own():
    jobs = [iter(job) for job in (["a0"], ["b0", "b1", "b2"], ["c0", "c1"], [])]
    assert list(inputs.interleave(jobs, 2)) == ["a0", "b0", "b1", "c0", "b2", "c1"]
    one_each = [iter([i]) for i in range(20)]
    assert list(inputs.interleave(one_each, 3)) == list(range(20))
    assert list(inputs.interleave([], 3)) == []


def test_what_a_job_raises_reaches_the_caller():
    def job():
        yield 1
        raise ValueError("broken")

    found = inputs.interleave([job()], 2)
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


# ---- What is said of them ----


def test_probabilities_are_the_mean_over_the_views(model, tmp_path):
    clip = write_video(tmp_path / "clip.mp4")
    views = EvalViews(2, 3, CONFIG.num_frames, CONFIG.image_size, "dense", 2)
    ((shown, probabilities),) = predict.predict(model, [clip], views)
    video = views.of_file(open_video(clip))
    np.testing.assert_array_equal(shown.views, video)
    expected = jax.nn.softmax(model.apply(model.params, video)).mean(0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert shown.numbers.shape == (6, CONFIG.num_frames)
    assert shown.numbers[:3].tolist() == [[0, 2, 4, 6]] * 3


def test_top_five_in_order_with_ties_by_number():
    best = predict.top(np.array([0.1, 0.3, 0.1, 0.3, 0.15, 0.05]), LABELS)
    assert [b["class"] for b in best] == [1, 3, 4, 0, 2]
    assert best[0] == {"class": 1, "label": "jump", "probability": 0.3}
    assert len(predict.top(np.array([0.4, 0.6]), LABELS[:2])) == 2


def test_a_broken_clip_is_reported_and_the_others_run(model, tmp_path, capsys):
    good = [write_video(tmp_path / f"{i}.mp4", seed=i) for i in range(2)]
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(Path(good[0]).read_bytes()[:-2000])
    text = tmp_path / "notes.txt"
    text.write_text("no video")
    clips = [good[0], str(cut), str(text), str(tmp_path / "none.mp4"), good[1]]
    failures = predict.run(clips, model, LABELS, VIEWS, out=str(tmp_path / "out"), as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert failures == [line["error"] for line in lines if "error" in line]
    assert len(failures) == 3
    assert [line["clip"] for line in lines] == clips
    for line, clip in zip(lines, clips, strict=True):
        if clip in good:
            assert line.keys() == {"clip", "top", "num_frames", "frames", "picture"}
            assert len(line["top"]) == 5
            assert line["num_frames"] == 24
            assert np.shape(line["frames"]) == (1, CONFIG.num_frames)
            assert cv2.imread(line["picture"]).shape[1] > 400
        else:
            assert line.keys() == {"clip", "error"}
            assert line["error"].startswith(f"{clip}: ")
            assert "\n" not in line["error"]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_clips_of_one_name_keep_a_picture_each(model, tmp_path, capsys):
    clip = write_video(tmp_path / "clip.mp4")
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.mp4").write_bytes(Path(clip).read_bytes())
    clips = [str(tmp_path / folder / "same.mp4") for folder in "ab"]
    assert predict.run(clips, model, LABELS, VIEWS, out=str(tmp_path / "out")) == []
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["same-2.png", "same.png"]
    out = capsys.readouterr().out
    assert out.count("frames 4 to 16 of 24") == 2
    assert out.count(" %  ") == 10


def test_pictures_of_the_longest_names_are_written_under_shorter_ones(model, tmp_path, capsys):
    """And one that cannot be written ends nothing that comes after."""
    clip = Path(write_video(tmp_path / "clip.mp4")).read_bytes()
    name = "ä" * 125 + "x.mp4"  # 255 bytes
    clips = [tmp_path / folder / name for folder in "ab"]
    clips += [tmp_path / "taken.mp4", tmp_path / "last.mp4"]
    for path in clips:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(clip)
    out = tmp_path / "out"
    (out / "taken.png").mkdir(parents=True)
    clips = [str(path) for path in clips]
    failures = predict.run(clips, model, LABELS, VIEWS, out=str(out), as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["clip"] for line in lines if len(line["top"]) == 5] == clips
    pictures = [line["picture"] and Path(line["picture"]).name for line in lines]
    assert pictures[0] == "ä" * 125 + "x.png"
    assert re.fullmatch("ä{116}-[0-9a-f]{16}-2[.]png", pictures[1])
    assert pictures[2:] == [None, "last.png"]
    assert failures == [f"{clips[2]} has no picture: {out}/taken.png: Is a directory"]


def test_the_picture_holds_the_frames_in_order(tmp_path, model):
    clip = write_video(tmp_path / "clip.mp4")
    ((shown, _),) = predict.predict(model, [clip], VIEWS)
    shown.views[:] = 0
    shown.views[0, 2, ..., 1] = 255  # the third of four is green
    sheet = viz.frames_sheet(shown.views, shown.numbers, "caption")
    columns = np.array_split(sheet[-40:], CONFIG.num_frames, axis=1)
    greens = [column[..., 1].mean() for column in columns]
    assert greens[2] > 240
    assert max(g for i, g in enumerate(greens) if i != 2) < 20


# ---- Names of classes ----


def test_names_come_from_the_file_else_from_the_checkpoint(model, tmp_path):
    assert predict.class_names(None, model) == LABELS
    text = tmp_path / "names.txt"
    text.write_text("eins\nzwei\ndrei\nvier\nfünf\nsechs\n\n", encoding="utf-8")
    assert predict.class_names(str(text), model)[4] == "fünf"
    as_json = tmp_path / "names.json"
    as_json.write_text(json.dumps(["a", "b", "c", "d", "e", "f"]), encoding="utf-8-sig")
    assert predict.class_names(str(as_json), model) == tuple("abcdef")
    text.write_text("\n".join(LABELS[::-1]))
    with pytest.raises(model_lib.ModelError, match="in another order than the names that the che"):
        predict.class_names(str(text), model)
    nameless = model_lib.from_weights(random_weights(labels=()))
    assert predict.class_names(None, nameless)[:2] == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", "names 2 classes, the head tells 6 apart"),
        ("[1, 2, 3, 4, 5, 6]", "expected a list of names, or an object"),
        ("[broken", "names of classes cannot be read"),
        (None, "No such file"),
    ],
)
def test_wrong_names_are_one_line(model, tmp_path, content, message):
    path = tmp_path / "names"
    if content is not None:
        path.write_text(content)
    with pytest.raises((model_lib.ModelError, ConversionError), match=message):
        predict.class_names(str(path), model)


def test_a_damaged_clip_is_answered_on_request_with_a_note(model, tmp_path, capsys):
    clip = Path(write_video(tmp_path / "cut.mkv", 60))
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert len(predict.run([str(clip)], model, LABELS, VIEWS)) == 1
    assert predict.run([str(clip)], model, LABELS, VIEWS, keep_partial=True) == []
    assert re.search("^  note      .*(breaks after|damaged)", capsys.readouterr().out, re.MULTILINE)


# ---- The command ----


def test_the_command(tmp_path):
    clip = write_video(tmp_path / "clip.mp4")
    (tmp_path / "empty").mkdir()
    found = command(
        f"--checkpoint={checkpoint(tmp_path)}", f"--out={tmp_path / 'out'}", clip,
        str(tmp_path / "nothing*.mp4"), str(tmp_path / "empty"), os.fsdecode(b"\xff.mp4"),
    )  # fmt: skip
    assert found.returncode == 1
    reason = re.search("^not answered: (.*)$", found.stdout, re.MULTILINE)[1]
    expected = f"error: 3 of 4 clips could not be answered in full, such as {reason}"
    assert found.stderr.strip() == expected
    assert "empty: cannot be opened: a folder without videos" in found.stdout
    assert r"\udcff.mp4: cannot be opened" in found.stdout
    assert "6 classes, 4 frames of 32x32 pixels" in found.stdout
    assert "nothing*.mp4: cannot be opened" in found.stdout
    assert sum(label in found.stdout for label in LABELS) == 5
    assert (tmp_path / "out" / "clip.png").exists()


def test_json_alone_is_on_stdout(tmp_path):
    clip = write_video(tmp_path / "clip.mp4")
    found = command(f"--checkpoint={checkpoint(tmp_path)}", "--json", "--out=", clip)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["picture"] is None


@pytest.mark.parametrize("case", ["pretrain", "missing", "foreign"])
def test_what_is_no_classifier_ends_in_one_line(tmp_path, case):
    path = str(tmp_path / "model.pth")
    if case == "pretrain":
        path = checkpoint(tmp_path, "pretrain")
    elif case == "foreign":
        (tmp_path / "model.pth").write_bytes(b"<html>not here</html>")
    found = command(f"--checkpoint={path}", "--out=", "clip.mp4")
    expected = {"pretrain": "has no head", "missing": "no such file", "foreign": "is a web page"}
    assert found.returncode == 1
    assert found.stderr.startswith("error: ")
    assert expected[case] in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_every_real_and_odd_video_ends_in_an_answer_or_a_line(model, shared, capsys):
    clips = inputs.find([str(shared / "videos" / "actions"), str(shared / "videos" / "odd")])
    assert len(clips) == 19
    assert len(predict.run(clips, model, LABELS, VIEWS)) == 1
    out = capsys.readouterr().out
    assert "corrupt_stream.mp4: stream breaks: " in out
    assert out.count("(frames ") == 18
