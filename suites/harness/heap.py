"""Memory under the numbers: what is freed stays with the process.

glibc hands large freed blocks back to the system, and takes each page anew at the next call. Whether it does so turns
on the order in which an engine happens to free, costs thousands of page faults a step, and says nothing about graphs.
So every worker keeps what it frees, as CUDA's caching allocator and jemalloc do.

Where blocks lie is left to chance. Two ways of drawing it anew in every round were tried and are not here: giving all
pages back slowed every engine and made two processes of the same one less alike; occupying a block of random size moved
tensors no more than they move by themselves.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1
TOP_PAD_BYTES = 32 << 20

KEPT = "glibc, freed memory kept by the process"
AS_IT_IS = "the system's own, as it is"


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory() -> str:
    """Tell the C library to keep what is freed, for the rest of this process; gives the policy in words."""
    libc = _libc()
    if libc is None:
        return AS_IT_IS
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD_BYTES))
    accepted = [libc.mallopt(*setting) for setting in settings]
    return KEPT if all(accepted) else AS_IT_IS
