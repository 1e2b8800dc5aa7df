"""What does a call cost that computes next to nothing, by the number of its inputs?"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Ten numbers added up; with more effort also one and a hundred."""
    counts = (10,) if effort.name == "quick" else (1, 10, 100)
    return [Cell("call", "scalars", "forward", knobs=(("inputs", count),), device=device) for count in counts]


def test_call(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
