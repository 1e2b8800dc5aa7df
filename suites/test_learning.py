"""Do both styles learn, and the same? Training on handwritten digits, every engine in lockstep from one seed."""

from collections.abc import Sequence

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.measure import Load, Row, Show
from suites.harness.replay import RunRow
from suites.learn import LEARNERS, learn
from suites.workloads.digits import sklearn_digits

ENGINES = LEARNERS


def cells(effort: Effort, device: str) -> list[Cell]:
    """The two networks that were made for digits."""
    del effort
    return [Cell("learning", name, "train", 64, device=device) for name in ("cnn", "lenet5")]


def measure_cell(cell: Cell, engines: Sequence[str], effort: Effort, show: Show, load: Load) -> dict[str, Row]:
    """Samples are the training steps themselves."""
    return learn(cell, engines, effort.epochs[cell.workload], sklearn_digits(), show, load)


def test_learning(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
