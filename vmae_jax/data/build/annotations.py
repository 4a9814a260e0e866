"""What the owners of labelled benchmarks say of their videos: annotation files to `Listing`s.

The numbers of the classes are those that public checkpoints' heads have. Each reader takes the
folder of annotations, the number of the official split (0 where there is one only) and a label map
(or None), and raises BuildError, which names the file and the line, where they are malformed.
"""

import csv
import glob
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vmae_jax import lists
from vmae_jax.data.build.items import BuildError

_NUMBER = re.compile("[0-9]{1,6}")


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
        return _where(self.file, self.line)


class Listing(NamedTuple):
    """The names of all classes in the order of their numbers, and every video."""

    classes: tuple[str, ...]
    entries: list[Entry]


def ucf101(folder: str, split: int, label_map: str | None = None) -> Listing:
    """UCF101: classInd.txt, trainlist01.txt, testlist01.txt, as ucfTrainTestlist has them.

    Numbers: those of classInd.txt minus 1, as in MMAction2 and, before it, TSN.
    """
    index = os.path.join(folder, "classInd.txt")
    classes: dict[str, int] = {}
    for line, text in _rows(index):
        number, _, name = text.partition(" ")
        if number != str(len(classes) + 1) or not name.strip() or name.strip() in classes:
            raise _wrong(index, line, text, f"'{len(classes) + 1} NAME_OF_A_CLASS'")
        classes[name.strip()] = len(classes)
    numbers = {name.lower(): number for name, number in classes.items()}
    entries = []
    for use, stem in (("train", "trainlist"), ("val", "testlist")):
        file = os.path.join(folder, f"{stem}{split:02d}.txt")
        for line, text in _rows(file):
            path, _, said = text.partition(" ")
            number = numbers.get(path.partition("/")[0].lower())
            if number is None or said.strip() not in ("", str(number + 1)):
                raise _wrong(file, line, text, "'CLASS/FILE [NUMBER]' as in classInd.txt")
            entries.append(_at_path(path, use, number, file, line))
    return Listing(tuple(classes), entries)


def hmdb51(folder: str, split: int, label_map: str | None = None) -> Listing:
    """HMDB51: 51 files CLASS_test_split1.txt, as testTrainMulti_7030_splits has them.

    Of their numbers, 1 is for training, 2 for testing, 0 unused. Classes are numbered in sorted
    order, as in MMAction2.
    """
    suffix = f"_test_split{split}.txt"
    files = sorted(glob.glob(f"*{suffix}", root_dir=folder))
    if not files:
        raise BuildError(f"--annotations={folder}: found no file CLASS{suffix}")
    classes = sorted(file.removesuffix(suffix) for file in files)
    uses = {"0": "unused", "1": "train", "2": "val"}
    entries = []
    for label, name in enumerate(classes):
        file = os.path.join(folder, f"{name}{suffix}")
        for line, text in _rows(file):
            path, _, number = text.rpartition(" ")
            if number not in uses or not path.strip():
                raise _wrong(file, line, text, "'FILE 0', 'FILE 1' or 'FILE 2'")
            path = f"{name}/{path.strip()}"
            entries.append(_at_path(path, uses[number], label, file, line))
    return Listing(tuple(classes), entries)


def ssv2(folder: str, split: int = 0, label_map: str | None = None) -> Listing:
    """Something-Something V2: *labels.json, *train.json, *validation.json and perhaps *test.json.

    A video's class is its template without the brackets; labels.json gives the number, as in the
    lists of VideoMAE V2. Those of the test videos are not read.
    """
    file = _only(folder, "*labels.json")
    numbers = _read_json(file, dict)
    for i, (name, number) in enumerate(numbers.items(), 1):
        if not _NUMBER.fullmatch(str(number)):
            raise _wrong(file, i, number, f"the number of {name!r}")
        numbers[name] = int(number)
    classes = _by_number(numbers, file)
    entries = []
    for use, pattern in (("train", "*train.json"), ("val", "*validation.json")):
        file = _only(folder, pattern)
        for i, value in enumerate(_read_json(file, list), 1):
            name = _id(value, file, i)
            template = str(value.get("template")).replace("[", "").replace("]", "")
            if template not in numbers:
                raise _wrong(file, i, template, "a template of labels.json")
            entries.append(Entry((name,), name, use, numbers[template], file, i))
    for file in sorted(glob.glob(os.path.join(glob.escape(folder), "*test.json"))):
        for i, value in enumerate(_read_json(file, list), 1):
            name = _id(value, file, i)
            entries.append(Entry((name,), name, "test", -1, file, i))
    return Listing(classes, entries)


