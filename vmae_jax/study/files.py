"""The files of a study's results."""

import csv
import dataclasses
import io
import json
from typing import Any

from etils import epath

from vmae_jax import whole
from vmae_jax.study import plot
from vmae_jax.study.law import RATES, Estimate, Law
from vmae_jax.study.results import Results


def write(results: Results, folder: str) -> None:
    """study.csv (every run), study.json (everything), study.md and study.png."""
    out = epath.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    if results.rows:
        rows = csv.DictWriter(text, list(results.rows[0]), lineterminator="\n")
        rows.writeheader()
        rows.writerows(results.rows)
    whole.write(out / "study.csv", text.getvalue())
    whole.write(out / "study.json", json.dumps(as_json(results), indent=1) + "\n")
    whole.write(out / "study.md", markdown(results))
    if results.cells:
        whole.write(out / "study.png", plot.draw(results))


def as_json(results: Results) -> dict[str, Any]:
    """Everything, for a program."""
    plain = dataclasses.asdict(dataclasses.replace(results, laws={}))
    plain["laws"] = [
        {
            "arm": arm, "benchmark": benchmark, "gap": law.gap, "smallest": law.smallest,
            "limit": dataclasses.asdict(law.ceiling()), "rate": dataclasses.asdict(law.speed()),
            "next_doubling": dataclasses.asdict(law.gain(law.largest)),
        }
        for (arm, benchmark), law in results.laws.items()
    ]  # fmt: skip
    return plain


def markdown(results: Results) -> str:
    """The tables, with what they mean."""
    share = f"{results.confidence:.0%}"
    lines = [
        f"# {results.name}",
        "",
        f"{results.finished} of {results.planned} runs are done. {results.metric} in percent, "
        f"means over seeds. Intervals are of {share}: Student's t for means, Welch's t "
        "for differences, profile likelihood for laws. They are of other seeds, not of other "
        "subsets or test videos, which all seeds share.",
    ]
    gains = {(c.new.arm, c.new.clips, c.benchmark): c.gain for c in results.doublings}
    for benchmark in dict.fromkeys(cell.benchmark for cell in results.cells):
        lines += [
            "", f"## {benchmark}", "",
            f"| arm | clips | seeds | {results.metric} | {share} | per doubling | {share} |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for cell in results.cells:
            if cell.benchmark == benchmark:
                gain = gains.get((cell.arm, cell.clips, benchmark))
                doubling = (f"{gain.value:+.1f}", _range(gain, "+.1f")) if gain else ("", "")
                lines.append(
                    f"| {cell.arm} | {cell.clips:,} | {len(cell.values)} | {cell.mean.value:.1f} | "
                    f"{_range(cell.mean)} | {' | '.join(doubling)} |"
                )
        for found in results.arms:
            if found.benchmark == benchmark:
                sizes = dict.fromkeys(f"{cell.clips:,}" for cell in (found.new, found.old))
                lines += [
                    "",
                    f"{found.new.arm} against {found.old.arm} at {' and '.join(sizes)} clips: "
                    f"{found.gain.value:+.1f} ({_range(found.gain, '+.1f')}).",
                ]
        for (arm, on), law in results.laws.items():
            if on == benchmark:
                lines += ["", _law_line(arm, law)]
    picture = ["", "![Accuracy against clips](study.png)"] if results.cells else []
    return "\n".join([*lines, *picture]) + "\n"


def _law_line(arm: str, law: Law) -> str:
    limit, rate, gain = law.ceiling(), law.speed(), law.gain(law.largest)
    return (
        f"Law of {arm}: {law.limit:.1f} - {law.gap:.1f} x (clips / {law.smallest:,.0f})^"
        f"-{law.rate:.2g}. Limit {limit.value:.1f} ({_range(limit)}), rate {rate.value:.2g} "
        f"({_rates(rate)}), twice {law.largest:,.0f} clips {gain.value:+.1f} "
        f"({_range(gain, '+.1f')})."
    )


def _rates(rate: Estimate) -> str:
    """The range of a rate, open where only the searched grid ends it."""
    if rate.low is None or (rate.low > RATES[0] and rate.high < RATES[-1]):
        return _range(rate, ".2g")
    if rate.low > RATES[0]:
        return f"at least {rate.low:.2g}"
    return f"at most {rate.high:.2g}" if rate.high < RATES[-1] else "undetermined"


def _range(found: Estimate, style: str = ".1f") -> str:
    if found.low is None:
        return "unknown"
    return f"{found.low:{style}} to {found.high:{style}}"
