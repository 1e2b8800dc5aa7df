"""What does it cost to get ready: from nothing to the end of the first training step, phase by phase?"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Every network at batch 64 in a process that has prepared before; the CNN also in fresh ones."""
    rounds = effort.prepare_rounds
    return [
        *(
            Cell("preparing", name, "prepare", 64, device=device, rounds=2 * rounds + 1)
            for name in ("cnn", "lenet5", "mlp")
        ),
        Cell("preparing", "cnn", "prepare", 64, device=device, rounds=rounds, cold=True),
    ]


def test_preparing(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
