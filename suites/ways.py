"""Ways to run a model whose course depends on data: an engine, on one of the workload's formulations.

contender("tape")              # the dynamic formulation: Python's own if, for and while
contender("graph")             # the static one: ops.cond, ops.while_loop, ops.scan
contender("graph+unrolled")    # another, by its name in `Workload.formulations`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engines.registry import ENGINES
from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.measure import Measuring, measure
from suites.harness.row import Row
from suites.workloads import load_workload
from suites.workloads.workload import STATIC

DYNAMIC = "dynamic"
ON = "+"
OWN = {"static": STATIC, "dynamic": DYNAMIC}
"""The formulation that an engine runs if its name says no other, by its style."""
SHARE = 0.5
"""Of the time that a cell's engines have elsewhere: there are many ways, and they differ by more than engines do."""


def contender(name: str) -> Contender:
    """A way by its name, ENGINE or ENGINE+FORMULATION."""
    engine, _, formulation = name.partition(ON)
    return Contender(name, engine=engine, formulation=formulation or OWN[ENGINES[engine].style])


def tapes(effort: Effort) -> tuple[str, ...]:
    """The tape as one writes for it and, where there is time, on what was written for a graph."""
    return ("tape",) if effort.name == "quick" else ("tape", "tape+static")


def sized(cell: Cell, effort: Effort, **knobs: Any) -> Cell:
    """The cell with these knobs turned, and at quick effort the workload's smaller sizes for the others."""
    smaller = load_workload(cell.workload).quick if effort.name == "quick" else {}
    return replace(cell, knobs=tuple(sorted({**smaller, **knobs}.items())))


def measure_cell(job: Measuring) -> Mapping[str, Row]:
    """As every cell, in less time."""
    return measure(replace(job, effort=job.effort.shortened(SHARE)))
