"""Nested subsets for studies of scale: each lies in the next, and has its hashtags' shares."""

import collections
import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence

from vmae_jax.data.curate.items import CurationError


def parse_sizes(text: str) -> tuple[int, ...]:
    """'6000,25000' -> (6000, 25000): numbers of clips, in rising order.

    Raises:
      CurationError: where one is no positive number, or there twice.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    sizes = sorted(int(w) for w in words if w.isascii() and w.isdigit() and len(w) < 12)
    if len(sizes) < len(words) or len(set(sizes)) < len(sizes) or (sizes and sizes[0] < 1):
        raise CurationError(f"--subset={text}: expected different numbers of clips: 6000,25000")
    return tuple(sizes)


def nested(
    hashtags: Mapping[str, Sequence[str]], sizes: Sequence[int], seed: int = 0
) -> dict[int, tuple[str, ...]]:
    """Subsets of clips, each a beginning of the next.

    A clip counts for the rarest of its hashtags (`strata`). Of each, every subset has its share
    rounded up or down: what largest remainders give too, but those of two sizes need not be nested.
    The order of `hashtags` does not matter.

    Args:
      hashtags: of each clip by its id.
      sizes: numbers of clips.

    Returns:
      Ids of the clips by size.

    Raises:
      CurationError: where a size is not between 1 and the number of clips.
    """
    wrong = [size for size in sizes if not 1 <= size <= len(hashtags)]
    if wrong:
        raise CurationError(
            f"--subset: {wrong[0]:,} clips: there are {len(hashtags):,}; ask for fewer"
        )
    most = max(sizes, default=0)
    members: dict[str, list[str]] = collections.defaultdict(list)
    for clip, stratum in strata(hashtags).items():
        members[stratum].append(clip)
    for clips in members.values():
        clips.sort(key=lambda clip: _hash(seed, "clip", clip))
    turns = _turns({stratum: len(clips) for stratum, clips in members.items()}, most, seed)
    used: collections.Counter[str] = collections.Counter()
    ranked = []
    for stratum in turns:
        ranked.append(members[stratum][used[stratum]])
        used[stratum] += 1
    return {size: tuple(ranked[:size]) for size in sorted(sizes)}


def strata(hashtags: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The hashtag that each clip counts for: its rarest, the first by name of equals; '' = none."""
    counts = collections.Counter(tag for tags in hashtags.values() for tag in tags)
    return {
        clip: min(tags, key=lambda tag: (counts[tag], tag), default="")
        for clip, tags in hashtags.items()
    }


def _turns(counts: Mapping[str, int], length: int, seed: int) -> Iterator[str]:
    """Strata in an order whose every beginning has each one's share, rounded up or down.

    Of a stratum with share s, the j-th clip (from 1) is due at place ceil(j / s) and not before
    floor((j - 1) / s) + 1. The earliest due goes first; this always fits (Steiner and Yeomans,
    "Level schedules for mixed-model, just-in-time processes", 1993).
    """
    total = sum(counts.values())
    ready: list[tuple[int, bytes, str, int]] = []
    waiting: list[tuple[int, bytes, str, int]] = []

    def wait(stratum: str, tie: bytes, number: int) -> None:
        if number <= counts[stratum]:
            start = (number - 1) * total // counts[stratum] + 1
            heapq.heappush(waiting, (start, tie, stratum, number))

    for stratum in counts:
        wait(stratum, _hash(seed, "stratum", stratum), 1)
    for place in range(1, length + 1):
        while waiting and waiting[0][0] <= place:
            _, tie, stratum, number = heapq.heappop(waiting)
            due = -(-number * total // counts[stratum])
            heapq.heappush(ready, (due, tie, stratum, number))
        _, tie, stratum, number = heapq.heappop(ready)
        yield stratum
        wait(stratum, tie, number + 1)


def _hash(seed: int, kind: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{kind}:{name}".encode()).digest()
