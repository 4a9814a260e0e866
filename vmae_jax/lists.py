"""Lists that people write: lines of text, tables, names of classes."""

import codecs
import collections
import csv
import json
import logging
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vmae_jax import special

log = logging.getLogger(__name__)

_DELIMITERS = ",;\t|"
_SHOWN = 5
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class ListError(ValueError):
    """What is wrong with a list, in one line that names the file and the line."""


# ---- Text ----


def read(path: str | os.PathLike) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
      ListError: if it cannot be read, or is not such text.
    """
    try:
        special.check(path)
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ListError(f"{path}: cannot be read ({error.strerror})") from error
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ListError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from error


def lines(text: str) -> list[str]:
    """The lines of a text. CR, LF and CRLF end a line.

    U+2028, VT and the like do not, unlike in `splitlines`: they may be part of a name.
    """
    found = re.split("\r\n|\r|\n", text)
    return found if found[-1] else found[:-1]


def shown(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


# ---- Tables ----


class Table(NamedTuple):
    """Rows as (line number, cells by column), and notes on what was guessed, one line each."""

    rows: list[tuple[int, dict[str, str]]]
    notes: tuple[str, ...]


def table(
    path: str, columns: Mapping[str, Sequence[str]], needed: Collection[str], expected: str
) -> Table:
    """Reads a table with a header. Columns may be in any order and case.

    The delimiter is a comma, semicolon, bar or tab. Empty rows and other columns are left out.

    Args:
      columns: synonyms of each column's name, in lower case with '_'; the first one that the header
        has counts.
      needed: columns that must be there.
      expected: an example of a header, for the error.

    Raises:
      ListError: if it is not such a table.
    """
    return _table(path, read(path), columns, needed, expected)


def _table(
    path: str,
    text: str,
    columns: Mapping[str, Sequence[str]],
    needed: Collection[str],
    expected: str,
) -> Table:
    found = [f"{line}\n" for line in lines(text)]
    rows = []
    try:
        places, delimiter, header = _header(found[0] if found else "", columns)
        if not set(needed) <= places.keys():
            first = found[0].strip()[:99] if found else ""
            raise ListError(f"{path}, line 1: found {first!r}, expected the columns {expected}")
        reader = csv.reader(found, delimiter=delimiter)
        next(reader)
        line = reader.line_num + 1
        for cells in reader:
            if any(map(str.strip, cells)):
                if len(cells) != len(header):
                    raise ListError(
                        f"{path}, line {line}: found {len(cells)} columns, expected {len(header)} "
                        f"as in line 1; a cell that holds {delimiter!r} goes in double quotes"
                    )
                rows.append((line, {name: cells[i].strip() for name, i in places.items()}))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ListError(f"{path}: not a table ({error})") from error
    if not rows:
        raise ListError(f"{path}: there is a header but no row")
    return Table(rows, tuple(_guesses(path, places, delimiter, header)))


def delimiter_of(header: str, names: Collection[str]) -> str:
    """The delimiter that gives the header of a table a column with one of these names (lower case).

    A comma, a semicolon, a bar or a tab; the comma if none fits.
    """
    for delimiter in _DELIMITERS:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        if any(cell.strip().lower() in names for cell in cells):
            return delimiter
    return ","


def _header(
    line: str, columns: Mapping[str, Sequence[str]]
) -> tuple[dict[str, int], str, list[str]]:
    """Places of the columns, all cells, and the delimiter that finds the most columns."""
    found = []
    for delimiter in _DELIMITERS:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        keys = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in cells]
        places: dict[str, int] = {}
        for name, synonyms in columns.items():
            free = [keys.index(s) for s in synonyms if s in keys]
            place = next((i for i in free if i not in places.values()), None)
            if place is not None:
                places[name] = place
        found.append((places, delimiter, cells))
    return max(found, key=lambda one: len(one[0]))


def _guesses(
    path: str, places: Mapping[str, int], delimiter: str, header: Sequence[str]
) -> Iterable[str]:
    renamed = [f"{header[i]} as {name}" for name, i in places.items() if header[i].lower() != name]
    if renamed:
        yield f"{path}: reads the columns {', '.join(renamed)}"
    if delimiter != ",":
        yield f"{path}: its columns are taken to be separated by {delimiter!r}, as in line 1"
    others = [cell or "''" for i, cell in enumerate(header) if i not in places.values()]
    if others:
        yield f"{path}: {len(others)} columns are not read: {', '.join(others[:5])}"


# ---- Names of classes ----

_NUMBERS = {
    "number": ("number", "id", "index", "idx", "class_id", "label_id", "class_index", "label"),
    "name": ("name", "class_name", "label_name", "display_name", "class", "label", "category"),
}


def fault(name: str) -> str:
    """Why a class cannot have this name, '' if it can.

    A dataset directory holds one name per line (TFDS's ClassLabel). So a name is one line of text,
    without white space around it.
    """
    if not name.strip():
        return "is empty"
    if "\n" in name or "\r" in name:
        return "holds a line break"
    if name != name.strip() or name[0] == "\ufeff":
        return "has white space or a byte order mark around it"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not Unicode text"
    return ""


def composed(name: str) -> str:
    """The form in which names are compared: Unicode NFC, without white space around it."""
    return unicodedata.normalize("NFC", name).strip()


def class_names(path: str) -> tuple[str, ...]:
    """Names of classes in the order of their numbers.

    A text file has one name per line, with or without its number, or is a table with a column of
    numbers and one of names; empty lines are left out. A JSON file is a list of names, an object
    {name: number} or {number: name}, or a config.json with id2label.

    Raises:
      ListError: if it is none of these, or the numbers are not 0 to K - 1.
    """
    text = read(path)
    try:
        if text.lstrip()[:1] in ("[", "{"):
            return of_json(json.loads(text, object_pairs_hook=_unique))
        return _of_text(path, text)
    except ListError as error:
        text = str(error)
        raise ListError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise ListError(f"{path}: names of classes cannot be read ({error})") from None


def of_json(value: Any) -> tuple[str, ...]:
    """The names of a JSON list, or of an object in either direction; see `class_names`.

    Raises:
      ListError: if it is neither.
    """
    if isinstance(value, dict):
        value = value.get("id2label") or value.get("label2id") or value
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return _in_order(enumerate(value))
    if not isinstance(value, dict) or not value:
        raise ListError("expected a list of names, or an object {name: number} or {number: name}")
    keys, values = list(value), list(value.values())
    named = all(isinstance(name, str) for name in values)
    if named and (_first_number(keys) == 0 or _first_number(values) is None):
        return _in_order(zip(keys, values, strict=True))
    return _in_order(zip(values, keys, strict=True))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(key for key, _ in pairs)
    twice = next((key for key, count in counts.items() if count > 1), None)
    if twice is not None:
        raise ListError(f"{twice!r:.99} is there twice")
    return dict(pairs)


def _of_text(path: str, text: str) -> tuple[str, ...]:
    found = [line for line in lines(text) if line.strip()]
    if not found:
        raise ListError("has no names of classes")
    places, _, _ = _header(found[0], _NUMBERS)
    if len(places) == 2:
        rows, notes = _table(path, text, _NUMBERS, _NUMBERS, "number,name")
        for note in notes:
            log.warning(note)
        return _in_order((cells["number"], cells["name"]) for _, cells in rows)
    pairs = _numbered(found)
    if pairs:
        log.warning("%s: its lines are taken as number and name, as in %s, %s", path, *pairs[0])
        return _in_order(pairs)
    if path.lower().endswith((".csv", ".tsv")):
        return _in_order(enumerate(_column(path, found)))
    return _in_order(enumerate(found))


def _column(path: str, found: Sequence[str]) -> list[str]:
    """The cells of a CSV with one column, without its header if it has one."""
    rows = list(csv.reader(found, delimiter=_header(found[0], _NUMBERS)[1]))
    wide = next((row for row in rows if len(row) != 1), None)
    if wide:
        raise ListError(f"found {','.join(wide)!r:.99}, expected one name a line, or number,name")
    cells = [row[0] for row in rows]
    if cells[0].strip().lower() in _NUMBERS["name"]:
        log.warning("%s: its first line, %s, is taken as a header", path, cells[0])
        return cells[1:]
    return cells


def _numbered(found: Sequence[str]) -> list[tuple[str, str]]:
    """(number, name) of each line, if all lines have both and the numbers start at 0 or 1."""
    tables = [list(csv.reader(found, delimiter=delimiter)) for delimiter in _DELIMITERS]
    for rows in (*tables, [line.split(None, 1) for line in found]):
        if all(len(row) == 2 for row in rows):
            for pairs in (rows, [row[::-1] for row in rows]):
                if _first_number([number for number, _ in pairs]) is not None:
                    return pairs
    return []


def _first_number(values: Sequence[Any]) -> int | None:
    """The smallest value, if it is 0 or 1 and the values are consecutive, in any order."""
    if not all(map(_is_number, values)):
        return None
    numbers = sorted(map(int, values))
    whole = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return numbers[0] if whole and numbers[0] < 2 else None


def _is_number(value: Any) -> bool:
    text = str(value).strip()
    return type(value) in (int, str) and text.isascii() and text.isdigit() and len(text) < 7


def _in_order(pairs: Iterable[tuple[Any, Any]]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for number, name in pairs:
        if not _is_number(number):
            raise ListError(f"found {number!r:.99} for {name!r:.99}, expected its number")
        if not isinstance(name, str) or not name.strip():
            raise ListError(f"class {number} has no name")
        if int(number) in names:
            raise ListError(f"{names[int(number)]!r:.99} and {name!r:.99} are both number {number}")
        names[int(number)] = name.strip()
    if not names:
        raise ListError("has no names of classes")
    first = _first_number(list(names))
    if first is None:
        gaps = sorted(set(range(len(names))) - names.keys())
        raise ListError(
            f"the numbers of {len(names)} classes are not 0 to {len(names) - 1}: without a class "
            f"are {', '.join(map(str, gaps[:5]))}"
        )
    if first:
        log.warning("the classes are numbered from 1 on: class 0 is %s", names[1])
    return tuple(names[i] for i in sorted(names))
