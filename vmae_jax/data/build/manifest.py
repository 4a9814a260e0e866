"""Lists the videos of a data set, with labels and splits, and checks them before any work."""

import collections
import itertools
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from vmae_jax import lists, special
from vmae_jax.data import inputs
from vmae_jax.data.build import folders
from vmae_jax.data.build.items import BuildError, Manifest, Video, check_class, order
from vmae_jax.data.build.labels import Row, check_split_name, located, read_rows

EMPTY_LABELS = ("drop", "keep")

_Rejected = tuple[str, str, str]  # path, reason, detail


def read_manifest(
    videos: str,
    labels: str | None = None,
    split: str | None = None,
    empty_labels: str = EMPTY_LABELS[0],
) -> Manifest:
    """Lists the videos with their labels and splits; `warnings` has what was guessed.

    Classes are numbered in sorted order. Names in several Unicode forms are one class.

    Args:
      videos: a folder, searched by `inputs.walk`, or a text file with one path per line, relative
        to that file.
      labels: None, 'folders' (a video's class is the name of its folder; folders without a video
        are left out), or a table with the columns path, label and perhaps split; see
        `labels.located`.
      split: one name for all; shares such as 'train:0.9,val:0.1'; or 'folders', the folders that
        `folders.SPLITS` names. None = such folders above those of the classes, else 'train'. If a
        table has a column split, that decides.
      empty_labels: whether rows without a label are left out ('drop') or built without ('keep').

    Raises:
      BuildError: where an input is missing or malformed, or no video is left.
    """
    if split not in (None, "folders"):
        parse_split(split)
    root, paths, warnings = _once(videos, *list_paths(videos))
    rows = None
    rejected: list[_Rejected] = []
    if labels and labels != "folders":
        rows, notes = _rows(labels, root, paths, os.path.isfile(videos))
        warnings += notes
        rejected = [(p, "not labelled", f"no row in {labels}") for p in paths if p not in rows]
    found, missing = _files(root, paths if rows is None else sorted(rows))
    for path, kind in missing.items():
        rejected.append(
            (path, "missing file", kind or f"named in {rows[path].where if rows else videos}")
        )
    if not found:
        count = f"; {len(rejected)} left out or missing, such as " if rejected else ""
        example = "{}: {} ({})".format(*rejected[-1]) if rejected else ""
        raise BuildError(f"--videos={videos}: no video files found{count}{example}")
    if missing:
        count = f"{len(missing)} of {len(missing) + len(found)} paths"
        warnings.append(f"{count} name no file, such as {next(iter(missing))}")
    names, dropped, more = _names_of(root, found, rows, labels, empty_labels)
    splits, notes = _splits_of(root, names, rows, labels, split)
    beside = [(p, "not in a split folder", "and no video") for p in names if p not in splits]
    classes = _classes(names.values())
    entries = [
        Video(p, found[p].st_size, found[p].st_mtime_ns, splits[p], classes.get(name, -1), name)
        for p, name in names.items()
        if p in splits
    ]
    said = (*warnings, *more, *notes, *_remarks(entries, found))
    return Manifest(
        root,
        tuple(sorted(entries, key=order)),
        tuple(sorted([*rejected, *dropped, *beside])),
        tuple(classes),
        tuple(line.encode(errors="backslashreplace").decode() for line in said),
    )


def _files(root: str, paths: Iterable[str]) -> tuple[dict[str, os.stat_result], dict[str, str]]:
    """The status of each file, and the kind of each other path: "a FIFO" or so, "" = missing."""
    found, missing = {}, {}
    for path in paths:
        file = os.path.join(root, path)
        if os.path.isfile(file):
            found[path] = os.stat(file)
        else:
            missing[path] = special.kind(file)
    return found, missing


def list_paths(videos: str, leave_out: str = "") -> tuple[str, list[str]]:
    """Root and paths relative to it ('/' between parts), sorted, as often as a list names them.

    Args:
      leave_out: a folder that is not searched where it lies in another.
    """
    source = Path(videos)
    if source.is_dir():
        try:
            paths = inputs.walk(videos, leave_out)
        except OSError as error:
            raise BuildError(
                f"--videos={videos}: {error.filename} cannot be read ({error.strerror}); make it "
                "readable, or move it away"
            ) from error
        return str(source), sorted(Path(path).relative_to(source).as_posix() for path in paths)
    if not source.is_file():
        found = special.kind(videos)
        found = f"is {found}, expected a folder or a list" if found else "no such folder or list"
        raise BuildError(f"--videos={videos}: {found}")
    try:
        lines = lists.lines(lists.read(videos))
    except lists.ListError as error:
        raise BuildError(
            f"--videos={videos}: expected a folder, or a text file with one path per line ({error})"
        ) from error
    root = source.resolve().parent
    return str(root), sorted(_relative(line.strip(), root) for line in lines if line.strip())


