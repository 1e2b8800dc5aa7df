"""How long does a forward pass take when nothing is recorded (evaluation of the training loss)?"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Batch 1, where overhead shows, and 64, where kernels do."""
    del effort
    return [Cell("forward", name, "forward", b, device=device) for name in ("cnn", "lenet5", "mlp") for b in (1, 64)]


def test_forward(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
