"""What is there to gain where every op goes over a large tensor: a chain of ops on as many elements as 512 x 512?"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import everyone
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Forward and backward of 32 ops on a mebibyte each; with more effort also where all of it fits a cache."""
    sides = (512,) if effort.name == "quick" else (64, 512)
    return [
        Cell("elementwise", "chain", "loss_and_grad", knobs=(("elements", side * side), ("ops", 32)), device=device)
        for side in sides
    ]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every engine but the replay, whose kernels are the tape's."""
    return tuple(name for name in everyone(cell.device, slow=effort.name != "quick") if name != "graph_replay")


def test_elementwise(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