def _once(videos: str, root: str, listed: list[str]) -> tuple[str, list[str], list[str]]:
    """The root, each path once, and a line on those that a list names again."""
    paths = sorted(set(listed))
    again = [a for a, b in itertools.pairwise(listed) if a == b]
    if not again:
        return root, paths, []
    said = f"{videos}: {len(again)} lines name a video again, such as {again[0]}"
    return root, paths, [f"{said}; each video is taken once"]


def _relative(path: str, root: Path) -> str:
    """Relative to the root where it lies there; an absolute path elsewhere stays as it is."""
    for base in (root, root.resolve()):
        if os.path.isabs(path) and Path(path).is_relative_to(base):
            return Path(path).relative_to(base).as_posix()
    return Path(os.path.normpath(path)).as_posix()


# ---- Labels ----


def _rows(
    labels: str, root: str, paths: list[str], listed_only: bool
) -> tuple[dict[str, Row], list[str]]:
    """The rows of a table by the paths of their videos; of a list of videos, only those in it."""
    listed = set(paths)
    rows, notes = read_rows(labels, lambda path: _relative(path, Path(root)))

    def exists(path: str) -> bool:
        return path in listed or (not listed_only and os.path.isfile(os.path.join(root, path)))

    rows, more = located(rows, labels, listed, exists)
    # A list decides what is taken; in a folder a row without a file shows as missing.
    return {p: row for p, row in rows.items() if p in listed or not listed_only}, notes + more


def _names_of(
    root: str,
    found: Collection[str],
    rows: Mapping[str, Row] | None,
    labels: str | None,
    empty_labels: str,
) -> tuple[dict[str, str], list[_Rejected], list[str]]:
    """The class of each video, '' = none; what is left out; warnings."""
    if rows is not None:
        # In the order of the rows, so that the first spelling counts.
        names = {path: row.label for path, row in rows.items() if path in found}
        names, dropped, notes = _without_empty(names, rows, empty_labels)
        names, more = _spelled(names, lambda path: rows[path].where)
    elif labels == "folders":
        names, dropped, notes = folders.classes_of(root, list(found))
        names, more = _spelled(names, lambda path: f"the folder of {path}")
    else:
        return dict.fromkeys(found, ""), [], []
    return names, dropped, notes + more


def _without_empty(
    names: dict[str, str], rows: Mapping[str, Row], empty_labels: str
) -> tuple[dict[str, str], list[_Rejected], list[str]]:
    if empty_labels not in EMPTY_LABELS:
        raise BuildError(f"--empty_labels={empty_labels}: expected {' or '.join(EMPTY_LABELS)}")
    empty = [path for path, name in names.items() if not name]
    if not empty:
        return names, [], []
    found = f"{len(empty)} rows have no label, such as {rows[empty[0]].where}"
    if empty_labels == "keep":
        note = "kept, but fine-tuning stops at them; --empty_labels=drop leaves them out"
        return names, [], [f"{found}; {note}"]
    if len(empty) == len(names):
        raise BuildError(f"{found}; leave out --labels, or give --empty_labels=keep")
    dropped = [(path, "not labelled", f"no label in {rows[path].where}") for path in empty]
    note = "left out; --empty_labels=keep keeps them without a label"
    return {path: name for path, name in names.items() if name}, dropped, [f"{found}; {note}"]


def _spelled(
    names: Mapping[str, str], where: Callable[[str], str]
) -> tuple[dict[str, str], list[str]]:
    """The names with one spelling for each class, the first one; a line on those that look alike.

    Raises:
      BuildError: where a dataset directory cannot hold a name.
    """
    first: dict[str, str] = {}
    merged = collections.defaultdict(set)
    spelled = {}
    for path, name in names.items():
        if name:
            check_class(name.strip(), where(path))
        spelled[path] = first.setdefault(lists.composed(name), name.strip())
        if spelled[path] != name:
            merged[spelled[path]].add(name)
    warnings = [
        f"the class {name!a} is spelled as {', '.join(map(ascii, sorted(others)))} too"
        for name, others in sorted(merged.items())
    ]
    return spelled, warnings + list(_alike(set(first.values()) - {""}))


