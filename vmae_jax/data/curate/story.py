"""What became of every row, video and clip of a curation: for the terminal, as CSV, as a card."""

import collections
import csv
import dataclasses
import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmae_jax import whole
from vmae_jax.data.build.report import Report
from vmae_jax.data.curate import card, looks
from vmae_jax.data.curate.hashtags import Selection
from vmae_jax.data.curate.items import Clip, Examined, Item, Removal
from vmae_jax.data.curate.manifest import Table
from vmae_jax.data.curate.unique import Group, Match

if TYPE_CHECKING:
    from vmae_jax.data.curate import Settings

_PACKAGES = ("vmae_jax", "av", "opencv-python-headless", "scenedetect-headless", "numpy")
_Stage = tuple[str, str, int, Mapping[str, Sequence[Removal]]]  # name, unit, came in, removed


@dataclasses.dataclass
class Story:
    """Filled in as curation goes on."""

    out: str
    settings: "Settings"
    table: Table
    selection: Selection
    tasks: Sequence[looks.LookTask] = ()
    videos: dict[str, Examined] = dataclasses.field(default_factory=dict)  # usable ones, by item
    unusable: list[Removal] = dataclasses.field(default_factory=list)
    kept: dict[str, Clip] = dataclasses.field(default_factory=dict)  # by id
    judged: dict[str, Removal] = dataclasses.field(default_factory=dict)  # by clip
    copies: dict[str, Removal] = dataclasses.field(default_factory=dict)
    lost: dict[str, Removal] = dataclasses.field(default_factory=dict)  # while shards were written
    clips: dict[str, Clip] = dataclasses.field(default_factory=dict)  # all that were judged
    groups: Sequence[Group] = ()
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    subsets: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)  # by clip
    report: Report | None = None

    def __post_init__(self):
        self.items: dict[str, Item] = {item.id: item for item in self.selection.items}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the files, by item."""
        return {name: video.digest for name, video in self.videos.items()}

    def add_video(self, video: Examined) -> None:
        if video.reason:
            self.unusable.append(Removal(video.item, video.reason, video.detail))
        else:
            self.videos[video.item] = video

    def judge(self, clip: Clip, removal: Removal | None) -> None:
        self.clips[clip.id] = clip
        if removal:
            self.judged[clip.id] = removal
        else:
            self.kept[clip.id] = clip

    def remove_copy(self, removal: Removal) -> None:
        del self.kept[removal.id]
        self.copies[removal.id] = removal

    def finish(self, report: Report) -> None:
        """Takes note of what was written, and of what could not be."""
        self.report = report
        rejected = {
            (video["split"], video["path"]): (reason, video["detail"])
            for reason, videos in report.rejected.items()
            for video in videos
        }
        for name, clip in list(self.kept.items()):
            if found := rejected.get((self.splits[name], self.items[clip.item].path)):
                del self.kept[name]
                self.lost[name] = Removal(name, *found)
        kept = self.kept.keys()
        self.subsets = {n: [c for c in names if c in kept] for n, names in self.subsets.items()}

    # ---- Told ----

    def stages(self) -> list[_Stage]:
        """From rows to clips: what came in, and what was left out by which rule."""
        bad = [Removal(f"line {row.line}", row.reason, row.detail) for row in self.table.bad]
        found: list[_Stage] = [
            ("Manifest", "rows", self.table.num_rows, _by_reason(bad)),
            ("Hashtags", "rows", len(self.table.items), _by_reason(self.selection.removed)),
        ]
        if self.videos or self.unusable:
            found.append(("Files", "videos", len(self.items), _by_reason(self.unusable)))
        left = len(self.clips)
        for name, removed in (("Quality", self.judged), ("Copies", self.copies)):
            found.append((name, "clips", left, _by_reason(removed.values())))
            left -= len(removed)
        if self.lost:
            found.append(("Shards", "clips", left, _by_reason(self.lost.values())))
        return found

    def counts_of(self, stage: _Stage) -> dict[str, int]:
        """How many each reason took; of bad rows only the first are listed, but all counted."""
        if stage[0] == "Manifest":
            return dict(self.table.bad_rows)
        return {reason: len(removed) for reason, removed in stage[3].items()}

    def summary(self) -> str:
        """The reasons in one line."""
        total: collections.Counter[str] = collections.Counter()
        for stage in self.stages():
            total.update(self.counts_of(stage))
        return ", ".join(f"{reason} {n:,}" for reason, n in total.most_common()) or "no rows"

    def lines(self) -> Iterator[str]:
        """The funnel, for the terminal."""
        for stage in self.stages():
            name, unit, came, _ = stage
            counts = self.counts_of(stage)
            yield f"{name:<10}{came:>10,} {unit:<7}{came - sum(counts.values()):>10,} left"
            for reason, count in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])):
                yield f"  {reason:<30}{count:>8,}"
        videos = len({clip.item for clip in self.kept.values()})
        hours = sum(clip.end - clip.start for clip in self.kept.values()) / 3600
        yield f"Kept {len(self.kept):,} clips of {videos:,} videos, {hours:.2f} hours."
        for size in sorted(self.subsets):
            split = "+".join(f"train_{n}" for n in sorted(self.subsets) if n <= size)
            yield f"  subset of {size:,}: --config.data.split={split}"

    @property
    def all_splits(self) -> str:
        """The splits that hold all clips, as `data.split` takes them."""
        order = [*(f"train_{size}" for size in sorted(self.subsets)), "train_rest", "train"]
        return "+".join(split for split in order if self.report and split in self.report.splits)

    def outcomes(self) -> Iterator[tuple[int, str, str, int, str, str]]:
        """Of each row: line, id, 'kept' or 'left out', kept clips, reason, detail.

        Bad rows beyond the first are one line for each reason, which says how many.
        """
        listed = collections.Counter(row.reason for row in self.table.bad)
        for row in self.table.bad:
            yield row.line, "", "left out", 0, row.reason, row.detail
        for reason, count in self.table.bad_rows.items():
            if more := count - listed[reason]:
                yield 0, "", "left out", 0, reason, f"{more} more rows"
        gone = {r.id: r for r in (*self.selection.removed, *self.unusable)}
        kept = collections.Counter(clip.item for clip in self.kept.values())
        for removed in (self.judged, self.copies, self.lost):
            for name, removal in removed.items():
                gone.setdefault(self.clips[name].item, removal)
        for item in self.table.items:
            if kept[item.id]:
                yield item.line, item.id, "kept", kept[item.id], "", ""
            else:
                removal = gone[item.id]
                yield item.line, item.id, "left out", 0, removal.reason, removal.detail

    def write_tables(self) -> None:
        """OUT/curation: outcomes.csv (rows), clips.csv and hashtags.csv (those left out)."""
        folder = os.path.join(self.out, "curation")
        os.makedirs(folder, exist_ok=True)
        columns = ("line", "id", "outcome", "clips", "reason", "detail")
        _write_csv(os.path.join(folder, "outcomes.csv"), columns, self.outcomes())
        _write_csv(os.path.join(folder, "clips.csv"), *self._clip_rows())
        tags = ((tag.id, tag.reason, tag.detail) for tag in self.selection.removed_hashtags)
        _write_csv(os.path.join(folder, "hashtags.csv"), ("hashtag", "reason", "detail"), tags)

    def write_card(self) -> None:
        """OUT/data_card.html and data_card.json."""
        card.write(self.out, make_card(self))

    def _clip_rows(self) -> tuple[list[str], Iterator[list]]:
        scores = sorted({name for clip in self.clips.values() for name in clip.scores})
        gone = {**self.judged, **self.copies, **self.lost}

        def rows() -> Iterator[list]:
            for name, clip in sorted(self.clips.items()):
                removal = gone.get(name)
                told = ["left out", removal.reason, removal.detail] if removal else ["kept", "", ""]
                found = [clip.scores.get(score, "") for score in scores]
                split = "" if removal else self.splits.get(name, "")
                yield [name, clip.item, clip.start, clip.end, *told, split, *found]

        columns = ["id", "item", "start", "end", "outcome", "reason", "detail", "split", *scores]
        return columns, rows()


def _by_reason(removed: Any) -> dict[str, list[Removal]]:
    found = collections.defaultdict(list)
    for removal in removed:
        found[removal.reason].append(removal)
    return {reason: sorted(found[reason], key=lambda r: r.id) for reason in sorted(found)}


def _write_csv(path: str, columns: Sequence[str], rows: Iterator[Sequence]) -> None:
    with whole.opened(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    """Text that a spreadsheet takes for a formula gets a quote in front."""
    text = isinstance(value, str) and value.encode(errors="replace").decode()
    return ("'" if text[:1] in ("=", "+", "-", "@") else "") + text if text else value


# ---- The card ----


def make_card(story: Story) -> card.Card:
    """The story's data card."""
    kept = sorted(story.kept)
    stages = story.stages()
    contact = card.sample(kept, seed=story.settings.seed)
    groups = sorted(_pairs(story).items())
    shown = groups[: card.MAX_GROUPS]
    wanted = {*contact, *(m for _, pairs in shown for p in pairs for m in (p.a, p.b))}
    for _, _, _, reasons in stages:
        wanted |= {r.id for removed in reasons.values() for r in removed[: card.MAX_EXAMPLES]}
    pictures = looks.thumbnails(story.tasks, wanted)

    def example(name: str, detail: str = "") -> card.Example:
        return card.Example(name, detail, pictures.get(name, b""))

    most = card.MAX_EXAMPLES

    def reasons(stage: _Stage) -> tuple[card.Reason, ...]:
        return tuple(
            card.Reason(
                reason, count,
                tuple(example(r.id, r.detail) for r in stage[3].get(reason, ())[:most]),
            )
            for reason, count in story.counts_of(stage).items()
        )  # fmt: skip

    videos = [story.videos[story.clips[name].item] for name in kept]
    return card.Card(
        title=story.settings.name,
        stages=tuple(card.Stage(s[0], s[1], s[2], reasons(s)) for s in stages),
        seconds=[story.clips[name].end - story.clips[name].start for name in kept],
        sizes=[(video.width, video.height) for video in videos],
        rates=[video.fps for video in videos],
        videos=len({story.clips[name].item for name in kept}),
        hashtags=_hashtag_counts(story, kept),
        rules=story.selection.rows,
        groups=[_shown_group(story, *group, example) for group in shown],
        num_groups=len(groups),
        contact=[example(name) for name in contact],
        splits=story.report.splits if story.report else {},
        subsets=tuple(_subset(story, names) for _, names in sorted(story.subsets.items())),
        settings=_flat(story.settings),
        versions={name: _version(name) for name in _PACKAGES},
        notes=tuple(f"{what}: {count:,}." for what, count in sorted(story.counts.items())),
    )


