"""How long do forward and backward pass take together: the loss and the gradient of every parameter?"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Batch 1, where overhead shows, and 64, where kernels do."""
    del effort
    return [
        Cell("backward", name, "loss_and_grad", b, device=device) for name in ("cnn", "lenet5", "mlp") for b in (1, 64)
    ]


def test_backward(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
