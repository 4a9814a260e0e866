"""Nested subsets: each in the next, with the shares of its hashtags, whatever the order."""

import collections
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_jax.data.curate.items import CurationError
from vmae_jax.data.curate.subsets import nested, parse_sizes, strata

TAGS = st.lists(st.sampled_from("abcdefgh"), max_size=3, unique=True)
SETS = st.dictionaries(st.text(max_size=5), TAGS, min_size=1, max_size=60)


@given(SETS, st.integers(0, 5))
def test_every_beginning_has_its_shares(hashtags, seed):
    sizes = range(1, len(hashtags) + 1)
    stratum, total = strata(hashtags), collections.Counter(strata(hashtags).values())
    subsets = nested(hashtags, sizes, seed)
    for size in sizes:
        ids = subsets[size]
        assert len(ids) == len(set(ids)) == size
        assert ids[: size - 1] == subsets.get(size - 1, ())
        found = collections.Counter(stratum[i] for i in ids)
        for name, count in total.items():
            share = size * count / len(hashtags)
            assert abs(found[name] - share) < 1, (name, size)
    assert set(subsets[len(hashtags)]) == set(hashtags)


def test_the_order_of_the_input_does_not_matter_and_the_seed_does():
    tags = {f"clip{i}": [f"tag{i % 7}"] for i in range(500)}
    shuffled = list(tags)
    random.Random(0).shuffle(shuffled)
    subsets = nested(tags, (50, 200), 3)
    assert subsets == nested({name: tags[name] for name in shuffled}, (200, 50), 3)
    assert list(subsets) == [50, 200]
    assert set(subsets[50]) != set(nested(tags, (50,), 4)[50])


def test_a_clip_counts_for_its_rarest_hashtag():
    tags = {"1": ["fyp", "chess"], "2": ["fyp"], "3": ["fyp", "go"], "4": [], "5": ["b", "a"]}
    assert strata(tags) == {"1": "chess", "2": "fyp", "3": "go", "4": "", "5": "a"}


@pytest.mark.parametrize("sizes", [(0,), (1, 4), (-1,)])
def test_a_size_that_is_not_there_is_named(sizes):
    with pytest.raises(CurationError, match=r"--subset: -?\d clips: there are 3"):
        nested(dict.fromkeys("abc", ()), sizes)


def test_sizes_are_read():
    assert parse_sizes("25000, 6000") == (6000, 25000)
    assert parse_sizes("") == ()
    for text in ("0", "6000,6000", "6e3", "-5", "a", "5,,x", "9" * 5000, "٣"):
        with pytest.raises(CurationError, match="--subset="):
            parse_sizes(text)
