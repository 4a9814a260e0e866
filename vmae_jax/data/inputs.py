"""Video files named on a command line, and their reading ahead in threads."""

import collections
import concurrent.futures
import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def find(names: Iterable[str]) -> list[str]:
    """Paths of files, each once: a file as it is, a folder's files, a pattern's matches.

    Folders are searched with their subfolders, hidden files left out, in sorted order; `**` of a
    pattern stands for any folders. What names nothing is kept, so that reading it says so.
    """
    found: dict[str, None] = {}
    for name in names:
        if os.path.isdir(name):
            paths = _below(name)
        elif os.path.exists(name):
            paths = [name]
        else:
            matches = sorted(glob.glob(name, recursive=True))
            paths = [p for m in matches for p in (_below(m) if os.path.isdir(m) else [m])]
        found |= dict.fromkeys(paths or [name])
    return list(found)


def _below(folder: str) -> list[str]:
    paths = []
    for parent, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths += [os.path.join(parent, name) for name in sorted(files) if name[0] != "."]
    return paths


def interleave(jobs: Sequence[Iterator[T]], threads: int) -> Iterator[T]:
    """The items of several iterators, the first `threads` of which take turns.

    Each is one item ahead in a thread; one that ends makes room for the next. The order depends on
    nothing but the jobs and `threads`.
    """
    end = object()
    waiting = iter(jobs)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:

        def step(job: Iterator[T]) -> tuple[Iterator[T], concurrent.futures.Future]:
            return job, pool.submit(next, job, end)

        turns = collections.deque(map(step, itertools.islice(waiting, threads)))
        while turns:
            job, item = turns.popleft()
            found = item.result()
            if found is end:
                turns.extend(map(step, itertools.islice(waiting, 1)))
                continue
            turns.append(step(job))
            yield found
