"""Lists that people write: bytes to lines, tables, names of classes in every shape."""

import json

import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_jax import lists
from vmae_jax.convert import files
from vmae_jax.convert.rules import ConversionError
from vmae_jax.data import records

# All that some reader of lines splits at, among anything else that Unicode has.
_ODD = st.sampled_from("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\ufeff \t\u3000\u00a0")
_NAMES = st.text(st.one_of(st.characters(exclude_categories=[]), _ODD), min_size=1, max_size=5)


@settings(max_examples=60)
@given(names=st.lists(_NAMES, min_size=1, max_size=6, unique=True))
def test_names_come_back_from_the_directory_or_are_refused_by_name(names, tmp_path_factory):
    sound = [name for name in names if not lists.fault(name)]
    for name in set(names) - set(sound):
        surrogate = any("\ud800" <= c <= "\udfff" for c in name)
        assert surrogate or "\n" in name or "\r" in name or name[0] == "\ufeff" or (
            name != name.strip()
        )  # fmt: skip
    if not sound:
        return
    folder = tmp_path_factory.mktemp("names")
    features = tfds.features.FeaturesDict({"label": tfds.features.ClassLabel(names=sound)})
    features.save_config(folder)
    assert (folder / "label.labels.txt").read_bytes() == "".join(f"{n}\n" for n in sound).encode()
    assert records.label_names(str(folder)) == tuple(sound)
    again = tfds.features.FeaturesDict.from_config(folder)
    assert again["label"].names == sound


def test_a_dataset_whose_names_do_not_fit_its_classes_is_refused(tmp_path):
    names = ["jump\nhigh", "run"]
    tfds.features.FeaturesDict({"label": tfds.features.ClassLabel(names=names)}).save_config(
        tmp_path
    )
    with pytest.raises(
        records.DatasetError, match=r"names 3 classes, features.json has 2: .*build"
    ):
        records.label_names(str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_mark_and_line_end(tmp_path, encoding, newline):
    text = f"a\u2028b{newline}{newline}käfer{newline}"
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "list.txt").write_bytes((mark + text).encode(encoding))
    assert lists.lines(lists.read(tmp_path / "list.txt")) == ["a\u2028b", "", "käfer"]


def test_what_is_no_text_names_its_line(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a\nb\nf\xfcnf\n")
    with pytest.raises(
        lists.ListError, match=r"list.txt, line 3: not UTF-8 text; save it as UTF-8"
    ):
        lists.read(tmp_path / "list.txt")
    with pytest.raises(lists.ListError, match=r"none: cannot be read \(No such file"):
        lists.read(tmp_path / "none")


NAMES = ("run", "jump, high", "10")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.txt", "run\n\njump, high\n10\n"),
        ("a.txt", "0 run\n1 jump, high\n2 10\n"),
        ("a.txt", "1\trun\n3\t10\n2\tjump, high\n"),  # as UCF101's classInd.txt, from 1 on
        ("a.txt", "run;0\njump, high;1\n10;2\n"),
        ("a.csv", 'id,name\n1,"jump, high"\n0,run\n2,10\n'),
        ("a.csv", 'Class,Label ID,note\nrun,0,x\n"jump, high",1,y\n10,2,\n'),
        ("a.csv", "label;name\n0;run\n1;jump, high\n2;10\n"),
        ("a.csv", '0,run\n1,"jump, high"\n2,10\n'),
        ("a.csv", 'name\nrun\n"jump, high"\n10\n'),
        ("a.tsv", "run\t0\njump, high\t1\n10\t2\n"),
        ("a.json", json.dumps(NAMES)),
        ("a.json", json.dumps(dict(enumerate(NAMES)))),
        ("a.json", json.dumps({name: i for i, name in enumerate(NAMES)})),
        ("a.json", json.dumps({name: str(i) for i, name in enumerate(NAMES)})),
        ("a.json", json.dumps(dict(enumerate(NAMES, 1)))),
        ("a.json", json.dumps({"id2label": dict(enumerate(NAMES)), "model_type": "videomae"})),
    ],
)  # fmt: skip
def test_names_of_classes_in_every_shape(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8-sig")
    assert files.read_names(str(tmp_path / file)) == NAMES


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.json", '{"run": 0, "jump": 2}', "not 0 to 1: without a class are 1"),
        ("a.json", '{"run": 0, "jump": 0}', "'run' and 'jump' are both number 0"),
        ("a.json", '{"run": 0, "jump": null}', "found None for 'jump', expected its number"),
        ("a.json", '["run", "", "jump"]', "class 1 has no name"),
        ("a.json", '{"run": 0, "run": 1, "jump": 2}', "'run' is there twice"),
        ("a.json", '["run", 1]', "expected a list of names, or an object"),
        ("a.json", "{", "names of classes cannot be read"),
        ("a.csv", "run,jump,sit\n", "found 'run,jump,sit', expected one name a line, or number,na"),
        ("a.csv", "id,name\n0,run\n1\n", "line 3: found 1 columns, expected 2 as in line 1"),
        ("a.txt", "\n", "has no names of classes"),
    ],
)
def test_names_that_are_none_are_refused_in_a_line(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(ConversionError, match=message) as error:
        files.read_names(str(tmp_path / file))
    assert str(error.value).count(str(tmp_path / file)) == 1


def test_names_as_people_have_them(shared):
    folder = shared / "cases/14_lists"
    for file in ("lab.csv", "lab_id2.json", "lab_map.json"):
        assert files.read_names(str(folder / file)) == ("run", "jump", "sit", "lie", "fly", "swim")
