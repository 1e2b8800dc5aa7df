"""Memory of one call, in a process of its own, never while timing.

    found = memory_of(load_engine("tape"), cell)          # in a process that has just started

**What counts.** A byte counts from the moment it is asked of an allocator to the moment it is given back to it. On the
CPU that is the allocator of the process and Python's own, watched by memray, so the kernels' scratch space and the
record's Python objects are included. glibc may keep freed pages, or hand them back to the system late: the size of the
process would show that, these figures do not. On a GPU it is CUDA's caching allocator; what that one has reserved
beyond what is in use stands apart. Python's cyclic garbage collector is off, as it is while timing.

**Over what.** Figures of one call count what the call itself takes. What was there before (parameters, batch,
optimiser state, for a graph the executable) is `live_bytes_before`; of that, a call may give something back, such as
the gradients of the step before: `released_bytes`. So the process needs at most
`live_bytes_before - released_bytes + peak_bytes`, and just that where the release comes first. An arena that a program
keeps from call to call, so as not to take it anew, counts as taken by the call; so does what a CUDA graph works in (of
`torch.compile`, which keeps no account of that, the whole segments that torch's allocator holds for its graphs).
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import torch

from engines.engine import DynamicProgram, Engine, Placed, Program, Task
from engines.ops.random import step_key
from suites.harness.allocator import Point, Trace, thinned, traced
from suites.harness.cell import Cell
from suites.harness.clock import collector_set, seconds, synchronize
from suites.harness.liveness import Recorder

WARM_UP_CALLS = 3
CALLS = 3
DRIVER_S_OWN = (
    "with each capture CUDA's driver takes a block of 32 to 128 MiB of its own, which hides what the graph takes"
)
SHARED_POOL = (0, 0)
"""Where torch's CUDA allocator takes memory from that belongs to no captured graph."""

AGREEING = 0.01
"""Peaks of several calls that lie this close, relative to the median, are said to agree."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one call, in bytes; the module says what counts. A field is None where `notes`, by its name, says why.

    - `peak_bytes`: the most that the call held at once, the median of `peak_bytes_by_call`.
    - `reserved_bytes`: the most that CUDA's caching allocator had reserved, all it held before included.
    - `curve`: tensor bytes that the call held, as (events of torch's allocator so far, bytes); thinned to about 500
      points, none of its maxima lost. Scratch that a graph's generated C takes by itself is in the peak, not here.
      `backward_from` is where on it the backward pass begins, to within a few events.
    - `allocations`, `allocated_bytes`: how many blocks one call took from torch's allocator, and their sum.
    - `record_bytes`: what the graph itself takes, the elements of tensors not counted: for a dynamic engine what
      recording one forward pass leaves alive (Python objects, torch's descriptors of tensors, autograd's nodes), for a
      static one what a program made ready holds (nodes, source, code). `record_entries` is how many there are.
    - `lower_bound_bytes`: the least possible for the order of kernel calls chosen (see `suites.harness.liveness`); of a
      graph as it was compiled, since torch does not see what generated C reads.
    - `seconds`: plain calls, nothing watched.
    """

    peak_bytes: int
    peak_bytes_by_call: tuple[int, ...]
    live_bytes_before: int
    released_bytes: int
    method: str
    reserved_bytes: int | None
    curve: tuple[Point, ...] | None
    backward_from: int | None
    allocations: int | None
    allocated_bytes: int | None
    record_bytes: int | None
    record_entries: int | None
    lower_bound_bytes: int | None
    notes: Mapping[str, str]
    seconds: tuple[float, ...]


class Heap(NamedTuple):
    """What memray saw of a call: the most it held at once, and what was left when it had returned. Bytes."""

    peak_bytes: int
    held_bytes: int


class _Peaks(NamedTuple):
    """High-water marks of several calls."""

    by_call: tuple[int, ...]
    method: str
    reserved_bytes: int | None


