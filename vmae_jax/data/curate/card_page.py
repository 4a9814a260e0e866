"""The data card as one HTML page that needs nothing else: no network, no script.

Every text from outside goes through `tag`, which escapes it. Bars are inline SVG, so that they are
printed and no style attribute is needed: the page's policy allows its one style sheet alone.
"""

import base64
import hashlib
import html
import importlib.resources
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmae_jax.data.curate import card as card_lib
from vmae_jax.data.curate.card import Card, Copy, DuplicateGroup, Example, Stage

_BARS = 30  # hashtags with a bar
_FEW_BARS = 10  # sizes and frame rates with a bar
# Characters that no HTML may hold, and halves of surrogate pairs, which no UTF-8 may.
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """HTML that `tag` made. Any other text is escaped where it enters."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Any text, to stand in an element or a quoted attribute."""
    return Markup(html.escape(_UNUSABLE.sub("\ufffd", str(text)), quote=True))


def join(parts: Iterable[object]) -> Markup:
    """Pieces one after another; what is no markup is escaped."""
    return Markup("".join(p if isinstance(p, Markup) else escape(p) for p in parts))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; `class_` stands for class, and '_' in other attributes for '-'."""
    pairs = (
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    start = f"<{name}{''.join(pairs)}>"
    return Markup(start if name == "img" else f"{start}{join(children)}</{name}>")


def page(card: Card) -> str:
    """The whole page."""
    pictures = _Pictures()
    sections = [
        ("funnel", "From rows to clips", _funnel(card)),
        ("contact", "Contact sheet", _contact(card, pictures)),
        ("figures", "Lengths, sizes, frame rates", _figures(card)),
        ("hashtags", "Hashtags", _hashtags(card)),
        ("removed", "What was left out", _removed(card, pictures)),
        ("duplicates", "Near duplicates", _duplicates(card, pictures)),
        ("parts", "Splits and subsets", _parts(card)),
        ("settings", "Settings and versions", _settings(card)),
        ("statement", "Rights and limits", _statement(card, pictures)),
    ]
    sections = [section for section in sections if section[2]]
    files = importlib.resources.files("vmae_jax.data.curate")
    style = (files / "card.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    links = (tag("a", title, href=f"#{name}") for name, title, _ in sections)
    body = join(
        tag("section", tag("h2", title), content, id=name) for name, title, content in sections
    )
    return string.Template((files / "card.html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
        style=style,
        title=escape(_cut(card.title)),
        head=join(
            (
                tag("h1", _short(card.title)),
                tag("p", "Data card" + f" · {card.made}" * bool(card.made), class_="kind"),
                _totals(card),
            )
        ),
        links=join(links),
        sections=body,
    )


class _Pictures:
    """Thumbnails as parts of the page, within bounds."""

    def __init__(self):
        self._bytes, self.left_out = 0, 0

    def __call__(self, example: Example) -> Markup:
        data = example.thumbnail
        usable = data.startswith(b"\xff\xd8\xff") and len(data) <= card_lib.MAX_PICTURE
        if not usable or self._bytes + len(data) > card_lib.MAX_PICTURES:
            self.left_out += bool(data)
            return tag("div", "no picture", class_="blank")
        self._bytes += len(data)
        url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        return tag("img", src=url, alt=f"Frame of {_cut(example.id)}", loading="lazy")


# ---- Pieces ----


def _cut(text: object) -> str:
    text = str(text)
    return text if len(text) <= card_lib.MAX_TEXT else f"{text[: card_lib.MAX_TEXT]}…"


def _short(text: object) -> Markup:
    # A name written from right to left must not turn its surroundings round.
    return tag("bdi", _cut(text))


def _figure(example: Example, pictures: _Pictures, *more: object) -> Markup:
    caption = [tag("b", _short(example.id)), *more]
    if example.detail:
        caption.append(tag("span", _short(example.detail)))
    return tag("figure", pictures(example), tag("figcaption", *caption))


def _table(
    titles: Sequence[object], rows: Iterable[Sequence[object]], label: str, kind: str = "numbers"
) -> Markup:
    """A table that scrolls in its box; the first column names the row."""
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in titles)))
    lines = (
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    )
    table = tag("table", head, tag("tbody", *lines), class_=kind)
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def _bar(*shares: tuple[str, float]) -> Markup:
    """One bar of parts (class, share of the width), beside a text that says the same."""
    parts, start = [], 0.0
    for name, share in shares:
        width = f"{100 * share:.2f}%"
        parts.append(tag("rect", class_=name, x=f"{100 * start:.2f}%", width=width, height="100%"))
        start += share
    return tag("svg", *parts, class_="bar", aria_hidden="true")


def _bars(counts: Mapping[str, int], most: int | None = None, other: str = "") -> Markup:
    """Bars of the first `most` (None = all), then what the rest adds up to."""
    total, top = sum(counts.values()), max(counts.values(), default=1)
    rows = [
        tag("li", tag("span", _short(name)), _bar(("kept", n / top)), _count(n, total))
        for name, n in list(counts.items())[:most]
    ]
    rest = list(counts.values())[len(rows) :]
    if rest:
        name = f"{len(rest):,} {other}"
        rows.append(tag("li", tag("span", name), tag("span"), _count(sum(rest), total)))
    return tag("ul", *rows, class_="bars")


def _count(count: int, total: int) -> Markup:
    return tag("span", f"{count:,} ", tag("small", _percent(count, total)), class_="count")


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f} %" if share >= 10 or not share else f"{share:.2g} %"


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


# ---- Sections ----


def _totals(card: Card) -> Markup:
    found = card_lib.hours(card)
    size = f"{found:,.1f}" if found >= 10 else f"{found:.2g}"
    facts = {
        "clips": f"{card.stages[-1].left:,}" if card.stages else "0",
        "videos": f"{card.videos:,}" * bool(card.videos),
        "hours": size * bool(card.seconds),
        "hashtags": f"{len(card.hashtags):,}" * bool(card.hashtags),
    }
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", text)) for name, text in facts.items() if text),
        class_="totals",
    )


def _funnel(card: Card) -> Markup:
    widest = {s.unit: max(t.came for t in card.stages if t.unit == s.unit) for s in card.stages}
    return tag("ol", *(_step(stage, widest[stage.unit]) for stage in card.stages), class_="funnel")


def _step(stage: Stage, widest: int) -> Markup:
    top = max(widest, 1)
    gone = stage.came - stage.left
    reasons = [
        tag("li", tag("span", _short(r.name)), tag("span", f"−{r.count:,}", class_="count"))
        for r in stage.reasons
        if r.count
    ]
    return tag(
        "li",
        tag(
            "h3",
            _short(stage.name),
            tag("span", f"{stage.came:,} → {stage.left:,} {stage.unit}", class_="count"),
        ),
        _bar(("kept", stage.left / top), ("gone", gone / top)),
        tag("p", _short(stage.note), class_="note") if stage.note else "",
        tag("ul", *reasons, class_="reasons") if reasons else "",
    )


def _contact(card: Card, pictures: _Pictures) -> Markup:
    shown = card.contact[: card_lib.MAX_CONTACT]
    if not shown:
        return Markup("")
    text = f"{len(shown):,} kept clips, chosen at random."
    figures = (_figure(example, pictures) for example in shown)
    return join((tag("p", text, class_="note"), tag("div", *figures, class_="sheet")))


def _figures(card: Card) -> Markup:
    panels = []
    if card.seconds:
        ordered = sorted(card.seconds)
        middle = ordered[len(ordered) // 2]
        text = f"From {ordered[0]:.1f} to {ordered[-1]:.1f} seconds; median {middle:.1f}."
        counts = {_span(start, end): n for start, end, n in card_lib.length_counts(card)}
        panels.append((tag("h3", "Length"), tag("p", text, class_="note"), _bars(counts)))
    if card.sizes:
        counts = card_lib.size_counts(card)
        panels.append((tag("h3", "Size in pixels"), _bars(counts, _FEW_BARS, "other sizes")))
    if card.rates:
        counts = card_lib.rate_counts(card)
        panels.append((tag("h3", "Frames per second"), _bars(counts, _FEW_BARS, "other rates")))
    columns = (tag("div", *panel) for panel in panels)
    return tag("div", *columns, class_="columns") if panels else Markup("")


def _span(start: float, end: float) -> str:
    return f"{start:g} s and more" if end == float("inf") else f"{start:g} – {end:g} s"


def _hashtags(card: Card) -> Markup:
    parts: list[Markup] = []
    counts = card_lib.top_hashtags(card)
    if counts:
        text = (
            f"Clips of each; a clip may carry several. The {min(_BARS, len(counts))} most frequent "
            f"of {len(counts):,}; data_card.json has all."
        )
        names = {f"#{name}": count for name, count in counts.items()}
        parts += [tag("p", text, class_="note"), _hashtag_bars(names)]
    if card.rules:
        titles = ("rule", "hashtags removed", "videos removed", "hashtags left", "videos left")
        rows = [
            (r.rule, *(f"{n:,}" for n in (r.hashtags_removed, r.videos_removed)),
             f"{r.hashtags_left:,}", f"{r.videos_left:,}")
            for r in card.rules
        ]  # fmt: skip
        parts += [tag("h3", "What each rule did"), _table(titles, rows, "Rules on hashtags")]
    return join(parts)


def _hashtag_bars(counts: Mapping[str, int]) -> Markup:
    # Shares of all would mislead: a clip counts once under each of its hashtags.
    top = max(counts.values())
    rows = (
        tag("li", tag("span", _short(name)), _bar(("kept", count / max(top, 1))),
            tag("span", f"{count:,}", class_="count"))
        for name, count in list(counts.items())[:_BARS]
    )  # fmt: skip
    return tag("ul", *rows, class_="bars two")


def _removed(card: Card, pictures: _Pictures) -> Markup:
    parts: list[Markup] = []
    for stage in card.stages:
        for reason in stage.reasons:
            if not reason.count:
                continue
            shown = reason.examples[: card_lib.MAX_EXAMPLES]
            text = f"{reason.count:,} of {stage.came:,} {stage.unit} at “{_cut(stage.name)}”."
            head = tag("h3", _short(reason.name)), tag("p", text, class_="note")
            if any(example.thumbnail for example in shown):
                body = tag("div", *(_figure(e, pictures) for e in shown), class_="sheet")
            else:
                lines = (tag("li", tag("b", _short(e.id)), " ", _short(e.detail)) for e in shown)
                body = tag("ul", *lines, class_="lines") if shown else Markup("")
            parts.append(tag("div", *head, body, class_="reason"))
    return join(parts)


def _duplicates(card: Card, pictures: _Pictures) -> Markup:
    shown = card.groups[: card_lib.MAX_GROUPS]
    if not shown:
        return Markup("")
    total = max(card.num_groups, len(card.groups))
    more = f"; {len(shown)} are shown" * (total > len(shown))
    text = f"{total:,} groups of clips that show the same. One of each was kept{more}."
    groups = (_group(group, pictures) for group in shown)
    return join((tag("p", text, class_="note"), tag("div", *groups, class_="groups")))


def _group(group: DuplicateGroup, pictures: _Pictures) -> Markup:
    copies = group.copies[: card_lib.MAX_COPIES]
    kept = _figure(group.kept, pictures, tag("span", tag("em", "kept", class_="good")))
    others = [_figure(copy.shown, pictures, _evidence(copy)) for copy in copies]
    left = len(group.copies) - len(copies)
    if left:
        others.append(tag("p", f"and {left:,} more", class_="note"))
    return tag("div", kept, *others, class_="sheet group")


def _evidence(copy: Copy) -> Markup:
    badges: list[Any] = [tag("em", "same file")] if copy.same_file else []
    if copy.mirrored:
        badges.append(tag("em", "mirrored"))
    if not copy.same_file:
        badges += [f"{100 * copy.share:.0f} % of frames, {copy.offset:+.2f} s"]
    return tag("span", *(part for badge in badges for part in (badge, " ")))


def _parts(card: Card) -> Markup:
    parts: list[Markup] = []
    if card.splits:
        titles = list(dict.fromkeys(key for split in card.splits.values() for key in split))
        rows = [
            (_short(name), *(_short(_plain(split.get(key, ""))) for key in titles))
            for name, split in card.splits.items()
        ]
        parts += [tag("h3", "Splits"), _table(["split", *map(_short, titles)], rows, "Splits")]
    if card.subsets:
        rows = [(f"{s.clips:,}", f"{s.hours:,.2f}", f"{s.hashtags:,}") for s in card.subsets]
        text = "Each lies in the next; every hashtag has its share in each."
        parts += [tag("h3", "Nested subsets"), tag("p", text, class_="note")]
        parts.append(_table(("clips", "hours", "hashtags"), rows, "Nested subsets"))
    return join(parts)


def _settings(card: Card) -> Markup:
    parts: list[Markup] = []
    for title, values in (("Settings", card.settings), ("Versions", card.versions)):
        if values:
            rows = [(_short(name), tag("code", _short(_plain(v)))) for name, v in values.items()]
            parts += [tag("h3", title), _table(("name", "value"), rows, title, "words")]
    return join(parts)


def _statement(card: Card, pictures: _Pictures) -> Markup:
    texts = [*map(_cut, card.notes), *card_lib.STATEMENT]
    if pictures.left_out:
        texts.append(f"{pictures.left_out:,} pictures were left out to keep this page small.")
    return join(tag("p", text) for text in texts)
