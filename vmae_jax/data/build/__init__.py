"""Raw videos to a dataset directory of shards: `build`, or python -m vmae_jax.data.build.

Stages: manifest.py lists the videos by way of folders.py and labels.py (benchmarks.py: those of a
labelled benchmark, by way of annotations.py, kinetics.py and tables.py), tasks.py builds one shard
by way of transcode.py,
builder.py schedules the shards and writes TFDS's metadata, report.py adds up what was kept and what
was not.
"""

import collections
import contextlib
import dataclasses
import fcntl
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import av

from vmae_jax.data import timeline
from vmae_jax.data.build.benchmarks import MAX_MISSING, read_benchmark
from vmae_jax.data.build.items import BuildError, Manifest, Video
from vmae_jax.data.build.manifest import EMPTY_LABELS, read_manifest
from vmae_jax.data.build.report import Report, make_report
from vmae_jax.data.build.tasks import ShardTask, write_json
from vmae_jax.data.build.transcode import Encoding
from vmae_jax.data.clips import CODECS
from vmae_jax.data.shards import is_url

__all__ = ["BuildError", "Report", "build", "build_manifest", "check", "sole_builder"]

log = logging.getLogger(__name__)

_VIDEOS_PER_SHARD = 256  # a quarter of a gigabyte of short clips
_LEAST_SHARDS = 16  # so that a small set still spreads over cores
_LEAST_VIDEOS_PER_SHARD = 4


def build(
    videos: str | os.PathLike,
    out: str | os.PathLike,
    *,
    labels: str | None = None,
    split: str | None = None,
    empty_labels: str = EMPTY_LABELS[0],
    benchmark: str | None = None,
    annotations: str | None = None,
    label_map: str | None = None,
    max_missing: float = MAX_MISSING,
    name: str = "videos",
    short_side: int = 256,
    codec: str = "h264",
    num_shards: int = 0,
    segment_seconds: float = 0.0,
    keep_partial: bool = False,
    workers: int = 0,
    beam_options: str | None = None,
    max_pixels: int = Encoding.max_pixels,
    max_frames: int = Encoding.max_frames,
    progress: Callable[[int, int], None] = lambda begun, total: None,
) -> Report:
    """Builds a dataset directory from videos, or finishes one that was interrupted.

    The bytes depend on the videos and the options alone, not on `workers` or interruptions. Scripts
    that call this need the usual `if __name__ == "__main__":`, as it starts processes.

    Args:
      videos, labels, split, empty_labels: see `manifest.read_manifest`.
      benchmark, annotations, label_map, max_missing: see `benchmarks.read_benchmark`, which decides
        labels and splits if a benchmark is named.
      out: directory on a file system that all workers share.
      name: of the dataset, part of its file names.
      short_side: pixels; larger videos are scaled down to it, smaller ones keep their size.
      codec: 'h264' or 'jpeg'.
      num_shards: of each split; 0 = by the number of videos.
      segment_seconds: cuts longer videos into clips of this length; 0 = one clip per video.
      keep_partial: keeps a video that breaks midway up to the break, instead of rejecting it.
      workers: processes on this machine; 0 = one per core.
      beam_options: builds through Beam instead, e.g. 'runner=DirectRunner,direct_num_workers=2'.
      max_pixels, max_frames: of a source frame and of a clip; what exceeds them is rejected.
      progress: hears how many videos were begun, and of how many.

    Raises:
      BuildError: where the arguments, the videos or `out` do not allow a build, or nothing is left.
    """
    encoding = Encoding(codec, short_side, segment_seconds, max_pixels, max_frames)
    videos, out = os.fspath(videos), check(out, encoding, name, num_shards, workers)
    manifest = _manifest(
        videos, labels, split, empty_labels, benchmark, annotations, label_map, max_missing
    )
    for warning in manifest.warnings:
        log.warning(warning)
    with sole_builder(out):
        return build_manifest(
            manifest, encoding, out, name, num_shards, keep_partial, workers, beam_options, progress
        )


def build_manifest(
    manifest: Manifest,
    encoding: Encoding,
    out: str,
    name: str,
    num_shards: int = 0,
    keep_partial: bool = False,
    workers: int = 0,
    beam_options: str | None = None,
    progress: Callable[[int, int], None] = lambda begun, total: None,
) -> Report:
    """The part of `build` that follows the manifest: after `check`, inside of `sole_builder`."""
    state = os.path.join(out, "build")
    shards = _shards(manifest, num_shards)
    plan = _plan(manifest, shards, encoding, name, keep_partial)
    _keep_to_plan(os.path.join(state, "plan.json"), plan, out)
    tasks = _tasks(shards, name, manifest, encoding, keep_partial, out)
    _run(tasks, manifest, name, out, workers, beam_options, progress)
    return _finish(tasks, manifest, out)


