"""Unique clips: groups of clips that show the same, with the evidence, and the best of each.

Exact copies have files of the same digest. Near copies look alike over time (`pairs.py`): encoded
again, scaled, mirrored, cropped a little, shifted, or part of a longer clip.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vmae_jax.data.curate import pairs
from vmae_jax.data.curate.fingerprints import (
    Fingerprints,
    load_fingerprints,
    save_fingerprints,
)
from vmae_jax.data.curate.items import HASHES_PER_SECOND, Clip, CurationError, Removal
from vmae_jax.data.curate.pairs import Limits, Table

__all__ = [
    "Fingerprints",
    "Group",
    "Limits",
    "Match",
    "choose",
    "find_groups",
    "load_fingerprints",
    "save_fingerprints",
]

_WHOLE = 0.8  # of the longer clip's frames: with so many in common, a copy's copy is a copy
_MOST_CLIPS = 1 << 31  # of one run and the sets that it is compared with


@dataclasses.dataclass(frozen=True)
class Match:
    """Clip `a` shows the same as clip `b` of this run or, where named, of the set `against`.

    What `a` shows at t seconds from its start, `b` shows at t + `offset` from its own, mirrored or
    not. `frames` hashes match: the `share` of the shorter clip's, and `of_longer` of the other's.
    `evidence` is that of `pairs.Limits`. Exact copies have the same file; no frame was compared.
    """

    a: str
    b: str
    against: str = ""
    exact: bool = False
    offset: float = 0.0  # seconds
    mirrored: bool = False
    frames: int = 0
    share: float = 1.0
    of_longer: float = 1.0
    evidence: float = 1.0

    @property
    def whole(self) -> bool:
        return self.of_longer >= _WHOLE

    def seen_from_b(self) -> "Match":
        """The same match, with the other clip first."""
        return dataclasses.replace(self, a=self.b, b=self.a, offset=0.0 - self.offset)

    def __str__(self) -> str:
        other = f"{self.b} of {self.against}" if self.against else self.b
        if self.exact:
            return f"the same file as {other}"
        how = ", mirrored" * self.mirrored
        return f"{self.frames} frames ({self.share:.0%}) as in {other} at {self.offset:+.2f} s{how}"


@dataclasses.dataclass(frozen=True)
class Group:
    """Clips of this run that matches connect, sorted, and these matches."""

    members: tuple[str, ...]
    matches: tuple[Match, ...]


def find_groups(
    chunks: Iterable[Sequence[Clip]],
    digests: Mapping[str, str],
    *,
    against: Sequence[Fingerprints] = (),
    beam_options: str | None = None,
    limits: Limits | None = None,
    counts: collections.Counter | None = None,
) -> list[Group]:
    """Finds the clips that show the same as another, or as one of another set.

    The result depends neither on the order of the clips nor on their chunks or the workers.

    Args:
      digests: SHA-256 of the files by item; '' or none where it is unknown.
      against: other sets, such as earlier runs or what models are evaluated on.
      beam_options: None compares on this machine; else where Beam does,
        'runner=DirectRunner,direct_num_workers=2'.
      counts: is told what was capped, and how many pairs only look alike.

    Returns:
      Groups in the order of their first members; a group may be one clip and those of other sets.

    Raises:
      CurationError: where a clip comes twice, or Beam cannot be used.
    """
    limits, counts = limits or Limits(), collections.Counter() if counts is None else counts
    clips = {}
    for chunk in chunks:
        for clip in chunk:
            if clip.id in clips:
                raise CurationError(f"clip {clip.id} comes twice: each id may name one item only")
            clips[clip.id] = clip.hashes
    exact = _exact(clips, digests, against)
    copies = {match.a for match in exact}
    # Files that are the same need one look only, and cannot crowd the buckets.
    ours = sorted(name for name in clips if name not in copies)
    names = [(other.name, name) for other in against for name in other.ids]
    hashes = [part for other in against for part in other.hashes]
    others = len(names)
    names += [("", name) for name in ours]
    hashes += [clips[name] for name in ours]
    if len(names) >= _MOST_CLIPS:
        raise CurationError(f"{len(names)} clips: expected fewer than {_MOST_CLIPS}; divide them")
    table = Table.of(range(len(names)), hashes, others)
    if beam_options is None:
        found = _compare(table, limits, counts)
    else:
        from vmae_jax.data.curate import unique_beam

        found = unique_beam.compare(table, limits, counts, beam_options)
    return _groups([*exact, *_near(found, names)])


def _compare(table: Table, limits: Limits, counts: collections.Counter) -> np.ndarray:
    """All matches of a table: pairs.MATCH[...], on this machine."""
    codes = np.empty(0, np.uint64)
    for band in range(pairs.NUM_BANDS):
        more, capped = pairs.join([pairs.band_rows(table, band)], table.others, limits)
        codes = np.union1d(codes, more)
        counts.update(capped)
    found, alike = pairs.verify(codes, table, limits)
    counts.update(alike)
    return found


def _exact(
    clips: Iterable[str], digests: Mapping[str, str], against: Sequence[Fingerprints]
) -> list[Match]:
    """Each clip whose file another one has, with the first of them; other sets go first."""
    foreign = {}
    for other in against:
        first = {digest: name for name, digest in sorted(other.digests.items(), reverse=True)}
        foreign = {digest: (name, other.name) for digest, name in first.items()} | foreign
    first, found = {}, []
    for clip in sorted(clips):
        item, _, number = clip.rpartition("#")
        digest = digests.get(item, "")
        if digest in foreign:
            name, of = foreign[digest]
            found.append(Match(clip, name, of, exact=True))
        elif digest and (digest, number) in first:
            found.append(Match(clip, first[digest, number], exact=True))
        else:
            first[digest, number] = clip
    return found


def _near(found: np.ndarray, names: Sequence[tuple[str, str]]) -> list[Match]:
    """Matches with their names; of a pair that matches both ways, the one with more evidence."""
    best = {}
    for row in found[np.argsort(found["evidence"], kind="stable")].tolist():
        best[row[:2]] = row
    matches = []
    for b, a, turned, frames, share, of_longer, offset, evidence in best.values():
        against, name = names[b]
        numbers = (round(share, 3), round(of_longer, 3), round(evidence, 3))
        seconds = round(-offset / HASHES_PER_SECOND, 2) + 0.0  # no negative zero
        matches.append(Match(names[a][1], name, against, False, seconds, turned, frames, *numbers))
    return matches


def _groups(matches: Sequence[Match]) -> list[Group]:
    """Clips that matches connect, also by way of a clip of another set."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for match in matches:
        parent[root(("", match.a))] = root((match.against, match.b))
    found = collections.defaultdict(list)
    for match in sorted(matches, key=lambda match: (match.a, match.against, match.b)):
        found[root(("", match.a))].append(match)
    groups = []
    for together in found.values():
        members = {match.a for match in together} | {m.b for m in together if not m.against}
        groups.append(Group(tuple(sorted(members)), tuple(together)))
    return sorted(groups, key=lambda group: group.members)


