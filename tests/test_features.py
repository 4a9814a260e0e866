"""Features of videos: the right windows, each once, whole files only, and where it stopped."""

import csv
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from tiny_models import CONFIG, checkpoint, random_weights, write_video

from vmae_jax import feature_files, features
from vmae_jax import model as model_lib
from vmae_jax.data.videos import open_video, stream_video
from vmae_jax.data.views import EvalViews, Windows
from vmae_jax.models import layers

LENGTH, SIZE, DIM = CONFIG.num_frames, CONFIG.image_size, 48
NOTES = {"features.json", "sources.json"}  # in every folder of features


@pytest.fixture(scope="module")
def model():
    return model_lib.from_weights(random_weights())


def windows(every=0, stride=1, clips=1, crops=1):
    return Windows(EvalViews(clips, crops, LENGTH, SIZE, "dense", stride), every)


def extract(model, files, out, wanted, form="npy", **options):
    """Runs the extraction as the command does; the folder is left finished."""
    tokens = options.get("tokens", False)
    folder = feature_files.Folder(str(out), form, features.settings_of(model, wanted, tokens))
    missing = folder.missing(features.by_names(files))
    result = features.extract(model, missing, wanted, folder, **options)
    folder.write_failures(result[1])
    folder.finish()
    return result


def make(folder, lengths):
    """Videos of some lengths, whose names tell them."""
    return [write_video(folder / f"{i}_{n}.mp4", n, seed=i) for i, n in enumerate(lengths)]


# ---- Windows ----


@pytest.mark.parametrize(
    ("frames", "every", "stride", "count"),
    [(24, 4, 1, 6), (23, 4, 1, 5), (24, 16, 1, 2), (4, 4, 1, 1), (3, 4, 1, 1), (24, 5, 3, 3)],
)
def test_sliding_windows_lie_inside_the_video(tmp_path, frames, every, stride, count):
    (file,) = make(tmp_path, [frames])
    found = list(windows(every, stride)(file))
    assert len(found) == count
    whole = open_video(file).frames(range(frames), SIZE)
    left = (whole.shape[2] - SIZE) // 2
    for k, window in enumerate(found):
        assert window.shape == (1, LENGTH, SIZE, SIZE, 3)
        indices = np.minimum(k * every + stride * np.arange(LENGTH), frames - 1)
        np.testing.assert_array_equal(window[0], whole[indices, :, left : left + SIZE])


def test_the_features_of_the_reference(model, tmp_path):
    """Whole frames as they are stored, squashed as floats, and not normalised."""
    file = write_video(tmp_path / "clip.mp4", 9)
    wanted = dataclasses.replace(windows(every=4), preprocessing="reference")
    extract(model, [file], tmp_path / "out", wanted)
    stored = np.stack(list(stream_video(file, 0)))
    assert stored.shape == (9, 48, 64, 3)
    # Between the centres of pixels: 1.5 rows and 2 columns of them to one.
    above = (np.arange(SIZE) * 3 // 2)[:, None]
    share = np.where(np.arange(SIZE) % 2, 0.75, 0.25)[:, None, None]
    columns = stored.reshape(9, 48, SIZE, 2, 3).mean(3)
    squashed = (columns[:, above[:, 0]] * (1 - share) + columns[:, above[:, 0] + 1] * share) / 255
    found = list(wanted(file))
    for k, window in enumerate(found):
        assert (window.shape, window.dtype) == ((1, LENGTH, SIZE, SIZE, 3), np.float32)
        np.testing.assert_allclose(window[0], squashed[4 * k : 4 * k + LENGTH], atol=1e-5)
    # What normalising makes into these numbers gives the model the same.
    uint8 = (found[1] * layers.STD + layers.MEAN) * 255
    patches = layers.patchify(uint8, CONFIG.tubelet_size, CONFIG.patch_size)
    alone = nnx.merge(model._graphdef, model.params).features(layers.normalize_pixels(patches))
    made = np.load(tmp_path / "out/clip.npy")
    np.testing.assert_allclose(made, np.concatenate([made[:1], alone]), atol=1e-4)
    assert json.loads((tmp_path / "out/features.json").read_text())["preprocessing"] == "reference"
    with pytest.raises(feature_files.FeatureError, match="preprocessing = 'reference', not None"):
        extract(model, [file], tmp_path / "out", windows(every=4))


def test_a_window_s_feature_is_that_of_the_window_alone(model, tmp_path):
    files = make(tmp_path, [24, 9, 4])
    finished, failures = extract(model, files, tmp_path / "out", windows(every=4), batch_size=3)
    assert (finished, failures) == (3, {})
    for file in files:
        found = np.load(tmp_path / "out" / f"{Path(file).stem}.npy")
        alone = [model.features(model.params, window) for window in windows(every=4)(file)]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-5)


