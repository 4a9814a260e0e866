"""The same classes on two sides, of a head and of data, which may number them in other orders.

Two names are the same as they are to the builder: `lists.composed`.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from vmae_jax import lists

_RENAMED = 10  # one name in so many may be another where all others stand at the same places


class Match(NamedTuple):
    """For each class its number on the other side, and in a line what was done to find it."""

    numbers: tuple[int, ...]
    said: str  # '' where both sides are the same


def match(names: Sequence[str], known: Sequence[str], *, renamed: bool = False) -> Match | None:
    """Finds classes by their names; None where that does not tell.

    Args:
      renamed: a few may be named otherwise if the rest shows that both sides have the same order:
        some labels of Kinetics-400 have another name in VideoMAE V2's lists.
    """
    keys, numbers = _composed(names), _numbers(known)
    places = tuple(range(len(names)))
    if keys == _composed(known):
        return Match(places, "")
    others = [i for i, key in enumerate(keys) if key not in numbers]
    if not others:
        order = "in another order" if len(names) == len(known) else f"of {len(known)}"
        return Match(
            tuple(numbers[key] for key in keys), f"{len(names)} classes {order}, by their names"
        )
    in_order = all(numbers.get(key, i) == i for i, key in enumerate(keys))
    few = renamed and len(names) == len(known) and len(others) * _RENAMED <= len(names)
    if not few or not in_order:
        return None
    pairs = lists.shown([f"{names[i]!r} is {known[i]!r}" for i in others])
    return Match(
        places,
        f"{len(others)} of {len(names)} classes have another name ({pairs}): they are told by "
        "their places, as all others are at the same",
    )


def unknown(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those that are not known, and those that two classes have there, marked so."""
    numbers, there = _numbers(known), set(_composed(known))
    return [
        f"{name} (there twice)" if key in there else name
        for name, key in zip(names, _composed(names), strict=True)
        if key not in numbers
    ]


def conflict(names: Sequence[str], held: Sequence[str]) -> str:
    """What is wrong with names for a head that holds some, in words; '' where nothing is.

    They may be others, as in another language, but none may stand at two places.
    """
    numbers = _numbers(held)
    for i, (name, key) in enumerate(zip(names, _composed(names), strict=True)):
        if numbers.get(key, i) != i:
            return (
                "is in another order than the names that the checkpoint holds: class "
                f"{i} is {name!r}, which is its class {numbers[key]}; leave it away to take those"
            )
    return ""


def _composed(names: Sequence[str]) -> list[str]:
    return [lists.composed(name) for name in names]


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """The number of each name; one that two classes have tells neither."""
    keys = _composed(names)
    times = collections.Counter(keys)
    return {key: i for i, key in enumerate(keys) if times[key] == 1}
