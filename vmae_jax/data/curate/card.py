"""The data card: what a curated set holds and what was left out, as a page and as JSON."""

import collections
import dataclasses
import hashlib
import heapq
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmae_jax import whole
from vmae_jax.data.curate.hashtags import RuleRow
from vmae_jax.data.curate.items import CurationError

# What is shown; all is counted. Together the card stays below 10 MB.
MAX_EXAMPLES = 8  # per reason
MAX_GROUPS = 30
MAX_COPIES = 4  # of a group, beside the clip that was kept
MAX_CONTACT = 60
MAX_PICTURE = 48 << 10  # bytes of a thumbnail
MAX_PICTURES = 6 << 20  # bytes of all

_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, math.inf)  # seconds

STATEMENT = (
    "vmae_jax collects nothing. Whoever made this set supplied the videos and their metadata, and "
    "is responsible for having the right to use them.",
    "The rights in the videos remain with their owners, and so do the rights of the people in "
    "them. Neither this card nor the program that wrote it grants any.",
    "Of the column author at most a keyed hash is kept. Other columns, pictures, hashtags, ids and "
    "names of files are kept as they came and may identify people; treat the set and this card as "
    "you treat the videos.",
    "The gates measure, and err: a set that passed them may hold what they should have caught, and "
    "lacks what they caught wrongly.",
)


@dataclasses.dataclass(frozen=True)
class Example:
    """A clip, video or row to show: its id, what was found, and a small JPEG file of it."""

    id: str
    detail: str = ""
    thumbnail: bytes = b""


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why some were left out: how many in all, and a few of them."""

    name: str  # that of `Removal.reason`
    count: int
    examples: tuple[Example, ...] = ()  # the first MAX_EXAMPLES are shown


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step that leaves things out. What came in is what is left and what its reasons count."""

    name: str  # 'Hashtags', 'Quality gates'
    unit: str  # of the counts: 'rows', 'videos' or 'clips'
    came: int
    reasons: tuple[Reason, ...] = ()
    note: str = ""  # one sentence for the reader

    @property
    def left(self) -> int:
        return self.came - sum(reason.count for reason in self.reasons)


@dataclasses.dataclass(frozen=True)
class Copy:
    """A near duplicate that was left out, beside the clip that was kept."""

    shown: Example
    share: float = 1.0  # of the compared frames that match, 0 to 1
    offset: float = 0.0  # seconds from the kept clip's start to where the copy's start falls
    mirrored: bool = False
    same_file: bool = False  # byte for byte


@dataclasses.dataclass(frozen=True)
class DuplicateGroup:
    """Clips that show the same."""

    kept: Example
    copies: tuple[Copy, ...]


@dataclasses.dataclass(frozen=True)
class Subset:
    """One of the nested subsets."""

    clips: int
    hours: float
    hashtags: int


