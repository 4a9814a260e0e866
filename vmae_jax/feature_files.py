"""The folder that features are written to: whole files only, and never of two kinds."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vmae_jax import whole

FORMATS = ("npy", "parquet")
_HEADER = 128  # bytes of a .npy file before its values
_ROWS_BYTES = 64 << 20  # of a Parquet row group


class FeatureError(ValueError):
    """A folder that cannot take these features: which, why and what to do."""


class NpyFile:
    """An array of rows that are appended one batch after another: float32 [rows, ...].

    It appears under its name once it is finished; until then, and after a kill, it is hidden.
    """

    def __init__(self, path: str):
        self._path = path
        folder, name = os.path.split(path)
        # A name may be as long as can be.
        short = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        self._draft = os.path.join(folder, f".{short}.incomplete")
        self._row: tuple[int, ...] = ()
        self.rows = 0
        with open(self._draft, "wb") as file:
            file.write(bytes(_HEADER))

    def append(self, rows: np.ndarray) -> None:
        self._row = rows.shape[1:]
        self.rows += len(rows)
        with open(self._draft, "ab") as file:
            file.write(np.ascontiguousarray(rows, "<f4").data)

    def finish(self) -> None:
        # NumPy's format 1.0: magic, version, length of a padded Python literal.
        shape = (self.rows, *self._row)
        text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
        with open(self._draft, "r+b") as file:
            file.write(b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little"))
            file.write(text.ljust(_HEADER - 11) + b"\n")
        os.replace(self._draft, self._path)

    def discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._draft)


class Folder:
    """Features of videos by name, as one .npy each or as one Parquet file.

    `features.json` says how they were made, `sources.json` of which files; a folder with other
    features is refused.
    """

    def __init__(self, path: str, form: str, settings: Mapping[str, Any]):
        """Makes the folder, or finds it.

        Args:
          form: npy or parquet.
          settings: all that decides the values, as JSON has it.

        Raises:
          FeatureError: where it holds features of other settings, or pyarrow is missing.
        """
        self.path, self._form = path, form
        self._settings = json.loads(json.dumps(dict(settings) | {"format": form}))
        self.noted = 0  # videos, see `note`
        self._arrays = os.path.join(path, "parts") if form == "parquet" else path
        self._table = os.path.join(path, "features.parquet")
        if form == "parquet":
            _pyarrow()
        os.makedirs(path, exist_ok=True)
        self._check_settings()
        os.makedirs(self._arrays, exist_ok=True)

    def _check_settings(self) -> None:
        path = os.path.join(self.path, "features.json")
        if not os.path.exists(path):
            _write(path, self._settings)
            return
        found = _read(path)
        keys = sorted(found.keys() | self._settings.keys())
        pairs = {key: (found.get(key), self._settings.get(key)) for key in keys}
        other = [f"{key} = {old!r}, not {new!r}" for key, (old, new) in pairs.items() if old != new]
        if other:
            raise FeatureError(
                f"--out={self.path} holds other features ({'; '.join(other)}); give another --out, "
                "or delete it"
            )

    def missing(self, videos: Mapping[str, str]) -> list[str]:
        """Which of some videos have no features yet, and takes note of what they are.

        Args:
          videos: paths by name.

        Raises:
          FeatureError: where the features under a name are of another video.
        """
        done = self._done()
        note = os.path.join(self.path, "sources.json")
        sources = _read(note) if os.path.exists(note) else {}
        asked = {name: os.path.realpath(path) for name, path in videos.items()}
        for name, path in asked.items():
            if name in done and sources.get(name, path) != path:
                raise FeatureError(
                    f"--out={self.path} holds features {name!r} of {sources[name]}, not of {path}; "
                    f"give another --out, or if the file has moved, delete {note}"
                )
        _write(note, sources | asked)
        return [path for name, path in videos.items() if name not in done]

    def _done(self) -> set[str]:
        names = {n.removesuffix(".npy") for n in os.listdir(self._arrays) if _is_whole(n)}
        return names | self._in_table()

    def _in_table(self) -> set[str]:
        if not os.path.exists(self._table):
            return set()
        table = _pyarrow().parquet.read_table(self._table, columns=["video"])
        return set(table.column("video").unique().to_pylist())

    def new(self, name: str) -> NpyFile:
        return NpyFile(os.path.join(self._arrays, f"{name}.npy"))

    def note(self, video: str, notes: Iterable[str]) -> None:
        """Adds to notes.csv what was put right in a video's times, or skipped as damaged."""
        path = os.path.join(self.path, "notes.csv")
        new = not os.path.exists(path)
        self.noted += 1
        with open(path, "a", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = [("video", "note")] * new + [(video, note) for note in notes]
            csv.writer(file, lineterminator="\n").writerows(rows)

    def write_failures(self, failures: Mapping[str, str]) -> str:
        """failures.csv: path and reason of each video without features; none, no file."""
        path = os.path.join(self.path, "failures.csv")
        if not failures:
            if os.path.exists(path):
                os.unlink(path)
            return ""
        # A file's name is bytes, which may be no text.
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("video", "reason"), *failures.items()]
            )
        return path

    def finish(self) -> str:
        """Where the features are; for Parquet, the file that they were all put into."""
        if self._form == "npy":
            return self.path
        inside = self._in_table()  # a run that was killed here may have left some of these
        parts = sorted(filter(_is_whole, os.listdir(self._arrays)))
        new = [part for part in parts if part.removesuffix(".npy") not in inside]
        if new:
            self._merge([os.path.join(self._arrays, part) for part in new])
        shutil.rmtree(self._arrays)
        return self._table

    def _merge(self, parts: list[str]) -> None:
        """Old row groups, then the new parts, a bounded number of rows at a time."""
        pa = _pyarrow()
        row = np.load(parts[0], mmap_mode="r").shape[1:]
        values = pa.list_(pa.float32(), int(np.prod(row)))
        metadata = {"shape": json.dumps(row), "features": json.dumps(self._settings)}
        schema = pa.schema(
            [("video", pa.string()), ("window", pa.int32()), ("features", values)], metadata
        )
        draft = f"{self._table}.incomplete"
        with pa.parquet.ParquetWriter(draft, schema) as writer:
            if os.path.exists(self._table):
                with pa.parquet.ParquetFile(self._table) as old:
                    for group in range(old.num_row_groups):
                        writer.write_table(old.read_row_group(group).cast(schema))
            for part in parts:
                name = os.path.basename(part).removesuffix(".npy")
                array = np.load(part, mmap_mode="r")
                step = max(1, _ROWS_BYTES // array[:1].nbytes)
                for start in range(0, len(array), step):
                    flat = pa.array(np.ravel(array[start : start + step]))
                    rows = pa.FixedSizeListArray.from_arrays(flat, type=values)
                    windows = pa.array(range(start, start + len(rows)), pa.int32())
                    names = pa.array([name] * len(rows))
                    writer.write_table(pa.table([names, windows, rows], schema=schema))
        os.replace(draft, self._table)


def _is_whole(name: str) -> bool:
    return name.endswith(".npy")  # a draft ends in .incomplete


def _write(path: str, content: Mapping[str, Any]) -> None:
    whole.write(path, json.dumps(content, indent=2) + "\n")


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise FeatureError(
            "--format=parquet needs pyarrow: pip install 'vmae_jax[parquet]' (or take --format=npy)"
        ) from error
    return pyarrow
