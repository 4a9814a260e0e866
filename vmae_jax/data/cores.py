"""How many cores there are to decode on, and how they are used."""

import os

_THREADS_PER_PROCESS = 16  # beyond, Python's lock is expected to hold them up; not measured


def cores() -> int:
    """Cores that this process may use, where the system tells; else those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def decoders(threads: int, workers: int) -> tuple[int, int]:
    """Decoding threads (of each process) and worker processes, where 0 threads = as suits the host.

    Threads of one process were 1.5 times as fast as as many worker processes on two cores, which
    have to hand over what they decoded; large hosts get both.
    """
    if threads:
        return threads, workers
    if not workers and cores() > _THREADS_PER_PROCESS:
        workers = -(-cores() // _THREADS_PER_PROCESS)
    return max(1, cores() // max(1, workers)), workers
