"""Computes when each picture of a stream is shown, and the rate, from the times of its packets.

The rule, the same for every container:

- The decoder decides the order of the pictures. The packets' times decide when they are shown: the
  n-th picture has the n-th time. The order in the container does not matter (AVI and raw streams
  have none), and the reorder depth of the codec does not matter either.
- A picture is shown until the time of the next one, as in a player: a pause repeats it.
- If the times restart (joined files, a recorder that started again) or jump, the next picture is
  shown one gap later. A step of more than an hour is a jump; in MPEG-TS and -PS, where times may
  jump by design, a step of more than 10 seconds is one, as in FFmpeg.
- A picture without a time, or with a time far off the others, is shown in the gap that it left.
  Pictures before the first known time are left out: they were trimmed.
- If the gaps differ, but a common rate shows every picture once, that is the rate: film in NTSC's
  cadence stands for two and for three fields.
- Else the rate is that of the pictures in motion: of the median gap, or of shorter gaps if they are
  more than a tenth of all. The stated rate is taken if it misses at most half a picture over these
  gaps; else the nearest common rate that fits, else the measured one. At 120 fps and more, every
  n-th picture is taken, so that 60 to 120 fps are left.
"""

import array
import dataclasses
import fractions
import itertools
import math
from collections.abc import Sequence

import numpy as np

RULE = 2  # goes up where the rule gives other frames; 1 was one average rate for a file
_MIN_FPS, _MAX_FPS = 1, 60
_MAX_PAUSE = 3600.0  # seconds that a picture may be shown
_MAX_JUMP = 10.0  # likewise, where times may jump by design
_REORDER = 32  # packets; twice as many as H.264 and HEVC may hold back
_SPIKE = 8  # packets in a row that may be off the line
_MOST_FILLED = 1000  # pictures whose time is looked for in holes
_MAX_TICKS = 1 << 50  # 13 days of nanoseconds; more is no time
_LISTED = 3  # seams in words
_CADENCE = 16  # gaps, from which on they may be those of another rate
_COMMON = [
    fractions.Fraction(rate)
    for rate in (5, 7.5, 8, 10, 12, 12.5, 15, 18, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)
]
_NTSC = [fractions.Fraction(1000 * rate, 1001) for rate in (12, 15, 24, 30, 48, 60, 120, 240)]


class Packets:
    """Collects the times of a stream's packets, in the order of the file."""

    def __init__(self):
        self.pts, self.dts = array.array("d"), array.array("d")  # ticks; NaN = unknown
        self.keys: list[int] = []  # numbers of the packets with a key frame
        self.hidden: list[int] = []  # likewise of those that are decoded, but not shown

    def add(self, pts: int | None, dts: int | None, key: bool, hidden: bool) -> None:
        if key:
            self.keys.append(len(self.pts))
        if hidden:
            self.hidden.append(len(self.pts))
        for times, time in ((self.pts, pts), (self.dts, dts)):
            times.append(math.nan if time is None or abs(time) > _MAX_TICKS else time)


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When the pictures of a stream are shown."""

    ranks: np.ndarray  # i64[packets], place of the packet's picture in `times`; -1 = not shown
    times: np.ndarray  # f64[pictures], seconds, ascending
    stored: np.ndarray  # f64[pictures], seconds as the file has them; NaN where it has none
    stated: fractions.Fraction | None  # pictures per second, by the file
    measured: float  # likewise, in motion
    rate: fractions.Fraction  # likewise of the clips
    seams: tuple[int, ...]  # packets with which the time line starts anew
    notes: tuple[str, ...]  # what was put right


def trace(
    packets: Packets,
    time_base: fractions.Fraction,
    stated: Sequence[fractions.Fraction],
    *,
    guessed: bool = False,
    may_jump: bool = False,
) -> Timeline:
    """The time line of a stream.

    Args:
      time_base: seconds of a tick.
      stated: rates that the file states, the likeliest first.
      guessed: the decoding times do not come from the file.
      may_jump: in this kind of file times may jump without a pause.
    """
    pts, dts = np.array(packets.pts), np.array(packets.dts)
    tick = float(time_base)
    if not len(pts):
        rate = fractions.Fraction(30)
        return Timeline(np.zeros(0, np.int64), pts, pts, None, 0.0, rate, (), ())
    if np.isnan(pts).all() and np.isnan(dts).all():
        dts = np.arange(len(pts)) / float((stated[0] if stated else 30) * time_base)
    pts = dts if np.isnan(pts).all() else pts
    guessed |= bool(np.isnan(dts).all())
    first = np.argmin(np.isnan(pts if np.isnan(dts).all() else dts))  # before: trimmed
    times, line, gap, seams = _believed(pts, dts, packets.keys, guessed)
    bounds = list(itertools.pairwise((0, *seams, len(line))))
    found = ~np.isnan(times)
    for start, end in bounds:
        _fill(times[max(start, first) : end], line[max(start, first) : end], gap)
    shown = ~np.isnan(times)
    shown[packets.hidden] = False
    _join(times, shown, bounds, gap)

    order = np.flatnonzero(shown)[np.argsort(times[shown], kind="stable")]
    ticks, jumps = _without_jumps(times[order], gap, (_MAX_JUMP if may_jump else _MAX_PAUSE) / tick)
    parts = np.searchsorted(seams, order, side="right")
    breaks = np.flatnonzero((np.diff(parts, prepend=0) > 0) | jumps)
    ranks = np.full(len(times), -1, np.int64)
    ranks[order] = np.arange(len(order))
    # In the order of operations of FFmpeg's bindings, whose times these were.
    seconds, stored = (
        values * time_base.numerator / time_base.denominator for values in (ticks, pts[order])
    )
    notes = _notes(seconds, breaks, shown, found)
    rate, measured = _rate(seconds, tick, stated)
    return Timeline(
        ranks,
        seconds,
        stored,
        stated[0] if stated else None,
        measured,
        _taken(rate),
        tuple(map(int, seams)),
        notes,
    )


def _believed(
    pts: np.ndarray, dts: np.ndarray, keys: Sequence[int], guessed: bool
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Times without wrong ones, decoding times, the usual gap, and the restarts of the times."""
    times = pts.copy()
    for _ in range(1 + guessed):  # wild times may have spoilt the line
        line = _decoding_times(times, keys) if guessed else dts
        gap = _usual_gap(line)
        line = _without_spikes(line, gap)
        seams = np.flatnonzero(np.diff(line) < -gap / 2) + 1
        for start, end in itertools.pairwise((0, *seams, len(line))):
            _check_order(times[start:end], line[start:end], gap, _REORDER if guessed else 0)
    return times, line, gap, seams


