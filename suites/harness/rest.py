"""Leaving the cores to others: a process that is not being timed must not be in the way of one that is.

OpenMP's threads go on spinning for some ten milliseconds after their work, in the hope of more. With one engine timed
right after another, the last one's threads would take a core from the next one, whose own threads would then wait for
each other a time slice at a time.
"""

from __future__ import annotations

import ctypes
import time
from functools import cache

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
