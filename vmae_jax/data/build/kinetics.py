"""Kinetics: the CSV files of its versions, and the order of their classes.

Two orders are in use. Heads of MMAction2 and UniFormerV2 follow the sorted labels. Heads of
VideoMAE V2 follow the lines of its label_map_k{400,600,700,710}.txt. Of these files only the first
is sorted, and some of their names are those of another version of Kinetics.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmae_jax.data.build import tables
from vmae_jax.data.build.annotations import NUMBER, Entry, Listing
from vmae_jax.data.build.items import BuildError

_VERSIONS = (400, 600, 700)
_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
_MERGE = "k710_identical_label_merge.json"
# The content of VideoMAE V2's _MERGE: labels of one version and their names in a later one. If such
# a file lies beside a label map, it is used instead.
_RENAMED = {
    "balloon blowing": "inflating balloons",
    "changing wheel": "changing wheel (not on bike)",
    "cooking sausages": "cooking sausages (not on barbeque)",
    "drinking": "sipping cup",
    "dying hair": "dyeing hair",
    "garbage collecting": "person collecting garbage",
    "hugging": "hugging (not baby)",
    "making bed": "making the bed",
    "opening bottle": "opening bottle (not wine)",
    "passing american football (not in game)": "passing American football (not in game)",
    "picking fruit": "picking apples",
    "skiing (not slalom or crosscountry)": "skiing mono",
    "sniffing": "smelling feet",
    "throwing ball": "throwing ball (not baseball or American football)",
    "tying tie": "tying necktie",
}


class _Clip(NamedTuple):
    """A row of a CSV: seconds `start` to `end` of a video of YouTube."""

    id: str
    start: int
    end: int
    use: str
    label: str
    file: str
    line: int

    def entry(self, folder: str, video: str, numbers: Mapping[str, int]) -> Entry:
        """Its file is named ID_START_END or ID, in a folder ('' = in any)."""
        stem = f"{folder}{self.id}"
        names = (f"{stem}_{self.start:06d}_{self.end:06d}", stem)
        label = numbers.get(self.label, -1)
        return Entry(names, video or names[0], self.use, label, self.file, self.line)


class _Version(NamedTuple):
    """The lists of one version: clips, their labels sorted, what is odd in a line each."""

    clips: list[_Clip]
    labels: list[str]
    notes: list[str]


def kinetics(version: int, folder: str, split: int = 0, label_map: str | None = None) -> Listing:
    """Kinetics-400, -600, -700 and -700-2020: every CSV of the folder.

    Classes are numbered as their sorted labels, or by a label map: a file (see `read_label_map`),
    or a folder with label_map_k{version}.txt.
    """
    read = _read(folder)
    classes, order, notes = tuple(read.labels), "their sorted labels, as in MMAction2", read.notes
    numbers: Mapping[str, int] = {label: i for i, label in enumerate(classes)}
    if label_map:
        file = _map_file(label_map, version)
        classes, numbers, said = _numbered(read.labels, version, file)
        order, notes = f"the numbers of {os.path.basename(file)}", notes + said
    elif version != 400:
        notes = [
            *notes,
            f"Kinetics-{version}'s classes are in the order of {order}; heads of VideoMAE V2 have "
            f"that of its label_map_k{version}.txt: --label_map=misc of its repository",
        ]
    entries = [clip.entry("", "", numbers) for clip in read.clips]
    return Listing(classes, entries, order, tuple(notes))


def kinetics710(folder: str, split: int = 0, label_map: str | None = None) -> Listing:
    """Kinetics-710 (arXiv 2211.09552): the folders k400, k600 and k700, each as for `kinetics`.

    Of several clips of one YouTube video the first is taken, in the order of these folders. The
    label map is the folder misc of VideoMAE V2's repository, of which label_map_k710.txt names the
    classes, or such a file: a label's number is its line, found by itself or by its other name.
    """
    file = _map_file(label_map, 710)
    entries, notes = [], []
    for version in _VERSIONS:
        read = _read(folder, f"k{version}/")
        classes, numbers, said = _numbered(read.labels, version, file)
        notes += read.notes + said
        entries += [clip.entry(f"k{version}/", clip.id, numbers) for clip in read.clips]
    return Listing(classes, entries, f"the numbers of {os.path.basename(file)}", tuple(notes))


def _read(folder: str, subfolder: str = "") -> _Version:
    files = tables.find(folder, f"{subfolder}*.csv", f"{subfolder}train.csv, val.csv or the like")
    clips, notes = [], []
    for file in files:
        for line, row in tables.table(file, _COLUMNS[1:4], _headerless):
            clips.append(_clip(row, file, line))
            if line == 1:
                notes.append(f"{file}: has no header; its columns are read as {','.join(row)}")
    for use in ("train", "val"):
        if not any(clip.use == use for clip in clips):
            found = ", ".join(map(os.path.basename, files))
            notes.append(
                f"{os.path.dirname(files[0])}: no list for {use} among {found}; there will be no "
                f"split {use}"
            )
    return _Version(clips, sorted({clip.label for clip in clips if clip.label}), notes)


def _headerless(cells: list[str]) -> Sequence[str]:
    """The columns where a first row is one of data: with a label or, for testing, without."""
    for columns in (_COLUMNS, _COLUMNS[1:]):
        row = dict(zip(columns, cells, strict=False))
        if len(row) == len(cells) and all(row.get(k, "").isdigit() for k in _COLUMNS[2:4]):
            return columns[: len(cells)]
    return ()


def _clip(row: Mapping[str, str], file: str, line: int) -> _Clip:
    said = row.get("split") or os.path.basename(file)
    use = next((use for use in ("train", "val", "test") if use in said.lower()), None)
    if use is None:
        raise tables.wrong(file, line, said, "a split named train, val or test")
    name, label = row["youtube_id"], row.get("label", "")
    try:
        start, end = int(row["time_start"]), int(row["time_end"])
    except ValueError as error:
        raise tables.wrong(file, line, ",".join(row.values()), "whole seconds") from error
    if not label and use != "test":
        raise BuildError(f"{tables.where(file, line)}: {name} has no label")
    tables.check_inside(name, file, line)
    return _Clip(name, start, end, use, label, file, line)


# ---- Numbers by a label map ----


def read_label_map(path: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the number of each label, of which several may share one.

    A text file has the name of a class on each line, in the order of the numbers; a CSV the columns
    label,number; a .json file is an object {label: number}. A class is named as its first label.
    """
    suffix = os.path.splitext(path)[1].lower()
    numbers: dict[str, int] = {}
    if suffix == ".json":
        numbers = tables.read_json(path, dict)
    elif suffix == ".csv":
        for line, row in tables.table(path, ("label", "number")):
            if not NUMBER.fullmatch(row["number"]) or row["label"] in numbers:
                raise tables.wrong(path, line, ",".join(row.values()), "a new label and its number")
            numbers[row["label"]] = int(row["number"])
    else:
        for line, name in tables.rows(path):
            if name in numbers:
                raise BuildError(f"{tables.where(path, line)}: {name!r} is on an earlier line too")
            numbers[name] = len(numbers)
    return tables.by_number(numbers, path), numbers


