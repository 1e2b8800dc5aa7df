"""How long does a whole training step take (forward, backward, update), by batch size?

At quick effort torch.compile takes part in the CNN at batch 64 alone: it finds on disk what `test_backward.py` had it
compile, since the update is no part of that.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import everyone
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """The CNN at every batch size; the smaller networks at the ends of the range, or at the small end for short."""
    ends = (1,) if effort.name == "quick" else (1, 64)
    return [
        *(Cell("step", "cnn", "step", batch, device=device) for batch in effort.batches),
        *(Cell("step", name, "step", batch, device=device) for name in ("lenet5", "mlp") for batch in ends),
    ]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every engine, also the slow to get ready where kernels weigh most."""
    return everyone(cell.device, slow=effort.name != "quick" or (cell.workload, cell.batch_size) == ("cnn", 64))


def test_step(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
