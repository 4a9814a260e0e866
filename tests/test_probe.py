"""Frozen evaluation: what learns and what does not, k-NN by hand, and each kind through main."""

import json
import shutil

import jax
import numpy as np
import pytest
from fakes import FINETUNE, FakeFinetune, with_settings

from vmae_jax import checkpoint, main, train, tree
from vmae_jax.config import ProbeConfig
from vmae_jax.convert.load import load
from vmae_jax.convert.rules import ConversionError
from vmae_jax.data import synthetic
from vmae_jax.tasks import probe


class FakeProbe(probe.Probe):
    """A probe on fake clips, without evaluation."""

    def __init__(self, config):
        super().__init__(config, tuple("abc"))

    data, report = FakeFinetune.data, FakeFinetune.report


def settings(kind, **groups):
    base = {
        "task": "probe", "probe": ProbeConfig(kind), "optim": {"layer_decay": 1.0},
        "train": {"steps": 4},
    }  # fmt: skip
    return with_settings(FINETUNE, **(base | groups))


def flat(params):
    return {tree.path_name(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(params)}


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_the_encoder_stays_as_it_is_and_all_else_learns(tmp_path, kind):
    config = settings(kind)
    task = FakeProbe(config)
    before = flat(jax.jit(task.init)(jax.random.key(config.seed)))
    train.train(task, str(tmp_path))
    after = flat(checkpoint.load_params(str(tmp_path))[1])
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = np.array_equal(value, after[name])
        assert same == name.startswith("encoder/"), name


def test_a_probe_that_stopped_goes_on(tmp_path):
    config = settings("attentive", train={"steps": 4, "checkpoint_every": 2})
    train.train(FakeProbe(config), str(tmp_path / "whole"))
    train.train(FakeProbe(config), str(tmp_path / "parts"))
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "4")
    assert train.train(FakeProbe(config), str(tmp_path / "parts")).step == 4
    whole, parts = (checkpoint.load_params(str(tmp_path / name))[1] for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_neighbors_vote_by_their_similarity():
    known = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    labels = np.array([0, 1, 1, 2])
    queries = np.array([[1, 0], [0, 1]], np.float32)

    def votes(neighbors):
        return probe.neighbor_votes(known, labels, queries, 3, neighbors=neighbors, temperature=0.5)

    np.testing.assert_array_equal(votes(1), [[1, 0, 0], [0, 1, 0]])
    a, b = np.exp(1 / 0.5), np.exp(0.8 / 0.5)
    c, d = np.exp(1 / 0.5), np.exp(0.6 / 0.5)
    expected = [[a / (a + b), b / (a + b), 0], [0, 1, 0]]
    np.testing.assert_allclose(votes(2), expected, rtol=1e-6)
    one = np.exp(0.0)
    everything = [
        np.array([a, b + one, np.exp(-2)]) / (a + b + one + np.exp(-2)),
        np.array([one, c + d, one]) / (c + d + 2 * one),
    ]
    np.testing.assert_allclose(votes(9), everything, rtol=1e-6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twenty videos, split in two."""
    folder = tmp_path_factory.mktemp("probe")
    from vmae_jax.data.build import build

    synthetic.write_videos(folder / "videos", clips_per_class=2, num_frames=16)
    build(
        folder / "videos", folder / "dataset", labels="folders", short_side=96,
        split="train:0.6,val:0.4",
    )  # fmt: skip
    return str(folder / "dataset")


@pytest.mark.parametrize("kind", ["linear", "attentive", "knn"])
def test_each_kind_runs_and_evaluates(tmp_path, dataset, kind):
    config = settings(
        kind,
        classifier={"num_classes": 0},
        data={"dataset": dataset, "batch_size": 8, "stride": 1},
        augment={"randaugment": ""},
        eval={"clips": 1, "crops": 1},
    )
    workdir = str(tmp_path)
    if not main.is_knn(config):
        train.train(main.make_task(config), workdir)
    main.test(config, workdir)
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert 0 < summary["videos"] < 20
    scores = np.load(tmp_path / "eval" / "scores.npz")
    assert scores["probabilities"].shape == (summary["videos"], len(synthetic.CLASSES))
    np.testing.assert_allclose(scores["probabilities"].sum(1), 1, rtol=1e-5)
    if kind == "linear":  # a classifier like any other
        assert load(workdir).num_classes == len(synthetic.CLASSES)
    elif kind == "attentive":
        with pytest.raises(ConversionError, match="attentive probe, whose head no other"):
            load(workdir)


def test_neighbors_of_themselves_are_found(tmp_path, dataset):
    config = settings(
        "knn",
        classifier={"num_classes": 0},
        probe=ProbeConfig("knn", neighbors=1),
        data={"dataset": dataset, "stride": 1},
        eval={"split": "train"},
    )
    main.test(config, str(tmp_path))
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["top1"] == 100
