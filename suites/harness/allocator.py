"""What torch's own allocators did during a call, event by event: each block taken and each block given back.

    trace, result = traced(call, "cpu")
    trace.peak_bytes, trace.allocations, thinned(trace.live_bytes)

The events are those that torch's profiler receives from the CPU allocator and from CUDA's caching allocator, so a
kernel's scratch space is among them, and what a library takes from the system by itself is not. Bytes count from the
allocation to the release of the tensor's block. Whether the C library then keeps the freed pages or hands them back to
the system plays no part, as it would in the size of the process.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch.profiler import ProfilerActivity, profile

from suites.harness.clock import collector_set, synchronize

MOST_POINTS = 500
DEVICE_TYPES = {"cpu": 0, "cuda": 1}
"""Devices as torch numbers them in its traces."""

Result = TypeVar("Result")
Point = tuple[int, int]


class Event(NamedTuple):
    """A block at `address` taken (`size` in bytes) or given back (minus its size)."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What a call did with blocks that it took itself.

    `live_bytes[i]` is what it held of them after its i-th event, so the first is 0 and the last is what was still held
    when it returned. `released_bytes` were taken before the call and given back by it: a gradient of the step before.
    """

    live_bytes: tuple[int, ...]
    allocations: int
    allocated_bytes: int
    released_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most that was held at once."""
        return max(self.live_bytes)


def traced(call: Callable[[], Result], device: str) -> tuple[Trace, Result]:
    """Run a call once and follow the blocks on `device`; its result is kept until the trace has ended.

    On the CPU, torch knows the size of a block, and so reports its release, only if it was taken within a trace.
    """
    gc.collect()
    with collector_set(False), tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            result = call()
            synchronize(device)
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return follow(_events(file, device)), result


def _events(file: Path, device: str) -> list[Event]:
    wanted = DEVICE_TYPES[device.partition(":")[0]]
    found = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    found.sort(key=lambda event: event["ts"])
    details = (event["args"] for event in found)
    return [Event(one["Addr"], one["Bytes"]) for one in details if one["Device Type"] == wanted]


def follow(events: Iterable[Event]) -> Trace:
    """Sum up events in their order."""
    held: dict[int, int] = {}
    live_bytes = [0]
    allocations = allocated_bytes = released_bytes = 0
    for event in events:
        if event.size > 0:
            held[event.address] = event.size
            allocations += 1
            allocated_bytes += event.size
            live_bytes.append(live_bytes[-1] + event.size)
        elif event.address in held:
            live_bytes.append(live_bytes[-1] - held.pop(event.address))
        else:
            released_bytes -= event.size
    return Trace(tuple(live_bytes), allocations, allocated_bytes, released_bytes)


def thinned(levels: Sequence[int], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """Levels as (position, level), at most about `most` of them: of each stretch its lowest and its highest."""
    points = list(enumerate(levels))
    if len(points) <= most:
        return tuple(points)
    stretch = -(-len(points) // (most // 2))
    kept = {points[0], points[-1]}
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept |= {min(part, key=_level), max(part, key=_level)}
    return tuple(sorted(kept))


def _level(point: Point) -> int:
    return point[1]
