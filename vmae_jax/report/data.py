"""What a run was trained on, and with what: the data set's own figures, versions, machines."""

import json
from collections.abc import Mapping
from typing import Any

import fsspec

from vmae_jax.environment import STARTS
from vmae_jax.page import Markup, cut, join, plain, short, soft, table, tag
from vmae_jax.report.run import Run, number

_CLASSES = 60  # named
_LONG = 24  # characters of a fact that takes the room of two


def summary(run: Run) -> Markup:
    """The data set's splits where it can be reached; else what the run knows of it."""
    path = run.setting("data.dataset")
    if not isinstance(path, str):
        return Markup("")
    facts: dict[str, Any] = {"data set": path, "split": run.setting("data.split")}
    if run.setting("task") != "pretrain":
        facts["tested on"] = run.tested.get("split") or run.setting("eval.split")
        facts["views"] = run.tested.get("views")
        if run.tested.get("dataset") not in (None, path):
            facts["test data set"] = run.tested["dataset"]
    facts["fingerprint"] = run.meta.get("fingerprint")
    examples, clips = run.meta.get("examples"), 0
    try:
        splits = _splits(path)
        parts = [splits.get(name, {}).get("clips", 0) for name in str(facts["split"]).split("+")]
        clips = sum(parts) if all(parts) else 0
        titles = list(dict.fromkeys(key for row in splits.values() for key in row))
        rows = [
            (short(name), *(_figure(key, row[key]) if key in row else "–" for key in titles))
            for name, row in splits.items()
        ]
        found = table(("split", *titles), rows, "Splits") if rows else Markup("")
    except Exception as error:  # file systems of the network raise errors of their own
        found = tag("p", f"The data set cannot be reached from here: {cut(error)}.", class_="note")
    if isinstance(examples, int):
        epochs = f", {examples / clips:,.4g} epochs" if clips else ""
        facts["seen"] = f"{examples:,} clips{epochs}"
    names = run.meta.get("label_names")
    return join((facts_list(facts), found, _classes(names if isinstance(names, list) else [])))


def _splits(path: str) -> dict[str, dict[str, Any]]:
    """Figures of each split: those of the build's report, or clips and bytes of TFDS's file."""
    folder = path.rstrip("/")
    info = _read(f"{folder}/dataset_info.json")
    sizes = {
        str(split["name"]): {
            "clips": sum(map(int, split.get("shardLengths", ()))),
            "bytes": int(split.get("numBytes", 0)),
        }
        for split in info["splits"]
    }
    try:
        built = _read(f"{folder}/report.json")["splits"]
    except (OSError, ValueError, KeyError):
        return sizes
    wanted = ("videos", "clips", "frames", "hours", "bytes")
    return {
        name: {key: built[name][key] for key in wanted if key in built[name]}
        if name in built
        else size
        for name, size in sizes.items()
    }


def _figure(key: str, value: Any) -> Markup:
    if key == "bytes" and isinstance(value, int):
        return short(f"{value / 1e6:,.1f} MB")
    return short(number(value) if isinstance(value, float) else plain(value))


def _read(path: str) -> Any:
    with fsspec.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def _classes(names: list[Any]) -> Markup:
    if not names:
        return Markup("")
    rest = f" and {len(names) - _CLASSES:,} more" if len(names) > _CLASSES else ""
    shown = join(part for name in names[:_CLASSES] for part in (tag("em", short(name)), " "))
    return tag("p", f"{len(names):,} classes: ", shown, rest, class_="names")


def environment(run: Run) -> Markup:
    """The machines and versions of the run's starts, or the versions of its checkpoint."""
    if not run.starts:
        versions = run.meta.get("versions")
        if not isinstance(versions, Mapping):
            return Markup("")
        note = "The machine was not recorded; the versions are those of the last checkpoint."
        return join((tag("p", note, class_="note"), facts_list(versions)))
    last = run.starts[-1]
    facts = {"started": last.get("time"), **_mapping(last.get("machine"))}
    parts = [facts_list(facts), tag("h4", "Versions"), facts_list(_mapping(last.get("versions")))]
    if len(run.starts) > 1:
        rows = [
            (short(start.get("time")), short(_mapping(start.get("machine")).get("devices")))
            for start in run.starts
        ]
        title = f"Started {len(run.starts)} times"
        if len(run.starts) >= STARTS:
            title += " or more: the first and the last"
        parts += [tag("h4", title), table(("time", "devices"), rows, title, "words")]
    return join(parts)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def facts_list(facts: Mapping[str, Any]) -> Markup:
    """Names and values, as many beside one another as fit."""
    boxes = (
        tag(
            "div", tag("dt", short(name)), tag("dd", soft(plain(value))),
            class_="long" if len(plain(value)) > _LONG else "fact",
        )
        for name, value in facts.items()
        if value not in (None, "")
    )  # fmt: skip
    return tag("dl", *boxes, class_="facts")