class _Arena(NamedTuple):
    """Memory that a program keeps from call to call to work in, and how much of it counts as in use between them.

    It may be that of CUDA graphs, and known from torch's allocator alone, whose trace does not follow it.
    """

    bytes: int
    kept_bytes: int
    is_captured: bool
    is_torch_s: bool = False


def memory_of(engine: Engine, cell: Cell, rounds: int = CALLS) -> Memory:
    """Measure here and now, so call it in a process that has done nothing else. Raises EngineError."""
    with _imports_settled():
        return _memory_of(engine, cell, rounds)


@contextmanager
def _imports_settled() -> Iterator[None]:
    """Within, collections, of which there are many, pass over what was there before: modules and their like."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _memory_of(engine: Engine, cell: Cell, rounds: int) -> Memory:
    task, device = cell.task(), cell.device
    made_ready, (program, placed) = traced(lambda: _ready(engine, task), device)

    def call() -> object:
        return program.run(placed)

    samples = tuple(seconds(call, 1, device) for _ in range(rounds))
    traces = [traced(call, device)[0] for _ in range(2)]
    peaks = _cuda_peaks(call, traces[-1]) if device.startswith("cuda") else _host_peaks(call)
    arena = _arena(program.counters, device)
    live_bytes = torch.cuda.memory_allocated(device) if arena.is_torch_s else made_ready.live_bytes[-1]
    found = Memory(
        peak_bytes=arena.bytes + median_low(peaks.by_call),
        peak_bytes_by_call=tuple(arena.bytes + peak for peak in peaks.by_call),
        live_bytes_before=live_bytes - arena.kept_bytes,
        released_bytes=traces[-1].released_bytes,
        method=peaks.method,
        reserved_bytes=peaks.reserved_bytes,
        curve=thinned([arena.bytes + level for level in traces[-1].live_bytes]),
        backward_from=None,
        allocations=traces[-1].allocations,
        allocated_bytes=traces[-1].allocated_bytes,
        record_bytes=None,
        record_entries=None,
        lower_bound_bytes=program.counters.get("bound_bytes") or _lower_bound_bytes(call, device),
        notes={},
        seconds=samples,
    )
    return _explained(_with_record(found, engine, task, program, placed, captured=arena.is_captured), traces)


def _arena(counters: Mapping[str, int], device: str) -> _Arena:
    """A program's arena by its own account, or, on a GPU, what torch's allocator holds apart for captured graphs."""
    if "arena_bytes" in counters or not device.startswith("cuda"):
        whole = counters.get("arena_bytes", 0)
        return _Arena(whole, counters.get("arena_kept_bytes", whole), bool(counters.get("cuda_graphs")))
    segments: list[dict[str, Any]] = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    own = [segment for segment in segments if tuple(segment["segment_pool_id"]) != SHARED_POOL]
    whole, kept = (sum(segment[size] for segment in own) for size in ("total_size", "allocated_size"))
    return _Arena(whole, kept, is_captured=bool(own), is_torch_s=bool(own))


def _ready(engine: Engine, task: Task) -> tuple[Program, Placed]:
    """A program that has run until it holds between calls what it will always hold, and its batch."""
    program = engine.prepare(task)
    placed = program.place(task.batch, step_key(0, 0))
    for _ in range(WARM_UP_CALLS):
        program.run(placed)
    return program, placed


def heap_of(call: Callable[[], object]) -> Heap:
    """Run a call once under memray, which sees every allocation of the process.

    Collections before and after empty Python's free lists: an object taken from one would be missed, and one left on it
    be taken for held. Pages that an allocator maps are not held as such, but what it then gives out of them: else
    Python's objects would count twice, and CUDA's driver, which maps by the 64 MiB, would hide all else.
    """
    import memray  # noqa: PLC0415 - Unix only, and only this function needs it

    gc.collect()
    with collector_set(False), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "heap.bin"
        with memray.Tracker(file, trace_python_allocators=True):
            result = call()
            gc.collect()
        with memray.FileReader(file) as reader:
            left = reader.get_leaked_allocation_records(merge_threads=True)
            held = sum(record.size for record in left if record.allocator != memray.AllocatorType.MMAP)
            peak = int(reader.metadata.peak_memory)
        del result
    return Heap(peak, held)


def _host_peaks(call: Callable[[], object]) -> _Peaks:
    heap_of(call)  # under memray, too, the first call fills caches
    by_call = tuple(heap_of(call).peak_bytes for _ in range(CALLS))
    return _Peaks(by_call, "memray, Python's objects included, fresh process", None)


def _cuda_peaks(call: Callable[[], object], trace: Trace) -> _Peaks:
    by_call, reserved = [], 0
    for _ in range(CALLS):
        gc.collect()
        synchronize("cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - trace.released_bytes
        with collector_set(False):
            call()
        synchronize("cuda")
        by_call.append(torch.cuda.max_memory_allocated() - before)
        reserved = max(reserved, torch.cuda.max_memory_reserved())
    return _Peaks(tuple(by_call), "CUDA caching allocator, fresh process", reserved)


def _lower_bound_bytes(call: Callable[[], object], device: str) -> int | None:
    recorder = Recorder(device)
    with collector_set(False), recorder:
        result = call()
    bound = recorder.lower_bound_bytes()
    del result
    return bound


def _with_record(
    memory: Memory, engine: Engine, task: Task, program: Program, placed: Placed, *, captured: bool
) -> Memory:
    """The same, with what the graph itself takes."""
    if not isinstance(program, DynamicProgram):
        notes = {"backward_from": "forward and backward are one program"}
        if captured:
            notes["record_bytes"] = DRIVER_S_OWN
        return replace(
            memory,
            record_bytes=None if captured else _descriptor_bytes(lambda: engine.prepare(task)),
            record_entries=program.counters.get("nodes"),
            notes=notes,
        )
    if task.quantity == "forward":
        reason = "a forward pass keeps no record"
        return replace(memory, notes=dict.fromkeys(("backward_from", "record_bytes", "record_entries"), reason))
    recording = program
    forward, _ = traced(lambda: recording.record(placed), task.device)
    return replace(
        memory,
        backward_from=len(forward.live_bytes) - 1,
        record_bytes=_descriptor_bytes(lambda: recording.record(placed)),
        record_entries=program.counters.get("entries"),
    )


def _descriptor_bytes(make: Callable[[], object]) -> int:
    """Bytes of the host's memory that the result of `make` holds, the elements of its tensors not counted."""
    elements, result = traced(make, "cpu")
    del result
    held = min(heap_of(make).held_bytes for _ in range(2))  # a cache that grows on the way is not of the result
    return held - elements.live_bytes[-1]


