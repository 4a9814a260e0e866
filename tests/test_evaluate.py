"""Evaluation: every video once on any number of devices, and what the files say."""

import csv
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.tiny_dataset import clip, write_dataset
from fakes import FINETUNE, with_settings

from vmae_jax import evaluate, sharding
from vmae_jax.config import ConfigError, MeshConfig
from vmae_jax.tasks.finetune import Finetune

NAMES = ("run", "jump", "sit")
VIDEOS = 7


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Seven labelled videos of several lengths, the fifth of which is broken."""
    records = [
        dataclasses.replace(clip(count), id=f"v{i}", label=i % 3, label_name=NAMES[i % 3])
        for i, count in enumerate((40, 20, 33, 8, 16, 27, 50))
    ]
    records[4] = dataclasses.replace(records[4], video=b"no video")
    payloads = [record.serialize() for record in records]
    directory = write_dataset(tmp_path_factory.mktemp("data"), payloads, labels=NAMES)
    return with_settings(
        FINETUNE,
        data={"dataset": directory, "stride": 2, "max_bad_fraction": 0.2},
        eval={"split": "train", "clips": 3, "crops": 2, "batch_size": 2},
    )


@pytest.fixture(scope="module")
def trained(config):
    task = Finetune.from_data(config)
    params = task.init(jax.random.key(0))
    params["head"]["kernel"] *= 1e4  # scores that differ
    return task, params


def score(trained, devices, **settings):
    task, params = trained
    task = Finetune(with_settings(task.config, **settings), task.label_names)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:devices])
    return task.test(jax.device_put(params, sharding.replicated(mesh)), mesh)


@pytest.mark.all_devices
def test_scores_do_not_depend_on_devices_or_batches(trained):
    one = score(trained, 1)
    assert one.ids == ("v0", "v1", "v2", "v3", "v5", "v6")
    assert list(one.failed) == ["v4"] or "v4" in str(one.failed)
    for devices, batch in ((3, 2), (8, 16), (1, 5)):
        other = score(trained, devices, eval={"batch_size": batch})
        assert other.ids == one.ids
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_array_equal(other.probabilities, one.probabilities)


@pytest.mark.all_devices
def test_parameters_may_be_split_over_the_devices(trained):
    task, params = trained
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    split = jax.device_put(params, sharding.tree_shardings(params, mesh))
    one, other = score(trained, 1), task.test(split, mesh)
    np.testing.assert_array_equal(other.probabilities, one.probabilities)


def test_scores_do_not_depend_on_hosts(config, tmp_path):
    """Each process reads its share of the videos, and all of them know all scores."""
    two_devices = "--xla_force_host_platform_device_count=2"
    script, tests = Path(__file__).parent / "evaluate_on_host.py", str(Path(__file__).parent)

    def run(count, order):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        arguments = [config.data.dataset, str(tmp_path / f"of{count}"), str(port)]
        processes = [
            subprocess.Popen(
                [sys.executable, str(script), *arguments, str(rank), str(count), order],
                env=os.environ | {"PYTHONPATH": tests, "XLA_FLAGS": two_devices},
            )
            for rank in range(count)
        ]
        assert [process.wait(timeout=300) for process in processes] == [0] * count
        return [dict(np.load(tmp_path / f"of{count}-{rank}.npz")) for rank in range(count)]

    (alone,) = run(1, "plain")
    assert alone["ids"].tolist() == ["v0", "v1", "v2", "v3", "v5", "v6"]
    for part in run(2, "torus"):
        np.testing.assert_array_equal(part["ids"], alone["ids"])
        np.testing.assert_array_equal(part["probabilities"], alone["probabilities"])


def test_a_video_s_score_is_the_mean_softmax_of_its_views(trained, config):
    from vmae_jax.data.evaluation import open_eval

    task, params = trained
    scores = score(trained, 1)
    with open_eval(config) as stream:
        views = next(stream)["video"][0]
    assert views.shape[:2] == (3 * 2, config.model.num_frames)
    model = task.model(params)
    each = [jax.nn.softmax(model(task.patches(jnp.asarray(view[None])))[0]) for view in views]
    np.testing.assert_allclose(scores.probabilities[0], np.mean(each, 0), rtol=1e-5)
    np.testing.assert_allclose(scores.probabilities.sum(1), 1, rtol=1e-5)


def scores_of(labels, predicted, classes=6):
    probabilities = np.full((len(labels), classes), 0.01, np.float32)
    probabilities[np.arange(len(labels)), predicted] = 0.9
    names = tuple(f"class {i}" for i in range(classes))
    ids = tuple(f"video {i}" for i in range(len(labels)))
    return evaluate.Scores(ids, np.array(labels), probabilities, names, {"broken": "cut short"})


def test_accuracy_by_hand():
    scores = scores_of([0, 0, 0, 1, 5, 5], [0, 0, 1, 1, 0, 0])
    summary = scores.summary()
    assert summary["top1"] == pytest.approx(50)
    # After the prediction come the lowest numbers: class 5 is never among the first five.
    assert summary["top5"] == pytest.approx(100 * 4 / 6)
    assert summary["mean_class"] == pytest.approx((200 / 3 + 100 + 0) / 3)
    assert scores.confusion[0].tolist() == [2, 1, 0, 0, 0, 0]
    assert math.isnan(scores.class_accuracy()[2])


def test_files_hold_every_video(tmp_path):
    scores = scores_of([0, 0, 1], [0, 1, 1])
    scores.write(str(tmp_path / "eval"))
    rows = list(csv.DictReader((tmp_path / "eval" / "scores.csv").open()))
    assert [(r["id"], r["label"], r["predicted"], r["correct"]) for r in rows] == [
        ("video 0", "class 0", "class 0", "1"),
        ("video 1", "class 0", "class 1", "0"),
        ("video 2", "class 1", "class 1", "1"),
    ]
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["videos"] == 3
    assert summary["failed"] == {"broken": "cut short"}
    arrays = np.load(tmp_path / "eval" / "scores.npz")
    np.testing.assert_array_equal(arrays["probabilities"], scores.probabilities)
    table = list(csv.reader((tmp_path / "eval" / "confusion.csv").open()))
    assert table[1] == ["class 0", "1", "1", "0", "0", "0", "0"]
    assert (tmp_path / "eval" / "confusion.png").stat().st_size > 1000
    assert (tmp_path / "eval" / "classes.csv").read_text().splitlines()[1] == "class 0,2,50.00"
    report = scores.report("3 x 1 views")
    assert "3 videos, 3 x 1 views: top-1 66.67" in report
    assert "not scored   1, such as broken: cut short" in report


def test_classes_are_matched_by_name():
    np.testing.assert_array_equal(
        evaluate.class_numbers(("sit", "run"), ("run", "jump", "sit")), [2, 0]
    )
    np.testing.assert_array_equal(evaluate.class_numbers(("a", "b"), ()), [0, 1])
    with pytest.raises(ConfigError, match="not trained for: swim; it knows run, jump"):
        evaluate.class_numbers(("run", "swim"), ("run", "jump"))