def test_a_feature_does_not_depend_on_the_company_it_is_computed_in(model, tmp_path):
    files = make(tmp_path, [24, 9])
    for number, (taken, threads) in enumerate([(files, 1), (files[::-1], 2), (files[:1], 2)]):
        extract(model, taken, tmp_path / str(number), windows(every=4), threads=threads)
    name = f"{Path(files[0]).stem}.npy"
    one, two, three = (np.load(tmp_path / str(number) / name) for number in range(3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_a_whole_video_is_the_mean_of_its_views(model, tmp_path):
    (file,) = make(tmp_path, [24])
    extract(model, [file], tmp_path / "out", windows(clips=2, crops=3, stride=2))
    (found,) = np.load(tmp_path / "out" / f"{Path(file).stem}.npy")
    video = model.views(2, 3, stride=2).of_file(open_video(file))
    expected = np.asarray(model.features(model.params, video)).mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_folder_of_an_earlier_version_goes_on(model):
    """Whatever settings came later, by default features are described as they were."""
    found = features.settings_of(model, windows(every=4), tokens=False)
    assert sorted(found) == sorted((
        "weights", "model", "every", "tokens",
        "clips", "crops", "length", "size", "sampling", "stride", "validation",
    ))  # fmt: skip
    assert sorted(found["model"]) == sorted((
        "variant", "image_size", "num_frames", "tubelet_size", "patch_size", "dtype", "remat",
        "positions", "norm_eps", "head_norm_eps", "encoder_norm",
    ))  # fmt: skip


def test_tokens(model, tmp_path):
    (file,) = make(tmp_path, [12])
    extract(model, [file], tmp_path / "out", windows(every=4), tokens=True)
    found = np.load(tmp_path / "out" / f"{Path(file).stem}.npy")
    assert found.shape == (3, CONFIG.num_tokens, DIM)
    first = next(windows(every=4)(file))
    np.testing.assert_allclose(found[:1], model.tokens(model.params, first), atol=1e-5)


def test_a_pretrained_encoder_has_features_too(tmp_path):
    pretrained = model_lib.from_weights(random_weights("pretrain"))
    files = make(tmp_path, [12])
    extract(pretrained, files, tmp_path / "out", windows(every=8))
    assert np.load(tmp_path / "out" / "0_12.npy").shape == (2, DIM)


def test_windows_stream_through_a_long_video(tmp_path):
    (file,) = make(tmp_path, [1500])
    tracemalloc.start()
    count = sum(1 for _ in windows(every=4)(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 375
    assert peak < 4e6


# ---- Files ----


def test_it_goes_on_where_it_stopped(model, tmp_path):
    files = make(tmp_path, [24, 9, 12])
    out = tmp_path / "out"
    extract(model, files[:2], out, windows(every=4))
    feature_files.NpyFile(str(out / "2_12.npy")).append(np.ones((3, DIM)))  # of a killed run
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    assert len(before) == 2
    finished, _ = extract(model, files, out, windows(every=4))
    assert finished == 1
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert {p.name for p in out.iterdir()} == {*before, "2_12.npy", *NOTES}


def test_a_stopped_run_leaves_no_half_file(model, tmp_path):
    files = make(tmp_path, [24, 24])

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, files, tmp_path / "out", windows(every=4), progress=stop)
    made = {p.name for p in (tmp_path / "out").iterdir()}
    assert made == {*NOTES, "0_24.npy"}
    assert np.load(tmp_path / "out" / "0_24.npy").shape == (6, DIM)


def test_a_folder_of_other_features_is_refused(model, tmp_path):
    files = make(tmp_path, [12])
    extract(model, files, tmp_path / "out", windows(every=4))
    with pytest.raises(
        feature_files.FeatureError, match=r"\(every = 4, not 8\); give another --out"
    ):
        extract(model, files, tmp_path / "out", windows(every=8))
    weights = random_weights()
    weights.params["norm"]["bias"][0] += 1e-3
    other = model_lib.from_weights(weights)
    with pytest.raises(feature_files.FeatureError, match="weights = "):
        extract(other, files, tmp_path / "out", windows(every=4))


def test_a_broken_video_is_listed_and_tried_again(model, tmp_path):
    files = make(tmp_path, [60, 24])
    whole = Path(files[0]).read_bytes()
    Path(files[0]).write_bytes(whole[:-1500])
    listed = tmp_path / "out" / "failures.csv"
    finished, failures = extract(model, files, tmp_path / "out", windows(every=4), batch_size=2)
    assert finished == 1
    assert list(failures) == files[:1]
    assert not list((tmp_path / "out").glob("*0_60*"))
    header, row = csv.reader(listed.read_text().splitlines())
    assert header == ["video", "reason"]
    assert row[0] == files[0]
    assert "stream breaks" in row[1] or "cannot be" in row[1]
    Path(files[0]).write_bytes(whole)
    finished, failures = extract(model, files, tmp_path / "out", windows(every=4))
    assert (finished, failures) == (1, {})
    assert not listed.exists()


def test_a_damaged_video_has_features_on_request_and_a_note(model, tmp_path):
    file = Path(write_video(tmp_path / "cut.mkv", 60))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    out = tmp_path / "out"
    assert extract(model, [str(file)], out, windows(every=4))[0] == 0
    for every in (4, 0):
        whole = dataclasses.replace(windows(every=every), keep_partial=True)
        target = out if every else tmp_path / "whole"
        assert extract(model, [str(file)], target, whole) == (1, {})
        header, row = csv.reader((target / "notes.csv").read_text().splitlines())
        assert (header, row[0]) == (["video", "note"], str(file))
        assert "it breaks after" in row[1] or "damaged" in row[1]


def test_two_videos_of_one_name_are_refused():
    assert features.by_names(["a/x.mp4", "b/y.mp4"]) == {"x": "a/x.mp4", "y": "b/y.mp4"}
    with pytest.raises(feature_files.FeatureError, match=r"a/x\.mp4 and b/x\.avi would both be x"):
        features.by_names(["a/x.mp4", "b/x.avi"])


@pytest.mark.parametrize("form", feature_files.FORMATS)
def test_a_later_run_does_not_take_another_video_of_the_name_as_done(model, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (file,) = make(tmp_path, [12])
    extract(model, [file], tmp_path / "out", windows(every=4), form)
    (tmp_path / "other").mkdir()
    other = write_video(tmp_path / "other" / "0_12.mp4", 12, seed=1)
    with pytest.raises(feature_files.FeatureError, match=r"features '0_12' of .*, not of "):
        extract(model, [other], tmp_path / "out", windows(every=4), form)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert extract(model, [str(link / "0_12.mp4")], tmp_path / "out", windows(every=4), form) == (
        0, {},
    )  # fmt: skip


@pytest.mark.parametrize("form", feature_files.FORMATS)
def test_odd_file_names_have_features(model, tmp_path, form):
    """Hidden, no Unicode, longer than an array may be called; what cannot be read is listed."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    names = [".clip.mp4", os.fsdecode(b"caf\xe9.mp4"), "x" * 252 + ".ts"]
    (file,) = make(tmp_path, [12])
    files = [shutil.copy(file, tmp_path / name) for name in names]
    short = f"{'x' * 234}-{hashlib.sha256(b'x' * 252).hexdigest()[:16]}"
    broken = str(tmp_path / os.fsdecode(b"\xff.mp4"))
    out = tmp_path / "out"
    for count in (3, 0):
        finished, failures = extract(model, [*files, broken], out, windows(every=4), form)
        assert (finished, list(failures)) == (count, [broken])
    assert r"\udcff.mp4" in (out / "failures.csv").read_text(encoding="utf-8")
    if form == "npy":
        assert {p.stem for p in out.glob("*.npy")} == {".clip", r"caf\udce9", short}
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out / "features.parquet")
        assert table["video"].to_pylist() == [".clip"] * 3 + [r"caf\udce9"] * 3 + [short] * 3


def test_one_array_that_cannot_be_written_ends_nothing_else(model, tmp_path, monkeypatch):
    files = make(tmp_path, [24, 12, 9])
    replace = os.replace

    def refuse(draft, path):
        if path.endswith("0_24.npy"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        replace(draft, path)

    monkeypatch.setattr(os, "replace", refuse)
    out = tmp_path / "out"
    finished, failures = extract(model, files, out, windows(every=4))
    assert finished == 2
    assert failures == {files[0]: f"cannot be written: {out}/0_24.npy: Permission denied"}
    monkeypatch.undo()
    assert {p.name for p in out.iterdir()} == {*NOTES, "1_12.npy", "2_9.npy", "failures.csv"}
    assert extract(model, files, out, windows(every=4)) == (1, {})


def test_parquet_has_the_rows_of_the_arrays(model, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    files = make(tmp_path, [24, 9, 12])
    extract(model, files, tmp_path / "arrays", windows(every=4))
    out = tmp_path / "out"
    for taken in (files[:2], files, files):  # stopped after two, resumed, and nothing left to do
        extract(model, taken, out, windows(every=4), "parquet")
        assert {p.name for p in out.iterdir()} == {*NOTES, "features.parquet"}
    table = parquet.read_table(out / "features.parquet")
    assert json.loads(table.schema.metadata[b"features"])["every"] == 4
    names, numbers = table["video"].to_pylist(), table["window"].to_pylist()
    values = np.array(table["features"].to_pylist(), np.float32)
    assert len(names) == sum(len(np.load(f)) for f in (tmp_path / "arrays").glob("*.npy"))
    for file in files:
        mine = [i for i, name in enumerate(names) if name == Path(file).stem]
        array = np.load(tmp_path / "arrays" / f"{Path(file).stem}.npy")
        assert [numbers[i] for i in mine] == list(range(len(array)))
        np.testing.assert_array_equal(values[mine], array)


def test_a_merge_that_was_killed_counts_no_video_twice(model, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    files, out = make(tmp_path, [24]), tmp_path / "out"
    extract(model, files, out, windows(every=4), "parquet")
    (out / "parts").mkdir()
    np.save(out / "parts" / "0_24.npy", np.zeros((6, DIM), np.float32))
    extract(model, files, out, windows(every=4), "parquet")
    assert parquet.read_table(out / "features.parquet").num_rows == 6


def test_parquet_without_pyarrow_is_one_line(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(feature_files.FeatureError, match=r"pip install 'vmae_jax\[parquet\]'"):
        extract(model, [], tmp_path / "out", windows(), "parquet")


def test_long_files_keep_their_header(tmp_path):
    path = tmp_path / "x.npy"
    file = feature_files.NpyFile(str(path))
    rows = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    for part in (rows[:3], rows[3:]):
        file.append(part)
        assert not path.exists()
    file.finish()
    np.testing.assert_array_equal(np.load(path), rows)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


# ---- The command ----


def command(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vmae_jax.features", *args], capture_output=True, text=True
    )


def test_the_command(tmp_path):
    """Subtitles beside the videos and features among them are in nobody's way."""
    (tmp_path / "videos").mkdir()
    clips = make(tmp_path / "videos", [24, 24])
    for clip in clips:
        Path(clip).with_suffix(".srt").touch()
    out = tmp_path / "videos" / "out"
    flags = [f"--checkpoint={checkpoint(tmp_path)}", f"--out={out}", "--every=4"]
    found = command(*flags, str(tmp_path / "videos"), str(tmp_path / "none.mp4"))
    assert found.returncode == 1
    assert "1 have no features" in found.stderr
    assert "2 files are no videos by their names and left out" in found.stderr
    assert f"2 videos done, 0 were there: {out}" in found.stdout
    for clip in clips:
        assert np.load(out / f"{Path(clip).stem}.npy").shape == (6, DIM)
    found = command(*flags, str(tmp_path / "videos"))
    assert found.returncode == 0, found.stderr
    assert "0 videos done, 2 were there" in found.stdout


def test_flags_that_exclude_each_other(tmp_path):
    path = checkpoint(tmp_path)
    flags = [f"--checkpoint={path}", f"--out={tmp_path / 'out'}", "--every=4", "--crops=3"]
    found = command(*flags, "x.mp4")
    assert found.returncode == 1
    assert found.stderr.startswith("error: --every: a sliding window is one dense clip")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"every": 4, "sampling": "sparse"}, "--every: a sliding window is one dense clip"),
        ({"tokens": True, "clips": 2}, "--tokens: tokens of several views"),
        ({"preprocessing": "reference"}, "--preprocessing=reference: .*add --every=4 as for"),
    ],
)
def test_more_flags_that_exclude_each_other(model, monkeypatch, flags, message):
    none = {"clips": 1, "crops": 1, "every": 0, "stride": 0, "sampling": "", "tokens": False}
    given = SimpleNamespace(**none | {"preprocessing": "evaluation"} | flags)
    monkeypatch.setattr(features.flags, "FLAGS", given)
    with pytest.raises(feature_files.FeatureError, match=message):
        features.windows_of_flags(model)


def test_every_odd_video_gets_features_or_a_reason(model, shared, tmp_path):
    files = sorted(str(p) for p in (shared / "videos" / "odd").iterdir())
    finished, failures = extract(model, files, tmp_path / "out", windows(every=16))
    assert finished == len(files) - 1
    assert [Path(name).name for name in failures] == ["corrupt_stream.mp4"]
