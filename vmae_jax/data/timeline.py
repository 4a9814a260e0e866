"""When each picture of a stream is shown, and at which rate: the times of its packets, put right.

The rule, the same for every container:

- The decoder decides the order of the pictures, the packets' times decide when they are shown: the
  n-th picture has the n-th time. What a container says of the order does not matter (AVI and raw
  streams say nothing), and neither does how far a codec reorders.
- A picture stands until the time of the next, as in a player: a pause repeats it.
- A time line that starts anew (joined files, a recorder's restart) or jumps goes on one picture
  later. It jumps where a picture would stand for more than an hour; in MPEG-TS and -PS, whose times
  may jump by design, for more than 10 seconds, as FFmpeg has it.
- A picture whose time is far off the line, or that has none, is shown in the hole that it left.
  Pictures before the first time of all are left out: they were trimmed.
- The rate is that of the pictures in motion: of the median gap, or of shorter ones where they are
  more than a tenth. What the file states holds where it fits these gaps to half a picture in all;
  else the nearest common rate that fits them, else what was measured. At 120 and more, every n-th
  picture is taken, so that 60 to 120 are left.
"""

import array
import dataclasses
import fractions
import math
from collections.abc import Sequence

import numpy as np

_MIN_FPS, _MAX_FPS = 1, 60
_MAX_PAUSE = 3600.0  # seconds that a picture may stand
_MAX_JUMP = 10.0  # likewise, where times may jump by design
_REORDER = 32  # packets; twice as many as H.264 and HEVC may hold back
_SPIKE = 8  # packets in a row that may be off the line
_LISTED = 3  # seams in words
_COMMON = [
    fractions.Fraction(rate)
    for rate in (5, 7.5, 8, 10, 12, 12.5, 15, 18, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)
]
_NTSC = [fractions.Fraction(1000 * rate, 1001) for rate in (12, 15, 24, 30, 48, 60, 120, 240)]


class Packets:
    """Takes note of a stream's packets, in the order of the file."""

    def __init__(self):
        self.pts, self.dts = array.array("d"), array.array("d")  # ticks; NaN = not said
        self.hidden: list[int] = []  # numbers of those that are decoded, not shown

    def add(self, pts: int | None, dts: int | None, hidden: bool) -> None:
        if hidden:
            self.hidden.append(len(self.pts))
        self.pts.append(math.nan if pts is None else pts)
        self.dts.append(math.nan if dts is None else dts)


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When the pictures of a stream are shown."""

    ranks: np.ndarray  # i64[packets], place of the packet's picture in `times`; -1 = not shown
    times: np.ndarray  # f64[pictures], seconds, ascending
    stored: np.ndarray  # f64[pictures], seconds as the file has them; NaN where it has none
    rate: fractions.Fraction  # pictures per second of the clips
    seams: tuple[int, ...]  # packets with which the time line starts anew
    notes: tuple[str, ...]  # what was put right


def trace(
    packets: Packets,
    time_base: fractions.Fraction,
    stated: Sequence[fractions.Fraction],
    may_jump: bool = False,
) -> Timeline:
    """The time line of a stream.

    Args:
      time_base: seconds of a tick.
      stated: rates that the file states, the likeliest first.
      may_jump: times of this kind of file jump where nothing stands still.
    """
    pts, dts = np.array(packets.pts), np.array(packets.dts)
    if np.isnan(pts).all() and np.isnan(dts).all():
        dts = np.arange(len(pts)) / float((stated[0] if stated else 30) * time_base)
    line = pts if np.isnan(dts).all() else dts  # what never goes back in a sound file
    tick = float(time_base)
    gap = _usual_gap(line)
    off = _spikes(line, gap)
    seams = _seams(np.where(off, np.nan, line), gap, (_MAX_JUMP if may_jump else _MAX_PAUSE) / tick)
    parts = np.zeros(len(line), np.int64)
    parts[seams] = 1
    parts = parts.cumsum()
    times, found = _presented(pts, np.where(off, np.nan, dts), line, off, parts, gap)
    shown = ~np.isnan(times)
    shown[packets.hidden] = False
    stored = np.where(found, times, np.nan)
    times = _joined(times, shown, parts, gap)

    order = np.flatnonzero(shown)[np.argsort(times[shown], kind="stable")]
    ranks = np.full(len(times), -1, np.int64)
    ranks[order] = np.arange(len(order))
    # In the order of operations of FFmpeg's bindings, whose times these were.
    scale = lambda ticks: ticks * time_base.numerator / time_base.denominator  # noqa: E731
    seconds = scale(times[order])
    notes = _notes(seconds, parts[order], shown, found, off)
    rate = _rate(seconds, tick, stated)
    return Timeline(ranks, seconds, scale(stored[order]), rate, tuple(map(int, seams)), notes)


def _usual_gap(line: np.ndarray) -> float:
    """Ticks from one picture to the next, never 0."""
    steps = np.diff(line[~np.isnan(line)])
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0


def _spikes(line: np.ndarray, gap: float) -> np.ndarray:
    """bool[packets]: a few whose times leave the line, which then goes on as if without them."""
    off = np.zeros(len(line), bool)
    known = np.flatnonzero(~np.isnan(line))
    values = line[known]
    steps = np.diff(values)
    jumps = steps > 4 * gap
    for i in np.flatnonzero(steps < -gap / 2) + 1:  # the first packet after a step back
        up = [
            j for j in range(max(1, i - _SPIKE), i) if jumps[j - 1] and values[j - 1] <= values[i]
        ]
        down = [
            j
            for j in range(i + 1, min(i + 1 + _SPIKE, len(values)))
            if jumps[j - 1] and values[j] >= values[i - 1]
        ]
        if up:
            off[known[up[-1] : i]] = True
        elif down:
            off[known[i : down[0]]] = True
    return off


def _seams(line: np.ndarray, gap: float, longest: float) -> np.ndarray:
    """Numbers of the packets with which times start anew or jump."""
    known = np.flatnonzero(~np.isnan(line))
    steps = np.diff(line[known])
    return known[1:][(steps < -gap / 2) | (steps > longest)]


def _presented(
    pts: np.ndarray,
    dts: np.ndarray,
    line: np.ndarray,
    off: np.ndarray,
    parts: np.ndarray,
    gap: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Ticks at which the packets' pictures are shown, NaN = before all times; which are the file's.

    Within a part of the file, whose decoding times ascend.
    """
    found = ~np.isnan(pts) & ~off
    times = np.where(found, pts, np.nan)
    for part in range(parts[-1] + 1 if len(parts) else 0):
        here = np.flatnonzero(parts == part)
        lead = pts[here] - dts[here]
        lead = float(np.nanmedian(lead)) if not np.isnan(lead).all() else 0.0
        # A picture may be shown when the last that may overtake it is decoded, and not before.
        known = here[~np.isnan(dts[here])]
        last = np.minimum(np.arange(len(known)) + _REORDER, len(known) - 1)
        slack = abs(lead) + _REORDER / 2 * gap
        wild = (pts[known] > dts[known][last] + slack) | (pts[known] < dts[known] - slack)
        found[known[wild]] = False
        times[known[wild]] = np.nan
        missing = np.isnan(times[here])
        if part == 0:
            missing[: np.argmin(np.isnan(line[here]))] = False
        _fill(times, here, here[missing], dts + lead, gap)
    return times, found


