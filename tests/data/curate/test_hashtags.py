"""Rules on hashtags: what each one takes, that the numbers add up, and their files."""

import collections
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_jax.data.curate.hashtags import (
    HashtagRules,
    read_hashtags,
    read_synonyms,
    read_views,
    select,
)
from vmae_jax.data.curate.items import CurationError, Item

ITEMS = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcdef"), max_size=4, unique=True).map(sorted).map(tuple),
        st.none() | st.integers(0, 100),
    ),
    max_size=30,
).map(lambda rows: [Item(f"v{i}", f"v{i}", *row) for i, row in enumerate(rows)])
RULES = st.builds(
    HashtagRules,
    synonyms=st.sampled_from([{}, {"b": "a"}, {"b": "a", "c": "a", "e": "f"}]),
    excluded=st.sampled_from([frozenset(), frozenset("d"), frozenset("ab")]),
    ignored=st.sampled_from([frozenset(), frozenset("a"), frozenset("ef")]),
    min_views=st.integers(0, 150),
    min_videos=st.integers(0, 3),
    max_videos=st.sampled_from([0, 3, 4]),
    choose=st.sampled_from(["hash", "views"]),
    seed=st.integers(0, 3),
)


def item(name, tags, views=None):
    return Item(name, name, tuple(sorted(tags.split())), views)


def kept(selection):
    return {found.id: " ".join(found.hashtags) for found in selection.items}


def removed(selection):
    return {found.id: found.reason for found in selection.removed}


# ---- What always holds ----


@given(ITEMS, RULES)
def test_everything_is_kept_or_removed_once_and_the_rows_add_up(items, rules):
    selection = select(items, rules)
    ids = [found.id for found in (*selection.items, *selection.removed)]
    assert sorted(ids) == sorted(found.id for found in items)
    first, *rows = selection.rows
    assert (first.videos_left, first.rule) == (len(items), "input")
    reasons = collections.Counter(found.reason for found in selection.removed)
    for before, row in zip(selection.rows, rows, strict=False):
        assert row.videos_left == before.videos_left - row.videos_removed
        assert row.hashtags_left == before.hashtags_left - row.hashtags_removed
        assert row.videos_removed == reasons.pop(row.rule, 0)
        assert min(dataclasses.astuple(row)[1:]) >= 0
    assert not reasons
    assert selection.rows[-1].videos_left == len(selection.items)
    assert all(found.detail for found in selection.removed)


@given(ITEMS, RULES)
def test_what_is_left_obeys_the_rules(items, rules):
    selection = select(items, rules)
    counts = collections.Counter(tag for found in selection.items for tag in found.hashtags)
    views = collections.Counter()
    for found in items:
        names = {rules.synonyms.get(tag, tag) for tag in found.hashtags}
        views.update(dict.fromkeys(names, found.views or 0))
    assert not counts.keys() & (rules.synonyms.keys() | rules.excluded | rules.ignored)
    for tag, count in counts.items():
        assert count >= rules.min_videos
        assert not rules.max_videos or count <= rules.max_videos
        assert views[tag] >= rules.min_views
    if rules.min_views or rules.min_videos or rules.max_videos:
        assert all(found.hashtags for found in selection.items)