# ---- Kinetics ----

_VERSIONS = (400, 600, 700)


class _Clip(NamedTuple):
    """A row of a CSV of Kinetics: seconds `start` to `end` of a video of YouTube."""

    id: str
    start: int
    end: int
    use: str
    label: str
    file: str
    line: int


def kinetics(folder: str, split: int = 0, label_map: str | None = None) -> Listing:
    """Kinetics-400, -600, -700 and -700-2020: every CSV of the folder.

    Classes are numbered in sorted order, as in MMAction2 (and so are the first 400 of VideoMAE V2's
    label_map_k710.txt), or by a label map (see `read_label_map`).
    """
    clips = _clips(folder)
    labels = sorted({clip.label for clip in clips if clip.label})
    numbers = {label: i for i, label in enumerate(labels)}
    classes = tuple(labels)
    if label_map:
        classes, numbers = read_label_map(label_map)
    _check_known(labels, numbers, label_map)
    entries = []
    for clip in clips:
        names = (f"{clip.id}_{clip.start:06d}_{clip.end:06d}", clip.id)
        entries.append(_of_clip(clip, names, names[0], numbers))
    return Listing(classes, entries)


def kinetics710(folder: str, split: int = 0, label_map: str | None = None) -> Listing:
    """Kinetics-710 (arXiv 2211.09552): the folders k400, k600 and k700, each as for `kinetics`.

    Of several clips of one YouTube video the first is taken, in the order of these folders. The
    label map is the folder misc of VideoMAE V2's repository, of which label_map_k710.txt (the names
    of the classes) and label_710to{400,600,700}.json (for each class of that Kinetics, in sorted
    order, its number) are read; or a file with a number for every label of the three.
    """
    entries = []
    for version in _VERSIONS:
        clips = _clips(os.path.join(folder, f"k{version}"))
        labels = sorted({clip.label for clip in clips if clip.label})
        if os.path.isdir(label_map):
            classes, numbers = _of_misc(label_map, version, labels)
        else:
            classes, numbers = read_label_map(label_map)
        _check_known(labels, numbers, label_map)
        for clip in clips:
            stem = f"k{version}/{clip.id}"
            names = (f"{stem}_{clip.start:06d}_{clip.end:06d}", stem)
            entries.append(_of_clip(clip, names, clip.id, numbers))
    return Listing(classes, entries)


