"""What does recomputing instead of keeping cost a tape in time, and what does it save in memory? `ops.checkpoint`.

A deep chain of large elementwise ops, whole and in marked parts: each row is timed like any other, and its memory taken
in a fresh process.
"""

from collections.abc import Mapping
from dataclasses import replace

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.measure import Measuring, measure
from suites.harness.replay import RunRow
from suites.harness.row import Row
from suites.recompute import BASE, RECOMPUTING

ENGINES = (BASE, RECOMPUTING)


def cells(effort: Effort, device: str) -> list[Cell]:
    """A chain of 64 ops on a mebibyte each; a longer one where there is time."""
    lengths = (64,) if effort.name == "quick" else (64, 256)
    return [
        Cell("recompute", "chain", "loss_and_grad", knobs=(("elements", 1 << 18), ("ops", ops)), device=device)
        for ops in lengths
    ]


def contender(name: str) -> Contender:
    """The tape, with the chain in marked parts where its name says so."""
    return Contender(name, loader="suites.recompute:load")


def measure_cell(job: Measuring) -> Mapping[str, Row]:
    """The cell's times, then what each row needs of memory."""
    rows = measure(job)
    needs = measure(replace(job, cell=replace(job.cell, question="memory")))
    for name, need in needs.items():
        if rows[name].running and not need.running:
            rows[name].refuse(need.status, need.reason or "")
        rows[name].memory = need.memory
    for row in rows.values():
        row.ratios = [ratio for ratio in row.ratios if rows[ratio["to"]].running]
    return rows


def test_recompute(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
