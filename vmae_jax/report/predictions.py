"""What a classifier took for what: confusion matrix, classes, best and worst predictions."""

import io
from collections.abc import Iterator

import numpy as np

from vmae_jax.data import clips, views
from vmae_jax.data.records import Dataset, RecordError, ShardError, open_dataset
from vmae_jax.evaluate import Scores
from vmae_jax.page import Markup, bar, cut, data_url, join, short, soft, table, tag
from vmae_jax.report.pictures import Pictures
from vmae_jax.report.run import Run, number

_NAMED = 20  # classes whose matrix has names and counts
_BESIDE = 12  # classes whose matrix leaves room for lists beside it
_PAIRS = 8  # most frequent confusions
_CLASSES = 12  # the hardest
_EXAMPLES = 6  # of the best and of the worst
_SIDE = 128  # pixels of their frames at most
_CELL, _ROOM = 30, 160  # of the matrix: a cell, and the names beside it
_LETTERS = 22  # of these names
_DENSE = 1088  # pixels of a matrix without names at least: it is shown at half of it, or less


def confusion(run: Run) -> Markup:
    """The matrix, what is confused most, and the accuracy of the hardest classes."""
    scores = run.scores
    if scores is None:
        return Markup("")
    found = scores.summary()
    text = (
        f"{scores.confusion.trace():,} of {len(scores.ids):,} videos right: top-1 "
        f"{number(found['top1'])} %, top-5 {number(found['top5'])} %, mean over classes "
        f"{number(found['mean_class'])} %."
    )
    named = len(scores.label_names) <= _NAMED
    matrix = _matrix(scores) if named else _dense_matrix(scores)
    lists = tag("div", _pairs(scores), _hardest(scores))
    return join((tag("p", text, class_="note"), tag("div", matrix, lists, class_="confusion")))


def _shares(scores: Scores) -> np.ndarray:
    return scores.confusion / np.maximum(scores.confusion.sum(1, keepdims=True), 1)


def _matrix(scores: Scores) -> Markup:
    names, shares = scores.label_names, _shares(scores)
    side = _ROOM + _CELL * len(names)
    parts = [
        tag("text", "true class", x=_ROOM - 8, y=_ROOM - 10, class_="right soft"),
        tag("text", "taken for", x=_ROOM + 2, y="14", class_="soft"),
    ]
    for i, name in enumerate(names):
        y, x = _ROOM + _CELL * i, _ROOM + _CELL * i + _CELL / 2
        label = _fitting(name)
        parts.append(tag("text", label, x=_ROOM - 8, y=y + _CELL / 2, class_="right middle"))
        place = f"translate({x} {_ROOM - 8}) rotate(-90)"
        parts.append(tag("text", label, transform=place, class_="middle"))
        for j, other in enumerate(names):
            parts += _cell(i, j, shares[i, j], scores.confusion[i, j], name, other)
    label = f"Confusion matrix of {len(names)} classes"
    box = tag("svg", *parts, viewBox=f"0 0 {side} {side}", role="img", aria_label=label)
    return tag("figure", box, class_="matrix" + " wide" * (len(names) > _BESIDE))


