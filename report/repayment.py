"""Find every cell in which preparing can be set against steps, and say after how many steps it has paid for itself.

    for repayment in repayments(results):
        print(repayment.cell, repayment.engine, steps_text(repayment.result))     # after 120 steps [90, 160]

All of it is derived: two stored rows for each of the two engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from report import units
from report.results import Results
from report.statistics import BreakEven, break_even
from report.stored import Cell, Record

DYNAMIC = "tape"
SMALLEST = 1e-6  # steps; less than that is "from the first step on"


@dataclass(frozen=True, slots=True)
class Repayment:
    """A static engine against the tape in one cell of the question step, with the four rows behind the result.

    `cell` is that cell with the `start` of the preparing rows: what is to be repaid is a cold or a warm start.
    """

    cell: Cell
    engine: str
    prepare: Record
    step: Record
    other_prepare: Record
    other_step: Record
    result: BreakEven


def repayments(results: Results) -> list[Repayment]:
    """One for each static engine and step cell that has all four rows, and for each way to start."""
    steps = [row for row in results.measured("step") if row.style == "static"]
    found = (_repayment(results, step, cell) for step in steps for cell in preparing_cells(results, step))
    return [repayment for repayment in found if repayment]


def _repayment(results: Results, step: Record, cell: Cell) -> Repayment | None:
    prepare, other_prepare = _measured(results, cell, step.engine), _measured(results, cell, DYNAMIC)
    other_step = _measured(results, step.cell, DYNAMIC)
    if prepare is None or other_prepare is None or other_step is None:
        return None
    result = break_even(
        prepare.seconds_per_call,
        step.seconds_per_call,
        other_prepare.seconds_per_call,
        other_step.seconds_per_call,
    )
    at = step.cell._replace(start=cell.start)
    return Repayment(at, step.engine, prepare, step, other_prepare, other_step, result)


def preparing_cells(results: Results, step: Record) -> list[Cell]:
    """The cells of the question preparing that belong to a step: same workload, size and batch size, cold and warm."""
    wanted = step.cell._replace(question="preparing", quantity="prepare")
    return list(dict.fromkeys(row.cell for row in results.of("preparing") if _same_place(row.cell, wanted)))


def steps_text(result: BreakEven) -> str:
    """The break-even in words, with its interval."""
    if math.isinf(result.steps):
        text = "never"
    elif result.steps < SMALLEST:
        text = "from the first step"
    else:
        text = f"after {units.plural(whole_steps(result.steps), 'step')}"
    if result.low is None or result.high is None or result.low == result.high:
        return text
    return f"{text} [{_bound(result.low)},{units.FIXED}{_bound(result.high)}]"


def whole_steps(steps: float) -> int:
    """The first whole step at which a finite break-even has been reached."""
    return math.ceil(steps - SMALLEST)


def _bound(steps: float) -> str:
    return units.count(steps if math.isinf(steps) else whole_steps(steps))


def _measured(results: Results, cell: Cell, engine: str) -> Record | None:
    record = results.find(cell, engine)
    return record if record and record.status == "measured" else None


def _same_place(cell: Cell, wanted: Cell) -> bool:
    return cell._replace(quantity=wanted.quantity, start=wanted.start) == wanted
