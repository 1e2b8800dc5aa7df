"""What does it cost to get ready: from nothing to the end of the first training step, phase by phase?

Warm is once more in a process that has prepared before, cold a fresh process that finds nothing on disk either. At
quick effort torch.compile gets ready once from cold, in a cell of its own: that takes a quarter of a minute.
"""

from dataclasses import replace

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import everyone
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

ONCE = 1


def cells(effort: Effort, device: str) -> list[Cell]:
    """Every network at batch 64 in a process that has prepared before; the CNN also in fresh ones."""
    rounds = effort.prepare_rounds
    warm = [
        Cell("preparing", name, "prepare", 64, device=device, rounds=2 * rounds + 1)
        for name in ("cnn", "lenet5", "mlp")
    ]
    cold = Cell("preparing", "cnn", "prepare", 64, device=device, rounds=rounds, cold=True)
    return [*warm, cold, *([replace(cold, rounds=ONCE)] if effort.name == "quick" else [])]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every engine, also the slow to get ready on the CNN; from cold these stand apart where they do so once."""
    quickly = everyone(slow=False)
    if cell.rounds == ONCE:
        return tuple(name for name in everyone(slow=True) if name not in quickly)
    return everyone(slow=effort.name != "quick" or (cell.workload == "cnn" and not cell.cold))


def test_preparing(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