@given(ITEMS, RULES, st.randoms())
def test_the_order_of_the_videos_does_not_matter(items, rules, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    one, other = select(items, rules), select(shuffled, rules)
    assert kept(one) == kept(other)
    assert set(one.removed) == set(other.removed)
    assert (one.rows, one.removed_hashtags) == (other.rows, other.removed_hashtags)
    assert [i.id for i in one.items] == [i.id for i in items if i.id in kept(one)]


@given(ITEMS)
def test_without_rules_all_stay(items):
    assert select(items, HashtagRules()).items == tuple(items)


# ---- One by one ----


def test_views_of_a_hashtag_are_the_sum_over_its_videos():
    items = [
        item("1", "a b", 3),
        item("2", "a", 2),
        item("3", "b", 1),
        item("4", "b"),
        item("5", ""),
    ]
    selection = select(items, HashtagRules(min_views=5))
    assert kept(selection) == {"1": "a", "2": "a"}
    assert removed(selection) == {"3": "too few views", "4": "too few views", "5": "no hashtag"}
    assert selection.removed[1].detail == "#b: 4; at least 5"
    assert [(r.id, r.detail) for r in selection.removed_hashtags] == [("b", "4 views, at least 5")]


def test_views_may_be_given():
    items = [item("1", "a", 9), item("2", "b"), item("3", "c"), item("4", "x")]
    rules = HashtagRules(min_views=5, views={"a": 4, "b": 5, "y": 9}, synonyms={"y": "x"})
    assert kept(select(items, rules)) == {"2": "b", "4": "x"}
    # Synonyms may share their videos: 4 and 3 views are 4 at least.
    rules = HashtagRules(min_views=5, views={"a": 4, "b": 3}, synonyms={"b": "a"})
    assert not select(items, rules).items


def test_synonyms_count_a_video_once():
    items = [item("1", "cat cats", 3), item("2", "kitty", 1)]
    rules = HashtagRules(synonyms={"cats": "cat", "kitty": "cat"}, min_views=5)
    assert not select(items, rules).items
    selection = select(items, dataclasses.replace(rules, min_views=4))
    assert kept(selection) == {"1": "cat", "2": "cat"}
    assert selection.rows[1] == type(selection.rows[1])("merged synonyms", 2, 0, 1, 2)


def test_excluded_hashtags_take_the_video_and_ignored_ones_do_not():
    items = [item("1", "ad dance"), item("2", "dance fyp"), item("3", "fyp"), item("4", "advert")]
    rules = HashtagRules(
        excluded=frozenset({"ad"}), ignored=frozenset({"fyp"}), synonyms={"advert": "ad"}
    )
    assert kept(select(items, rules)) == {"2": "dance", "3": ""}
    # A name that is merged is excluded as it was written, the others of its group are not.
    rules = HashtagRules(excluded=frozenset({"advert"}), synonyms={"advert": "ad"})
    assert kept(select(items, rules)) == {"1": "ad dance", "2": "dance fyp", "3": "fyp"}


def test_each_hashtag_picks_and_a_video_stays_under_those_that_picked_it():
    items = [item(str(i), "all" if i < 8 else "all rare", views=i) for i in range(10)]
    selection = select(items, HashtagRules(max_videos=3, choose="views"))
    assert kept(selection) == {"9": "all rare", "8": "all rare", "7": "all"}
    assert removed(selection)["0"] == "too many videos"
    by_hash = [set(kept(select(items, HashtagRules(max_videos=3, seed=s)))) for s in range(5)]
    assert by_hash[0] == set(kept(select(items, HashtagRules(max_videos=3))))
    assert len(set(map(frozenset, by_hash))) > 1


def test_the_table_names_every_rule():
    rules = HashtagRules(min_videos=2, ignored=frozenset("b"))
    table = select([item("1", "a"), item("2", "a b")], rules).table()
    assert [line[:20].strip() for line in table.splitlines()] == [
        "rule", "input", "ignored hashtags", "no hashtag", "too few videos"]  # fmt: skip
    assert table.splitlines()[2].split()[-4:] == ["1", "0", "1", "2"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_views": -1}, "min_views=-1: expected 0"),
        ({"min_videos": 3, "max_videos": 2}, "max_videos=2 is below min_videos=3"),
        ({"choose": "random"}, "choose='random': expected one of hash, views"),
    ],
)
def test_impossible_rules(values, message):
    with pytest.raises(CurationError, match=message):
        HashtagRules(**values)


# ---- Files ----


def write(tmp_path, content):
    path = tmp_path / "list.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_files_are_read(tmp_path):
    assert read_hashtags(write(tmp_path, "\ufeff#Ad\r\npromo, FYP\n\n#a#b\n")) == {
        "ad", "promo", "fyp", "a", "b"}  # fmt: skip
    assert read_hashtags(write(tmp_path, "a;b|c\u2028d\n".encode("utf-16"))) == set("abcd")
    assert read_views(write(tmp_path, "Hashtag;Views\ncat;12\n")) == {"cat": 12}
    assert read_synonyms(write(tmp_path, "#Cat,cats,#Kitty\n\ndog,doggo,dog\n")) == {
        "cats": "cat", "kitty": "cat", "doggo": "dog"}  # fmt: skip
    assert read_views(write(tmp_path, "\ufeffHashtag,Views\n#Cat,12\ndog,0\n")) == {
        "cat": 12, "dog": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_views, "cat,12\n", "line 1: found 'cat,12', expected the columns"),
        (read_views, "", "line 1: found '', expected the columns"),
        (read_views, "hashtag,views\ncat,many\n", "line 2: found 'cat,many'"),
        (read_views, "hashtag,views\ncat,-1\n", "line 2"),
        (read_views, "hashtag,views\ncat\n", "line 2"),
        (read_views, "hashtag,views\ncat dog,1\n", "line 2"),
        (read_views, "hashtag,views\ncat,1\n#CAT,2\n", "line 3: #cat is there twice"),
        (read_synonyms, "cat,cats\ndog,cat\n", "line 2: #cat is in the group of #cat too"),
        (read_synonyms, "cat,cats\ncats,x\n", "line 2: #cats is in the group of #cat too"),
        (read_hashtags, b"a\n\xff\xfa", "line 2: not UTF-8 text"),
        (read_hashtags, "x" * (1 << 18), "not a readable CSV"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, read, content, message):
    with pytest.raises(CurationError, match=message) as error:
        read(write(tmp_path, content))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(CurationError, match="No such file"):
        read_hashtags(str(tmp_path / "none"))
