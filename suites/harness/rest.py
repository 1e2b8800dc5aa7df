"""Leaving the cores to others: a process that is not being timed must not be in the way of one that is.

OpenMP's threads go on spinning for some ten milliseconds after their work, in the hope of more. With one engine timed
right after another, the last one's threads would take a core from the next one, whose own threads would then wait for
each other a time slice at a time.

Threads that start again may do that to each other: Linux puts a new one where it likes, often beside the one that made
it, and the two take turns for many slices of 4 ms before one is moved. So they are put onto cores of their own as soon
as they have started, and are free to move from then on.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from functools import cache
from itertools import cycle
from pathlib import Path

from threadpoolctl import threadpool_info

OMP_PAUSE_SOFT = 1
LONGEST_SPIN_SECONDS = 0.02


@cache
def _openmp() -> tuple[ctypes.CDLL, ...]:
    """OpenMP runtimes in this process that can be told to pause (OpenMP 5.0 and later)."""
    loaded = [ctypes.CDLL(row["filepath"]) for row in threadpool_info() if row["user_api"] == "openmp"]
    return tuple(library for library in loaded if hasattr(library, "omp_pause_resource_all"))


def rest() -> None:
    """End the threads that would spin; the next parallel region starts them again. Not to be called within one."""
    libraries = _openmp()
    for library in libraries:
        library.omp_pause_resource_all(OMP_PAUSE_SOFT)
    if not libraries:
        time.sleep(LONGEST_SPIN_SECONDS)


def threads() -> frozenset[int]:
    """The numbers of this process's threads; none where the system does not tell."""
    try:
        return frozenset(int(task.name) for task in Path("/proc/self/task").iterdir())
    except OSError:
        return frozenset()


def set_apart(before: frozenset[int]) -> None:
    """Put this thread and those that have started since `threads()` gave `before` onto cores of their own.

    They are moved at once, and may then run wherever they might before.
    """
    new = sorted(threads() - before)
    if not new:
        return
    cores = sorted(os.sched_getaffinity(0))
    places = {threading.get_native_id(): cores[0], **dict(zip(new, cycle(cores[1:] or cores), strict=False))}
    for thread, core in places.items():
        _move(thread, core)


def _move(thread: int, core: int) -> None:
    try:
        allowed = os.sched_getaffinity(thread)
        os.sched_setaffinity(thread, {core})
        os.sched_setaffinity(thread, allowed)
    except OSError:  # it has ended, or the system allows nobody to move it
        return