def _fill(
    times: np.ndarray, here: np.ndarray, missing: np.ndarray, guess: np.ndarray, gap: float
) -> None:
    """Gives pictures without a time that of the nearest hole: in place, but for leading ones."""
    taken = np.sort(times[here][~np.isnan(times[here])])
    for i in missing:
        near = guess[i]
        if np.isnan(near) and i > 0:
            near = times[i - 1] + gap
        if np.isnan(near):
            continue
        first, last = np.searchsorted(taken, (near - _REORDER * gap, near + _REORDER * gap))
        window = taken[first : last + 1]
        holes = np.flatnonzero(np.diff(window) > 1.5 * gap)
        if len(holes):
            left, right = window[holes], window[holes + 1]
            places = np.clip(near, np.minimum(left + gap, (left + right) / 2), right)
            places = np.minimum(places, np.maximum(right - gap, (left + right) / 2))
            near = places[np.argmin(np.abs(places - near))]
        times[i] = near
        taken = np.insert(taken, np.searchsorted(taken, near), near)


def _joined(times: np.ndarray, shown: np.ndarray, parts: np.ndarray, gap: float) -> np.ndarray:
    """The times with each part shifted so that it begins one picture after the part before."""
    times, end = times.copy(), None
    for part in range(parts[-1] + 1 if len(parts) else 0):
        here = shown & (parts == part)
        if not here.any():
            continue
        if end is not None:
            times[here] += end + gap - times[here].min()
        end = times[here].max()
    return times


def _notes(
    seconds: np.ndarray, parts: np.ndarray, shown: np.ndarray, found: np.ndarray, off: np.ndarray
) -> tuple[str, ...]:
    starts = np.flatnonzero(np.diff(parts)) + 1
    notes = [
        f"its time starts anew after {i} pictures, {seconds[i] - seconds[0]:.2f} s" for i in starts
    ]
    if len(notes) > _LISTED:
        notes[_LISTED:] = [f"... {len(notes)} times in all"]
    missing, moved = int((~shown & ~found).sum()), int((shown & ~found).sum())
    if missing:
        notes.append(f"{missing} pictures before its first time left out")
    if moved:
        notes.append(f"{moved} pictures without a time of their own, or with a wild one")
    return tuple(notes)


# ---- The rate ----


def _rate(
    times: np.ndarray, tick: float, stated: Sequence[fractions.Fraction]
) -> fractions.Fraction:
    """Pictures per second of the clips."""
    rate = max(_measured(times, tick, stated), fractions.Fraction(_MIN_FPS))
    # As many whole pictures are left out at 119.88 as at 120.
    every = max(1, math.floor(rate / _MAX_FPS + fractions.Fraction(1, 100)))
    return (rate / every).limit_denominator(1001)


def _measured(
    times: np.ndarray, tick: float, stated: Sequence[fractions.Fraction]
) -> fractions.Fraction:
    gaps = np.diff(times)
    gaps = gaps[gaps > tick / 2]
    if not len(gaps):
        return stated[0] if stated else fractions.Fraction(30)
    usual, shorter = np.median(gaps), gaps
    while len(shorter) > 0.1 * len(gaps):
        usual = np.median(shorter)
        shorter = gaps[(gaps < 0.7 * usual) & (gaps < usual - 1.01 * tick)]
    regular = gaps[np.abs(gaps - usual) < max(0.25 * usual, 1.01 * tick)]
    seconds, count = float(regular.sum()), len(regular)
    # Rounded times add up; those of a clock that trembles leave the mean unsure.
    trembles = np.ptp(regular) > 2.01 * tick
    slack = max(0.5, 2 * regular.std() / regular.mean() * math.sqrt(count)) if trembles else 0.5

    def misses(rate: fractions.Fraction) -> float:
        return abs(seconds * float(rate) - count)

    for rate in stated:
        if misses(rate) < 0.5:
            return rate
    nearest = min(_COMMON + _NTSC * (not trembles), key=misses)
    if misses(nearest) < slack:
        return nearest
    whole = fractions.Fraction(max(1, round(count / seconds)))
    return whole if misses(whole) < 0.5 else fractions.Fraction(count / seconds)
