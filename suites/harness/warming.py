"""Warming up until the level is stable, shown and not guessed.

A program is warm when the median of its last few samples is as good as that of the few before: caches, clocks, lazily
compiled kernels and allocators have settled. What was seen on the way is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 4
"""Samples whose median is a level."""

STABLE_WITHIN = 0.03
"""Relative change from one level to the next that counts as none."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Seconds per call of each sample on the way, and whether the level was stable in the end."""

    seconds: tuple[float, ...]
    stable: bool


def warm_up(sample: Callable[[], float], budget_seconds: float) -> WarmUp:
    """Take samples until two levels agree or the budget is spent; at least one sample is taken."""
    end = time.monotonic() + budget_seconds
    found = [sample()]
    while not (stable := is_stable(found)) and time.monotonic() < end:
        found.append(sample())
    return WarmUp(tuple(found), stable)


def is_stable(samples: Sequence[float]) -> bool:
    """Whether the last `WINDOW` samples are at the level of those before."""
    if len(samples) < 2 * WINDOW:
        return False
    before, now = median(samples[-2 * WINDOW : -WINDOW]), median(samples[-WINDOW:])
    return abs(now - before) <= STABLE_WITHIN * before
