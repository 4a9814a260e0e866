"""Sides that take turns: each in a process of its own, so that all meet the same machine."""

import concurrent.futures
import dataclasses
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Turn(NamedTuple):
    """What one turn runs, and what there is to say of it."""

    run: Callable[[], int]  # returns the number of clips that it processed
    at_peak: float = 0.0  # seconds a clip would take at the devices' peak; 0 = not known
    note: Callable[[], str] = str  # asked when it has run once


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison: `make(*args)` prepares it."""

    name: str
    make: Callable[..., Turn]
    args: tuple


class SideError(RuntimeError):
    """A side that cannot run; the message is one line."""


def _serve(connection: Connection, side: Side) -> None:
    """A side's process: prepare, warm up, then one timed turn per request."""
    turn = side.make(*side.args)
    turn.run()
    connection.send((turn.at_peak, turn.note()))
    while connection.recv():
        turn.run()  # what was paged out or went to sleep during the other side's turn comes back
        began = time.perf_counter()
        clips = turn.run()
        connection.send(clips / (time.perf_counter() - began))


def alone(function: Callable[..., T], *args: Any) -> T:
    """What a function returns in a process of its own, which it may change as it likes."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


def take_turns(sides: Sequence[Side], rounds: int) -> dict[str, Any]:
    """Measures all sides, `rounds` times each, and compares the first to every other.

    Returns:
      By side: `clips_per_second` (median), `rates` of all rounds, `mfu` where the peak is known,
      `note` where there is one, and for all but the first `ratio`: {median, range, resolved}, of
      the first side's rate to this one's within each round; it is resolved where the range does
      not cross 1.

    Raises:
      SideError: where one cannot be prepared, or ends.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[multiprocessing.Process] = []
    connections: list[Connection] = []
    known: list[tuple[float, str]] = []
    rates: list[list[float]] = [[] for _ in sides]
    try:
        for side in sides:
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(theirs, side)))
            processes[-1].start()
            theirs.close()
            connections.append(ours)
            began = time.perf_counter()
            known.append(_answer(side, ours))
            print(f"{side.name}: ready after {time.perf_counter() - began:.0f} s", file=sys.stderr)
        for _ in range(rounds):
            for side, connection, found in zip(sides, connections, rates, strict=True):
                connection.send(True)
                found.append(_answer(side, connection))
        for connection in connections:
            connection.send(False)
    except BaseException:  # those that wait for their turn would do so for ever
        for process in processes:
            process.terminate()
        raise
    peaks, notes = zip(*known, strict=True)
    result = compare({s.name: r for s, r in zip(sides, rates, strict=True)}, peaks)
    for side, note in zip(sides, notes, strict=True):
        if note:
            result[side.name]["note"] = note
    return result


def _answer(side: Side, connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise SideError(f"{side.name}: its process ended; see above") from None


def compare(rates: dict[str, list[float]], peaks: Sequence[float]) -> dict[str, Any]:
    """See `take_turns`."""
    ours = next(iter(rates.values()))
    result: dict[str, Any] = {}
    for (name, found), at_peak in zip(rates.items(), peaks, strict=True):
        entry = result[name] = {"clips_per_second": statistics.median(found), "rates": found}
        if at_peak:
            entry["mfu"] = entry["clips_per_second"] * at_peak
        if found is not ours:
            ratios = [a / b for a, b in zip(ours, found, strict=True)]
            low, high = min(ratios), max(ratios)
            entry["ratio"] = {
                "median": statistics.median(ratios),
                "range": [low, high],
                "resolved": not low <= 1 <= high,
            }
    return result


def table(title: str, result: dict[str, Any]) -> Iterator[str]:
    """Lines for a terminal."""
    yield title
    for name, entry in result.items():
        line = f"  {name:<54} {entry['clips_per_second']:9.2f} clips/s"
        if "mfu" in entry:
            line += f"  MFU {entry['mfu']:.0%}"
        if ratio := entry.get("ratio"):
            low, high = ratio["range"]
            line += f"  ratio {ratio['median']:.2f} ({low:.2f} to {high:.2f}"
            line += ")" if ratio["resolved"] else ", crosses 1: not resolved)"
        yield line
        yield from noted(entry)


def noted(entry: dict[str, Any]) -> Iterator[str]:
    """The line below a side that has something to say."""
    if "note" in entry:
        yield f"    {entry['note']}"
