"""The manifest: a table of videos, as CSV, JSONL or Parquet, checked row by row."""

import collections
import csv
import dataclasses
import hashlib
import hmac
import itertools
import json
import logging
import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

import fsspec

from vmae_jax import lists, special
from vmae_jax.data.curate.items import CurationError, Item
from vmae_jax.data.curate.roots import CONTROL, MAX_PATH, PathRefused, Root

log = logging.getLogger(__name__)

MAX_LISTED = 1000  # bad rows that are listed; all are counted
MAX_FIELD = 1 << 17  # characters of a cell, the limit of Python's reader of CSV too
_MAX_LINE = 1 << 20  # characters of a line of text
_BATCH = 4096  # rows of a Parquet file at a time
_AUTHOR_DIGITS = 16  # of an author's hash, hexadecimal
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_KNOWN = ("path", "id", "hashtags", "views", "duration", "author")

# A row as it was read: its line and its cells, or why it has none.
_Row = tuple[int, "dict[str, Any] | _Bad"]


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that was left out. `line` counts from 1; of Parquet it is the row."""

    line: int
    reason: str  # short and the same for all of its kind: 'duplicate path'
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A manifest: every row is one of `items`, or counted in `bad_rows`."""

    items: tuple[Item, ...]
    bad: tuple[BadRow, ...]  # the first MAX_LISTED
    bad_rows: Mapping[str, int]  # how many, by reason

    @property
    def num_rows(self) -> int:
        return len(self.items) + sum(self.bad_rows.values())


class _Bad(Exception):
    """What is wrong with a row."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def read_items(manifest: str, root: str | None = None, *, author_key: bytes | str = "") -> Table:
    """Reads and checks a manifest. The videos themselves are not looked at, links apart.

    Columns: path (or url), which every row has, and perhaps id (else the path), hashtags (see
    `parse_hashtags`), views, duration (seconds) and author. Others are kept as text. Bad rows are
    left out and listed; the first row of an id or path counts.

    Args:
      manifest: path or URL of a .csv, .jsonl or .parquet file.
      root: folder, or its URL, that holds the videos; None = that of the manifest. See `Root`.
      author_key: a secret. An author becomes a shortened HMAC-SHA-256 under it; without a key no
        author is kept, as a plain hash of a name is found by trying names.

    Raises:
      CurationError: where the manifest cannot be read, or has no column path.
    """
    reader = _Reader(
        root_of(manifest, root), author_key.encode() if isinstance(author_key, str) else author_key
    )
    items: list[Item] = []
    bad: list[BadRow] = []
    counts: collections.Counter[str] = collections.Counter()
    for line, row in _rows(manifest):
        try:
            if isinstance(row, _Bad):
                raise row
            items.append(reader.item(line, row))
        except (_Bad, PathRefused) as error:
            counts[error.reason] += 1
            if len(bad) < MAX_LISTED:
                bad.append(BadRow(line, error.reason, error.detail))
    return Table(tuple(items), tuple(bad), dict(sorted(counts.items())))


def root_of(manifest: str, root: str | None) -> Root:
    """Where the videos lie: `root`, or the manifest's folder."""
    return Root(root if root is not None else manifest.rpartition("/")[0] or ".")


def parse_hashtags(value: Any) -> tuple[str, ...]:
    """Hashtags of a list or text: NFKC, lower case, without '#', sorted, each once.

    White space, ',', ';', '|' and '#' separate them; brackets and quotes around them are left away,
    so that a list that was printed into a cell is read as one.

    Raises:
      ValueError: where it is neither text nor a list of words.
    """
    words = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(word, str | int) for word in words):
        raise ValueError("expected text, or a list of words")
    text = unicodedata.normalize("NFKC", " ".join(map(str, words))).lower()
    text = unicodedata.normalize("NFKC", text)  # lower case may be composed anew
    names = (name.strip("[]()'\"") for name in re.split(r"[\s,;|#]+", text))
    # Few names on many rows: one object for each.
    return tuple(sys.intern(name) for name in sorted({*names} - {""}))