@dataclasses.dataclass(frozen=True)
class Card:
    """All that the card tells: plain data, so that any part of curation can fill it in.

    Nothing but `title` and `stages` is needed; sections without data are left out.
    """

    title: str
    # From the rows of the manifest to the kept clips, in order. The next stage begins with what the
    # last one left, unless its unit is another (videos are cut into clips).
    stages: tuple[Stage, ...]
    made: str = ""  # a date to print; '' = none, and the card's bytes depend on nothing but it
    seconds: Sequence[float] = ()  # length of each kept clip
    sizes: Sequence[tuple[int, int]] = ()  # (width, height) in pixels of each kept clip
    rates: Sequence[float] = ()  # frames per second of each kept clip
    videos: int = 0  # that the kept clips are from
    hashtags: Mapping[str, int] = dataclasses.field(default_factory=dict)  # clips of each
    rules: tuple[RuleRow, ...] = ()  # `Selection.rows`
    groups: Sequence[DuplicateGroup] = ()  # the first MAX_GROUPS are shown
    num_groups: int = 0  # in all; 0 = as many as `groups`
    contact: Sequence[Example] = ()  # of the ids that `sample` chose
    splits: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # as a build
    subsets: tuple[Subset, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()  # sentences of the user, above the statement

    def check(self) -> None:
        """Raises CurationError where the numbers do not add up."""
        before = None
        for stage in self.stages:
            if min((stage.came, stage.left, *(r.count for r in stage.reasons))) < 0:
                raise CurationError(f"data card: {stage.name} leaves out more than came in")
            same = before is not None and before.unit == stage.unit
            if same and stage.came != before.left:
                raise CurationError(
                    f"data card: {stage.name} begins with {stage.came:,} {stage.unit}, but "
                    f"{before.name} left {before.left:,}"
                )
            before = stage
        clips = before.left if before and before.unit == "clips" else None
        for name in ("seconds", "sizes", "rates"):
            found = len(getattr(self, name))
            if found and clips is not None and found != clips:
                raise CurationError(f"data card: {found:,} {name} of {clips:,} kept clips")


def sample(ids: Iterable[str], count: int = MAX_CONTACT, seed: int = 0) -> list[str]:
    """A random choice of ids that depends on the seed, not on their order; sorted."""

    def draw(name: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}:contact:{name}".encode(errors="replace")).digest(), name

    return sorted(heapq.nsmallest(count, ids, key=draw))


def write(out: str | os.PathLike, card: Card) -> None:
    """Writes data_card.html and data_card.json into a folder; each appears whole.

    Raises:
      CurationError: where the card's numbers do not add up.
    """
    from vmae_jax.data.curate import card_page  # it is made of what stands here

    card.check()
    os.makedirs(out, exist_ok=True)
    # Names of files may be no valid Unicode: escapes bring any of them through.
    text = json.dumps(to_dict(card), indent=1, ensure_ascii=True, allow_nan=False)
    whole.write(os.path.join(out, "data_card.json"), f"{text}\n")
    whole.write(os.path.join(out, "data_card.html"), card_page.page(card))


# ---- What is counted ----


def hours(card: Card) -> float:
    """Hours of all kept clips."""
    return math.fsum(card.seconds) / 3600


def length_counts(card: Card) -> list[tuple[float, float, int]]:
    """Kept clips by length: (from, below, how many), without empty bins at the end."""
    counts = [0] * (len(_EDGES) - 1)
    for seconds in card.seconds:
        counts[next(i for i, end in enumerate(_EDGES[1:]) if seconds < end)] += 1
    used = max((i for i, count in enumerate(counts) if count), default=-1)
    return [(_EDGES[i], _EDGES[i + 1], counts[i]) for i in range(used + 1)]


def size_counts(card: Card) -> dict[str, int]:
    """Kept clips by 'width × height', the most frequent first."""
    return _ranked(f"{width} × {height}" for width, height in card.sizes)


def rate_counts(card: Card) -> dict[str, int]:
    """Kept clips by frames per second, the most frequent first."""
    return _ranked(f"{rate:.2f}".rstrip("0").rstrip(".") for rate in card.rates)


def top_hashtags(card: Card) -> dict[str, int]:
    """Clips of each hashtag, the most frequent first."""
    return dict(sorted(card.hashtags.items(), key=lambda pair: (-pair[1], pair[0])))


def _ranked(names: Iterable[str]) -> dict[str, int]:
    counts = collections.Counter(names)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


# ---- JSON ----


def to_dict(card: Card) -> dict[str, Any]:
    """The content of data_card.json: the page without its pictures, and every hashtag."""
    groups = card.groups[:MAX_GROUPS]
    return {
        "title": card.title,
        "made": card.made,
        "totals": {
            "clips": card.stages[-1].left if card.stages else 0,
            "videos": card.videos,
            "hours": round(hours(card), 6),
            "hashtags": len(card.hashtags),
        },
        "stages": [_stage(stage) for stage in card.stages],
        "hashtags": top_hashtags(card),
        "hashtag_rules": [dataclasses.asdict(row) for row in card.rules],
        "seconds": [
            {"from": start, "below": None if math.isinf(end) else end, "clips": count}
            for start, end, count in length_counts(card)
        ],
        "sizes": size_counts(card),
        "frame_rates": rate_counts(card),
        "duplicate_groups": {
            "count": max(card.num_groups, len(card.groups)),
            "shown": [_group(group) for group in groups],
        },
        "contact_sheet": [example.id for example in card.contact[:MAX_CONTACT]],
        "splits": {name: dict(split) for name, split in card.splits.items()},
        "subsets": [dataclasses.asdict(subset) for subset in card.subsets],
        "settings": dict(card.settings),
        "versions": dict(card.versions),
        "statement": [*card.notes, *STATEMENT],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    reasons = [
        {"reason": r.name, "count": r.count, "examples": _examples(r.examples[:MAX_EXAMPLES])}
        for r in stage.reasons
    ]
    counts = {"name": stage.name, "unit": stage.unit, "came": stage.came, "left": stage.left}
    return counts | {"note": stage.note, "removed": reasons}


def _examples(examples: Sequence[Example]) -> list[dict[str, str]]:
    return [{"id": example.id, "detail": example.detail} for example in examples]


def _group(group: DuplicateGroup) -> dict[str, Any]:
    copies = [
        _examples([copy.shown])[0]
        | {name: getattr(copy, name) for name in ("share", "offset", "mirrored", "same_file")}
        for copy in group.copies[:MAX_COPIES]
    ]
    return {"kept": group.kept.id, "copies": copies, "num_copies": len(group.copies)}