def read_label_map(path: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the number of each label, of which several may share one.

    A text file has the name of a class on each line, in the order of the numbers; a CSV the columns
    label,number; a .json file is an object {label: number}. A class is named as its first label.
    """
    suffix = os.path.splitext(path)[1].lower()
    numbers: dict[str, int] = {}
    if suffix == ".json":
        numbers = _read_json(path, dict)
    elif suffix == ".csv":
        for line, row in _table(path, ("label", "number")):
            if not _NUMBER.fullmatch(row["number"]) or row["label"] in numbers:
                raise _wrong(path, line, ",".join(row.values()), "a new label and its number")
            numbers[row["label"]] = int(row["number"])
    else:
        for line, name in _rows(path):
            if name in numbers:
                raise BuildError(f"{_where(path, line)}: {name!r} is on an earlier line too")
            numbers[name] = len(numbers)
    return _by_number(numbers, path), numbers


def _of_misc(
    folder: str, version: int, labels: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    classes, known = read_label_map(os.path.join(folder, "label_map_k710.txt"))
    file = os.path.join(folder, f"label_710to{version}.json")
    numbers = _read_json(file, list)
    valid = all(type(n) is int and 0 <= n < len(classes) for n in numbers)
    if len(numbers) != len(labels) or not valid:
        raise BuildError(
            f"{file}: expected {len(labels)} numbers below {len(classes)}, one for each class of "
            f"Kinetics-{version}, found {len(numbers)} entries"
        )
    for i, (label, number) in enumerate(zip(labels, numbers, strict=True), 1):
        if known.get(label, number) != number:
            raise _wrong(file, i, number, f"{known[label]}, the line of {label!r} minus 1")
    return classes, dict(zip(labels, numbers, strict=True))


def _clips(folder: str) -> list[_Clip]:
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "*.csv")))
    if not files:
        raise BuildError(f"{folder}: found no .csv file; expected train.csv, val.csv or the like")
    clips = []
    for file in files:
        for line, row in _table(file, ("youtube_id", "time_start", "time_end")):
            said = row.get("split") or os.path.basename(file)
            use = next((use for use in ("train", "val", "test") if use in said.lower()), None)
            if use is None:
                raise _wrong(file, line, said, "a split named train, val or test")
            name, label = row["youtube_id"], row.get("label", "")
            try:
                start, end = int(row["time_start"]), int(row["time_end"])
            except ValueError as error:
                raise _wrong(file, line, ",".join(row.values()), "whole seconds") from error
            if not label and use != "test":
                raise BuildError(f"{_where(file, line)}: {name} has no label")
            _check_inside(name, file, line)
            clips.append(_Clip(name, start, end, use, label, file, line))
    return clips


def _of_clip(clip: _Clip, names: tuple[str, ...], video: str, numbers: Mapping[str, int]) -> Entry:
    label = numbers.get(clip.label, -1)
    return Entry(names, video, clip.use, label, clip.file, clip.line)


def _check_known(labels: Collection[str], known: Collection[str], label_map: str | None) -> None:
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise BuildError(
            f"--label_map={label_map}: has no number for {len(unknown)} of {len(labels)} labels, "
            f"such as {', '.join(unknown[:5])}"
        )


# ---- Files ----


def _where(file: str, line: int) -> str:
    return f"{file}, {'entry' if file.endswith('.json') else 'line'} {line}"


def _wrong(file: str, line: int, found: object, expected: str) -> BuildError:
    return BuildError(f"{_where(file, line)}: found {found!r:.99}, expected {expected}")


def _at_path(path: str, use: str, label: int, file: str, line: int) -> Entry:
    if path.count("/") != 1:
        raise _wrong(file, line, path, "CLASS/FILE, a file in the folder of videos")
    for name in path.split("/"):
        _check_inside(name, file, line)
    # UCF101 itself writes HandstandPushups/v_HandStandPushups in some places only.
    return Entry((path, path.lower()), path, use, label, file, line)


def _check_inside(name: str, file: str, line: int) -> None:
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise _wrong(file, line, name, "the name of a file in the folder of videos")


def _lines(file: str) -> list[str]:
    """The lines of a text file, which name themselves where they are no text."""
    try:
        return lists.lines(lists.read(file))
    except lists.ListError as error:
        raise BuildError(str(error)) from error


def _rows(file: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty."""
    return ((i, line.strip()) for i, line in enumerate(_lines(file), 1) if line.strip())


def _table(file: str, needed: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells by column of each row of a CSV with a header."""
    reader = csv.reader(f"{line}\n" for line in _lines(file))
    try:
        header = [name.strip() for name in next(reader, [])]
        if not set(needed) <= set(header):
            raise _wrong(file, 1, ",".join(header), f"a header with {','.join(needed)}")
        line = reader.line_num + 1
        for cells in reader:
            # A quote that is not closed would take the lines after it into its cell.
            if cells and (len(cells) != len(header) or not all(map(str.isprintable, cells))):
                found = f"{len(cells)} columns: {','.join(cells)}"
                raise _wrong(
                    file, line, found, f"{len(header)} columns of text ({','.join(header)})"
                )
            if cells:
                yield line, dict(zip(header, map(str.strip, cells), strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise BuildError(f"{_where(file, reader.line_num)}: {error}") from error


def _only(folder: str, pattern: str) -> str:
    found = sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))
    if len(found) != 1:
        raise BuildError(
            f"--annotations={folder}: expected one file {pattern}, found {len(found)}"
            f"{': ' * bool(found)}{', '.join(map(os.path.basename, found))}"
        )
    return found[0]


def _read_json(file: str, kind: type) -> Any:
    try:
        value = json.loads("\n".join(_lines(file)))
    except json.JSONDecodeError as error:
        raise BuildError(f"{file}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{file}: {error}") from error
    if not isinstance(value, kind) or not value:
        raise BuildError(f"{file}: expected a JSON {'list' if kind is list else 'object'}")
    return value


def _id(value: Any, file: str, line: int) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str | int):
        raise _wrong(file, line, value, "an object with an id")
    _check_inside(str(value["id"]), file, line)
    return str(value["id"])


def _by_number(numbers: Mapping[str, int], file: str) -> tuple[str, ...]:
    """The classes' names in the order of their numbers, which must be 0..K-1."""
    names: dict[int, str] = {}
    for i, (name, number) in enumerate(numbers.items(), 1):
        if type(number) is not int or not name.isprintable():
            raise _wrong(file, i, number, f"the number of {name!r}")
        names.setdefault(number, name)
    gaps = sorted(set(range(len(names))) - names.keys())
    if gaps or not names:
        raise BuildError(
            f"{file}: the numbers of {len(names)} classes are not 0 to {len(names) - 1}: without "
            f"a class are {', '.join(map(str, gaps[:5]))}"
        )
    return tuple(names[i] for i in range(len(names)))
