"""How long does a forward pass take when nothing is recorded (evaluation of the training loss)?

At quick effort torch.compile takes no part: what it would have to compile serves no other suite.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Batch 1, where overhead shows, and 64, where kernels do; fewer of the smaller networks where time is short."""
    smaller = (("lenet5", 1),) if effort.name == "quick" else (("lenet5", 1), ("lenet5", 64), ("mlp", 1), ("mlp", 64))
    pairs = (("cnn", 1), ("cnn", 64), *smaller)
    return [Cell("forward", name, "forward", batch, device=device) for name, batch in pairs]


def test_forward(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
