"""Whose classes a head has, by name: what is kept, put into order, said or refused."""

import dataclasses
import json

import numpy as np
import pytest
from convert import tiny_weights
from data.tiny_dataset import clip, write_dataset
from fakes import FINETUNE, with_settings

from vmae_jax import checkpoint, class_order
from vmae_jax.config import ConfigError, to_dict
from vmae_jax.convert import load
from vmae_jax.tasks import finetune, initial

# As VideoMAE V2's label_map_k710.txt and label_map_k600.txt, whose classes are shuffled.
HEAD = ("luge", "sipping cup", "archery", "throwing ball", "zumba")
LINES = ("luge", "throwing ball", "archery", "sipping cup")
ROWS = [0, 3, 2, 1]


@pytest.fixture
def misc(tmp_path):
    (tmp_path / "label_710to600.json").write_text(json.dumps(ROWS))
    (tmp_path / "label_map_k600.txt").write_text("\n".join(LINES))
    (tmp_path / "label_map_k710.txt").write_text("\n".join(HEAD))
    return tmp_path


@pytest.fixture
def source(monkeypatch):
    """Makes every file hold the head of five classes, with these names."""

    def hold(names=()):
        weights = tiny_weights.random("classifier", FINETUNE.model, names=names)
        monkeypatch.setattr(load, "load", lambda path, weights_key: weights)
        return weights

    return hold


def fitted(config, weights, names):
    """The head's kernel for a run with these classes; None where it starts fresh."""
    like = tiny_weights.random("classifier", FINETUNE.model, classes=len(names)).params
    return initial.weights(config, like, names).get("head/kernel")


def of(weights, rows):
    return weights.params["head"]["kernel"][:, rows]


def test_names_on_both_sides():
    assert class_order.match("abc", "abc") == ((0, 1, 2), "")
    found = class_order.match("cab", "abc")
    assert (found.numbers, "another order" in found.said) == ((2, 0, 1), True)
    assert class_order.match("ca", "abc").numbers == (2, 0)
    assert class_order.match("abx", "abc") is None
    assert class_order.match("abcdefghix", "abcdefghij") is None
    few = class_order.match("abcdefghix", "abcdefghij", renamed=True)
    assert few.numbers == tuple(range(10))
    assert "1 of 10 classes have another name ('x' is 'j')" in few.said
    assert class_order.match("bacdefghix", "abcdefghij", renamed=True) is None
    assert class_order.conflict("abx", "abc") == ""
    assert "class 1 is 'a', which is its class 0" in class_order.conflict("xa", "ab")


def test_names_are_the_same_in_either_form_of_unicode():
    joined, apart = ("caf\u00e9", "bar"), ("cafe\u0301", "bar")
    assert class_order.match(joined, apart) == ((0, 1), "")
    assert class_order.match(joined, apart[::-1]).numbers == (1, 0)
    assert class_order.unknown((*apart, "pub"), joined) == ["pub"]
    assert class_order.conflict(joined, apart) == ""
    assert "class 0 is 'bar', which is its class 1" in class_order.conflict(joined[::-1], apart)


def test_a_name_that_two_classes_have_tells_neither():
    assert class_order.match("aba", "aba").numbers == (0, 1, 2)
    assert class_order.match("ab", "aba") is None
    assert class_order.unknown("abx", "aba") == ["a (there twice)", "x"]
    assert class_order.conflict("aba", "aba") == ""


@pytest.mark.parametrize("names", [(), HEAD])
def test_a_label_map_s_rows_are_compared_with_the_data_s_classes(source, misc, caplog, names):
    """By the names that the head holds, else by those beside the label map."""
    weights = source(names)
    path = str(misc / "label_710to600.json")
    config = with_settings(FINETUNE, init_from="k710", classifier={"label_map": path})
    np.testing.assert_array_equal(fitted(config, weights, LINES), of(weights, ROWS))
    assert not caplog.records
    np.testing.assert_array_equal(
        fitted(config, weights, tuple(sorted(LINES))), of(weights, [2, 0, 1, 3])
    )
    assert "4 classes in another order, by their names" in caplog.text
    labels = ("archery", "chopping vegetables", "luge", "sipping cup")  # as the owners' lists
    with pytest.raises(ConfigError, match=r"rows are luge, .* \(data.build --label_map"):
        fitted(config, weights, labels)


def test_a_head_without_names_is_said_to_be_taken_in_the_data_s_order(source, tmp_path, caplog):
    weights = source()
    record = dataclasses.replace(clip(), label=1, label_name="b")
    data = write_dataset(tmp_path / "data", [record.serialize()] * 3, labels=tuple("abcde"))
    (tmp_path / "data/metadata.json").write_text('{"class_order": "their sorted labels"}')
    config = with_settings(FINETUNE, init_from="k710", data={"dataset": data})
    np.testing.assert_array_equal(
        fitted(config, weights, tuple("abcde")), weights.params["head"]["kernel"]
    )
    assert "taken for the data's, a, b, c, d, e, in the order of their sorted labels" in caplog.text
    rows = tmp_path / "rows.json"
    rows.write_text("[4, 0]")
    chosen = with_settings(config, classifier={"label_map": str(rows)})
    caplog.clear()
    np.testing.assert_array_equal(fitted(chosen, weights, ("a", "b")), of(weights, [4, 0]))
    assert "its classes have no names" in caplog.text


def test_init_labels_names_a_head(source, misc):
    weights = source()
    path = str(misc / "label_map_k710.txt")
    config = with_settings(FINETUNE, init_from="k710", init_labels=path)
    names = tuple(sorted(HEAD))
    rows = [HEAD.index(name) for name in names]
    np.testing.assert_array_equal(fitted(config, weights, names), of(weights, rows))
    assert fitted(config, weights, (*names[:3], "swim", "fly")) is None
    source(names)
    with pytest.raises(
        ConfigError, match=r"another order .*class 0 is 'luge', which is its class 1"
    ):
        initial.source(config)
    few = with_settings(config, init_labels=str(misc / "label_map_k600.txt"))
    with pytest.raises(ConfigError, match="names 4 classes, k710 has 5"):
        initial.source(few)


