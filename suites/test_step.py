"""How long does a whole training step take (forward, backward, update), by batch size?"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow


def cells(effort: Effort, device: str) -> list[Cell]:
    """The CNN at every batch size; the smaller networks at the ends of the range, or at the small end for short."""
    ends = (1,) if effort.name == "quick" else (1, 64)
    return [
        *(Cell("step", "cnn", "step", batch, device=device) for batch in effort.batches),
        *(Cell("step", name, "step", batch, device=device) for name in ("lenet5", "mlp") for batch in ends),
    ]


def test_step(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
