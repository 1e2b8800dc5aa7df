"""The registers in which a processor holds vectors of float32: how many floats in one, and how many of them.

    registers()     # Registers(lanes=8, number=16) where there is AVX2

Loops that the compiler vectorises fit any processor. What is blocked by hand, so that sums stay in registers, asks
here: with vectors twice as wide as the processor's, or more sums than it has registers, most of the time would
go to memory.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import NamedTuple

import torch


class Registers(NamedTuple):
    """`lanes` floats in each of `number` registers."""

    lanes: int
    number: int

    def lanes_for(self, columns: int) -> int:
        """Floats of the widest vector that rows of so many columns, 4 or more, fill."""
        return next(lanes for lanes in (self.lanes, 8, 4) if lanes <= min(self.lanes, columns))


KNOWN = {"AVX512": Registers(16, 32), "AVX2": Registers(8, 16)}
"""By what torch says that a processor can do."""

ARM, OTHERS = Registers(4, 32), Registers(4, 16)
"""Of a 64-bit ARM processor (NEON), and of any other, such as one of x86 with no more than SSE."""


@cache
def registers() -> Registers:
    """Those of this processor."""
    other = ARM if platform.machine().lower() in {"aarch64", "arm64"} else OTHERS
    return KNOWN.get(torch.backends.cpu.get_cpu_capability(), other)
