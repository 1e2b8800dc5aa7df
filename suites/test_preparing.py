"""What does it cost to get ready: from nothing to the end of the first training step, phase by phase?"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Every network at batch 64, caches of the process warm."""
    return [
        Cell("preparing", name, "prepare", 64, device=device, rounds=2 * effort.prepare_rounds + 1)
        for name in ("cnn", "lenet5", "mlp")
    ]


def test_preparing(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
