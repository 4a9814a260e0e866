"""HTML pages that need nothing else: no network, no script, one style sheet, all text escaped.

Every text goes through `tag`, which escapes it. Charts and bars are inline SVG, so that they are
printed and no style attribute is needed: a page's policy allows its one style sheet alone.
"""

import base64
import hashlib
import html
import importlib.resources
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

MAX_TEXT = 300  # characters of one text from outside
_EMPTY = ("img", "input", "wbr")  # elements without content
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
    return Markup(start if name in _EMPTY else f"{start}{join(children)}</{name}>")


def document(
    title: str,
    head: object,
    sections: Iterable[tuple[str, str, Markup]],
    footer: str,
    styles: Sequence[tuple[str, str]],
) -> str:
    """The whole page.

    Args:
      head: what stands above the links to the sections.
      sections: (id, title, content) of each; those without content are left out.
      styles: (package, file) of style sheets that follow the one of all pages.
    """
    shown = [section for section in sections if section[2]]
    style = "".join(_file(*place) for place in (("vmae_jax", "page.css"), *styles))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    links = (tag("a", name, href=f"#{key}") for key, name, _ in shown)
    body = (tag("section", tag("h2", name), content, id=key) for key, name, content in shown)
    return string.Template(_file("vmae_jax", "page.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
        style=style,
        title=escape(cut(title)),
        head=join((head,)),
        links=join(links),
        sections=join(body),
        footer=escape(footer),
    )


def _file(package: str, name: str) -> str:
    return (importlib.resources.files(package) / name).read_text(encoding="utf-8")


def data_url(kind: str, data: bytes) -> str:
    """A file as part of the page, `kind` such as 'image/jpeg'."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def cut(text: object) -> str:
    """The text, or its beginning where it is too long to show."""
    text = str(text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def short(text: object) -> Markup:
    """Text from outside to show; right-to-left writing does not turn its surroundings round."""
    return tag("bdi", cut(text))


def soft(text: object) -> Markup:
    """The same for names and paths, which may be wrapped at their punctuation."""
    pieces = re.split(r"(?<=[/_.+-])(?=[^/_.+-])", cut(text))
    return tag("bdi", *[part for piece in pieces for part in (tag("wbr"), piece)][1:])


def table(
    titles: Sequence[object], rows: Iterable[Sequence[object]], label: str, kind: str = "numbers"
) -> Markup:
    """A table that scrolls in its box; the first column names the row."""
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in titles)))
    lines = (
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    )
    body = tag("table", head, tag("tbody", *lines), class_=kind)
    return tag("div", body, class_="scroll", role="region", aria_label=label, tabindex="0")


def bar(*shares: tuple[str, float]) -> Markup:
    """One bar of parts (class, share of the width), beside a text that says the same."""
    parts, start = [], 0.0
    for name, share in shares:
        width = f"{100 * share:.2f}%"
        parts.append(tag("rect", class_=name, x=f"{100 * start:.2f}%", width=width, height="100%"))
        start += share
    return tag("svg", *parts, class_="bar", aria_hidden="true")


def plain(value: Any) -> str:
    """A number or setting in words."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)