class _Reader:
    """Turns cells into items, and knows which ids and paths there have been."""

    def __init__(self, root: Root, author_key: bytes):
        self._root, self._key = root, author_key
        self._ids: dict[str, int] = {}
        self._paths: dict[str, int] = {}

    def item(self, line: int, row: dict[str, Any]) -> Item:
        cleaned = ((name, _clean(name, value)) for name, value in row.items())
        row = {name: value for name, value in cleaned if value is not None}
        address = row.pop("path", None)
        if address is None:
            raise _Bad("missing path")
        if not isinstance(address, str):
            raise _Bad("not a path", f"found a {type(address).__name__}, expected text")
        path = self._root.relative(address)
        name = _text(row.pop("id", path))
        item = Item(
            id=path if name == path else name,  # one object for both
            path=path,
            hashtags=_hashtags(row.pop("hashtags", ())),
            views=_number("views", row.pop("views", None), whole=True),
            seconds=_number("duration", row.pop("duration", None)),
            author=self._author(row.pop("author", "")),
            extra={key: _text(value) for key, value in row.items()},
            line=line,
        )
        self._check_new("path", self._paths, item.path, line)
        self._check_id(item.id, line)
        self._paths[item.path] = self._ids[item.id] = line
        return item

    def _check_id(self, name: str, line: int) -> None:
        if len(name) > MAX_PATH or CONTROL.search(name):
            raise _Bad("not an id", f"expected up to {MAX_PATH} characters without control ones")
        self._check_new("id", self._ids, name, line)

    def _check_new(self, kind: str, seen: Mapping[str, int], name: str, line: int) -> None:
        if name in seen:
            raise _Bad(f"duplicate {kind}", f"{name[:200]} is on line {seen[name]} too")

    def _author(self, name: Any) -> str:
        if not name or not self._key:
            return ""
        digest = hmac.digest(self._key, _text(name).encode(), hashlib.sha256)
        return digest.hex()[:_AUTHOR_DIGITS]


# ---- Cells ----


def _clean(name: str, value: Any) -> Any:
    """The cell without white space around it; None where nothing is left of it."""
    if isinstance(value, str):
        value = value.strip()
        _check_text(name, value)
    return None if value is None or value == "" or value == [] else value


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_FIELD:
        raise _Bad("too long", f"{name[:40]} of {len(text)} characters, at most {MAX_FIELD}")
    if not _is_unicode(text):
        raise _Bad("not UTF-8", name[:40])


def _is_unicode(text: str) -> bool:
    """Whether it has no surrogates, which bytes that are no UTF-8 become."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _text(value: Any) -> str:
    """As text, of a CSV's cell the same as of JSON's or Parquet's value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        text = value.decode(errors="backslashreplace")
    else:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).strip('"')
    _check_text("a value", text)
    return text


def _hashtags(value: Any) -> tuple[str, ...]:
    try:
        for word in value if isinstance(value, list) else ():
            _check_text("hashtags", str(word))
        return parse_hashtags(value)
    except ValueError as error:
        raise _Bad("hashtags not a list", str(error)) from error


def _number(name: str, value: Any, whole: bool = False) -> int | float | None:
    if value is None:
        return None
    text = str(value)
    number = math.nan
    if len(text) < 40 and _NUMBER.fullmatch(text):
        number = int(text) if whole and text.lstrip("+-").isdigit() else float(text)
    if not math.isfinite(number) or (whole and number != int(number)):
        kind = "whole number" if whole else "number"
        raise _Bad(f"{name} not a number", f"found {text[:40]!r}, expected a {kind}")
    if number < 0:
        raise _Bad(f"{name} negative", f"found {text}")
    return int(number) if whole else number


# ---- Files ----


