"""Which videos go into a data set, with labels and splits: checked before any work."""

import csv
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vmae_jax import special
from vmae_jax.data import inputs


class BuildError(ValueError):
    """A build that cannot start or end; the message is one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """A stretch of a video that becomes a record of its own, with what is known of it."""

    id: str  # of the record
    start: float  # seconds from the first frame
    end: float
    metadata: str = "{}"  # JSON


@dataclasses.dataclass(frozen=True)
class Video:
    """A source file: its path relative to the root; size (bytes) and time show a change."""

    path: str
    size: int
    mtime_ns: int
    split: str = "train"
    label: int = -1
    label_name: str = ""
    cuts: tuple[Cut, ...] = ()  # in order, apart; none = as `Encoding.segment_seconds` says
    digest: str = ""  # SHA-256 of the bytes that the cuts are of; '' = not asked

    def described(self) -> dict[str, Any]:
        """What decides its records, for a plan in JSON: of the cuts only a digest."""
        values = dataclasses.asdict(self)
        cuts = json.dumps(values.pop("cuts"), sort_keys=True).encode()
        return values | {"cuts": hashlib.sha256(cuts).hexdigest() if self.cuts else ""}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was asked for: `videos` exist; `rejected` are (path, reason, detail) left out by now.

    `warnings` say in a line each what is not as it should be.
    """

    root: str
    videos: tuple[Video, ...]
    rejected: tuple[tuple[str, str, str], ...]
    label_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Row:
    label: str
    split: str
    line: int


def read_manifest(videos: str, labels: str | None = None, split: str = "train") -> Manifest:
    """Lists the videos with their labels and splits.

    Args:
      videos: a folder, searched by `inputs.walk`, or a text file with one path per line, relative
        to that file.
      labels: None, 'folders' (a video's class is the name of the folder it lies in; classes are
        numbered in sorted order), or a CSV file with the columns path, label and perhaps split.
      split: one name for all, or shares such as 'train:0.9,val:0.1'; a CSV's column goes first.

    Raises:
      BuildError: where an input is missing or malformed, or no video is left.
    """
    root, paths = list_paths(videos)
    rows = _read_csv(labels, Path(root)) if labels and labels != "folders" else None
    if rows is None:
        wanted = paths
        rejected = []
    else:
        listed = set(paths)
        wanted = sorted(rows)
        rejected = [(p, "not labelled", f"no row in {labels}") for p in paths if p not in rows]
        # A list decides what is taken; in a folder a row without a file shows below as missing.
        if os.path.isfile(videos):
            wanted = [p for p in wanted if p in listed]
    found: dict[str, os.stat_result] = {}
    for path in wanted:
        file = os.path.join(root, path)
        if os.path.isfile(file):
            found[path] = os.stat(file)
        else:
            where = f"{labels}, line {rows[path].line}" if rows else videos
            rejected.append((path, "missing file", special.kind(file) or f"named in {where}"))
    if not found:
        raise BuildError(f"{videos}: no video files found ({len(rejected)} left out or missing)")

    names = _label_of(found, rows, labels, root)
    classes = _classes(names.values())
    splits = _splits_of(found, rows, split)
    entries = [
        Video(p, s.st_size, s.st_mtime_ns, splits[p], classes.get(names[p], -1), names[p])
        for p, s in found.items()
    ]
    return Manifest(
        root, tuple(sorted(entries, key=order)), tuple(sorted(rejected)), tuple(classes)
    )


def order(video: Video) -> str:
    """A fixed shuffle: shards mix the classes, and do not depend on how the videos were listed."""
    return hashlib.sha256(video.path.encode(errors="surrogateescape")).hexdigest()


def list_paths(videos: str, leave_out: str = "") -> tuple[str, list[str]]:
    """Root and paths relative to it ('/' between parts), sorted; a folder in it may be left out."""
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
        raise BuildError(f"--videos={videos}: no such folder or list file")
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BuildError(
            f"--videos={videos}: expected a folder, or a text file with one path per line"
        ) from error
    root = source.resolve().parent
    return str(root), sorted({_relative(line.strip(), root) for line in lines if line.strip()})


def _relative(path: str, root: Path) -> str:
    """Relative to the root where it lies there; an absolute path elsewhere stays as it is."""
    for base in (root, root.resolve()):
        if os.path.isabs(path) and Path(path).is_relative_to(base):
            return Path(path).relative_to(base).as_posix()
    return Path(os.path.normpath(path)).as_posix()


