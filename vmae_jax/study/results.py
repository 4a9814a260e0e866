"""What a study found: its runs' accuracies, with intervals, laws and gains."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from vmae_jax.study import law as law_lib
from vmae_jax.study.jobs import Job
from vmae_jax.study.law import Estimate, Law
from vmae_jax.study.settings import METRICS, Study

EQUAL = 0.05  # sizes that differ by less count as equal: builds leave broken videos out


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs that differ in nothing but their seed."""

    arm: str
    clips: int  # 0 = from scratch
    benchmark: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]  # accuracies in percent
    mean: Estimate


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One cell against another, in points: per doubling of the clips, or at equal sizes."""

    benchmark: str
    new: Cell
    old: Cell
    gain: Estimate


@dataclasses.dataclass(frozen=True)
class Results:
    name: str
    metric: str
    confidence: float
    finished: int  # of the runs that end with an accuracy
    planned: int
    rows: tuple[dict[str, Any], ...]  # one per run
    cells: tuple[Cell, ...]
    doublings: tuple[Comparison, ...]  # of each size and the one below, per doubling
    arms: tuple[Comparison, ...]  # of the first arm and each other, at equal sizes
    laws: dict[tuple[str, str], Law]  # by arm and benchmark


def gather(name: str, study: Study, jobs: Sequence[Job]) -> Results:
    """Reads the accuracies of what is done; what is missing is left out, and counted."""
    tests = [job for job in jobs if job.benchmark]
    done = [(job, json.loads(job.summary.read_text())) for job in tests if job.is_done()]
    rows = tuple(
        {
            "arm": job.arm, "clips": job.clips, "benchmark": job.benchmark, "seed": job.seed,
            **{metric: found[metric] for metric in METRICS}, "workdir": job.folder,
        }
        for job, found in done
    )  # fmt: skip
    cells = tuple(_cells(rows, study))
    return Results(
        name, study.metric, study.confidence, len(done), len(tests), rows, cells,
        tuple(_doublings(cells, study.confidence)), tuple(_arms(cells, study)),
        dict(_laws(cells, study.confidence)),
    )  # fmt: skip


def _cells(rows: Sequence[dict[str, Any]], study: Study) -> Iterator[Cell]:
    order = [*study.arms]

    def place(row: dict[str, Any]) -> tuple:
        arm = order.index(row["arm"]) if row["arm"] in order else len(order)
        return [*study.benchmarks].index(row["benchmark"]), arm, row["clips"], row["seed"]

    def group(row: dict[str, Any]) -> tuple[str, int, str]:
        return row["arm"], row["clips"], row["benchmark"]

    for key, members in itertools.groupby(sorted(rows, key=place), group):
        members = list(members)
        values = tuple(row[study.metric] for row in members)
        seeds = tuple(row["seed"] for row in members)
        yield Cell(*key, seeds, values, law_lib.mean(values, study.confidence))


def _doublings(cells: Sequence[Cell], confidence: float) -> Iterator[Comparison]:
    for old, new in itertools.pairwise(cells):
        if (old.arm, old.benchmark) == (new.arm, new.benchmark):
            scale = 1 / math.log2(new.clips / old.clips)
            gain = law_lib.difference(new.values, old.values, confidence, scale)
            yield Comparison(new.benchmark, new, old, gain)


def _arms(cells: Sequence[Cell], study: Study) -> Iterator[Comparison]:
    first = next(iter(study.arms))
    for new, old in itertools.product(cells, cells):
        same = new.benchmark == old.benchmark and math.isclose(new.clips, old.clips, rel_tol=EQUAL)
        if new.arm == first and old.arm != first and same:
            gain = law_lib.difference(new.values, old.values, study.confidence)
            yield Comparison(new.benchmark, new, old, gain)


def _laws(cells: Sequence[Cell], confidence: float) -> Iterator[tuple[tuple[str, str], Law]]:
    for key in dict.fromkeys((cell.arm, cell.benchmark) for cell in cells if cell.clips):
        runs = [
            (cell.clips, value)
            for cell in cells
            if (cell.arm, cell.benchmark) == key
            for value in cell.values
        ]
        found = law_lib.fit(*zip(*runs, strict=True), confidence)
        if found:
            yield key, found