def _rows(manifest: str) -> Iterator[_Row]:
    """All rows, in order; see `read_items` for errors."""
    readers = {".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    read = readers.get(os.path.splitext(manifest)[1].lower())
    if read is None:
        raise CurationError(
            f"--manifest={manifest}: expected a name that ends in {', '.join(readers)}"
        )
    try:
        yield from read(manifest)
    except FileNotFoundError as error:
        raise CurationError(f"--manifest={manifest}: no such file") from error
    except (OSError, EOFError, ImportError, ValueError, csv.Error) as error:
        if isinstance(error, CurationError):
            raise
        raise CurationError(
            f"--manifest={manifest}: cannot be read ({' '.join(str(error).split())[:300]})"
        ) from error


def _open(manifest: str, mode: str, **options: Any) -> Any:
    # A local name may hold what is a pattern or a chain to fsspec.
    if "://" in manifest:
        return fsspec.open(manifest, mode, **options)
    special.check(manifest)
    return open(manifest, mode, **options)


def _open_text(manifest: str) -> Any:
    # Bytes that are no UTF-8 are the matter of their row alone.
    return _open(manifest, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Lines:
    """The lines of a file, bounded in length; goes on after one that is too long."""

    def __init__(self, file: TextIO):
        self._file = file
        self.number = 0  # of the line that was read last

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = part = self._file.readline(_MAX_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        while len(part) == _MAX_LINE and not part.endswith(("\n", "\r")):
            part = self._file.readline(_MAX_LINE)
        if part is not line:
            raise _Bad("too long", f"a line of more than {_MAX_LINE} characters")
        return line


def _csv(manifest: str) -> Iterator[_Row]:
    with _open_text(manifest) as file:
        lines = _Lines(file)
        reader, names = _table(manifest, lines)
        header = _columns(manifest, names)
        while True:
            first = lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, _Bad) as error:
                yield first, _csv_problem(error, first, lines.number)
                continue
            if len(cells) == len(header):
                yield first, dict(zip(header, cells, strict=True))
            elif cells:
                found = (
                    f"found {len(cells)}, expected {len(header)}; a cell that holds what separates"
                )
                yield first, _Bad("wrong number of columns", f"{found} cells goes in double quotes")


def _table(manifest: str, lines: Iterator[str]) -> tuple[Iterator[list[str]], list[str]]:
    """The rows, separated as the header is, and the header."""
    try:
        first = next(lines, "")
        delimiter = lists.delimiter_of(first, ("path", "url"))
        if delimiter != ",":
            log.warning(
                "--manifest=%s: columns are separated by %r, as in line 1", manifest, delimiter
            )
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
        return reader, next(reader, [])
    except _Bad as error:
        raise CurationError(f"--manifest={manifest}, line 1: {error.detail}") from error


def _csv_problem(error: Exception, first: int, last: int) -> _Bad:
    if isinstance(error, _Bad):
        return error
    detail = f"lines {first} to {last} as one cell; a quote that is not closed" * (last > first)
    long = "limit" in str(error)
    return _Bad("too long" if long else "not CSV", detail or str(error))


def _columns(manifest: str, names: Iterable[str]) -> list[str]:
    """The names of the columns in lower case; path stands for url where only that is there."""
    columns = [str(name).strip().lower() for name in names]
    shown = ", ".join(columns)[:200].encode(errors="backslashreplace").decode()
    if "path" not in columns and "url" in columns:
        columns[columns.index("url")] = "path"
    columns = [name or f"column {number}" for number, name in enumerate(columns, 1)]
    if "path" not in columns or not all(map(_is_unicode, columns)):
        raise CurationError(
            f"--manifest={manifest}: no column path; found {shown or 'nothing'}; expected path or "
            f"url, and perhaps {', '.join(_KNOWN[1:])}, as UTF-8 text between ',', ';', '|' or tabs"
        )
    twice = [name for name, count in collections.Counter(columns).items() if count > 1]
    if twice:
        raise CurationError(f"--manifest={manifest}: the column {twice[0][:40]} is there twice")
    return columns


def _jsonl(manifest: str) -> Iterator[_Row]:
    has_path = False
    with _open_text(manifest) as file:
        lines = _Lines(file)
        while True:
            try:
                line = next(lines)
                if not line.strip():
                    continue
                row = _json_row(line)
                has_path = has_path or "path" in row
                yield lines.number, row
            except StopIteration:
                break
            except _Bad as error:
                yield lines.number, error
    if not has_path:
        raise CurationError(
            f"--manifest={manifest}: no row has a path; expected one JSON object a line, as in "
            '{"path": "a.mp4", "hashtags": ["dance"], "views": 1000}'
        )


def _json_row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        # The line itself may hold an author's name.
        raise _Bad("not JSON", f"{type(error).__name__} in {len(line)} characters") from error
    if not isinstance(row, dict):
        raise _Bad("not JSON", f"found a {type(row).__name__}, expected an object")
    named = {key.strip().lower(): value for key, value in row.items()}
    if len(named) < len(row) or not all(map(_is_unicode, named)):
        raise _Bad("not JSON", "two names that differ in case only, or one that is no Unicode")
    if "path" not in named and "url" in named:
        named["path"] = named.pop("url")
    return named


def _parquet(manifest: str) -> Iterator[_Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise CurationError(
            f"--manifest={manifest}: pyarrow is not installed; pip install 'vmae_jax[parquet]', or "
            "give a CSV or JSONL"
        ) from error
    number = 0
    with _open(manifest, "rb") as file, pyarrow.parquet.ParquetFile(file) as table:
        header = _columns(manifest, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=_BATCH):
            columns = [column.to_pylist() for column in batch.columns]
            for cells in zip(*columns, strict=True):
                number += 1
                yield number, dict(zip(header, cells, strict=True))