def _read_csv(labels: str, root: Path) -> dict[str, _Row]:
    try:
        special.check(labels)
        with open(labels, newline="", encoding="utf-8-sig") as file:
            return _parse_csv(csv.reader(file), labels, root)
    except FileNotFoundError as error:
        raise BuildError(f"--labels={labels}: no such file; expected 'folders' or a CSV") from error
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise BuildError(f"--labels={labels}: not a readable CSV ({error})") from error


def _parse_csv(reader: Iterable[list[str]], labels: str, root: Path) -> dict[str, _Row]:
    header = [name.strip() for name in next(iter(reader), [])]
    if header not in (["path", "label"], ["path", "label", "split"]):
        raise BuildError(
            f"{labels}, line 1: found the columns {','.join(header)!r}; expected path,label or "
            "path,label,split"
        )
    rows: dict[str, _Row] = {}
    for cells in reader:
        line = reader.line_num
        if not cells:
            continue
        if len(cells) != len(header):
            raise BuildError(
                f"{labels}, line {line}: found {len(cells)} columns, expected {len(header)} "
                f"({','.join(header)}); put a path that holds a comma in double quotes"
            )
        path, label, *split = (cell.strip() for cell in cells)
        if not path or split == [""]:
            raise BuildError(f"{labels}, line {line}: the {'split' if path else 'path'} is empty")
        path = _relative(path, root)
        if path in rows:
            raise BuildError(f"{labels}, line {line}: {path} is on line {rows[path].line} too")
        if split:
            _check_split_name(split[0], f"{labels}, line {line}")
        rows[path] = _Row(label, split[0] if split else "", line)
    if not rows:
        raise BuildError(f"{labels}: there is a header but no row")
    return rows


def _label_of(
    found: Iterable[str], rows: Mapping[str, _Row] | None, labels: str | None, root: str
) -> dict[str, str]:
    if rows is not None:
        return {path: rows[path].label for path in found}
    if labels != "folders":
        return dict.fromkeys(found, "")
    names = {path: Path(path).parent.name for path in found}
    loose = sorted(path for path, name in names.items() if not name)
    if loose:
        raise BuildError(
            f"--labels=folders: {len(loose)} files lie in no class folder of {root}: "
            f"{', '.join(loose[:5])}; move them into one, or use --labels=CSV"
        )
    return names


def _classes(names: Iterable[str]) -> dict[str, int]:
    """Class numbers in sorted order; names that are all numbers sort as numbers, so 0..K-1 stay."""
    distinct = set(names) - {""}
    numeric = all(name.isascii() and name.isdigit() for name in distinct)
    return {name: i for i, name in enumerate(sorted(distinct, key=int if numeric else None))}


def _check_split_name(name: str, where: str) -> None:
    # TFDS puts the name into file names and gives 'all' and brackets a meaning of their own.
    if not (name.isascii() and name.replace("_", "").isalnum()) or name == "all":
        raise BuildError(f"{where}: split {name!r}: expected letters, digits and '_', not 'all'")


def parse_split(split: str) -> dict[str, float]:
    """'train' -> {'train': 1.0}; 'train:0.9,val:0.1' -> both shares, which must add up to 1."""
    if ":" not in split:
        _check_split_name(split, f"--split={split}")
        return {split: 1.0}
    shares = {}
    for part in split.split(","):
        name, _, share = part.strip().partition(":")
        _check_split_name(name, f"--split={split}")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise BuildError(
                f"--split={split}: {part!r} has no share; expected e.g. train:0.9,val:0.1"
            ) from error
    if abs(sum(shares.values()) - 1) > 1e-6 or min(shares.values()) <= 0:
        raise BuildError(f"--split={split}: the shares must be positive and add up to 1")
    return shares


def _splits_of(found: Iterable[str], rows: Mapping[str, _Row] | None, split: str) -> dict[str, str]:
    shares = parse_split(split)
    if rows is not None and any(row.split for row in rows.values()):
        return {path: rows[path].split for path in found}
    shuffled = sorted(found, key=lambda path: order(Video(path, 0, 0)))
    splits, end, share_sum = {}, 0, 0.0
    for name, share in shares.items():
        share_sum += share
        start, end = end, round(share_sum * len(shuffled))
        splits |= dict.fromkeys(shuffled[start:end], name)
    return splits
