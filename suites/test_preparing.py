"""What does it cost to get ready: from nothing to the end of the first training step, phase by phase?

Warm is once more in a process that has prepared before, cold a fresh process that finds nothing on disk either. Getting
torch.compile ready from cold takes a quarter of a minute a sample, for which quick effort has no time.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import everyone
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Every network at batch 64 in a process that has prepared before; the CNN also in fresh ones."""
    rounds = effort.prepare_rounds
    warm = [
        Cell("preparing", name, "prepare", 64, device=device, rounds=2 * rounds + 1)
        for name in ("cnn", "lenet5", "mlp")
    ]
    cold = Cell("preparing", "cnn", "prepare", 64, device=device, rounds=rounds, cold=True)
    return [*warm, cold]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every engine; at quick effort those that are slow to get ready on the CNN alone, and there warm."""
    return everyone(cell.device, slow=effort.name != "quick" or (cell.workload == "cnn" and not cell.cold))


def test_preparing(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
