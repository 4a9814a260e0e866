"""Reads labels and splits of videos from a table, and finds the files of its paths."""

import collections
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from vmae_jax import lists
from vmae_jax.data import inputs
from vmae_jax.data.build.items import BuildError

# Accepted names of the columns; if a table has several of them, the first counts.
COLUMNS = {
    "path": (
        "path", "file_path", "filepath", "video_path", "clip_path", "file_name", "filename",
        "video_name", "clip_name", "file", "video", "clip",
    ),
    "label": ("label", "label_name", "class_name", "class", "category", "action"),
    "split": ("split", "subset"),
}  # fmt: skip
_EXPECTED = (
    "path,label or path,label,split (in any order and case, perhaps others beside them; separated "
    "by ',', ';', '|' or tabs)"
)


class Row(NamedTuple):
    """A row of the table; the split is '' if there is no such column."""

    label: str
    split: str
    where: str  # the file and the line


def read_rows(file: str, relative: Callable[[str], str]) -> tuple[dict[str, Row], list[str]]:
    """The rows by path, and what was guessed.

    Args:
      relative: a path as the videos are named.

    Raises:
      BuildError: if it is not such a table, or names a path twice.
    """
    if not os.path.exists(file):
        raise BuildError(f"--labels={file}: no such file; expected 'folders' or a table")
    try:
        cells, notes = lists.table(file, COLUMNS, ("path", "label"), _EXPECTED)
    except lists.ListError as error:
        raise BuildError(str(error)) from error
    rows: dict[str, Row] = {}
    for line, row in cells:
        where = f"{file}, line {line}"
        if not row["path"] or row.get("split") == "":
            raise BuildError(f"{where}: the {'split' if row['path'] else 'path'} is empty")
        if "split" in row:
            check_split_name(row["split"], where)
        path = relative(row["path"])
        if path in rows:
            raise BuildError(f"{where}: {path} is on {rows[path].where.rpartition(', ')[2]} too")
        rows[path] = Row(row["label"], row.get("split", ""), where)
    return rows, list(notes)


def located(
    rows: Mapping[str, Row], file: str, paths: Collection[str], exists: Callable[[str], bool]
) -> tuple[dict[str, Row], list[str]]:
    """The rows by the path of the video that each means, and a line on each guess.

    If a path names no file, it means the video with the same name in another Unicode form, with '/'
    for '\\', or with a suffix. If no path names a file, the folders that all paths begin with are
    left out, as they are those of another machine. A path that is not found stays as it is.

    Raises:
      BuildError: where a row may mean several videos, or two rows mean one.
    """
    index = _index(paths)
    found = _find(rows, index, exists)
    notes = []
    if not found and rows:
        for left_out in _prefixes(rows):
            inner = {_slashed(p).removeprefix(left_out): row for p, row in rows.items()}
            found = _find(inner, index, exists)
            if found and len(inner) == len(rows):
                notes.append(f"{file}: its paths are read without {left_out}, as no video is there")
                rows = inner
                break
    other = [path for path in rows if found.get(path, path) != path]
    if other:
        notes.append(
            f"{file}: {len(other)} paths are taken as those of videos that differ in suffix, '\\' "
            f"or Unicode form, such as {other[0]} as {found[other[0]]}"
        )
    meant: dict[str, Row] = {}
    for path, row in rows.items():
        path = found.get(path, path)
        if path in meant:
            raise BuildError(f"{row.where}: means {path}, as {meant[path].where} does")
        meant[path] = row
    return meant, notes


def _find(
    rows: Mapping[str, Row], index: Mapping[str, set[str]], exists: Callable[[str], bool]
) -> dict[str, str]:
    """The video that each path means, where there is one."""
    found = {}
    for path, row in rows.items():
        videos = {path} if exists(path) else index.get(_key(path), set())
        if len(videos) > 1:
            raise BuildError(
                f"{row.where}: {path} may be {' or '.join(sorted(videos)[:5])}; give its suffix"
            )
        if videos:
            (found[path],) = videos
    return found


def _index(paths: Collection[str]) -> dict[str, set[str]]:
    """Videos by their names, with and without the suffix."""
    index = collections.defaultdict(set)
    for path in paths:
        index[_key(path)].add(path)
        if path.lower().endswith(inputs.SUFFIXES):
            index[_key(os.path.splitext(path)[0])].add(path)
    return dict(index)


def _key(path: str) -> str:
    return lists.composed(_slashed(path))


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _prefixes(paths: Collection[str]) -> list[str]:
    """The folders that all paths begin with, from the outermost on: 'a/', 'a/b/'."""
    folders = (PurePosixPath(_slashed(path)).parents for path in paths)
    common = set.intersection(*({f"{p}/" for p in parents} for parents in folders))
    return sorted(common - {"./", "//"}, key=len)


def check_split_name(name: str, where: str) -> None:
    # TFDS puts the name into file names and gives 'all' and brackets a meaning of their own.
    if not (name.isascii() and name.replace("_", "").isalnum()) or name == "all":
        raise BuildError(f"{where}: split {name!r}: expected letters, digits and '_', not 'all'")