def _manifest(
    videos: str,
    labels: str | None,
    split: str | None,
    empty_labels: str,
    benchmark: str | None,
    annotations: str | None,
    label_map: str | None,
    max_missing: float,
) -> Manifest:
    """The manifest that `build`'s arguments describe; BuildError where they exclude each other."""
    if benchmark:
        if labels or split:
            raise BuildError("--benchmark: has its own labels and splits; leave yours out")
        return read_benchmark(benchmark, videos, annotations, label_map, max_missing)
    if annotations or label_map:
        flag = "--annotations" if annotations else "--label_map"
        raise BuildError(f"{flag}: is read with --benchmark only; add that, or leave this out")
    if empty_labels != EMPTY_LABELS[0] and labels in (None, "", "folders"):
        raise BuildError(f"--empty_labels={empty_labels}: is read with --labels=TABLE only")
    return read_manifest(videos, labels, split, empty_labels)


def check(
    out: str | os.PathLike, encoding: Encoding, name: str, num_shards: int, workers: int
) -> str:
    """The absolute path of `out`.

    Raises:
      BuildError: where an option is wrong.
    """
    out = os.fspath(out)
    if is_url(out):
        raise BuildError(
            f"--out={out}: expected a folder that all workers share; build there and copy the "
            "finished dataset to the bucket, from where training reads it"
        )
    if encoding.codec not in CODECS:
        raise BuildError(f"--codec={encoding.codec}: expected one of {', '.join(CODECS)}")
    if encoding.short_side < 16 or encoding.short_side % 2:
        raise BuildError(f"--short_side={encoding.short_side}: expected an even number from 16 on")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise BuildError(f"--name={name}: expected lower case letters, digits and '_'")
    lowest = {
        "num_shards": (num_shards, 0),
        "workers": (workers, 0),
        "segment_seconds": (encoding.segment_seconds, 0),
        "max_pixels": (encoding.max_pixels, 256),
        "max_frames": (encoding.max_frames, 2),
    }
    for flag, (value, least) in lowest.items():
        if not value >= least:
            raise BuildError(f"--{flag}={value}: expected at least {least}")
    return os.path.abspath(out)


