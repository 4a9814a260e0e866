"""The report of one run or several as one HTML page that needs nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax import config as config_lib
from vmae_jax.page import Markup, document, join, plain, short, soft, table, tag
from vmae_jax.report import charts, data, pictures, predictions
from vmae_jax.report.charts import Line, chart
from vmae_jax.report.run import Curve, Run, number

MAX_RUNS = 12  # colours that can be told apart
_OPEN = 2  # of several runs, before the reader asks for more
_MORE_CURVES = 12  # of names that are not known here
_TRAINING = {  # name in metrics.jsonl -> how its chart is drawn
    "loss": {"title": "Loss", "log": True},
    "grad_norm": {"title": "Gradient norm", "log": True},
    "lr": {"title": "Learning rate", "zero": True},
}
_SPEED = {
    "clips_per_second": {"title": "Throughput", "unit": "clips per second", "zero": True},
    "data_wait": {"title": "Waiting for data", "unit": "% of the time", "zero": True},
    "mfu": {"title": "Model FLOP utilisation", "unit": "% of the peak", "zero": True},
}
_COUNTS = {
    "skipped": {"title": "Skipped steps", "zero": True},
    "bad_records": {"title": "Bad records", "zero": True},
}
_IN_PERCENT = ("data_wait", "mfu")
_ACCURACY = ("_top1", "_top5", "_mean_class")  # how the names of evaluations end


def page(runs: Sequence[Run], made: str = "") -> str:
    """The whole page.

    Args:
      made: a date to print; '' = none, and the page depends on the workdirs alone.
    """
    shown = pictures.Pictures()
    sections = [
        ("figures", "Final figures", _figures(runs)),
        ("missing", "What is missing", _each(runs, _missing)),
        ("curves", "Curves", _curves(runs)),
        ("speed", "Throughput and waiting", _speed(runs)),
        ("reconstructions", "Reconstructions",
         _each(runs, lambda run: pictures.reconstructions(run, shown))),
        ("masks", "Masks", _each(runs, pictures.masks)),
        ("confusion", "Confusion", _each(runs, predictions.confusion)),
        ("predictions", "Best and worst predictions",
         _each(runs, lambda run: predictions.examples(run, shown))),
        ("settings", "Settings", _settings(runs)),
        ("data", "Data", _each(runs, data.summary)),
        ("environment", "Environment", _each(runs, data.environment)),
    ]  # fmt: skip
    names = [run.name for run in runs]
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs"
    head = [tag("h1", short(title)), tag("p", _kind(runs, made), class_="kind")]
    if len(runs) == 1:
        head.append(_totals(runs[0]))
    else:
        head.append(charts.legend(names))
    left = shown.left_out
    more = f" Pictures left out, as damaged or too large for one page: {left:,}." if left else ""
    footer = f"Written by python -m vmae_jax.report.{more}"
    plays = any('class="playing"' in content for _, _, content in sections)
    body = join((*head, pictures.HOLD if plays else ""))
    styles = [("vmae_jax.report", "report.css")]
    return document(f"{title} – run report", body, sections, footer, styles)


def _each(runs: Sequence[Run], make: Callable[[Run], Markup]) -> Markup:
    """What `make` says of each run, under its name where there are several."""
    found = [(kind, run, make(run)) for kind, run in enumerate(runs)]
    found = [part for part in found if part[2]]
    if len(runs) == 1:
        return join(content for _, _, content in found)
    return join(
        tag(
            "details",
            tag("summary", charts.swatch(kind), tag("b", short(run.name))),
            content,
            class_="run",
            **({"open": ""} if i < _OPEN else {}),
        )
        for i, (kind, run, content) in enumerate(found)
    )


def _kind(runs: Sequence[Run], made: str) -> str:
    tasks = dict.fromkeys(filter(None, map(_task, runs)))
    return " · ".join(["Run report", *map(str, tasks), *([made] if made else [])])


def _task(run: Run) -> str:
    return " ".join(str(run.setting(key, "")) for key in ("task", "model.variant")).strip()


# ---- Figures ----


def figures(run: Run) -> dict[str, str]:
    """What a run came to, in words; what is not known is left out."""
    speed, waiting = (run.curves.get(name) for name in ("clips_per_second", "data_wait"))
    loss = run.curves.get("loss")
    scored = run.scores.summary() if run.scores else {}
    found = {
        "steps": _steps(run),
        "loss": number(loss.last) if loss else "",
        "top-1 %": number(scored["top1"]) if scored else _last(run, "_top1"),
        "top-5 %": number(scored["top5"]) if scored else _last(run, "_top5"),
        "clips/s": f"{np.median(speed.finite):,.4g}" if speed and len(speed.finite) else "",
        "waiting": f"{100 * waiting.finite.mean():.1f} %"
        if waiting and len(waiting.finite)
        else "",
        "parameters": _millions(run.parameters),
    }
    return {name: text for name, text in found.items() if text}


def _steps(run: Run) -> str:
    planned = run.setting("train.steps")
    of = f" of {planned:,}" if isinstance(planned, int) and planned > run.step else ""
    return f"{run.step:,}{of}" if run.curves or run.checkpoint is not None else ""


def _last(run: Run, ending: str) -> str:
    found = [curve.last for name, curve in run.curves.items() if name.endswith(ending)]
    return number(found[0]) if found else ""


def _millions(count: int) -> str:
    return f"{count / 1e6:,.3g} M" if count else ""


def _totals(run: Run) -> Markup:
    boxes = (tag("div", tag("dt", name), tag("dd", text)) for name, text in figures(run).items())
    return tag("dl", *boxes, class_="totals")


def _figures(runs: Sequence[Run]) -> Markup:
    if len(runs) == 1:
        return Markup("")
    found = [figures(run) for run in runs]
    titles = list(dict.fromkeys(name for row in found for name in row))
    rows = [
        (
            join((charts.swatch(kind), short(run.name), tag("small", short(_task(run))))),
            *(row.get(name, "–") for name in titles),
        )
        for kind, (run, row) in enumerate(zip(runs, found, strict=True))
    ]
    return table(("run", *titles), rows, "Final figures")


# ---- Curves ----


def _lines(runs: Sequence[Run], name: str) -> list[Line]:
    scale = 100.0 if name in _IN_PERCENT else 1.0
    return [
        Line(run.name, Curve(run.curves[name].steps, scale * run.curves[name].values), kind)
        for kind, run in enumerate(runs)
        if name in run.curves
    ]


def _charts(runs: Sequence[Run], wanted: Mapping[str, Mapping[str, Any]]) -> Markup:
    drawn = [chart(lines=_lines(runs, name), **how) for name, how in wanted.items()]
    return tag("div", *drawn, class_="charts") if any(drawn) else Markup("")


def _curves(runs: Sequence[Run]) -> Markup:
    known = {**_TRAINING, **_SPEED, **_COUNTS}
    names = dict.fromkeys(name for run in runs for name in run.curves if name not in known)
    # One evaluation, after the last step, is a figure and no curve.
    names = [n for n in names if max(len(line.curve.steps) for line in _lines(runs, n)) > 1]
    more = {
        name: {"title": name.replace("_", " "), "unit": "%" * name.endswith(_ACCURACY)}
        for name in names[:_MORE_CURVES]
    }
    note = f"{len(names) - _MORE_CURVES} more are in metrics.jsonl."
    rest = tag("p", note, class_="note") if len(names) > _MORE_CURVES else ""
    drawn = _charts(runs, _TRAINING | more)
    return join((drawn, rest, *_not_finite(runs))) if drawn else Markup("")


def _not_finite(runs: Sequence[Run]) -> Iterable[Markup]:
    for run in runs:
        for name in ("loss", "grad_norm"):
            curve = run.curves.get(name)
            bad = curve.steps[~np.isfinite(curve.values)] if curve else ()
            if len(bad):
                text = (
                    f"{run.name}: {name} was no finite number at {len(bad):,} of "
                    f"{len(curve.steps):,} logged steps, first at step {bad[0]:,} (▲)."
                )
                yield tag("p", text, class_="warn")


def _speed(runs: Sequence[Run]) -> Markup:
    counted = {
        name: how
        for name, how in _COUNTS.items()
        if any(line.curve.finite.any() for line in _lines(runs, name))
    }
    drawn = _charts(runs, _SPEED | counted)
    if not drawn:
        return drawn
    none = [_COUNTS[n]["title"].lower() for n in _COUNTS if n not in counted and _lines(runs, n)]
    note = tag("p", f"No {' and no '.join(none)}.", class_="note") if none else ""
    return join((note, drawn))


# ---- Settings ----


def _settings(runs: Sequence[Run]) -> Markup:
    known = [run for run in runs if run.config]
    if not known:
        return Markup("")
    defaults = flat(config_lib.defaults().to_dict())
    configs = [flat(run.config) for run in known]
    keys = list(dict.fromkeys([*defaults, *(key for config in configs for key in config)]))
    changed = [
        key
        for key in keys
        if any(key in c and c[key] != defaults.get(key) for c in configs)
        or any(key in run.changed for run in known)
    ]
    differ = [key for key in changed if len({str(c.get(key)) for c in configs}) > 1]
    same = [key for key in changed if key not in differ]
    parts = [tag("p", _recipes(known), class_="note")]
    for title, chosen in (("Where the runs differ", differ), ("The same in all", same)):
        if chosen:
            parts.append(tag("h3", title) if len(known) > 1 else "")
            parts.append(_setting_table(title, chosen, known, configs, defaults))
    rest = [key for key in keys if key not in changed]
    everything = _setting_table("Settings at their defaults", rest, known[:1], configs, {})
    count = f"{len(rest)} settings at their defaults"
    return join((*parts, tag("details", tag("summary", count), everything)))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'model': {'variant': 'B'}} -> {'model.variant': 'B'}."""
    found = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _recipes(runs: Sequence[Run]) -> Markup:
    told = (run.starts[-1].get("recipe") for run in runs if run.starts)
    names = dict.fromkeys(str(name) for name in told if name)
    if not names:
        return Markup("What differs from the defaults; the recipe was not recorded.")
    listed = (part for name in names for part in (tag("code", short(name)), " "))
    text = "What differs from the defaults, by the recipe "
    return join((text, *listed, "or the ", tag("em", "command line"), "."))


