"""The same classes on two sides, of a head and of data, which may number them in other orders."""

from collections.abc import Sequence
from typing import NamedTuple

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
    places = tuple(range(len(names)))
    if tuple(names) == tuple(known):
        return Match(places, "")
    numbers = {name: i for i, name in enumerate(known)}
    others = [i for i, name in enumerate(names) if name not in numbers]
    if not others:
        order = "in another order" if len(names) == len(known) else f"of {len(known)}"
        return Match(
            tuple(numbers[n] for n in names), f"{len(names)} classes {order}, by their names"
        )
    in_order = all(numbers.get(name, i) == i for i, name in enumerate(names))
    few = renamed and len(names) == len(known) and len(others) * _RENAMED <= len(names)
    if not few or not in_order:
        return None
    first = others[0]
    return Match(
        places,
        f"{len(others)} of {len(names)} classes have another name ({names[first]!r} is "
        f"{known[first]!r}): they are told by their places, as all others are at the same",
    )


def conflict(names: Sequence[str], held: Sequence[str]) -> str:
    """What is wrong with names for a head that holds some, in words; '' where nothing is.

    They may be others, as in another language, but none may stand at two places.
    """
    numbers = {name: i for i, name in enumerate(held)}
    for i, name in enumerate(names):
        if numbers.get(name, i) != i:
            return (
                "is in another order than the names that the checkpoint holds: class "
                f"{i} is {name!r}, which is its class {numbers[name]}; leave it away to take those"
            )
    return ""


def shown(names: Sequence[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
