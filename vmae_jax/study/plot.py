"""The picture of a study: accuracy against clips."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax.study.results import EQUAL, Cell, Results


def draw(results: Results) -> bytes:
    """A PNG: one panel per benchmark with every run, means, and the fitted laws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    benchmarks = list(dict.fromkeys(cell.benchmark for cell in results.cells))
    figure = Figure(figsize=(6.4 * len(benchmarks), 4.6), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(benchmarks), squeeze=False)[0]
    for axis, benchmark in zip(panels, benchmarks, strict=True):
        cells = [cell for cell in results.cells if cell.benchmark == benchmark]
        arms = list(dict.fromkeys(cell.arm for cell in cells if cell.clips))
        for color, arm in enumerate(arms):
            _draw_law(axis, results, arm, benchmark, f"C{color}")
            mine = [cell for cell in cells if cell.arm == arm]
            _draw_cells(axis, mine, arm, f"C{color}", 1.04**color)
        for cell in cells:
            if not cell.clips:
                axis.axhline(cell.mean.value, color="0.4", linestyle="--", label="from scratch")
                if cell.mean.low is not None:
                    axis.axhspan(cell.mean.low, cell.mean.high, color="0.4", alpha=0.1, lw=0)
        axis.set(xscale="log", xlabel="clips of pre-training", ylabel=f"{results.metric}, %")
        axis.set_title(benchmark)
        _mark_sizes(axis, cells)
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right", fontsize=8)
    file = io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def _draw_cells(axis: Any, cells: Sequence[Cell], arm: str, color: str, beside: float) -> None:
    """Means with their intervals, and every run as a point; arms stand `beside` one another."""
    clips = [cell.clips * beside for cell in cells]
    means = [cell.mean.value for cell in cells]
    for place, cell in zip(clips, cells, strict=True):
        axis.scatter([place] * len(cell.values), cell.values, s=12, color=color, alpha=0.4)
        if cell.mean.low is not None:
            axis.vlines(place, cell.mean.low, cell.mean.high, color=color, lw=1.5)
    axis.scatter(clips, means, color=color, zorder=3, label=arm)


def _draw_law(axis: Any, results: Results, arm: str, benchmark: str, color: str) -> None:
    """The law and its band, to twice the largest size."""
    law = results.laws.get((arm, benchmark))
    if law is None:
        return
    clips = np.geomspace(law.smallest, 2 * law.largest, 100)
    found = [law.at(n) for n in clips]
    axis.plot(clips, [e.value for e in found], color=color, lw=1)
    if found[0].low is not None:
        low, high = [e.low for e in found], [e.high for e in found]
        axis.fill_between(
            clips, low, high, color=color, alpha=0.15, lw=0,
            label=f"law, {results.confidence:.0%}",
        )  # fmt: skip


def _mark_sizes(axis: Any, cells: Sequence[Cell]) -> None:
    sizes: list[int] = []
    for clips in sorted({cell.clips for cell in cells if cell.clips}):
        if not sizes or clips > sizes[-1] * (1 + EQUAL):  # else they would be written as one
            sizes.append(clips)
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axis.minorticks_off()
