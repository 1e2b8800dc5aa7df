"""One engine on a stream of batches that change in shape: from nothing to the end, and then the same stream again.

What the first passage takes beyond the second is what it costs to meet shapes for the first time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from engines.engine import Engine, Placed, Program
from engines.ops.random import step_key
from suites.harness.caches import empty_caches
from suites.harness.cell import Cell
from suites.harness.clock import collector_set, synchronize
from suites.workloads.workload import cast_floats

SEED = 0


@dataclass(frozen=True, slots=True)
class Passages:
    """Seconds of getting ready and of each step, losses step by step, phases and exact counts of the first passage."""

    style: str
    prepare_seconds: float
    first_seconds: list[float]
    again_seconds: list[float]
    losses: list[float]
    phases: dict[str, float]
    counters: dict[str, int]


def pass_twice(cell: Cell, engine: Engine) -> Passages:
    """Get ready with empty caches and go through the cell's stream twice, each step timed from batch to finished work.

    Placing batches on the device is not timed. Raises EngineError, and ValueError for a workload without a stream.
    """
    model, task = cell.model, cell.task()
    if model.stream is None:
        raise ValueError(f"stream: workload {model.name} has no stream of batches")
    batches = [cast_floats(batch, cell.dtype) for batch in model.stream(np.random.default_rng([SEED, 1]))]
    with empty_caches(), collector_set(False):
        start = time.perf_counter()
        program = engine.prepare(task)
        synchronize(cell.device)
        prepared = time.perf_counter() - start
        placed = [program.place(batch, step_key(SEED, step)) for step, batch in enumerate(batches)]
        first, losses = _passage(program, placed, cell.device)
        phases, counters = dict(program.phases), dict(program.counters)
        again, _ = _passage(program, placed, cell.device)
    return Passages(engine.style, prepared, first, again, losses, phases, counters)


def _passage(program: Program, placed: list[Placed], device: str) -> tuple[list[float], list[float]]:
    """Seconds and loss of each step."""
    taken, losses = [], []
    for batch in placed:
        start = time.perf_counter()
        loss = program.run(batch).loss
        synchronize(device)
        taken.append(time.perf_counter() - start)
        losses.append(loss)
    return taken, [float(loss.detach()) for loss in losses]