def _setting_table(
    label: str,
    keys: Sequence[str],
    runs: Sequence[Run],
    configs: Sequence[Mapping[str, Any]],
    defaults: Mapping[str, Any],
) -> Markup:
    """A row per setting; the default is a column where `defaults` are given."""
    names = ["value"] if len(runs) == 1 else [short(run.name) for run in runs]
    rows = []
    for key in keys:
        values = [
            join((_value(config[key]) if key in config else "–", " ",
                  tag("em", "command line") if key in run.changed and defaults else ""))
            for run, config in zip(runs, configs, strict=False)
        ]  # fmt: skip
        default = [_value(defaults.get(key))] if defaults else []
        rows.append((short(key), *values, *default))
    titles = ("setting", *names, *(["default"] if defaults else []))
    return table(titles, rows, label, "words")


def _value(value: Any) -> Markup:
    return tag("code", soft(plain(value) if value != "" else "''"))


def _missing(run: Run) -> Markup:
    said = list(run.problems)
    if not run.curves and run.setting("probe.kind") != "knn":
        said.append("No steps were logged in metrics.jsonl")
    if not run.config:
        said.append("The run's settings were not kept: it saved no checkpoint")
    if "loss" in run.curves and run.checkpoint is None:
        said.append("The run saved no checkpoint")
    tested = run.setting("task") != "pretrain" and run.setting("eval.split")
    if tested and run.scores is None and not any("scores" in text for text in said):
        said.append("The run was not tested: there is no eval/scores.npz")
    if run.setting("task") == "pretrain" and not run.pictures:
        said.append("The run left no pictures")
    planned = run.setting("train.steps")
    if isinstance(planned, int) and run.curves and run.step < planned:
        said.append(f"The run is not finished: step {run.step:,} of {planned:,}")
    lines = (tag("li", short(text), ".") for text in said)
    return tag("ul", *lines, class_="dots") if said else Markup("")
