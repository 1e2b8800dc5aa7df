"""What does Python's garbage collector cost? The same engine with the collector on, and off as everywhere else."""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

COLLECTING = "+gc"
ENGINES = tuple(f"{name}{suffix}" for name in ("tape", "graph", "torch_eager") for suffix in ("", COLLECTING))


def cells(effort: Effort, device: str) -> list[Cell]:
    """Many small ops, where each leaves objects behind, and with more effort a step of few large ones."""
    knobs = (("elements", 1), ("ops", 300))
    small = Cell("collector", "chain", "loss_and_grad", knobs=knobs, device=device)
    return [small] if effort.name == "quick" else [small, Cell("collector", "lenet5", "step", 1, device=device)]


def contender(name: str) -> Contender:
    """An engine, its collector on while it is timed where its name says so."""
    return Contender(name, engine=name.removesuffix(COLLECTING), collector=name.endswith(COLLECTING))


def test_collector(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
