"""Classes and splits from the names of the folders that the videos lie in."""

import collections
import itertools
import mimetypes
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from vmae_jax import lists
from vmae_jax.data import inputs
from vmae_jax.data.build.items import BuildError
from vmae_jax.data.source import Source
from vmae_jax.data.upright import VideoError

# Folders of this name, in any case, are that split, as torchvision and Hugging Face name them.
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

_PROBES = 8  # files of a folder that are opened if no file name shows that it is a video


class Classes(NamedTuple):
    """The class of each video by its path; (path, reason, detail) of other files; warnings."""

    names: dict[str, str]
    rejected: list[tuple[str, str, str]]
    warnings: list[str]


def classes_of(root: str, paths: Sequence[str]) -> Classes:
    """A class is a folder that holds a video; files elsewhere are left out.

    Raises:
      BuildError: where a video lies in no folder, or no folder holds one.
    """
    by_folder = collections.defaultdict(list)
    for path in paths:
        by_folder[os.path.dirname(path)].append(path)
    held = {folder for folder, files in by_folder.items() if _holds_video(root, files)}
    if "" in held:
        loose = [path for path in by_folder[""] if _is_video(root, path)]
        raise BuildError(
            f"--labels=folders: {len(loose)} files lie in no class folder of {root}: "
            f"{', '.join(loose[:5])}; move them into one, or use --labels=CSV"
        )
    if not held:
        raise BuildError(f"--labels=folders: no folder of {root} holds a video")
    names = {path: os.path.basename(f) for f in held for path in by_folder[f]}
    others = [path for path in paths if path not in names]
    return Classes(
        {path: names[path] for path in paths if path in names},
        [(path, "not in a class folder", "no video lies beside it") for path in others],
        [f"--labels=folders: {text}" for text in _remarks(held, others)],
    )


def _remarks(held: Collection[str], others: Sequence[str]) -> Iterable[str]:
    if others:
        yield (
            f"{len(others)} files in folders without a video are left out, and make no class: "
            f"{lists.shown(others)}"
        )
    inner = sorted(f for f in held if any(str(p) in held for p in PurePosixPath(f).parents))
    if inner:
        yield f"{len(inner)} classes lie in folders of other classes: {lists.shown(inner)}"
    homes = _homes(held)
    several = sorted(name for name in homes if len(homes[name]) > 1)
    if several:
        yield (
            f"{len(several)} classes lie in several folders, which make no splits: "
            f"{lists.shown(several)}; the first in {lists.shown(sorted(homes[several[0]]))}"
        )
    names = {os.path.basename(folder) for folder in held}
    if {name.lower() for name in names} <= SPLITS.keys():
        yield (
            f"the classes are named {lists.shown(sorted(names))}, like splits; for splits without "
            "classes give --split=folders and no --labels"
        )


def _homes(held: Collection[str]) -> dict[str, set[str]]:
    """The folders that each class lies in, without those that name a split."""
    homes = collections.defaultdict(set)
    for folder in held:
        *parts, name = PurePosixPath(folder).parts
        homes[name].add(str(PurePosixPath(*(part for part in parts if not _split(part)))))
    return homes


def _holds_video(root: str, files: Sequence[str]) -> bool:
    if any(path.lower().endswith(inputs.SUFFIXES) for path in files):
        return True
    unknown = (path for path in files if _may_be_video(path))
    return any(_is_video(root, path) for path in itertools.islice(unknown, _PROBES))


def _is_video(root: str, path: str) -> bool:
    """Decides by the name of a file, or by its content if the name says nothing."""
    if path.lower().endswith(inputs.SUFFIXES):
        return True
    if not _may_be_video(path):
        return False
    try:
        with Source(os.path.join(root, path), short_side=0):
            return True
    except VideoError as error:
        return error.reason not in ("cannot be opened", "not a video")


def _may_be_video(path: str) -> bool:
    kind = mimetypes.guess_type(path)[0] or ""
    return kind.partition("/")[0] not in ("image", "text", "audio")


# ---- Splits ----


def splits_of(
    root: str, paths: Sequence[str], *, above_classes: bool
) -> tuple[dict[str, str], list[str]]:
    """The split of each file below a folder that names one, and the names of those folders.

    Args:
      above_classes: whether the folder that a video lies in is its class, and no split.

    Raises:
      BuildError: where a file lies below the folders of two splits.
    """
    found: dict[str, str] = {}
    names: set[str] = set()
    for path, parts in _folders(root, paths).items():
        said = [part for part in (parts[:-1] if above_classes else parts) if _split(part)]
        if len({_split(part) for part in said}) > 1:
            raise BuildError(
                f"{path}: lies in the folders of {len(said)} splits, {' and '.join(said)}; rename "
                "one of them, or give --split=NAME for all videos"
            )
        if said:
            found[path] = _split(said[0])
            names |= set(said)
    return found, sorted(names)


def check_beside(root: str, paths: Sequence[str], found: Collection[str], said: str) -> None:
    """Raises BuildError where a video lies beside the folders of the splits."""
    others = [path for path in paths if path not in found and _is_video(root, path)]
    if others:
        raise BuildError(
            f"{len(found)} files lie below the folders {said}, as if these were splits, and "
            f"{len(others)} videos beside them: {lists.shown(others)}; move those, or give "
            "--split=NAME for all videos"
        )


def _split(folder: str) -> str:
    return SPLITS.get(folder.lower(), "")


def _folders(root: str, paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The folders of each file below the root, or, of a list, below the folder of all."""
    folders = {path: os.path.dirname(path) for path in paths}
    base = ""
    if any(map(os.path.isabs, folders.values())):
        folders = {path: os.path.join(root, folder) for path, folder in folders.items()}
        base = os.path.commonpath(folders.values())
    return {
        path: PurePosixPath(os.path.relpath(folder, base) if base else folder).parts
        for path, folder in folders.items()
    }
