"""What share of the machine's rate of matrix products does each engine reach in a network?

Both rates are of one run: a product of two large matrices takes its turn in every round, as if it were an engine.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell, Measured
from suites.harness.contender import Contender, everyone
from suites.harness.effort import Effort
from suites.harness.replay import RunRow
from suites.sgemm import SGEMM


def cells(effort: Effort, device: str) -> list[Cell]:
    """Loss and gradients of the CNN at batch 64, where kernels weigh most; with more effort also forward alone."""
    quantities: tuple[Measured, ...] = ("loss_and_grad",) if effort.name == "quick" else ("forward", "loss_and_grad")
    return [Cell("rate", "cnn", quantity, 64, device=device) for quantity in quantities]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every engine but the replay, whose kernels are the tape's, and the product."""
    return (*(name for name in everyone(cell.device, slow=effort.name != "quick") if name != "graph_replay"), SGEMM)


def contender(name: str) -> Contender:
    """An engine, or the product."""
    return Contender(name, loader="suites.sgemm:load", yardstick=True) if name == SGEMM else Contender(name)


def test_rate(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
