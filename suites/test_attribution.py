"""Where does the difference come from? From the tape to the full compiler, one switch at a time.

The rows of the walk each have one switch more on than the row before; then each switch is left out of the full set,
and passes that are not in it are put in. All rows share one process, in which they are timed in turn like engines
elsewhere: the steps are small, and processes differ by some per cent. At quick effort one walk of the CNN at batch 1
alone, where every switch weighs something.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from pytest_benchmark.fixture import BenchmarkFixture

from suites.attribution import is_step, left_out, put_in, walk
from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.measure import Measuring, measure
from suites.harness.replay import RunRow
from suites.harness.row import Row

ROOM = "attribution"
SHARE = 0.5
"""Of the time that a cell's engines have elsewhere: there are many, and what they share makes them less noisy."""


def cells(effort: Effort, device: str) -> list[Cell]:
    """A step of the CNN, where overhead shows and where kernels do, and of a chain, where there is overhead alone."""
    first = Cell("attribution", "cnn", "step", 1, device=device)
    if effort.name == "quick":
        return [first]
    chain = Cell("attribution", "chain", "step", knobs=(("elements", 4), ("ops", 400)), device=device)
    return [first, replace(first, batch_size=64), chain]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """The walk and, where there is time, each switch left out, and each further pass put in."""
    rows = walk(cell.device)
    return rows if effort.name == "quick" else (*rows, *left_out(cell.device), *put_in(cell))


def contender(name: str) -> Contender:
    """A row by the last switch that is on, or by the one that is off."""
    return Contender(name, loader="suites.attribution:load_switched", room=ROOM)


def measure_cell(job: Measuring) -> Mapping[str, Row]:
    """As every cell, with ratios between neighbours alone."""
    effort = job.effort.in_one_launch().shortened(SHARE)
    return measure(replace(job, effort=effort, paired=partial(is_step, walk(job.cell.device))))


def test_attribution(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