@contextlib.contextmanager
def sole_builder(out: str) -> Iterator[None]:
    """Holds `out`, an absolute path, for this build; creates it, or checks that it is ours."""
    state = os.path.join(out, "build")
    if os.path.isfile(out):
        raise BuildError(f"--out={out}: expected a directory, found a file")
    if not os.path.isdir(state) and os.path.isdir(out) and os.listdir(out):
        raise BuildError(
            f"--out={out}: is not empty and was not made by this builder; name another"
        )
    try:
        os.makedirs(state, exist_ok=True)
        lock = os.open(os.path.join(state, "lock"), os.O_CREAT | os.O_WRONLY)
    except OSError as error:
        raise BuildError(f"--out={out}: cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BuildError(f"--out={out}: another build is working there; wait for it") from error
    finally:
        os.close(lock)


# ---- The plan: everything that decides the bytes, fixed when a build begins ----


def _shards(manifest: Manifest, num_shards: int) -> dict[str, list[Sequence[Video]]]:
    """The videos of each shard of each split."""
    by_split = collections.defaultdict(list)
    for video in manifest.videos:
        by_split[video.split].append(video)
    return {
        split: _share_out(members, num_shards or _auto_shards(len(members)))
        for split, members in sorted(by_split.items())
    }


def _plan(
    manifest: Manifest,
    shards: Mapping[str, Sequence[Sequence[Video]]],
    encoding: Encoding,
    name: str,
    keep_partial: bool,
) -> dict[str, Any]:
    return {
        "name": name,
        "options": dataclasses.asdict(encoding) | {"keep_partial": keep_partial},
        "time_rule": timeline.RULE,
        "encoder": {"av": av.__version__, "libavcodec": list(av.library_versions["libavcodec"])},
        "label_names": list(manifest.label_names),
        "shards": {
            split: [[video.described() for video in members] for members in parts]
            for split, parts in shards.items()
        },
    }


def _auto_shards(videos: int) -> int:
    """Enough to share the work, few enough to keep files large, whatever the machine."""
    by_size = -(-videos // _VIDEOS_PER_SHARD)
    return max(by_size, min(_LEAST_SHARDS, -(-videos // _LEAST_VIDEOS_PER_SHARD)))


def _share_out(members: Sequence[Any], count: int) -> list[Sequence[Any]]:
    ends = [i * len(members) // count for i in range(count + 1)]
    return [members[a:b] for a, b in itertools.pairwise(ends)]


def _keep_to_plan(path: str, plan: Mapping[str, Any], out: str) -> None:
    """Writes the plan of a new build; an old one must be the same.

    A finished set stays valid with another version of the encoder; an unfinished one would mix two.
    """
    try:
        with open(path, encoding="utf-8") as file:
            old = json.load(file)
    except FileNotFoundError:
        write_json(path, plan)
        return
    except ValueError as error:
        raise BuildError(f"{path}: damaged ({error}); remove {out} and build again") from error
    changes = _changes(old, plan)
    finished = os.path.exists(os.path.join(out, "dataset_info.json"))
    if old.get("encoder") != plan["encoder"] and not finished:
        changes.append(f"encoder was {old.get('encoder')}, is {plan['encoder']}")
    if old.get("time_rule", 1) != plan["time_rule"] and not finished:
        log.warning(
            "%s: was begun by a version that timed videos of variable rate differently; finished "
            "shards keep its frames; to build all videos alike, remove the folder", out,
        )  # fmt: skip
    if changes:
        raise BuildError(
            f"--out={out}: was begun with other settings or videos: {'; '.join(changes)}; remove "
            "it or name another --out"
        )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes = []
    if old.get("name") != new["name"]:
        changes.append(f"name was {old.get('name')}, is {new['name']}")
    for key, value in new["options"].items():
        before = old.get("options", {}).get(key)
        if before != value:
            changes.append(f"{key} was {before}, is {value}")
    before, after = _videos_of(old), _videos_of(new)
    names = {
        "added": sorted(after.keys() - before.keys()),
        "gone": sorted(before.keys() - after.keys()),
        "changed": sorted(p for p in after.keys() & before.keys() if after[p] != before[p]),
    }
    changes += [
        f"{len(paths)} videos {what} ({', '.join(paths[:3])}{', ...' * (len(paths) > 3)})"
        for what, paths in names.items()
        if paths
    ]
    counts = [{s: len(shards) for s, shards in p.get("shards", {}).items()} for p in (old, new)]
    if not changes and counts[0] != counts[1]:
        changes.append(f"number of shards was {counts[0]}, is {counts[1]}")
    return changes


def _videos_of(plan: Mapping[str, Any]) -> dict[str, list]:
    """By path: a video whose cuts go to several splits is there more than once."""
    shards = [shard for split in plan.get("shards", {}).values() for shard in split]
    found = collections.defaultdict(list)
    for shard in shards:
        for video in shard:
            found[video["path"]].append(video)
    return found


# ---- The work ----


def _tasks(
    shards: Mapping[str, Sequence[Sequence[Video]]],
    name: str,
    manifest: Manifest,
    encoding: Encoding,
    keep_partial: bool,
    out: str,
) -> dict[str, list[ShardTask]]:
    root = manifest.root if is_url(manifest.root) else os.path.abspath(manifest.root)
    tasks = {}
    for split, parts in shards.items():
        tasks[split] = []
        for i, members in enumerate(parts):
            file = f"{name}-{split}.tfrecord-{i:05d}-of-{len(parts):05d}"
            videos = tuple(members)
            report = os.path.join(out, "build", f"{file}.json")
            task = ShardTask(os.path.join(out, file), report, root, videos, encoding, keep_partial)
            tasks[split].append(task)
    return tasks


def _run(
    tasks: Mapping[str, Sequence[ShardTask]],
    manifest: Manifest,
    name: str,
    out: str,
    workers: int,
    beam_options: str | None,
    progress: Callable[[int, int], None],
) -> None:
    from vmae_jax.data.build import builder  # workers, which never need it, would import TFDS

    open_tasks = [task for split in tasks.values() for task in split if task.outcome() is None]
    total = len(manifest.videos)
    begun = total - sum(len(task.videos) for task in open_tasks)
    progress(begun, total)
    if beam_options is None:
        # Afterwards TFDS finds every shard finished: it only counts records and writes metadata.
        builder.run_local(open_tasks, workers, progress, begun, total)
    dataset = builder.VideoDataset(name, out, manifest.label_names, manifest.class_order)
    dataset.prepare(tasks, beam_options)
    progress(total, total)  # Beam's workers do not say what they begin


def _finish(tasks: Mapping[str, Sequence[ShardTask]], manifest: Manifest, out: str) -> Report:
    shards = [(split, task.path, task.outcome()) for split in tasks for task in tasks[split]]
    sizes = {path: os.path.getsize(path) for _, path, _ in shards}
    report = make_report(out, shards, manifest.rejected, sizes, manifest.warnings)
    write_json(os.path.join(out, "report.json"), report.to_dict())
    if not report.num_kept:
        example = next(f"{reason}: {v[0]['path']}" for reason, v in report.rejected.items())
        raise BuildError(
            f"no video is left of {report.num_rejected} ({example}); every reason is in "
            f"{os.path.join(out, 'report.json')}"
        )
    return report
