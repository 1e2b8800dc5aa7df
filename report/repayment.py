"""Find every cell in which preparing can be set against steps, and say after how many steps it has paid for itself.

    for repayment in repayments(results):
        print(repayment.cell, repayment.engine, steps_text(repayment.result))     # after 120 steps [90, 160]

All of it is derived: two stored rows for each of the two engines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from report import units
from report.results import Results
from report.statistics import BreakEven, Series, break_even, step_ratio, time_of
from report.stored import Cell, Ratio, Record

DYNAMIC = "tape"
WIDTH_DIGITS = 2  # of an interval's width; what lies behind them in its ends says nothing
SMALLEST = 1e-6  # steps; the first one and less than that more is "from the first step on"


@dataclass(frozen=True, slots=True)
class Repayment:
    """A static engine against the tape in one cell of the question step, with the four rows behind the result.

    `cell` is that cell with the `start` of the preparing rows: what is to be repaid is a cold or a warm start.
    `step_seconds` is what a step of it takes by the ratio that the result rests on: the tape's time that many times.
    """

    cell: Cell
    engine: str
    prepare: Record
    step: Record
    other_prepare: Record
    other_step: Record
    result: BreakEven
    step_seconds: float


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
    rows = (prepare, step, other_prepare, other_step)
    all_series = [Series(row.seconds_per_call, row.launches, time_of(row).value) for row in rows]
    paired = step.file == other_step.file
    seconds = time_of(other_step).value * step_ratio(all_series[1], all_series[3], paired=paired)
    result = _held(break_even(*all_series, paired=paired), results.ratio(step.cell, step.engine, to=DYNAMIC))
    return Repayment(step.cell._replace(start=cell.start), step.engine, *rows, result, seconds)


def _held(result: BreakEven, ratio: Ratio | None) -> BreakEven:
    """No surer than the word on the two steps: where these cannot be told apart, it may pay early, and never."""
    if ratio is None or ratio.verdict in ("faster", "slower"):
        return result
    low = 1.0 if result.low is None or math.isinf(result.low) else result.low
    return BreakEven(result.steps, low, math.inf)


def preparing_cells(results: Results, step: Record) -> list[Cell]:
    """The cells of the question preparing that belong to a step: same workload, size and batch size, cold and warm."""
    wanted = step.cell._replace(question="preparing", quantity="prepare")
    return list(dict.fromkeys(row.cell for row in results.of("preparing") if _same_place(row.cell, wanted)))


def steps_text(result: BreakEven) -> str:
    """The break-even in words, with its interval; no step is told where that runs from some number to never."""
    low, high = result.low, result.high
    if result.word == "never":
        return "never"
    if result.word == "cannot tell":
        return f"cannot tell [{_bound(low or 1, _last_digit(low or 1), math.floor)},{units.FIXED}never]"
    first = from_the_first(result.steps)
    text = "from the first step" if first else f"after {units.plural(shown_steps(result), 'step')}"
    if low is None or high is None or low == high:
        return text
    unit = _last_digit(high - low, WIDTH_DIGITS)
    return f"{text} [{_bound(low, unit, math.floor)},{units.FIXED}{_bound(high, unit, math.ceil)}]"


def from_the_first(steps: float) -> bool:
    """Whether the first step, which getting ready holds, has paid already."""
    return steps < 1 + SMALLEST


def shown_steps(result: BreakEven) -> int:
    """The whole step at which a finite break-even has been reached, to the digits that its interval supports."""
    low, high = result.low, result.high
    if low is None or high is None or low == high:
        return _whole(result.steps, _last_digit(result.steps), round)
    return _whole(result.steps, _last_digit(high - low, WIDTH_DIGITS), round)


def _bound(steps: float, unit: int, to: Callable[[float], int]) -> str:
    return units.count(_whole(steps, unit, to))


def _whole(steps: float, unit: int, to: Callable[[float], int]) -> int:
    return max(1, unit * to(math.ceil(steps - SMALLEST) / unit))


def _last_digit(number: float, digits: int = units.DIGITS) -> int:
    """The power of ten, at least 1, that is the last of so many digits of a number."""
    return int(10 ** max(0, math.floor(math.log10(max(number, 1))) + 1 - digits))


def _measured(results: Results, cell: Cell, engine: str) -> Record | None:
    record = results.find(cell, engine)
    return record if record and record.status == "measured" else None


def _same_place(cell: Cell, wanted: Cell) -> bool:
    return cell._replace(quantity=wanted.quantity, start=wanted.start) == wanted
