"""Which hashtags a data set is made of, and the videos that they keep."""

import collections
import csv
import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from vmae_jax import lists
from vmae_jax.data.curate.items import CurationError, Item, Removal
from vmae_jax.data.curate.manifest import parse_hashtags

CHOICES = ("hash", "views")
_NAMED = 5  # hashtags in the detail of a removal
_WORD = 80  # characters of each

# A video and the hashtags that are left to it.
_Entry = tuple[Item, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class HashtagRules:
    """The rules, in the order in which they apply. Left as they are, they keep every video.

    With a minimum or a maximum, a video stays only where a hashtag keeps it.
    """

    # Synonym -> the name it is counted under. All names here and below as `parse_hashtags` gives
    # them; see `read_synonyms` and `read_hashtags`.
    synonyms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    excluded: frozenset[str] = frozenset()  # a video with one of them is left out
    ignored: frozenset[str] = frozenset()  # once merged, taken off the videos, which stay
    min_views: int = 0  # of a hashtag; 5,000,000 in the paper
    # Views of each hashtag where they are known; None = the sum over the manifest's videos, which
    # is a lower bound. A hashtag that is not in it has none.
    views: Mapping[str, int] | None = None
    min_videos: int = 0  # per hashtag
    # Per hashtag; 0 = all. Each picks this many, and a video stays under those that picked it.
    max_videos: int = 0
    choose: str = "hash"  # what it picks: by 'hash' of seed and id, or the most 'views' first
    seed: int = 0

    def __post_init__(self):
        for name in ("min_views", "min_videos", "max_videos"):
            if getattr(self, name) < 0:
                raise CurationError(f"{name}={getattr(self, name)}: expected 0 (no limit) or more")
        if 0 < self.max_videos < self.min_videos:
            raise CurationError(
                f"max_videos={self.max_videos} is below min_videos={self.min_videos}; expected "
                "at least as many"
            )
        if self.choose not in CHOICES:
            raise CurationError(f"choose={self.choose!r}: expected one of {', '.join(CHOICES)}")


@dataclasses.dataclass(frozen=True)
class RuleRow:
    """What one rule did. Hashtags are counted on the videos that there are."""

    rule: str
    hashtags_removed: int
    videos_removed: int
    hashtags_left: int
    videos_left: int


@dataclasses.dataclass(frozen=True)
class Selection:
    """What the rules left: `items` carry the hashtags under which they stay."""

    items: tuple[Item, ...]
    removed: tuple[Removal, ...]  # videos
    removed_hashtags: tuple[Removal, ...]  # those that a minimum took; `id` is the hashtag
    rows: tuple[RuleRow, ...]  # the first is the input

    def table(self) -> str:
        """What each rule did, for the terminal."""
        line = "{:<20}{:>18}{:>16}{:>15}{:>13}"
        titles = ("rule", "hashtags removed", "videos removed", "hashtags left", "videos left")
        return "\n".join(line.format(*r) for r in (titles, *map(dataclasses.astuple, self.rows)))


def select(items: Sequence[Item], rules: HashtagRules) -> Selection:
    """Applies the rules; the outcome does not depend on the order of `items`, which it keeps."""
    state = _State([(item, item.hashtags) for item in items])
    if rules.synonyms:
        state.rename("merged synonyms", lambda tag: rules.synonyms.get(tag, tag))
    if rules.excluded:
        state.exclude(rules.excluded)
    if rules.ignored:
        state.rename("ignored hashtags", lambda tag: "" if tag in rules.ignored else tag)
    if rules.min_views or rules.min_videos or rules.max_videos:
        state.keep("no hashtag", lambda entry: entry[1], lambda item: "it carries none")
    if rules.min_views:
        state.drop_hashtags("too few views", _views(state.entries, rules), rules.min_views, "views")
    if rules.min_videos:
        state.drop_hashtags("too few videos", _counts(state.entries), rules.min_videos, "videos")
    if rules.max_videos:
        state.pick(rules)
    kept = tuple(dataclasses.replace(item, hashtags=tags) for item, tags in state.entries)
    return Selection(kept, tuple(state.removed), tuple(state.hashtags), tuple(state.rows))


class _State:
    """The videos that are left, and what each rule took."""

    def __init__(self, entries: list[_Entry]):
        self.entries = entries
        self.removed: list[Removal] = []
        self.hashtags: list[Removal] = []
        count = len(_counts(entries))
        self.rows = [RuleRow("input", 0, 0, count, len(entries))]

    def keep(
        self, rule: str, test: Callable[[_Entry], object], detail: Callable[[Item], str]
    ) -> None:
        """Removes the videos that fail a test."""
        kept = []
        for entry in self.entries:
            if test(entry):
                kept.append(entry)
            else:
                self.removed.append(Removal(entry[0].id, rule, detail(entry[0])))
        self._close(rule, kept)

    def rename(self, rule: str, name: Callable[[str], str]) -> None:
        """Gives hashtags other names, '' = none."""
        self._close(
            rule,
            [(item, tuple(sorted({*map(name, tags)} - {""}))) for item, tags in self.entries],
        )

    def exclude(self, excluded: frozenset[str]) -> None:
        """Removes videos by their hashtags, as they were written and as they were merged."""

        def found(item: Item, tags: tuple[str, ...]) -> list[str]:
            return sorted(excluded.intersection(item.hashtags + tags))

        carried = {item.id: found(item, tags) for item, tags in self.entries}
        self.keep(
            "excluded hashtag",
            lambda entry: not carried[entry[0].id],
            lambda item: _listing(f"#{tag}" for tag in carried[item.id]),
        )

    def drop_hashtags(self, rule: str, found: Mapping[str, int], least: int, unit: str) -> None:
        """Takes hashtags below a minimum off the videos, and removes those that are left bare."""
        low = {tag: count for tag, count in found.items() if count < least}
        self.hashtags += [
            Removal(tag, rule, f"{count:,} {unit}, at least {least:,}")
            for tag, count in sorted(low.items())
        ]
        kept = []
        for item, tags in self.entries:
            left = tuple(tag for tag in tags if tag not in low)
            if left:
                kept.append((item, left))
            else:
                named = _listing(f"#{tag}: {low[tag]:,}" for tag in tags)
                self.removed.append(Removal(item.id, rule, f"{named}; at least {least:,}"))
        self._close(rule, kept)

    def pick(self, rules: HashtagRules) -> None:
        """Each hashtag picks its first videos in one order, that of the rules."""
        full: collections.Counter[str] = collections.Counter()
        picked: dict[str, tuple[str, ...]] = {}
        for item, tags in sorted(self.entries, key=lambda entry: _order(entry[0], rules)):
            picked[item.id] = tuple(tag for tag in tags if full[tag] < rules.max_videos)
            full.update(picked[item.id])
        tags_of = {item.id: tags for item, tags in self.entries}
        self.entries = [(item, picked[item.id]) for item, _ in self.entries]
        most = f"at most {rules.max_videos:,} videos"
        self.keep(
            "too many videos",
            lambda entry: entry[1],
            lambda item: f"{_listing(f'#{tag}' for tag in tags_of[item.id])}: {most}",
        )

    def _close(self, rule: str, entries: list[_Entry]) -> None:
        before, count = self.rows[-1], len(_counts(entries))
        self.entries = entries
        gone = (before.hashtags_left - count, before.videos_left - len(entries))
        self.rows.append(RuleRow(rule, *gone, count, len(entries)))


def _order(item: Item, rules: HashtagRules) -> tuple[int, bytes]:
    views = -(item.views or 0) if rules.choose == "views" else 0
    return views, hashlib.sha256(f"{rules.seed}:{item.id}".encode()).digest()


def _counts(entries: Sequence[_Entry]) -> collections.Counter[str]:
    return collections.Counter(tag for _, tags in entries for tag in tags)


def _views(entries: Sequence[_Entry], rules: HashtagRules) -> dict[str, int]:
    """Views of each hashtag that there is."""
    total = dict.fromkeys(_counts(entries), 0)
    if rules.views is None:
        for item, tags in entries:
            for tag in tags:
                total[tag] += item.views or 0
        return total
    for tag, views in rules.views.items():
        # Views of synonyms may be of the same videos: their sum could be too much.
        name = rules.synonyms.get(tag, tag)
        if name in total:
            total[name] = max(total[name], views)
    return total


def _listing(words: Iterator[str]) -> str:
    listed = [word[:_WORD] for word in words]
    more = f" and {len(listed) - _NAMED} more" * (len(listed) > _NAMED)
    return ", ".join(listed[:_NAMED]) + more


# ---- Files ----


def read_hashtags(path: str) -> frozenset[str]:
    """Hashtags of a text file, separated as `parse_hashtags` does: to exclude or to ignore.

    Raises:
      CurationError: where it cannot be read.
    """
    return frozenset(parse_hashtags([cell for _, row in _csv(path) for cell in row]))


def read_synonyms(path: str) -> dict[str, str]:
    """Synonyms of a CSV without header, one group a line: the name that stays, then the others.

    Raises:
      CurationError: where it cannot be read, or a hashtag stands in two groups.
    """
    names: dict[str, str] = {}
    for line, row in _csv(path):
        group = [tag for cell in row for tag in parse_hashtags(cell)]
        for tag in dict.fromkeys(group):
            if tag in names:
                raise CurationError(
                    f"{path}, line {line}: #{tag} is in the group of #{names[tag]} too; put both "
                    "groups on one line"
                )
            names[tag] = group[0]
    return {tag: name for tag, name in names.items() if tag != name}


def read_views(path: str) -> dict[str, int]:
    """Views of hashtags from a CSV with the columns hashtag,views.

    Raises:
      CurationError: where it cannot be read, or a row is not one hashtag with its views.
    """
    rows = list(_csv(path, ("hashtag",)))
    if not rows or [cell.lower() for cell in rows[0][1]] != ["hashtag", "views"]:
        found = ",".join(rows[0][1])[:100] if rows else ""
        raise CurationError(f"{path}, line 1: found {found!r}, expected the columns hashtag,views")
    views: dict[str, int] = {}
    for line, row in rows[1:]:
        tags = parse_hashtags(row[0])
        count = row[1] if len(row) == 2 else ""
        if len(tags) != 1 or not (count.isascii() and count.isdigit() and len(count) < 20):
            found = ",".join(row)[:100]
            raise CurationError(
                f"{path}, line {line}: found {found!r}, expected one hashtag and its views"
            )
        if tags[0] in views:
            raise CurationError(f"{path}, line {line}: #{tags[0]} is there twice")
        views[tags[0]] = int(count)
    return views


def _csv(path: str, columns: Collection[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of the rows that are not blank; a header names one of `columns`."""
    try:
        lines = lists.lines(lists.read(path))
        delimiter = lists.delimiter_of(lines[0], columns) if lines else ","
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except lists.ListError as error:
        raise CurationError(str(error)) from error
    except csv.Error as error:
        raise CurationError(f"{path}: not a readable CSV ({error})") from error
