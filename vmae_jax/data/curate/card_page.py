"""The data card as one HTML page that needs nothing else: no network, no script."""

from collections.abc import Mapping
from typing import Any

from vmae_jax.data.curate import card as card_lib
from vmae_jax.data.curate.card import Card, Copy, DuplicateGroup, Example, Stage
from vmae_jax.page import Markup, bar, cut, data_url, document, join, plain, short, table, tag

_BARS = 30  # hashtags with a bar
_FEW_BARS = 10  # sizes and frame rates with a bar


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
    head = join(
        (
            tag("h1", short(card.title)),
            tag("p", "Data card" + f" · {card.made}" * bool(card.made), class_="kind"),
            _totals(card),
        )
    )
    footer = "Written by vmae_jax. The numbers are in data_card.json beside this page."
    styles = [("vmae_jax.data.curate", "card.css")]
    return document(card.title, head, sections, footer, styles)


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
        return tag(
            "img",
            src=data_url("image/jpeg", data),
            alt=f"Frame of {cut(example.id)}",
            loading="lazy",
        )


# ---- Pieces ----


def _figure(example: Example, pictures: _Pictures, *more: object) -> Markup:
    caption = [tag("b", short(example.id)), *more]
    if example.detail:
        caption.append(tag("span", short(example.detail)))
    return tag("figure", pictures(example), tag("figcaption", *caption))


def _bars(counts: Mapping[str, int], most: int | None = None, other: str = "") -> Markup:
    """Bars of the first `most` (None = all), then what the rest adds up to."""
    total, top = sum(counts.values()), max(counts.values(), default=1)
    rows = [
        tag("li", tag("span", short(name)), bar(("kept", n / top)), _count(n, total))
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
        tag("li", tag("span", short(r.name)), tag("span", f"−{r.count:,}", class_="count"))
        for r in stage.reasons
        if r.count
    ]
    return tag(
        "li",
        tag(
            "h3",
            short(stage.name),
            tag("span", f"{stage.came:,} → {stage.left:,} {stage.unit}", class_="count"),
        ),
        bar(("kept", stage.left / top), ("gone", gone / top)),
        tag("p", short(stage.note), class_="note") if stage.note else "",
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
        parts += [tag("h3", "What each rule did"), table(titles, rows, "Rules on hashtags")]
    return join(parts)


def _hashtag_bars(counts: Mapping[str, int]) -> Markup:
    # Shares of all would mislead: a clip counts once under each of its hashtags.
    top = max(counts.values())
    rows = (
        tag("li", tag("span", short(name)), bar(("kept", count / max(top, 1))),
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
            text = f"{reason.count:,} of {stage.came:,} {stage.unit} at “{cut(stage.name)}”."
            head = tag("h3", short(reason.name)), tag("p", text, class_="note")
            if any(example.thumbnail for example in shown):
                body = tag("div", *(_figure(e, pictures) for e in shown), class_="sheet")
            else:
                lines = (tag("li", tag("b", short(e.id)), " ", short(e.detail)) for e in shown)
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
            (short(name), *(short(plain(split.get(key, ""))) for key in titles))
            for name, split in card.splits.items()
        ]
        parts += [tag("h3", "Splits"), table(["split", *map(short, titles)], rows, "Splits")]
    if card.subsets:
        rows = [(f"{s.clips:,}", f"{s.hours:,.2f}", f"{s.hashtags:,}") for s in card.subsets]
        text = "Each lies in the next; every hashtag has its share in each."
        parts += [tag("h3", "Nested subsets"), tag("p", text, class_="note")]
        parts.append(table(("clips", "hours", "hashtags"), rows, "Nested subsets"))
    return join(parts)


def _settings(card: Card) -> Markup:
    parts: list[Markup] = []
    for title, values in (("Settings", card.settings), ("Versions", card.versions)):
        if values:
            rows = [(short(name), tag("code", short(plain(v)))) for name, v in values.items()]
            parts += [tag("h3", title), table(("name", "value"), rows, title, "words")]
    return join(parts)


def _statement(card: Card, pictures: _Pictures) -> Markup:
    texts = [*map(cut, card.notes), *card_lib.STATEMENT]
    if pictures.left_out:
        texts.append(f"{pictures.left_out:,} pictures were left out to keep this page small.")
    return join(tag("p", text) for text in texts)
