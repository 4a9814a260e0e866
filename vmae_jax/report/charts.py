"""Curves as inline SVG: axes with round numbers, values under the pointer, bounded in size.

Libraries that draw charts need a script (Plotly, Vega), or write colours into style attributes
(Matplotlib), which neither follow the reader's colour scheme nor pass the page's policy.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from vmae_jax.page import Markup, join, tag
from vmae_jax.report.run import Curve, number

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40  # around the field
_BINS = 240  # points of a line; more are drawn as their mean and their range
_STOPS = 60  # places that tell their values under the pointer
_LOG_FROM = 5.0  # ratio of the largest to the smallest value
_TICKS = 5
_LARGEST = 1e100  # value that is drawn, and its inverse on a logarithmic scale


@dataclasses.dataclass(frozen=True)
class Line:
    """One run's curve; `kind` is the number of its colour."""

    name: str
    curve: Curve
    kind: int


@dataclasses.dataclass(frozen=True)
class Axis:
    """Values low to high, on a straight or logarithmic scale, as shares from 0 to 1."""

    low: float
    high: float
    log: bool = False

    def __call__(self, values: np.ndarray | float) -> np.ndarray:
        values = np.asarray(values, np.float64)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (np.log(np.maximum(values, self.low)) - low) / (high - low)
        return (values - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """About five round values between the ends."""
        if not self.log:
            return _round_steps(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**e for e in decades for d in digits]
            found = [v for v in found if self.low <= v <= self.high]
            if len(found) <= _TICKS + 1:
                return found if len(found) > 1 else _round_steps(self.low, self.high)
        return found[:: -(-len(found) // _TICKS)]


def _round_steps(low: float, high: float) -> list[float]:
    raw = (high - low) / _TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(f * size for f in (1, 2, 2.5, 5, 10) if f * size >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def axis_of(lines: Sequence[Line], log: bool, zero: bool) -> Axis | None:
    """The axis that holds all finite values; None where there are none.

    Args:
      log: whether a logarithmic scale is wanted where it shows more.
      zero: whether a straight one begins at 0.
    """
    values = np.concatenate([line.curve.finite for line in lines])
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if max(abs(low), abs(high)) > _LARGEST:
        return None
    if log and low > 1 / _LARGEST and high >= _LOG_FROM * low:
        return Axis(low / (high / low) ** 0.05, high * (high / low) ** 0.05, log=True)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(low if zero and low == 0 else low - room, high + room)


def chart(
    title: str, lines: Sequence[Line], unit: str = "", log: bool = False, zero: bool = False
) -> Markup:
    """Curves over steps with their title and, of one alone, its last value; '' without lines."""
    lines = [line for line in lines if len(line.curve.steps)]
    axis = axis_of(lines, log, zero) if lines else None
    if not lines:
        return Markup("")
    scale = "logarithmic" if axis and axis.log else ""
    note = ", ".join(filter(None, (unit, scale)))
    last = number(lines[0].curve.last) if len(lines) == 1 else ""
    head = tag("figcaption", tag("b", title), tag("small", note), tag("span", last))
    if axis is None:
        text = "No value that can be drawn: " + ", ".join(
            f"{line.name} {number(line.curve.last)}" for line in lines
        )
        return tag("figure", head, tag("p", text, class_="note"), class_="chart")
    first = min(int(line.curve.steps[0]) for line in lines)
    end = max(int(line.curve.steps[-1]) for line in lines)
    time = Axis(0 if first <= 0.2 * end else first, max(end, first + 1, 1))
    parts = [*_grid(time, axis), *(_line(line, time, axis) for line in lines)]
    parts += _stops(lines, time)
    said = "; ".join(
        f"{line.name} from {number(float(line.curve.values[0]))} to {number(line.curve.last)}"
        for line in lines
    )
    picture = tag(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
        aria_label=f"{title} over steps: {said}",
    )  # fmt: skip
    return tag("figure", head, picture, class_="chart")


def legend(names: Sequence[str]) -> Markup:
    """Which colour is which run."""
    rows = (tag("li", swatch(kind), tag("bdi", name)) for kind, name in enumerate(names))
    return tag("ul", *rows, class_="legend")


def swatch(kind: int) -> Markup:
    line = tag("path", d="M0 6h22", class_=f"line l{kind}")
    return tag("svg", line, viewBox="0 0 22 12", class_="swatch", aria_hidden="true")


def _x(time: Axis, steps: np.ndarray | float) -> np.ndarray:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * time(steps)


def _y(axis: Axis, values: np.ndarray | float) -> np.ndarray:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * axis(values)


def _grid(time: Axis, axis: Axis) -> Iterator[Markup]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in axis.ticks():
        y = f"{_y(axis, value):.1f}"
        yield tag("path", d=f"M{_LEFT} {y}H{right}", class_="grid")
        yield tag("text", number(value), x=_LEFT - 8, y=y, class_="ytick")
    for step in time.ticks():
        if step == round(step):
            x = f"{_x(time, step):.1f}"
            yield tag("path", d=f"M{x} {bottom}v4", class_="grid")
            yield tag("text", _thousands(step), x=x, y=bottom + 17, class_="xtick")
    yield tag("path", d=f"M{_LEFT} {bottom}H{right}", class_="base")
    yield tag("text", "step", x=f"{(_LEFT + right) / 2:.0f}", y=_HEIGHT - 6, class_="xtick name")


def _thousands(step: float) -> str:
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if step >= least:
            return f"{step / size:g}{letter}"
    return f"{step:,.0f}"


def thinned(curve: Curve, time: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A point per bin: steps, means, least and greatest values, NaN where none is finite."""
    steps, values = curve.steps, np.where(np.isfinite(curve.values), curve.values, np.nan)
    if len(steps) <= _BINS:
        return steps.astype(np.float64), values, values, values
    place = np.minimum((time(steps) * _BINS).astype(int), _BINS - 1)
    rows = []
    for part in np.split(np.arange(len(steps)), np.flatnonzero(np.diff(place)) + 1):
        good = values[part][~np.isnan(values[part])]
        found = (good.mean(), good.min(), good.max()) if len(good) else (np.nan,) * 3
        rows.append((steps[part].mean(), *found))
    return tuple(np.array(rows).T)


def _line(line: Line, time: Axis, axis: Axis) -> Markup:
    steps, means, low, high = thinned(line.curve, time)
    x, parts = _x(time, steps), []
    good = ~np.isnan(means)
    runs = np.split(np.arange(len(x)), np.flatnonzero(np.diff(good)) + 1)
    runs = [run for run in runs if good[run[0]]]
    if (high > low).any():
        for run in runs:
            upper = _points(x[run], _y(axis, high[run]))
            lower = _points(x[run][::-1], _y(axis, low[run])[::-1])
            parts.append(tag("path", d=f"M{upper}L{lower}Z", class_=f"band b{line.kind}"))
    path = "".join(f"M{_points(x[run], _y(axis, means[run]))}" for run in runs)
    parts.append(tag("path", d=path, class_=f"line l{line.kind}"))
    lonely = [run[0] for run in runs if len(run) == 1]
    ends = [*lonely, runs[-1][-1]] if runs else []
    parts += [_dot(x[i], float(_y(axis, means[i])), line.kind) for i in dict.fromkeys(ends)]
    return tag("g", *parts, *_not_finite(line, time))


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _dot(x: float, y: float, kind: int) -> Markup:
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", class_=f"dot d{kind}")


def _not_finite(line: Line, time: Axis) -> Iterator[Markup]:
    """A mark at the bottom where a value was NaN or infinite."""
    bad = line.curve.steps[~np.isfinite(line.curve.values)]
    places = dict(zip(np.round(_x(time, bad), -1).tolist(), bad.tolist(), strict=True))
    for x, step in places.items():
        title = tag("title", f"{line.name}, step {step:,}: no finite number")
        yield tag("path", title, d=f"M{x:.0f} {_HEIGHT - _BOTTOM}l-4-8h8z", class_="bad")


def _stops(lines: Sequence[Line], time: Axis) -> list[Markup]:
    """Columns that tell every line's value under the pointer."""
    steps = np.unique(np.concatenate([line.curve.steps for line in lines]))
    if len(steps) > _STOPS:
        steps = steps[np.linspace(0, len(steps) - 1, _STOPS).round().astype(int)]
    x = _x(time, steps)
    middles = (x[1:] + x[:-1]) / 2
    starts, ends = [_LEFT, *middles.tolist()], [*middles.tolist(), _WIDTH - _RIGHT]
    columns = []
    for step, start, end in zip(steps.tolist(), starts, ends, strict=True):
        rows = [f"step {step:,}"]
        for line in lines:
            i = int(np.searchsorted(line.curve.steps, step, side="right")) - 1
            if i >= 0 and (step <= line.curve.steps[-1]):
                name = f"{line.name}: " if len(lines) > 1 else ""
                rows.append(name + number(float(line.curve.values[i])))
        columns.append(
            tag(
                "rect", tag("title", "\n".join(rows)), x=f"{start:.1f}", y=_TOP,
                width=f"{max(end - start, 0):.1f}", height=_HEIGHT - _TOP - _BOTTOM,
            )
        )  # fmt: skip
    return [tag("g", join(columns), class_="stops")]
