"""How long do forward and backward pass take together: the loss and the gradient of every parameter?

At quick effort torch.compile takes part where the kernels weigh most: each network and batch size costs it up to a
quarter of a minute of compiling.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import everyone
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """Batch 1, where overhead shows, and 64, where kernels do; fewer of the smaller networks where time is short."""
    smaller = (("lenet5", 1),) if effort.name == "quick" else (("lenet5", 1), ("lenet5", 64), ("mlp", 1), ("mlp", 64))
    pairs = (("cnn", 1), ("cnn", 64), *smaller)
    return [Cell("backward", name, "loss_and_grad", batch, device=device) for name, batch in pairs]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every engine, also the slow to get ready where kernels weigh most."""
    return everyone(cell.device, slow=effort.name != "quick" or (cell.workload, cell.batch_size) == ("cnn", 64))


def test_backward(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
