"""The clock: seconds of a number of calls, finished work only.

On a GPU a call returns before its work is done, so the device is synchronised before the clock is read.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

SHORTEST_SAMPLE_SECONDS = 1e-3
"""perf_counter resolves some 50 ns here and costs as much; a sample this long drowns both."""


def synchronize(device: str) -> None:
    """Wait until the device has finished what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], calls: int, device: str) -> float:
    """Seconds per call over `calls` calls, garbage collector off, results dropped as they come."""
    with collector_off():
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        return (time.perf_counter() - start) / calls


@contextmanager
def collector_off() -> Iterator[None]:
    """Within, Python's cyclic garbage collector does not run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def calls_per_sample(seconds_per_call: float) -> int:
    """How many calls make a sample long enough for the clock."""
    return max(1, round(SHORTEST_SAMPLE_SECONDS / max(seconds_per_call, 1e-9)))