def _hashtag_counts(story: Story, clips: Sequence[str]) -> dict[str, int]:
    tags = (tag for name in clips for tag in story.items[story.clips[name].item].hashtags)
    return dict(collections.Counter(tags))


def _subset(story: Story, names: Sequence[str]) -> card.Subset:
    seconds = sum(story.clips[name].end - story.clips[name].start for name in names)
    return card.Subset(len(names), seconds / 3600, len(_hashtag_counts(story, names)))


def _pairs(story: Story) -> dict[str, list[Match]]:
    """The matches for which copies went, by what stays: a clip, or one of another set."""
    found = collections.defaultdict(list)
    for group in story.groups:
        for name in group.members:
            if name not in story.copies:
                continue
            own = [m for m in group.matches if m.a == name]
            own += [m.seen_from_b() for m in group.matches if m.b == name and not m.against]
            best = next((m for m in own if m.against or m.b in story.kept), own[0])
            found[f"{best.b} of {best.against}" if best.against else best.b].append(best)
    return found


def _shown_group(
    story: Story, stays: str, pairs: Sequence[Match], example: Any
) -> card.DuplicateGroup:
    copies = tuple(
        card.Copy(
            example(m.a, story.copies[m.a].detail), m.share, m.offset, m.mirrored, m.exact
        )
        for m in pairs
    )  # fmt: skip
    return card.DuplicateGroup(example(stays), copies)


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name; long ones by their number of entries."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, dict | frozenset):
            found[name] = f"{len(value)} entries"
        else:
            found[name] = value
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