def _explained(memory: Memory, traces: Sequence[Trace]) -> Memory:
    """The same, with a reason for all that is missing and for all that calls do not agree on."""
    notes = dict(memory.notes)
    changes: dict[str, Any] = {}
    for name in ("allocations", "allocated_bytes"):
        values = [getattr(trace, name) for trace in traces]
        if len(set(values)) > 1:
            changes[name] = None
            notes[name] = f"calls differ: {', '.join(map(str, values))}"
    if not any(trace.allocations for trace in traces):
        names = ("curve", "backward_from", "allocations", "allocated_bytes")
        changes |= dict.fromkeys(names)
        notes |= dict.fromkeys(names, "the call took nothing from torch's allocator")
    spread = max(memory.peak_bytes_by_call) - min(memory.peak_bytes_by_call)
    if spread > AGREEING * memory.peak_bytes:
        notes["peak_bytes"] = f"calls differ by {spread} bytes"
    if memory.reserved_bytes is None:
        notes["reserved_bytes"] = "the CPU has no caching allocator"
    if memory.record_entries is None:
        notes.setdefault("record_entries", "the engine does not count them")
    if memory.lower_bound_bytes is None:
        notes["lower_bound_bytes"] = "the call ran no kernel of torch"
    return replace(memory, notes=notes, **changes)
