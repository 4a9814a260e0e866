"""The data card: its numbers, its bounds, and that no text becomes part of the page."""

import dataclasses
import html
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import HOSTILE, Reader, assert_needs_nothing_else, shape

from vmae_jax.data.curate import card as card_lib
from vmae_jax.data.curate.card import Card, Copy, DuplicateGroup, Example, Reason, Stage, Subset
from vmae_jax.data.curate.card_page import page
from vmae_jax.data.curate.hashtags import RuleRow
from vmae_jax.data.curate.items import CurationError
from vmae_jax.page import escape, tag

JPEG = b"\xff\xd8\xff" + bytes(range(256)) * 4


def filled(text="a", thumbnail=JPEG, clips=3) -> Card:
    """A card with every section, whose every text is `text`."""
    example = Example(text, text, thumbnail)
    same = Copy(example, same_file=True)
    return Card(
        title=text,
        made=text,
        stages=(
            Stage(text, "rows", 12, (Reason(text, 2, (example,)),), text),
            Stage(text, "videos", 10, (Reason(text, 4, (Example(text, text),)), Reason("none", 0))),
            Stage(text, text, 4),
            Stage(text, "clips", clips + 5, (Reason(text, 5, (example, example)),)),
        ),
        seconds=[1.5] * clips,
        sizes=[(576, 1024)] * clips,
        rates=[29.97] * clips,
        videos=2,
        hashtags={text: 2, f"{text}2": 1},
        rules=(RuleRow("input", 0, 0, 3, 10), RuleRow(text, 1, 4, 2, 6)),
        groups=[DuplicateGroup(example, (Copy(example, 0.93, -0.5, True), same))],
        num_groups=9,
        contact=[example] * 3,
        splits={text: {"clips": 2000, text: text}},
        subsets=(Subset(1, 0.5, 1),),
        settings={text: text, "flag": True, "number": 5_000_000},
        versions={text: text},
        notes=(text,),
    )  # fmt: skip


# ---- Hostile text ----


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_part_of_the_page(text):
    content = page(filled(text))
    assert shape(content) == shape(page(filled()))
    content.encode()
    assert not re.search(r"[\x00-\x08\x0e-\x1f]", content)
    assert "<script" not in content.lower()


@given(st.text(), st.text())
def test_a_text_is_read_back_from_where_it_was_put(text, value):
    (element,) = Reader(f"<body>{tag('p', text, title=value)}</body>").all("p")
    assert element["title"] == html.unescape(escape(value))
    assert len(shape(tag("p", text, title=value))) == 1


def test_the_page_needs_nothing_else_and_allows_nothing_else():
    assert_needs_nothing_else(page(filled()), "data:image/jpeg;base64,")


def test_only_jpeg_files_become_pictures():
    for data in (b"<svg onload=alert(1)>", b"GIF89a", b"\xff\xd8\xff" + bytes(1 << 20)):
        content = page(filled(thumbnail=data))
        assert not Reader(content).all("img")
        assert "9 pictures were left out" in Reader(content).text


# ---- What it says ----