def _usual_gap(line: np.ndarray) -> float:
    """Ticks from one picture to the next, never 0."""
    steps = np.diff(line[~np.isnan(line)])
    return float(_median(steps[steps > 0])) if (steps > 0).any() else 1.0


def _decoding_times(pts: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """Times that ascend in the order of the file, if the presentation times are sound.

    Pictures that are decoded before a key frame are shown before those that are decoded after it.
    """
    line = pts.copy()
    for start, end in itertools.pairwise((0, *keys, len(pts))):
        known = start + np.flatnonzero(~np.isnan(pts[start:end]))
        line[known] = np.sort(pts[known])
    return line


def _without_spikes(line: np.ndarray, gap: float) -> np.ndarray:
    """The decoding times without short excursions, after which they go on as before.

    Removed and missing times are interpolated between their neighbours.
    """
    known = np.flatnonzero(~np.isnan(line))
    values = line[known]
    steps = np.diff(values)
    jumps = steps > 4 * gap
    off = np.zeros(len(values), bool)
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
            off[up[-1] : i] = True
        elif down:
            off[i : down[0]] = True
    if off.all():
        return np.arange(len(line)) * gap
    return np.interp(np.arange(len(line)), known[~off], values[~off])


def _check_order(times: np.ndarray, line: np.ndarray, gap: float, early: int) -> None:
    """Sets times to NaN, in place, that no reordering explains; for one part of a file.

    A picture is not shown before one that was decoded `early` packets before it.
    """
    lead = times - line
    if len(line) <= _REORDER or np.isnan(lead).all():
        return
    slack = abs(float(np.nanmedian(lead))) + _REORDER / 2 * gap
    latest = np.append(line[_REORDER:], np.full(_REORDER, np.inf))
    earliest = np.append(np.full(early, -np.inf), line[: len(line) - early])
    times[(times > latest + slack) | (times < earliest - slack)] = np.nan


def _fill(times: np.ndarray, line: np.ndarray, gap: float) -> None:
    """Gives pictures without a time the nearest free time, in place; for one part of a file."""
    missing = np.flatnonzero(np.isnan(times))
    if not len(missing):
        return
    lead = times - line
    lead = 0.0 if np.isnan(lead).all() else float(np.nanmedian(lead))
    taken = np.sort(times[~np.isnan(times)])
    for i in missing:
        near = line[i] + lead
        if np.isnan(near) and i > 0:
            near = times[i - 1] + gap
        if len(missing) <= _MOST_FILLED:
            near = _nearest_hole(taken, near, gap)
            taken = np.insert(taken, np.searchsorted(taken, near), near)
        times[i] = near


def _nearest_hole(taken: np.ndarray, near: float, gap: float) -> float:
    """The time nearest to `near` that is one gap away from its neighbours, if there is a hole."""
    first, last = np.searchsorted(taken, (near - _REORDER * gap, near + _REORDER * gap))
    window = taken[first : last + 1]
    holes = np.flatnonzero(np.diff(window) > 1.5 * gap)
    if not len(holes):
        return near
    left, right = window[holes], window[holes + 1]
    middle = (left + right) / 2
    places = np.clip(near, np.minimum(left + gap, middle), np.maximum(right - gap, middle))
    return float(places[np.argmin(np.abs(places - near))])


def _join(
    times: np.ndarray, shown: np.ndarray, bounds: Sequence[tuple[int, int]], gap: float
) -> None:
    """Shifts each part of a file, so that it begins one gap after the part before it."""
    latest = None
    for start, end in bounds:
        here = times[start:end][shown[start:end]]
        if len(here):
            if latest is not None:
                times[start:end] += latest + gap - here.min()
                here = times[start:end][shown[start:end]]
            latest = here.max()


def _without_jumps(times: np.ndarray, gap: float, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Ascending times without steps of more than `longest`, and bool[pictures]: after a jump."""
    steps = np.diff(times, prepend=times[:1])
    jumps = steps > longest
    return times - np.where(jumps, steps - gap, 0).cumsum(), jumps


def _notes(
    seconds: np.ndarray, breaks: np.ndarray, shown: np.ndarray, found: np.ndarray
) -> tuple[str, ...]:
    notes = [
        f"its time starts anew after {i} pictures, {seconds[i] - seconds[0]:.2f} s" for i in breaks
    ]
    if len(notes) > _LISTED:
        notes[_LISTED:] = [f"... {len(notes)} times in all"]
    missing, moved = int((~shown & ~found).sum()), int((shown & ~found).sum())
    if missing:
        notes.append(f"{missing} pictures before its first time left out")
    if moved:
        notes.append(f"{moved} pictures without a time of their own, or with a wrong one")
    return tuple(notes)


# ---- The rate ----


def _taken(rate: fractions.Fraction) -> fractions.Fraction:
    """The rate of a video's clips: of a fast video every n-th picture is taken."""
    rate = max(rate, fractions.Fraction(_MIN_FPS))
    every = max(1, math.floor(rate / _MAX_FPS + fractions.Fraction(1, 100)))  # 119.88 is as 120
    return (rate / every).limit_denominator(1001)


def _median(values: np.ndarray) -> float:
    """One of the values, not the mean of two."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _even_rate(times: np.ndarray) -> fractions.Fraction | None:
    """The common rate that shows every picture once, and is the nearest; None = none does."""
    if len(times) <= _CADENCE:
        return None
    numbers, seconds = np.arange(len(times)), times - times[0]
    lags = {rate: seconds * float(rate) - numbers for rate in (*_COMMON, *_NTSC)}
    fitting = [rate for rate, lag in lags.items() if (np.floor(lag + 0.5) == 0).all()]
    return min(fitting, key=lambda rate: np.ptp(lags[rate]), default=None)


def _rate(
    times: np.ndarray, tick: float, stated: Sequence[fractions.Fraction]
) -> tuple[fractions.Fraction, float]:
    """Pictures per second in motion: the stated or nearest common rate, and the measured one."""
    gaps = np.diff(times)
    gaps = gaps[gaps > tick / 2]
    if not len(gaps):
        return (stated[0] if stated else fractions.Fraction(30)), 0.0
    usual, shorter = _median(gaps), gaps
    while len(shorter) > 0.1 * len(gaps):
        usual = _median(shorter)
        shorter = gaps[(gaps < 0.7 * usual) & (gaps < usual - 1.01 * tick)]
    regular = gaps[np.abs(gaps - usual) < max(0.35 * usual, 1.01 * tick)]
    if len(regular) < 0.9 * len(gaps) and (even := _even_rate(times)):
        return even, (len(times) - 1) / float(times[-1] - times[0])
    seconds, count = float(regular.sum()), len(regular)
    # Rounded times add up; those of a clock that trembles leave the mean unsure.
    trembles = np.ptp(regular) > 2.01 * tick
    slack = max(0.5, 2 * regular.std() / regular.mean() * math.sqrt(count)) if trembles else 0.5

    measured = count / seconds

    def misses(rate: fractions.Fraction) -> float:
        return abs(seconds * float(rate) - count)

    for rate in stated:
        if misses(rate) < 0.5:
            return rate, measured
    nearest = min(_COMMON + _NTSC * (not trembles), key=misses)
    if misses(nearest) < slack:
        return nearest, measured
    whole = fractions.Fraction(max(1, round(measured)))
    return whole if misses(whole) < 0.5 else fractions.Fraction(measured), measured
