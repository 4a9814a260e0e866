"""Pairs of clips that show the same, in numpy alone: bands, their join, the look at each pair.

A `Table` holds the hashes of clips. `band_rows` gives every frame one key per band, `join` compares
frames with the same key and names pairs of clips, `verify` compares these over time. None of them
depends on how the clips are divided into tables.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vmae_jax.data.curate.hashes import BLANK, MIRROR, mirrored

_GROUP = 6  # bits; the lowest 36 bits of a hash are six groups, taken in turns
_GROUPS = 6
# A band is any four groups: frames meet in one as long as their differences lie in two groups.
_BANDS = tuple(
    np.uint64(sum(1 << bit for bit in range(_GROUP * _GROUPS) if bit % _GROUPS in chosen))
    for chosen in itertools.combinations(range(_GROUPS), 4)
)
NUM_BANDS = len(_BANDS)
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: spreads the bits of a band over the upper half
_HALF = np.uint64(32)
_SLAB = 1 << 21  # pairs of frames that are compared at a time
_KNOWN = 24  # bits that must stand still between two frames to say what lies between them
_PRIOR = 8  # disagreements that speak against any pair: little motion is little evidence
_OFFSETS = 5  # the offsets with most matching frames are looked at

MATCH = np.dtype("u4, u4, ?, u4, f8, f8, f8, f8")
MATCH.names = ("a", "b", "mirrored", "frames", "share", "of_longer", "offset", "evidence")


@dataclasses.dataclass(frozen=True)
class Limits:
    """When two clips show the same.

    Frames match where at most `differ` of the bits differ, of those that can be compared. Clips
    match where at one offset in time `frames` frames and a `share` of the shorter clip match, and
    `evidence` says that they also change alike: of the disagreements that clips of these pictures
    would have at any offset, this share is absent. Other clips of the same scene have none.
    A frame meets at most `bucket` others of a set in a band.
    """

    differ: float = 0.2
    frames: int = 4
    share: float = 0.6
    evidence: float = 0.3
    bucket: int = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Hashes of clips: those of clip `numbers[i]` are hashes[bounds[i] : bounds[i + 1]].

    `numbers` u32[N], `bounds` i64[N + 1], `hashes` u64[M]. A clip has one number everywhere; those
    below `others` belong to sets that are compared with, and not among themselves.
    """

    numbers: np.ndarray
    bounds: np.ndarray
    hashes: np.ndarray
    others: int = 0

    @classmethod
    def of(cls, numbers: Sequence[int], hashes: Sequence[np.ndarray], others: int = 0) -> "Table":
        bounds = np.cumsum([0, *map(len, hashes)], dtype=np.int64)
        joined = np.concatenate([np.empty(0, np.uint64), *hashes]).astype(np.uint64, copy=False)
        return cls(np.asarray(numbers, np.uint32), bounds, joined, others)

    def take(self, rows: np.ndarray) -> "Table":
        """Some of the clips, by their place in the table."""
        parts = [self.hashes[self.bounds[i] : self.bounds[i + 1]] for i in rows]
        return Table.of(self.numbers[rows], parts, self.others)

    def by_number(self) -> dict[int, np.ndarray]:
        parts = np.split(self.hashes, self.bounds[1:-1]) if len(self.numbers) else []
        return dict(zip(self.numbers.tolist(), parts, strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Frames in one band: `places` u64[R], key above clip number, and their hashes u64[R]."""

    places: np.ndarray
    hashes: np.ndarray


def band_rows(table: Table, band: int) -> Rows:
    """The frames of a table in a band; of frames in a row that are alike there, the first.

    A picture and its mirrored copy have the same key. Blank frames have none.
    """
    mask = _BANDS[band]
    turn = mask & MIRROR
    first = turn & (~turn + np.uint64(1))  # of the bits that mirroring turns: it is made 0
    hashes = table.hashes
    keys = np.where(hashes & first, hashes ^ MIRROR, hashes) & mask
    keys = (keys * _MIX) >> _HALF
    clips = np.repeat(table.numbers, np.diff(table.bounds)).astype(np.uint64)
    places = (keys << _HALF) | clips
    fresh = np.ones(len(places), bool)
    fresh[1:] = places[1:] != places[:-1]
    fresh &= hashes != BLANK
    return Rows(places[fresh], hashes[fresh])


def join(blocks: Sequence[Rows], others: int, limits: Limits) -> tuple[np.ndarray, Counter]:
    """Pairs of clips with a frame in common: u64[P] codes (see `unpack`), each once, and counts.

    Within a key a frame meets the frames before it, in the order of clips' numbers: at most
    `limits.bucket` of the other sets and as many of ours. So n frames with one key, however many,
    make n * bucket pairs at most, and all of them still meet the same few.
    """
    places = np.concatenate([b.places for b in blocks])
    hashes = np.concatenate([b.hashes for b in blocks])
    order = np.argsort(places, kind="stable")  # a clip's frames stay in the order of time
    places, hashes = places[order], hashes[order]
    keys, clips = places >> _HALF, places & np.uint64(0xFFFFFFFF)
    if not len(keys):
        return np.empty(0, np.uint64), Counter()
    fresh = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.append(fresh, len(keys)))
    start = np.repeat(fresh, sizes)
    foreign = clips < others
    # Where ours begin in each bucket: other sets have the lower numbers.
    ours = start + np.repeat(np.add.reduceat(foreign.astype(np.int64), fresh), sizes)
    place = np.arange(len(keys))
    cap = limits.bucket
    met_others = np.where(foreign, 0, np.minimum(ours - start, cap))
    met_ours = np.where(foreign, 0, np.minimum(place - ours, cap))
    capped = ~foreign & ((ours - start > cap) | (place - ours > cap))
    found = [
        code
        for begin, met in ((start, met_others), (ours, met_ours))
        for code in _meet(clips, hashes, begin, met, limits)
    ]
    codes = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
    return codes, Counter({"frames in full buckets": int(capped.sum())})


def _meet(
    clips: np.ndarray, hashes: np.ndarray, begin: np.ndarray, met: np.ndarray, limits: Limits
):
    """Compares row i with the rows begin[i] to begin[i] + met[i], a slab of pairs at a time."""
    most = np.uint64(limits.differ * 64)
    ends = np.cumsum(met)
    cuts = np.searchsorted(ends, np.arange(_SLAB, ends[-1] + _SLAB if len(ends) else 0, _SLAB))
    for low, high in itertools.pairwise([0, *(cuts + 1)]):
        number = met[low:high]
        row = np.repeat(np.arange(low, low + len(number)), number)
        within = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
        other = begin[row] + within
        differ = hashes[row] ^ hashes[other]
        direct = np.bitwise_count(differ) <= most
        turned = np.bitwise_count(differ ^ MIRROR) <= most
        apart = clips[row] != clips[other]
        for flag, alike in ((0, direct), (1, turned)):
            alike &= apart
            pairs = clips[other[alike]] << np.uint64(33) | clips[row[alike]] << np.uint64(1)
            yield np.unique(pairs | np.uint64(flag))


def unpack(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers a < b of clips (below 2**31) and whether b is mirrored, of the codes of `join`."""
    a = (codes >> np.uint64(33)).astype(np.int64)
    b = (codes >> np.uint64(1)).astype(np.int64) & 0x7FFFFFFF
    return a, b, (codes & np.uint64(1)).astype(bool)


def verify(codes: np.ndarray, table: Table, limits: Limits) -> tuple[np.ndarray, Counter]:
    """Compares pairs over time: those that match, MATCH[...] in the order of the codes."""
    hashes, found, counts = table.by_number(), [], Counter()
    for a, b, turned in zip(*(column.tolist() for column in unpack(codes)), strict=True):
        first, second = hashes[a], mirrored(hashes[b]) if turned else hashes[b]
        swapped = len(first) > len(second)
        match = _compare(*((second, first) if swapped else (first, second)), limits)
        if match is None:
            continue
        frames, share, of_longer, offset, evidence = match
        if evidence < limits.evidence:
            counts["pairs that look alike but do not move alike"] += 1
            continue
        offset = -offset if swapped else offset
        found.append((a, b, turned, frames, share, of_longer, offset, evidence))
    return np.array(found, MATCH), counts


def _compare(
    short: np.ndarray, long: np.ndarray, limits: Limits
) -> tuple[int, float, float, float, float] | None:
    """Matching frames, their shares, the offset in steps and the evidence; None: too few match.

    The grids of two copies need not agree: a frame of one lies between two of the other, and each
    of its bits may be as in either. Where these two agree, it can be compared.
    """
    n, m = len(short), len(long)
    after = np.append(long[1:], long[-1:])
    known = ~(long ^ after)
    most = limits.differ * np.bitwise_count(known)
    usable = (np.bitwise_count(known) >= _KNOWN) & (long != BLANK) & (after != BLANK)
    counts = np.zeros(n + m, np.int64)  # of matching frames, by offset + n
    for low in range(0, n, max(1, _SLAB // m)):
        rows = short[low : low + max(1, _SLAB // m), None]
        wrong = np.bitwise_count((rows ^ long) & known)
        i, j = np.nonzero((wrong <= most) & usable & (rows != BLANK))
        counts += np.bincount(j - i - low + n, minlength=n + m)
    shown = int((short != BLANK).sum())
    need = max(limits.frames, limits.share * shown)
    best = np.argsort(-counts, kind="stable")[:_OFFSETS]
    best = best[counts[best] >= need]
    if not len(best):
        return None
    looks = [(*_evidence(short, long, np.where(usable, known, 0), o - n), o) for o in best]
    evidence, between, o = max(looks, key=lambda look: (look[0], -abs(look[2] - n), look[2]))
    frames = int(counts[o])
    of_longer = frames / max(1, int((long != BLANK).sum()))
    return frames, frames / shown, min(1.0, of_longer), float(o - n + between), evidence


def _evidence(
    short: np.ndarray, long: np.ndarray, known: np.ndarray, offset: int
) -> tuple[float, float]:
    """How much less two clips disagree at an offset than if time did not matter, at most 1.

    Counts the bits that change in both clips: the background, and what a crop or a logo does to all
    frames, says nothing. Also where between two steps of the longer clip the frames lie.
    """
    first = np.arange(max(0, -offset), min(len(short), len(long) - offset))
    first = first[short[first] != BLANK]
    first = first[known[first + offset] != 0]
    second = first + offset
    ours, theirs, compared = (_bits(h) for h in (short[first], long[second], known[second]))
    wrong = ((ours != theirs) & compared).sum(0)
    ones, zeros = (theirs & compared).sum(0), (~theirs & compared).sum(0)
    up = ours.sum(0)
    down = len(first) - up
    moving = (up > 0) & (down > 0) & (ones > 0) & (zeros > 0)
    # Times the number of frames, so that all is in whole numbers.
    expected = int((up * zeros + down * ones)[moving].sum())
    observed = len(first) * int(wrong[moving].sum())
    prior = _PRIOR * len(first)
    after = np.append(long[1:], long[-1:])[second]
    before = int(np.bitwise_count(short[first] ^ long[second]).sum())
    behind = int(np.bitwise_count(short[first] ^ after).sum())
    return 1 - (observed + prior) / (expected + prior), before / max(1, before + behind)


def _bits(hashes: np.ndarray) -> np.ndarray:
    """bool[N, 64] of u64[N]."""
    small = hashes.astype("<u8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(small, axis=1, bitorder="little").astype(bool)
