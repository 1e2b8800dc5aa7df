"""Memory under the numbers: what is freed stays with the process, and lies elsewhere in every round.

glibc hands large freed blocks back to the system, and takes each page anew at the next call. Whether it does so turns
on the order in which an engine happens to free, costs thousands of page faults a step, and says nothing about graphs.
So every worker keeps what it frees, as CUDA's caching allocator and jemalloc do.

Where a block lies decides on cache conflicts, which can pass for a difference between engines (Mytkowicz et al.,
"Producing wrong data without doing anything obviously wrong!", ASPLOS 2009). So the layout is drawn anew in every round
(Curtsinger and Berger, "STABILIZER", ASPLOS 2013), and what it does becomes noise that the intervals show. Pages stay:
taking them anew each round was tried, slowed every engine and made two processes of the same engine less alike.
"""

from __future__ import annotations

import ctypes
import platform
import random

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1
TOP_PAD_BYTES = 32 << 20
LARGEST_PAD_BYTES = 1 << 20

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


class Layout:
    """Draws a new memory layout when told to: other addresses for what is allocated next."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - an address, not a secret
        self._pad: bytearray | None = None

    def draw(self) -> None:
        """Occupy a block of random size until the next draw."""
        self._pad = None
        self._pad = bytearray(self._random.randrange(LARGEST_PAD_BYTES))
