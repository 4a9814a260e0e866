"""Labelled benchmarks as their owners ship them, as the `Manifest` of a build.

One table says what each has: who reads its annotations, how its files are named, how many classes
and videos there are. The owners' training and test lists (for Kinetics and Something-Something:
training and validation) become the splits 'train' and 'val' of the recipes in configs/.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from vmae_jax.data import inputs
from vmae_jax.data.build import annotations as owners
from vmae_jax.data.build.annotations import Entry, Listing
from vmae_jax.data.build.items import BuildError, Manifest, Video, order
from vmae_jax.data.build.kinetics import kinetics, kinetics710
from vmae_jax.data.build.manifest import list_paths

MAX_MISSING = 0.1

_Keys = Callable[[str], tuple[str, ...]]
_Rejected = tuple[str, str, str]  # path, reason, detail


def _stem_keys(path: str) -> tuple[str, ...]:
    """Whatever folder it lies in: by class, by part of the download, or all in one."""
    return (os.path.splitext(os.path.basename(path))[0],)


def _version_keys(path: str) -> tuple[str, ...]:
    return (f"{path.partition('/')[0]}/{_stem_keys(path)[0]}",)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """How a benchmark is read, and what its owners say that there is.

    `read` and `keys` belong together: a key that an `Entry` has is one of its file's. `counts` has
    the number of entries by official split (0 = there is one only) and use.
    """

    read: Callable[[str, int, str | None], Listing]
    keys: _Keys
    classes: int
    counts: Mapping[int, Mapping[str, int]]
    files: str  # what is expected in --videos and --annotations, and what to unpack
    label_map: str = "no"  # 'optional' or 'needed'


_KINETICS = (
    "--videos=FOLDER with ID_000010_000020.mp4 or ID.mp4 (first and last second of a video of "
    "YouTube) anywhere below it, from the tar.gz files; --annotations=FOLDER with train.csv, "
    "val.csv and perhaps test.csv; perhaps --label_map=misc of VideoMAE V2's repository"
)
# The three of Kinetics have no counts: their lists shrink with what is left on YouTube.
_ONE_SPLIT: Mapping[int, Mapping[str, int]] = {0: {}}


def _kinetics(version: int) -> Benchmark:
    read = functools.partial(kinetics, version)
    return Benchmark(read, _stem_keys, version, _ONE_SPLIT, _KINETICS, "optional")


BENCHMARKS: Mapping[str, Benchmark] = {
    # Counts: the lists themselves; 13,320 videos in all (arXiv 1212.0402).
    "ucf101": Benchmark(
        owners.ucf101,
        owners.path_keys,
        101,
        {
            1: {"train": 9537, "val": 3783},
            2: {"train": 9586, "val": 3734},
            3: {"train": 9624, "val": 3696},
        },
        "--videos=UCF-101 (unrar x UCF101.rar) with CLASS/v_CLASS_g01_c01.avi; "
        "--annotations=ucfTrainTestlist (unzip UCF101TrainTestSplits-RecognitionTask.zip)",
    ),
    # Counts: 70 and 30 videos of each class (Kuehne et al., ICCV 2011); the lists name 6,766, the
    # paper counts 6,849.
    "hmdb51": Benchmark(
        owners.hmdb51,
        owners.path_keys,
        51,
        {i: {"train": 3570, "val": 1530, "unused": 1666} for i in (1, 2, 3)},
        "--videos=FOLDER with CLASS/FILE.avi (unrar x hmdb51_org.rar, which has one rar for each "
        "class: unrar x those too); --annotations=testTrainMulti_7030_splits "
        "(unrar x test_train_splits.rar)",
    ),
    "kinetics400": _kinetics(400),
    "kinetics600": _kinetics(600),
    "kinetics700": _kinetics(700),  # and its edition of 2020
    "kinetics710": Benchmark(
        kinetics710,
        _version_keys,
        710,
        _ONE_SPLIT,
        "--videos=FOLDER and --annotations=FOLDER, both with the folders k400, k600 and k700, each "
        "as for kinetics400; --label_map=misc of VideoMAE V2's repository",
        "needed",
    ),
    # Counts: the owners' page; 220,847 videos in all.
    "ssv2": Benchmark(
        owners.ssv2,
        _stem_keys,
        174,
        {0: {"train": 168_913, "val": 24_777, "test": 27_157}},
        "--videos=FOLDER with ID.webm (cat the numbered parts | tar xz); --annotations=FOLDER with "
        "something-something-v2-train.json, -validation.json and -labels.json",
    ),
}


def read_benchmark(
    benchmark: str,
    videos: str,
    annotations: str | None,
    label_map: str | None = None,
    max_missing: float = MAX_MISSING,
) -> Manifest:
    """The videos of a benchmark with the owners' splits and the public checkpoints' labels.

    A training video that a list for validation or testing names too is left out, and so is what is
    named twice. Of both, and of files that no list names, `rejected` has each.

    Args:
      benchmark: a name of `BENCHMARKS`, with ':1' and so on for one of several official splits.
      videos, annotations: folders as the table describes them.
      label_map: for Kinetics, see `kinetics.kinetics` and `kinetics.kinetics710`.
      max_missing: share of the videos in the lists that may have no file.

    Raises:
      BuildError: where an argument or a file of annotations is wrong, or too many videos miss.
    """
    name, split = _parse(benchmark)
    spec = BENCHMARKS[name]
    if not annotations:
        raise BuildError(f"--annotations is missing; expected {spec.files}")
    if not os.path.isdir(annotations):
        raise BuildError(f"--annotations={annotations}: no such folder; expected {spec.files}")
    if label_map and spec.label_map == "no":
        raise BuildError(f"--label_map={label_map}: --benchmark={name} takes {spec.files}")
    if not label_map and spec.label_map == "needed":
        raise BuildError(f"--label_map is missing: --benchmark={name} takes {spec.files}")
    if not 0 <= max_missing <= 1:
        raise BuildError(f"--max_missing={max_missing}: expected a share from 0 to 1")
    if not os.path.isdir(videos):
        raise BuildError(f"--videos={videos}: no such folder; expected {spec.files}")
    listing = spec.read(annotations, split, label_map)
    _, paths = list_paths(videos, leave_out=annotations)
    paths = [path for path in paths if os.path.isfile(os.path.join(videos, path))]  # broken links
    taken, rejected, missing = _take(listing.entries, paths, spec.keys)
    wanted = len(taken) + len(missing)
    if not taken or len(missing) > max_missing * wanted:
        lack = _lack(paths, taken, missing, max_missing)
        raise BuildError(f"--videos={videos}: {lack}; expected {spec.files}")
    rejected += [(e.names[0], "missing file", f"named in {e.where}") for e in missing]
    entries = [_video(videos, path, e, listing.classes) for path, e in taken.items()]
    warnings = _deviations(benchmark, spec.classes, spec.counts[split], listing)
    if spec.keys is owners.path_keys:
        warnings += _elsewhere(benchmark, taken)
    if missing:
        warnings.append(f"{benchmark}: {len(missing)} of {wanted} listed videos are missing")
    return Manifest(
        videos,
        tuple(sorted(entries, key=order)),
        tuple(sorted(rejected)),
        listing.classes,
        tuple(warnings),
        listing.order,
    )


def _lack(
    paths: Sequence[str], taken: Collection[str], missing: Sequence[Entry], max_missing: float
) -> str:
    """In words, that too few of the listed videos are there."""
    wanted = len(taken) + len(missing)
    if not missing:
        return "none of the lists names a video for train or val"
    example = f"such as {missing[0].names[0]} ({missing[0].where})"
    if taken:
        return (
            f"{len(missing)} of {wanted} listed videos are missing, {example}; "
            f"--max_missing={max_missing} allows fewer"
        )
    others = [path for path in paths if _is_video(path)]
    found = f"{len(others)} others, such as {others[0]}" if others else "no video at all"
    return f"none of the {wanted} listed videos, {example}, is in it or below; found {found}"


def _parse(benchmark: str) -> tuple[str, int]:
    name, colon, split = benchmark.partition(":")
    if name not in BENCHMARKS:
        raise BuildError(f"--benchmark={benchmark}: expected one of {', '.join(BENCHMARKS)}")
    splits = {str(i): i for i in BENCHMARKS[name].counts if i} or {"": 0}
    if split not in splits or bool(colon) != bool(split):
        names = (f"{name}{':' * bool(i)}{i}" for i in splits)
        raise BuildError(f"--benchmark={benchmark}: expected {' or '.join(names)}")
    return name, splits[split]


def _take(
    entries: Sequence[Entry], paths: Sequence[str], keys: _Keys
) -> tuple[dict[str, Entry], list[_Rejected], list[Entry]]:
    """Entries by the path of their file; what was left out; entries without a file."""
    index = _index(paths, keys)
    held_out = {entry.video: entry for entry in entries if entry.use in ("val", "test")}
    taken: dict[str, Entry] = {}
    videos: dict[str, Entry] = {}  # those of `taken`
    missing: dict[str, Entry] = {}
    seen: dict[str, Entry] = {}  # by path: `taken`, and the videos for testing
    rejected: dict[str, _Rejected] = {}
    for entry in sorted(entries, key=lambda e: ("val", "test", "train", "unused").index(e.use)):
        path = next((index[name] for name in entry.names if name in index), None)
        twin = held_out.get(entry.video) if entry.use == "train" else None
        twin = twin or videos.get(entry.video) or seen.get(path)
        if path is None:
            if entry.use in ("train", "val") and not twin:
                missing.setdefault(entry.video, entry)
        elif entry.use not in ("train", "val"):
            if path not in seen:
                seen[path] = entry
                rejected[path] = (path, f"{entry.use} video", entry.where)
        elif twin:
            reason = "duplicate" if twin.use == entry.use else "held out"
            rejected.setdefault(path, (path, reason, f"{entry.where}; also in {twin.where}"))
        else:
            taken[path] = seen[path] = videos[entry.video] = entry
    known = taken.keys() | rejected.keys()
    rest = [_unlisted(path, index, keys) for path in paths if path not in known]
    gone = [entry for video, entry in missing.items() if video not in videos]
    return taken, [*rejected.values(), *rest], gone


def _index(paths: Iterable[str], keys: _Keys) -> dict[str, str]:
    """Videos by their keys, exact ones first.

    CVDF ships videos that replace broken ones of Kinetics-400 in a folder of that name.
    """
    videos = [path for path in paths if _is_video(path)]
    videos.sort(key=lambda path: ("replacement" not in path, path))
    index: dict[str, str] = {}
    for rank in range(len(keys(""))):
        for path in videos:
            index.setdefault(keys(path)[rank], path)
    return index


def _is_video(path: str) -> bool:
    return path.lower().endswith(inputs.SUFFIXES)


def _unlisted(path: str, index: Mapping[str, str], keys: _Keys) -> _Rejected:
    other = index.get(keys(path)[-1], path)
    if other != path and _is_video(path):
        return path, "duplicate", f"has the name of {other}"
    return path, "not labelled", "no list of the annotations names it"


def _video(root: str, path: str, entry: Entry, classes: Sequence[str]) -> Video:
    stat = os.stat(os.path.join(root, path))
    name = classes[entry.label]
    return Video(path, stat.st_size, stat.st_mtime_ns, entry.use, entry.label, name)


def _elsewhere(benchmark: str, taken: Mapping[str, Entry]) -> list[str]:
    """Says that videos were found by their stems alone."""
    found = [path for path, entry in taken.items() if not {path, path.lower()} & {*entry.names}]
    if not found:
        return []
    return [
        f"{benchmark}: {len(found)} videos, such as {found[0]}, have another folder or suffix than "
        "in the lists; they are taken by the rest of their names"
    ]


def _deviations(
    benchmark: str, classes: int, counts: Mapping[str, int], listing: Listing
) -> list[str]:
    """What differs from the owners' numbers. A list of test videos need not be there.

    After that, what reading the lists had to note.
    """
    found = collections.Counter(entry.use for entry in listing.entries)
    lines = [
        f"{benchmark}: the lists have {found[use]} videos for {use}, officially {count}"
        for use, count in counts.items()
        if found[use] != count and (found[use] or use != "test")
    ]
    if len(listing.classes) != classes:
        lines.insert(0, f"{benchmark}: found {len(listing.classes)} classes, officially {classes}")
    return [*lines, *listing.notes]