def _map_file(label_map: str, version: int) -> str:
    if not os.path.isdir(label_map):
        return label_map
    file = os.path.join(label_map, f"label_map_k{version}.txt")
    if not os.path.isfile(file):
        raise BuildError(
            f"--label_map={label_map}: has no {os.path.basename(file)}; expected the folder misc "
            "of VideoMAE V2's repository, or a file"
        )
    return file


def _numbered(
    labels: Sequence[str], version: int, file: str
) -> tuple[tuple[str, ...], dict[str, int], list[str]]:
    """The names of a map's classes, the number of each label, and what was guessed.

    A map of all versions does not tell which class a label has under another name; the version's
    own beside it does.

    Raises:
      BuildError: where labels have no number.
    """
    classes, known = read_label_map(file)
    numbers, notes = _by_name(labels, known, file), []
    own = os.path.join(os.path.dirname(file), f"label_map_k{version}.txt")
    if len(numbers) < len(labels) and file != own and os.path.isfile(own):
        names, places, notes = _numbered(labels, version, own)
        named = {label: names[i] for label, i in places.items()}
        numbers = {label: known[n] for label, n in named.items() if n in known} | numbers
    elif guessed := _left_over(labels, classes, numbers):
        pairs = ", ".join(f"{label!r} is its {classes[i]!r}" for label, i in guessed.items())
        notes = [f"{file}: lacks labels of Kinetics-{version}; paired by exclusion: {pairs}"]
        numbers |= guessed
    unknown = [label for label in labels if label not in numbers]
    if unknown:
        raise BuildError(
            f"--label_map={file}: has no number for {len(unknown)} of {len(labels)} labels, such "
            f"as {', '.join(unknown[:5])}; expected every label of Kinetics-{version}, or its name "
            f"by {_MERGE} or {os.path.basename(own)} beside it"
        )
    return classes, numbers, notes


def _by_name(labels: Sequence[str], known: Mapping[str, int], file: str) -> dict[str, int]:
    """Numbers of the labels that a map has, by themselves or by another name."""
    synonyms = _synonyms(os.path.join(os.path.dirname(file), _MERGE))
    found = {}
    for label in labels:
        for name in (label, *synonyms.get(label, ())):
            if name in known:
                found.setdefault(label, known[name])
    return found


def _synonyms(merge: str) -> dict[str, list[str]]:
    """Other names of a label."""
    pairs = tables.read_json(merge, dict) if os.path.isfile(merge) else _RENAMED
    found: dict[str, list[str]] = {}
    for i, (old, new) in enumerate(pairs.items(), 1):
        if not isinstance(new, str):
            raise tables.wrong(merge, i, new, f"another name of {old!r}")
        found.setdefault(old, []).append(new)
        found.setdefault(new, []).append(old)
    return found


def _left_over(
    labels: Sequence[str], classes: Sequence[str], numbers: Mapping[str, int]
) -> dict[str, int]:
    """Numbers of the last labels without one: those of the classes that no other label has.

    One is left on each side; or the map is in the order of the sorted labels, so that places tell.
    """
    left = [label for label in labels if label not in numbers]
    free = sorted(set(range(len(classes))) - set(numbers.values()))
    sure = len(left) == 1 or all(numbers.get(label, i) == i for i, label in enumerate(labels))
    if len(left) != len(free) or not sure or 2 * len(left) >= len(labels):
        return {}
    return dict(zip(left, free, strict=True))
