"""Files that the owners of a benchmark ship: lines, tables, JSON; what is wrong names its line."""

import csv
import glob
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from vmae_jax import lists
from vmae_jax.data.build.items import BuildError


def where(file: str, line: int) -> str:
    return f"{file}, {'entry' if file.endswith('.json') else 'line'} {line}"


def wrong(file: str, line: int, found: object, expected: str) -> BuildError:
    return BuildError(f"{where(file, line)}: found {found!r:.99}, expected {expected}")


def check_inside(name: str, file: str, line: int) -> None:
    """Raises BuildError where a name would lead out of its folder."""
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise wrong(file, line, name, "the name of a file in the folder of videos")


def find(folder: str, pattern: str, expected: str = "") -> list[str]:
    """The files of a folder that match, sorted; not those of its subfolders.

    Raises:
      BuildError: where there is none. It names subfolders that have some.
    """
    inside = glob.escape(folder)
    found = sorted(glob.glob(os.path.join(inside, pattern)))
    if found:
        return found
    up = [".."] * (pattern.count("/") + 1)
    below = [p for n in (1, 2) for p in glob.glob(os.path.join(inside, *"*" * n, pattern))]
    folders = sorted({os.path.normpath(os.path.join(path, *up)) for path in below})
    hint = f"; give the folder itself: --annotations={' or '.join(folders[:3])}" if folders else ""
    raise BuildError(f"--annotations={folder}: found no file {expected or pattern}{hint}")


def only(folder: str, pattern: str) -> str:
    """The one file of a folder that matches."""
    found = find(folder, pattern)
    if len(found) != 1:
        raise BuildError(
            f"--annotations={folder}: expected one file {pattern}, found {len(found)}: "
            f"{', '.join(map(os.path.basename, found))}"
        )
    return found[0]


def rows(file: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty."""
    return ((i, line.strip()) for i, line in enumerate(_lines(file), 1) if line.strip())


def _lines(file: str) -> list[str]:
    try:
        return lists.lines(lists.read(file))
    except lists.ListError as error:
        raise BuildError(str(error)) from error


def table(
    file: str,
    needed: Collection[str],
    headerless: Callable[[list[str]], Sequence[str]] = lambda cells: (),
) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells by column of each row of a CSV.

    Args:
      needed: columns that the header must have.
      headerless: names the columns by the first row where it is no header; () = it cannot.
    """
    reader = csv.reader(f"{line}\n" for line in _lines(file))
    try:
        first = [cell.strip() for cell in next(reader, [])]
        header = first if set(needed) <= set(first) else list(headerless(first))
        if not header:
            raise wrong(file, 1, ",".join(first), f"a header with {','.join(needed)}")
        if header != first:
            yield 1, dict(zip(header, first, strict=True))
        line = reader.line_num + 1
        for cells in reader:
            # A quote that is not closed would take the lines after it into its cell.
            if cells and (len(cells) != len(header) or not all(map(str.isprintable, cells))):
                found = f"{len(cells)} columns: {','.join(cells)}"
                raise wrong(
                    file, line, found, f"{len(header)} columns of text ({','.join(header)})"
                )
            if cells:
                yield line, dict(zip(header, map(str.strip, cells), strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise BuildError(f"{where(file, reader.line_num)}: {error}") from error


def read_json(file: str, kind: type) -> Any:
    """A JSON list or object that is not empty."""
    try:
        value = json.loads("\n".join(_lines(file)))
    except json.JSONDecodeError as error:
        raise BuildError(f"{file}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{file}: {error}") from error
    if not isinstance(value, kind) or not value:
        raise BuildError(f"{file}: expected a JSON {'list' if kind is list else 'object'}")
    return value


def by_number(numbers: Mapping[str, int], file: str) -> tuple[str, ...]:
    """The classes' names in the order of their numbers, which must be 0..K-1."""
    names: dict[int, str] = {}
    for i, (name, number) in enumerate(numbers.items(), 1):
        if type(number) is not int or not name.isprintable():
            raise wrong(file, i, number, f"the number of {name!r}")
        names.setdefault(number, name)
    gaps = sorted(set(range(len(names))) - names.keys())
    if gaps or not names:
        raise BuildError(
            f"{file}: the numbers of {len(names)} classes are not 0 to {len(names) - 1}: without "
            f"a class are {', '.join(map(str, gaps[:5]))}"
        )
    return tuple(names[i] for i in range(len(names)))
