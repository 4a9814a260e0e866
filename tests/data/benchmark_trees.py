"""Trees of the shape in which the owners of benchmarks ship them, read as such."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vmae_jax.data.build.benchmarks import read_benchmark
from vmae_jax.data.build.manifest import Manifest

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


def write(folder: Path, files: Mapping[str, str] | Sequence[str]) -> Path:
    """A folder with these files; with names alone, of a byte each."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name] if isinstance(files, Mapping) else "x")
    return folder


def read(benchmark: str, tmp_path: Path, lists: Mapping[str, str], videos, **options) -> Manifest:
    folders = write(tmp_path / "videos", videos), write(tmp_path / "lists", lists)
    return read_benchmark(benchmark, *map(str, folders), **options)


def taken(manifest: Manifest) -> dict[str, tuple[str, int, str]]:
    return {v.path: (v.split, v.label, v.label_name) for v in manifest.videos}


def left_out(manifest: Manifest) -> dict[str, str]:
    return {path: reason for path, reason, _ in manifest.rejected}
