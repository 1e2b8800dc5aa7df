"""The clock: seconds per call over a number of calls, finished work only.

On a GPU a call returns before its work is done. There each sample is taken twice: synchronised after every call, which
is what one waits for, with the device's own time from events beside it; and synchronised after every `CALLS_PER_SYNC`,
where the host may run ahead as it does in training.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch

SHORTEST_SAMPLE_SECONDS = 10e-3
"""However fine the clock: a sample must outlast what interrupts a process now and then, and asking for one must be less
than a hundredth of it."""

RESOLUTIONS_PER_SAMPLE = 1000
"""One resolution is then at most 0.1 % of a sample."""

CALLS_PER_SYNC = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds per call on the host; on a GPU also by the device's events, and synchronised every few calls."""

    seconds: float
    device_seconds: float | None = None
    every_seconds: float | None = None


@cache
def resolution_seconds() -> float:
    """The smallest step of the clock as it can be read here, the time for reading it included."""
    readings = [time.perf_counter() for _ in range(1000)]
    return min(after - before for before, after in pairwise(readings) if after > before)


def synchronize(device: str) -> None:
    """Wait until the device has finished what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def wake(device: str) -> None:
    """Have this process's part of a GPU set up, which takes a quarter of a second: like imports, it is no engine's."""
    synchronize(device)


def seconds(call: Callable[[], object], calls: int, device: str, *, collector: bool = False) -> float:
    """Seconds per call over `calls` calls, results dropped as they come, one synchronisation at the end."""
    with collector_set(collector):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        return (time.perf_counter() - start) / calls


def sample(call: Callable[[], object], calls: int, device: str, *, collector: bool = False) -> Sample:
    """One sample of `calls` calls."""
    if not device.startswith("cuda"):
        return Sample(seconds(call, calls, device, collector=collector))
    host, on_device = _synchronised(call, calls, device, collector=collector)
    return Sample(host, on_device, _every_few(call, calls, device, collector=collector))


def _every_few(call: Callable[[], object], calls: int, device: str, *, collector: bool) -> float:
    """Seconds per call on the host over `calls` calls or a few more, synchronised after every `CALLS_PER_SYNC`."""
    times = math.ceil(calls / CALLS_PER_SYNC)
    with collector_set(collector):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(times):
            for _ in range(CALLS_PER_SYNC):
                call()
            synchronize(device)
        return (time.perf_counter() - start) / (times * CALLS_PER_SYNC)


def _synchronised(call: Callable[[], object], calls: int, device: str, *, collector: bool) -> tuple[float, float]:
    """Seconds per call on the host and on the device, the device synchronised after every call.

    The device's are from the first event to the second: where it waits for the host's next launch, that counts.
    """
    stream = torch.cuda.current_stream(device)
    marks = [(_event(), _event()) for _ in range(calls)]
    for mark in (mark for pair in marks for mark in pair):
        mark.record(stream)  # torch makes an event when it is first recorded, which is not to be timed
    host = 0.0
    with collector_set(collector):
        synchronize(device)
        for before, after in marks:
            before.record(stream)
            start = time.perf_counter()
            call()
            after.record(stream)
            after.synchronize()
            host += time.perf_counter() - start
    milliseconds = math.fsum(before.elapsed_time(after) for before, after in marks)
    return host / calls, milliseconds / 1e3 / calls


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@contextmanager
def collector_set(on: bool) -> Iterator[None]:
    """Within, Python's cyclic garbage collector runs, or does not."""
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        yield
    finally:
        (gc.enable if before else gc.disable)()


def calls_per_sample(seconds_per_call: float) -> int:
    """How many calls make a sample long enough for the clock."""
    shortest = max(SHORTEST_SAMPLE_SECONDS, RESOLUTIONS_PER_SAMPLE * resolution_seconds())
    return max(1, math.ceil(shortest / max(seconds_per_call, 1e-9)))