def test_a_head_of_more_classes_is_tested_on_some_of_them(source, misc):
    weights = source()
    record = dataclasses.replace(clip(), label=1, label_name=LINES[1])
    data = write_dataset(misc / "data", [record.serialize()] * 3, labels=LINES)
    config = with_settings(
        FINETUNE, init_from="k710", data={"dataset": data}, eval={"split": "train"}
    )
    with pytest.raises(ConfigError, match=r"tells 5 classes apart, .*has 4 .*classifier.label_map"):
        finetune.trained(config, str(misc / "none"))
    path = str(misc / "label_710to600.json")
    task, params = finetune.trained(
        with_settings(config, classifier={"label_map": path}), str(misc / "none")
    )
    assert task.label_names == LINES
    np.testing.assert_array_equal(params["head"]["kernel"], of(weights, ROWS))
    path = str(misc / "label_map_k710.txt")
    task, params = finetune.trained(with_settings(config, init_labels=path), str(misc / "none"))
    assert task.label_names == HEAD
    assert params["head"]["kernel"].shape[1] == 5


def test_a_label_map_of_the_head_s_own_size_counts_in_a_test_too(source, tmp_path, caplog):
    weights = source()
    record = dataclasses.replace(clip(), label=1, label_name="b")
    data = write_dataset(tmp_path / "data", [record.serialize()] * 3, labels=tuple("abcde"))
    rows = tmp_path / "rows.json"
    config = with_settings(
        FINETUNE, init_from="k710", classifier={"label_map": str(rows)},
        data={"dataset": data}, eval={"split": "train"},
    )  # fmt: skip
    rows.write_text("\ufeff[4, 0, 1, 2, 3]")
    _, params = finetune.trained(config, str(tmp_path / "none"))
    np.testing.assert_array_equal(params["head"]["kernel"], of(weights, [4, 0, 1, 2, 3]))
    rows.write_text("[9, 0, 1, 2, 3]")  # of another head, whose rows were taken before
    _, params = finetune.trained(config, str(tmp_path / "none"))
    np.testing.assert_array_equal(params["head"]["kernel"], of(weights, [0, 1, 2, 3, 4]))
    assert "is left out: it does not lead from the 5 classes of k710 to the 5 of" in caplog.text
    rows.write_text("[]")
    with pytest.raises(ConfigError, match=r"label_map: .*expected a JSON list of row numbers"):
        finetune.trained(config, str(tmp_path / "none"))
    rows.unlink()
    task, _ = finetune.trained(config, str(tmp_path / "none"))
    assert task.config.classifier.label_map == ""


def test_a_run_whose_teacher_named_no_classes_is_tested_on_as_many(tmp_path, monkeypatch, caplog):
    meta = {"config": to_dict(FINETUNE), "label_names": []}
    monkeypatch.setattr(checkpoint, "exists", lambda workdir: True)
    monkeypatch.setattr(checkpoint, "load_params", lambda workdir: (meta, {}))
    record = dataclasses.replace(clip(), label=1, label_name="b")
    for names in ("abc", "abcd"):
        write_dataset(tmp_path / names, [record.serialize()] * 3, labels=tuple(names))
    config = with_settings(FINETUNE, eval={"split": "train"})
    three = with_settings(config, data={"dataset": str(tmp_path / "abc")})
    task, _ = finetune.trained(three, "runs/student")
    assert task.label_names == ("a", "b", "c")
    assert "runs/student: its classes have no names: they are taken for the data's" in caplog.text
    four = with_settings(config, data={"dataset": str(tmp_path / "abcd")})
    with pytest.raises(ConfigError, match=r"tells 3 classes apart, which it does not name; .* 4"):
        finetune.trained(four, "runs/student")


def test_the_reference_s_own_row_maps(shared, monkeypatch, caplog):
    """They fit data numbered by its lists; of sorted labels only Kinetics-400's, and say so."""
    misc = shared / "annotations/videomaev2_misc"
    if not misc.is_dir():
        pytest.skip("needs VideoMAE V2's label maps in shared/annotations")
    weights = tiny_weights.random("classifier", FINETUNE.model, classes=710)
    monkeypatch.setattr(load, "load", lambda path, weights_key: weights)
    own = {
        400: {"hugging baby": "hugging", "sipping cup": "drinking", "dyeing hair": "dying hair"},
        600: {"throwing ball": "chopping vegetables", "picking apples": "picking fruit"},
        700: {"throwing ball": "archaeological excavation"},
    }
    for version, labels in own.items():
        path = misc / f"label_710to{version}.json"
        rows = json.loads(path.read_text())
        lines = (misc / f"label_map_k{version}.txt").read_text().split("\n")
        lines = tuple(line.strip() for line in lines if line.strip())
        config = with_settings(FINETUNE, init_from="k710.pth", classifier={"label_map": str(path)})
        np.testing.assert_array_equal(fitted(config, weights, lines), of(weights, rows))
        assert not caplog.records
        renamed = [labels.get(line, line) for line in lines]
        if version == 400:
            np.testing.assert_array_equal(
                fitted(config, weights, tuple(renamed)), of(weights, rows)
            )
            assert "3 of 400 classes have another name" in caplog.text
            caplog.clear()
        else:
            with pytest.raises(ConfigError, match=r"710to.*its rows are .*build the data in the"):
                fitted(config, weights, tuple(sorted(renamed)))