def _fitting(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _cell(i: int, j: int, share: float, count: int, true: str, taken: str) -> Iterator[Markup]:
    x, y = _ROOM + _CELL * j, _ROOM + _CELL * i
    title = tag("title", f"{count:,} of {cut(true)} taken for {cut(taken)} ({100 * share:.0f} %)")
    size = {"x": x + 1, "y": y + 1, "width": _CELL - 2, "height": _CELL - 2, "rx": 3}
    yield tag("rect", class_="cell", **size)
    yield tag("rect", title, class_="share", fill_opacity=f"{share:.3f}", **size)
    if count:
        kind = "middle center" + " over" * bool(share > 0.5)
        yield tag("text", f"{count:,}", x=x + _CELL / 2, y=y + _CELL / 2, class_=kind)


def _dense_matrix(scores: Scores) -> Markup:
    """A pixel per pair of classes, whose opacity is its share: it suits light and dark."""
    from PIL import Image

    shares = _shares(scores)
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    pixels[..., :3] = 63, 140, 140
    # Shares are small where classes are many; their root tells the small ones apart.
    pixels[..., 3] = (255 * np.sqrt(shares)).round()
    times = -(-_DENSE // len(shares))  # a browser makes it smaller by means, larger by blurring
    pixels = pixels.repeat(times, 0).repeat(times, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    text = f"Confusion matrix of {len(shares)} classes"
    image = tag("img", src=data_url("image/png", file.getvalue()), alt=text, class_="pixels")
    caption = "True classes from top to bottom, predicted ones from left to right."
    return tag("figure", image, tag("figcaption", caption), class_="matrix")


def _pairs(scores: Scores) -> Markup:
    names, off = scores.label_names, scores.confusion.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:_PAIRS]
    pairs = [tuple(map(int, np.unravel_index(k, off.shape))) for k in order if off.flat[k]]
    if not pairs:
        return tag("p", "No class was taken for another.")
    rows = (
        tag(
            "li", tag("span", soft(names[i]), " → ", soft(names[j])),
            tag("span", f"{off[i, j]:,} of {scores.confusion[i].sum():,}", class_="count"),
        )
        for i, j in pairs
    )  # fmt: skip
    return join((tag("h4", "Confused most"), tag("ul", *rows, class_="pairs")))


def _hardest(scores: Scores) -> Markup:
    accuracy = scores.class_accuracy()
    order = [i for i in np.argsort(accuracy, kind="stable") if not np.isnan(accuracy[i])]
    rows = (
        tag(
            "li", tag("span", soft(scores.label_names[i])), bar(("kept", accuracy[i] / 100)),
            tag("span", f"{accuracy[i]:.0f} %", class_="count"),
        )
        for i in order[:_CLASSES]
    )  # fmt: skip
    title = "Hardest classes" if len(order) > _CLASSES else "Classes, the hardest first"
    return join((tag("h4", title), tag("ul", *rows, class_="bars")))


# ---- Best and worst ----


def examples(run: Run, pictures: Pictures) -> Markup:
    """Videos that were told with most, and missed with most confidence, as they were shown."""
    scores = run.scores
    if scores is None:
        return Markup("")
    taken = scores.ranked[:, 0]
    sure = scores.probabilities[np.arange(len(taken)), taken]
    right = taken == scores.labels
    order = np.argsort(-sure, kind="stable")
    best, worst = order[right[order]][:_EXAMPLES], order[~right[order]][:_EXAMPLES]
    films = _Films(run, pictures)
    parts = []
    for title, chosen, none in (
        ("Wrong, and sure of it", worst, "No video was taken for another class."),
        ("Right, and sure of it", best, "No video was told right."),
    ):
        figures = [_example(scores, int(i), films) for i in chosen]
        body = tag("div", *figures, class_="examples") if figures else tag("p", none)
        parts += [tag("h4", title), body]
    note = tag("p", films.problem, class_="note") if films.problem else ""
    return join((note, *parts, _failed(scores)))


def _example(scores: Scores, i: int, films: "_Films") -> Markup:
    label = int(scores.labels[i])
    rows = (
        tag(
            "li", tag("span", soft(scores.label_names[k])),
            bar(("kept" if k == label else "gone", float(scores.probabilities[i, k]))),
            tag("span", f"{100 * scores.probabilities[i, k]:.0f} %", class_="count"),
        )
        for k in dict.fromkeys([*scores.ranked[i, :2].tolist(), label])
    )  # fmt: skip
    picture = films(i, scores.ids[i])
    name = tag("figcaption", tag("b", soft(scores.label_names[label])), soft(scores.ids[i]))
    return tag("figure", picture, name, tag("ul", *rows, class_="bars"))


def _failed(scores: Scores) -> Markup:
    if not scores.failed:
        return Markup("")
    rows = [(short(name), short(why)) for name, why in list(scores.failed.items())[:_EXAMPLES]]
    text = f"Videos that could not be read and have no score: {len(scores.failed):,}, such as"
    return join((tag("p", text), table(("video", "why"), rows, "Not scored", "words")))


class _Films:
    """The frames of tested videos, where the run's data set can be reached."""

    def __init__(self, run: Run, pictures: Pictures):
        self._run, self._pictures = run, pictures
        self._dataset: Dataset | None = None
        self.problem = ""  # why there are none
        try:
            config = run.checked_config()
            self._views = views.evaluation_views(config, "center")
            dataset = str(run.tested.get("dataset") or config.data.dataset)
            self._dataset = open_dataset(dataset, str(run.tested.get("split") or config.eval.split))
        except Exception as error:  # file systems of the network raise errors of their own
            self.problem = f"Without frames: {cut(error)}."

    def __call__(self, place: int, name: str) -> Markup:
        """The film of the scored video at a place of the scores, as a central view shows it."""
        if self._dataset is None:
            return Markup("")
        try:
            record = self._record(place, name)
            frames = self._views(record)[0] if record else None
        except (RecordError, ShardError) as error:
            return tag("div", cut(error), class_="blank")
        if frames is None:
            return tag("div", "not in the data set", class_="blank")
        return self._pictures.film(_small(frames), f"Frames of {name}")

    def _record(self, place: int, name: str) -> clips.Record | None:
        """Scores are in the order of the data set, but for the videos that could not be read."""
        source = self._dataset.source
        for i in range(place, min(place + len(self._run.scores.failed) + 1, len(source))):
            try:
                record = clips.Record.parse(source[i])
            except RecordError:
                continue
            if record.id == name:
                return record
        return None


def _small(frames: np.ndarray) -> np.ndarray:
    import cv2

    if frames.shape[1] <= _SIDE:
        return frames
    size = (_SIDE, _SIDE)
    return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames])