def _alike(names: set[str]) -> Iterable[str]:
    """A line for each group of classes that people may mean as one."""
    groups = collections.defaultdict(list)
    for name in sorted(names):
        folded = unicodedata.normalize("NFKC", name).casefold().replace("_", " ")
        folded = folded.lstrip("0") if folded.isdigit() else " ".join(folded.split())
        groups[folded].append(name)
    for group in groups.values():
        if len(group) > 1:
            yield f"{len(group)} classes look alike: {', '.join(map(repr, group[:5]))}"
    hidden = [name for name in sorted(names) if _hides(name)]
    if hidden:
        yield f"{len(hidden)} classes hold characters that do not show: {hidden[0]!a:.99}, ..."


def _hides(name: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name)


def _classes(names: Iterable[str]) -> dict[str, int]:
    """Class numbers in sorted order; names that are all numbers sort as numbers, so 0..K-1 stay."""
    distinct = sorted(set(names) - {""})
    if all(name.isascii() and name.isdigit() for name in distinct):
        distinct.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
    return {name: i for i, name in enumerate(distinct)}


# ---- Splits ----


def parse_split(split: str) -> dict[str, float]:
    """'train' -> {'train': 1.0}; 'train:0.9,val:0.1' -> both shares, which must add up to 1."""
    if ":" not in split:
        check_split_name(split, f"--split={split}")
        return {split: 1.0}
    shares = {}
    for part in split.split(","):
        name, _, share = part.strip().partition(":")
        check_split_name(name, f"--split={split}")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise BuildError(
                f"--split={split}: {part!r} has no share; expected e.g. train:0.9,val:0.1"
            ) from error
    if abs(sum(shares.values()) - 1) > 1e-6 or min(shares.values()) <= 0:
        raise BuildError(f"--split={split}: the shares must be positive and add up to 1")
    return shares


def _splits_of(
    root: str,
    paths: Iterable[str],
    rows: Mapping[str, Row] | None,
    labels: str | None,
    split: str | None,
) -> tuple[dict[str, str], list[str]]:
    """The split of each video, and a line on what decided it where that may surprise."""
    paths = sorted(paths)
    if rows is not None and any(row.split for row in rows.values()):
        notes = [f"{labels}: its column split decides, not --split={split}"] if split else []
        return {path: rows[path].split for path in paths}, notes
    by_folder = split == "folders" or (labels == "folders" and split is None)
    try:
        found, names = folders.splits_of(root, paths, above_classes=labels == "folders")
    except BuildError:
        if by_folder:
            raise
        found, names = {}, []
    said, splits = ", ".join(names), ", ".join(sorted(set(found.values())))
    if split == "folders" or (by_folder and found):
        if not found:
            known = ", ".join(folders.SPLITS)
            raise BuildError(f"--split=folders: {root} has no folder of the names {known}")
        folders.check_beside(root, paths, found, said)
        return found, [f"the folders {said} are the splits {splits}; --split=NAME takes all as one"]
    split = split or "train"
    notes = []
    if len(set(found.values())) > 1:
        notes.append(
            f"the folders {said} are not taken as splits, all their videos go to {split}; "
            "--split=folders makes them splits"
        )
    shared = _shared(paths, split)
    empty = parse_split(split).keys() - shared.values()
    if empty:
        notes.append(f"--split={split}: too few videos, no video for {', '.join(sorted(empty))}")
    return shared, notes


def _remarks(videos: Iterable[Video], stats: Mapping[str, os.stat_result]) -> Iterable[str]:
    """A line on each thing that may spoil training or testing."""
    splits = collections.defaultdict(set)
    files = collections.defaultdict(list)
    for video in videos:
        splits[video.split].add(video.label_name)
        stat = stats[video.path]
        if stat.st_ino:
            files[stat.st_dev, stat.st_ino].append(video)
    unseen = sorted(set().union(*splits.values()) - splits.get("train", set()) - {""})
    if unseen and "train" in splits:
        yield f"{len(unseen)} classes have no video in train: {', '.join(unseen[:5])}"
    linked = [names for names in files.values() if len(names) > 1]
    if linked:
        paths = " and ".join(sorted(video.path for video in linked[0])[:2])
        across = sum(len({video.split for video in names}) > 1 for names in linked)
        yield f"{len(linked)} files are linked, {across} into several splits, such as {paths}"


def _shared(paths: Iterable[str], split: str) -> dict[str, str]:
    shuffled = sorted(paths, key=lambda path: order(Video(path, 0, 0)))
    splits, end, share_sum = {}, 0, 0.0
    for name, share in parse_split(split).items():
        share_sum += share
        start, end = end, round(share_sum * len(shuffled))
        splits |= dict.fromkeys(shuffled[start:end], name)
    return splits
