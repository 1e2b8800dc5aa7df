"""What does one op cost beside its work? Chains of ops on four elements, forward and backward.

At quick effort torch.compile takes no part: it compiles for as long as all else here takes together.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

SHAPES = ("chain", "chain_wide", "chain_tree")


def cells(effort: Effort, device: str) -> list[Cell]:
    """A deep, a wide and a tree-shaped chain of four elements; shorter at quick effort, for compiling takes long."""
    knobs = (("elements", 4), ("ops", 100 if effort.name == "quick" else 400))
    return [Cell("dispatch", name, "loss_and_grad", knobs=knobs, device=device) for name in SHAPES]


def test_dispatch(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
