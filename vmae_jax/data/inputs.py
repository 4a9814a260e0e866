"""Video files named on a command line, and their reading ahead in threads."""

import collections
import concurrent.futures
import glob
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

# What FFmpeg reads and people give to videos. Beside those lie subtitles, pictures, notes.
SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".av1", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264",
    ".hevc", ".ivf", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4",
    ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb",
    ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip


def find(names: Iterable[str], leave_out: str = "") -> list[str]:
    """Paths of files, each once: a file as it is, a folder's videos, a pattern's matches.

    Of folders come the files that `walk` finds and whose suffix is that of a video; how many others
    there are is logged. `**` of a pattern stands for any folders. What names nothing is kept, so
    that reading it says so.

    Args:
      leave_out: a folder that is not searched where it lies in another.

    Raises:
      OSError: where a folder cannot be read.
    """
    found: dict[str, None] = {}
    for name in names:
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        videos = [_videos(m, leave_out) if os.path.isdir(m) else [m] for m in matches]
        found |= dict.fromkeys(itertools.chain(*videos))
        found |= {} if any(videos) else {name: None}
    return list(found)


def _videos(folder: str, leave_out: str) -> list[str]:
    files = walk(folder, leave_out)
    videos = [path for path in files if path.lower().endswith(SUFFIXES)]
    others = sorted(set(files) - set(videos))
    if others:
        log.warning(
            "%s: %d files are no videos by their names and left out, such as %s; name them to try",
            folder, len(others), others[0],
        )  # fmt: skip
    return videos


def walk(folder: str, leave_out: str = "") -> list[str]:
    """The files of a folder and its subfolders in sorted order, hidden ones left out.

    Links to folders are followed, each real folder once: under its own name where that lies in the
    folder, else under the first link's. Links that this leaves out are logged.

    Raises:
      OSError: where a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    paths: list[str] = []
    links, again = [folder], []
    seen = {os.path.realpath(leave_out)} if leave_out else set()
    for link in links:  # grows
        for parent, subfolders, files in os.walk(link, onerror=fail):
            real = os.path.realpath(parent)
            if real in seen and parent != folder:
                subfolders.clear()
                again += [link] * (parent == link)
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            inner = (os.path.join(parent, name) for name in subfolders)
            links += [path for path in inner if os.path.islink(path)]
            paths += [os.path.join(parent, name) for name in sorted(files) if name[0] != "."]
    if again:
        log.warning(
            "%s: %d links to folders are left out, as these are searched already, such as %s",
            folder, len(again), again[0],
        )  # fmt: skip
    if len(links) > 1:
        paths.sort(key=_folders_last)
    return paths


def _folders_last(path: str) -> list[tuple[bool, str]]:
    """Sorts as one walk does: a folder's files, then its subfolders."""
    *folders, name = path.split(os.sep)
    return [*((True, folder) for folder in folders), (False, name)]


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
