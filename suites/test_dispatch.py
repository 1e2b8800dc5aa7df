"""What does one op cost beside its work? Chains of one-element ops, forward and backward."""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """A deep, a wide and a tree-shaped chain of one element."""
    del effort
    knobs = (("elements", 1), ("ops", 300))
    return [
        Cell("dispatch", name, "loss_and_grad", knobs=knobs, device=device)
        for name in ("chain", "chain_wide", "chain_tree")
    ]


def test_dispatch(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
