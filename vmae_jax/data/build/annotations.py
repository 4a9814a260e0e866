"""What the owners of labelled benchmarks say of their videos: annotation files to `Listing`s.

The numbers of the classes are those that public checkpoints' heads have. Each reader takes the
folder of annotations, the number of the official split (0 where there is one only) and a label map
(or None), and raises BuildError, which names the file and the line, where they are malformed.
Kinetics has its own, in kinetics.py.
"""

import glob
import os
import re
from typing import Any, NamedTuple

from vmae_jax.data.build import tables

NUMBER = re.compile("[0-9]{1,6}")


class Entry(NamedTuple):
    """One video as an annotation file names it."""

    names: tuple[str, ...]  # keys of its file, the likeliest first: paths, or names without suffix
    video: str  # the same for entries that must not both be taken
    use: str  # 'train' or 'val', which are built; 'test' or 'unused'
    label: int  # -1 = not given
    file: str
    line: int  # of the file; of JSON, which entry

    @property
    def where(self) -> str:
        return tables.where(self.file, self.line)


class Listing(NamedTuple):
    """The names of all classes in the order of their numbers, and every video."""

    classes: tuple[str, ...]
    entries: list[Entry]
    order: str  # in words, where the classes' numbers come from
    notes: tuple[str, ...] = ()  # what was taken for something else, in a line each


def ucf101(folder: str, split: int, label_map: str | None = None) -> Listing:
    """UCF101: classInd.txt, trainlist01.txt, testlist01.txt, as ucfTrainTestlist has them.

    Numbers: those of classInd.txt minus 1, as in MMAction2 and, before it, TSN.
    """
    index = tables.only(folder, "classInd.txt")
    classes: dict[str, int] = {}
    for line, text in tables.rows(index):
        number, _, name = text.partition(" ")
        if number != str(len(classes) + 1) or not name.strip() or name.strip() in classes:
            raise tables.wrong(index, line, text, f"'{len(classes) + 1} NAME_OF_A_CLASS'")
        classes[name.strip()] = len(classes)
    numbers = {name.lower(): number for name, number in classes.items()}
    entries = []
    for use, stem in (("train", "trainlist"), ("val", "testlist")):
        file = os.path.join(folder, f"{stem}{split:02d}.txt")
        for line, text in tables.rows(file):
            path, _, said = text.partition(" ")
            number = numbers.get(path.partition("/")[0].lower())
            if number is None or said.strip() not in ("", str(number + 1)):
                raise tables.wrong(file, line, text, "'CLASS/FILE [NUMBER]' as in classInd.txt")
            entries.append(_at_path(path, use, number, file, line))
    return Listing(tuple(classes), entries, "the lines of classInd.txt")


def hmdb51(folder: str, split: int, label_map: str | None = None) -> Listing:
    """HMDB51: 51 files CLASS_test_split1.txt, as testTrainMulti_7030_splits has them.

    Of their numbers, 1 is for training, 2 for testing, 0 unused. Classes are numbered in sorted
    order, as in MMAction2.
    """
    suffix = f"_test_split{split}.txt"
    files = tables.find(folder, f"*{suffix}", f"CLASS{suffix}")
    classes = sorted(os.path.basename(file).removesuffix(suffix) for file in files)
    uses = {"0": "unused", "1": "train", "2": "val"}
    entries = []
    for label, name in enumerate(classes):
        file = os.path.join(folder, f"{name}{suffix}")
        for line, text in tables.rows(file):
            path, _, number = text.rpartition(" ")
            if number not in uses or not path.strip():
                raise tables.wrong(file, line, text, "'FILE 0', 'FILE 1' or 'FILE 2'")
            path = f"{name}/{path.strip()}"
            entries.append(_at_path(path, uses[number], label, file, line))
    return Listing(tuple(classes), entries, "the names of the classes, sorted")


def ssv2(folder: str, split: int = 0, label_map: str | None = None) -> Listing:
    """Something-Something V2: *labels.json, *train.json, *validation.json and perhaps *test.json.

    A video's class is its template without the brackets; labels.json gives the number, as in the
    lists of VideoMAE V2. Those of the test videos are not read.
    """
    labels = file = tables.only(folder, "*labels.json")
    numbers = tables.read_json(file, dict)
    for i, (name, number) in enumerate(numbers.items(), 1):
        if not NUMBER.fullmatch(str(number)):
            raise tables.wrong(file, i, number, f"the number of {name!r}")
        numbers[name] = int(number)
    classes = tables.by_number(numbers, file)
    entries = []
    for use, pattern in (("train", "*train.json"), ("val", "*validation.json")):
        file = tables.only(folder, pattern)
        for i, value in enumerate(tables.read_json(file, list), 1):
            name = _id(value, file, i)
            template = str(value.get("template")).replace("[", "").replace("]", "")
            if template not in numbers:
                raise tables.wrong(file, i, template, "a template of labels.json")
            entries.append(Entry((name,), name, use, numbers[template], file, i))
    for file in sorted(glob.glob(os.path.join(glob.escape(folder), "*test.json"))):
        for i, value in enumerate(tables.read_json(file, list), 1):
            name = _id(value, file, i)
            entries.append(Entry((name,), name, "test", -1, file, i))
    return Listing(classes, entries, f"the numbers of {os.path.basename(labels)}")


def _at_path(path: str, use: str, label: int, file: str, line: int) -> Entry:
    if path.count("/") != 1:
        raise tables.wrong(file, line, path, "CLASS/FILE, a file in the folder of videos")
    for name in path.split("/"):
        tables.check_inside(name, file, line)
    return Entry(path_keys(path), path, use, label, file, line)


def path_keys(path: str) -> tuple[str, ...]:
    """As it is; in any case of letters; and without its folder and suffix.

    UCF101 itself writes HandstandPushups/v_HandStandPushups in some places only. People encode it
    again, or put all of it into one folder: no two videos of UCF101 or of HMDB51 share a stem.
    """
    lower = path.lower()
    return path, lower, os.path.splitext(os.path.basename(lower))[0]


def _id(value: Any, file: str, line: int) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str | int):
        raise tables.wrong(file, line, value, "an object with an id")
    tables.check_inside(str(value["id"]), file, line)
    return str(value["id"])