# ---- Which of them to keep ----


def choose(
    groups: Sequence[Group], quality: Mapping[str, tuple[int, float]]
) -> tuple[tuple[str, ...], tuple[Removal, ...]]:
    """The clips of the groups that stay, and those that go, both sorted.

    What matches a clip of another set goes. Then the best that is left stays (most pixels, then
    longest, then first id), and what matches it goes, over and over. A clip goes for a match with
    one that stays, or by way of one clip in between where one of the two matches is whole: so
    nothing goes because a chain of ever other clips leads to it.

    Args:
      quality: pixels of a frame and seconds, by clip.
    """
    kept, removed = [], []
    for group in groups:
        stays, goes = _choose(group, quality)
        kept += stays
        removed += goes
    return tuple(sorted(kept)), tuple(sorted(removed, key=lambda removal: removal.id))


def _choose(
    group: Group, quality: Mapping[str, tuple[int, float]]
) -> tuple[list[str], list[Removal]]:
    gone: dict[str, Removal] = {}
    near = collections.defaultdict(list)  # by clip: its matches, the other clip first
    outside = []
    for match in group.matches:
        if match.against:
            outside.append(match)
        elif match.exact:
            gone[match.a] = Removal(match.a, "exact duplicate", str(match))
        else:
            near[match.a].append(match.seen_from_b())
            near[match.b].append(match)

    def remove(links: Sequence[Match], reason: str, keep: str = "") -> None:
        for match in links:
            gone.setdefault(match.a, Removal(match.a, reason, str(match)))
        for match in links:
            for second in near[match.a]:
                if second.a != keep and (match.whole or second.whole):
                    detail = f"{second}, of which {match}"
                    gone.setdefault(second.a, Removal(second.a, reason, detail))

    remove(outside, "in another set")
    kept = []
    for clip in sorted(group.members, key=lambda clip: (*(-n for n in quality[clip]), clip)):
        if clip not in gone:
            kept.append(clip)
            remove(near[clip], "near duplicate", clip)
    return kept, list(gone.values())