def test_the_page_is_accessible():
    reader = Reader(page(filled("a name")))
    assert reader.all("html") == [{"lang": "en"}]
    assert all(image["alt"] == "Frame of a name" for image in reader.all("img"))
    levels = [int(name[1]) for name, _ in reader.elements if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    ids = [attributes["id"] for attributes in reader.all("section")]
    assert [link["href"] for link in reader.all("a")] == [f"#{name}" for name in ids]
    assert all(box["tabindex"] == "0" for box in reader.all("div") if "role" in box)


def test_both_files_tell_the_numbers(tmp_path):
    card_lib.write(tmp_path, filled("a"))
    found = json.loads((tmp_path / "data_card.json").read_text())
    assert found["totals"] == {"clips": 3, "videos": 2, "hours": 0.00125, "hashtags": 2}
    assert found["stages"][0]["removed"] == [
        {"reason": "a", "count": 2, "examples": [{"id": "a", "detail": "a"}]}]  # fmt: skip
    assert [stage["left"] for stage in found["stages"]] == [10, 6, 4, 3]
    assert found["hashtags"] == {"a": 2, "a2": 1}
    assert found["seconds"][-1] == {"from": 1, "below": 2, "clips": 3}
    assert (found["sizes"], found["frame_rates"]) == ({"576 × 1024": 3}, {"29.97": 3})
    group = found["duplicate_groups"]["shown"][0]
    assert group["copies"][0] == {
        "id": "a", "detail": "a", "share": 0.93, "offset": -0.5, "mirrored": True,
        "same_file": False}  # fmt: skip
    text = Reader((tmp_path / "data_card.html").read_text()).text
    for words in ("12 → 10 rows", "−5", "93 % of frames, -0.50 s", "mirrored", "same file",
                  "9 groups", "5,000,000", "collects nothing"):  # fmt: skip
        assert words in text, words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data_card.html", "data_card.json"]


def test_the_same_card_gives_the_same_bytes(tmp_path):
    for out in ("a", "b"):
        card_lib.write(tmp_path / out, filled())
    for name in ("data_card.html", "data_card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_empty_card_has_no_empty_sections():
    reader = Reader(page(Card("empty", (Stage("Manifest", "rows", 0),))))
    assert [section["id"] for section in reader.all("section")] == ["funnel", "statement"]


def test_lengths_are_all_counted():
    card = Card("x", (), seconds=[0.0, 0.5, 1.0, 7.9, 8.0, 500.0])
    counts = card_lib.length_counts(card)
    assert sum(count for _, _, count in counts) == 6
    assert [(a, n) for a, _, n in counts if n] == [(0, 2), (1, 1), (6, 1), (8, 1), (120, 1)]


def test_bars_and_their_rest_add_up():
    sizes = [(100 + i % 25, 100) for i in range(500)]
    rows = re.findall(r'class="count">([\d,]+) ', page(Card("x", (), sizes=sizes)))
    assert sum(int(row.replace(",", "")) for row in rows) == 500
    assert len(rows) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": (Stage("A", "rows", 1, (Reason("r", 2),)),)}, "A leaves out more than came in"),
        ({"stages": (Stage("A", "rows", 5, (Reason("r", -1),)),)}, "A leaves out more"),
        (
            {"stages": (Stage("A", "clips", 5, (Reason("r", 1),)), Stage("B", "clips", 3))},
            "B begins with 3 clips, but A left 4",
        ),
        ({"seconds": [1.0]}, "1 seconds of 3 kept clips"),
        ({"rates": [1.0] * 4}, "4 rates of 3 kept clips"),
    ],
)
def test_numbers_that_do_not_add_up_are_refused(tmp_path, change, message):
    with pytest.raises(CurationError, match=message):
        card_lib.write(tmp_path, dataclasses.replace(filled(), **change))
    assert not list(tmp_path.iterdir())


# ---- Bounds ----


def test_a_card_of_many_clips_stays_small(tmp_path):
    big = Example("x" * 5000, "y" * 5000, b"\xff\xd8\xff" + bytes(40 << 10))
    count = 300_000
    reasons = tuple(Reason(f"reason {i}", 30, (big,) * 30) for i in range(30))
    card = dataclasses.replace(
        filled(),
        stages=(Stage("gates", "clips", count + 900, reasons),),
        seconds=[3.0] * count, sizes=[(i % 3000, 100) for i in range(count)], rates=[30.0] * count,
        hashtags={f"tag{i}": i for i in range(20_000)},
        groups=[DuplicateGroup(big, (Copy(big),) * 50)] * 500,
        contact=[big] * 500,
    )  # fmt: skip
    card_lib.write(tmp_path, card)
    size = (tmp_path / "data_card.html").stat().st_size
    assert size < 10 << 20
    text = Reader((tmp_path / "data_card.html").read_text()).text
    assert "pictures were left out to keep this page small" in text
    assert "and 46 more" in text
    assert (tmp_path / "data_card.json").stat().st_size < 10 << 20


def test_a_sample_depends_on_the_seed_alone():
    ids = [f"clip{i}" for i in range(1000)]
    chosen = card_lib.sample(ids, 20, seed=1)
    assert chosen == card_lib.sample(reversed(ids), 20, seed=1)
    assert len(set(chosen)) == 20
    assert chosen != card_lib.sample(ids, 20, seed=2)
    assert card_lib.sample(["b", "a"]) == ["a", "b"]
