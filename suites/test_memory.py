"""How many bytes does a training step need at its peak? Each row in a process of its own."""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """The CNN at batch 64; the smaller networks too where there is time."""
    names = ("cnn",) if effort.name == "quick" else ("cnn", "lenet5", "mlp")
    return [Cell("memory", name, "step", 64, device=device) for name in names]


def test_memory(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
