"""What does a branch that depends on data cost each style, by how often it is taken?

Most knobs change the work, too. With alternatives all paths of many_paths are equally long: what entropy changes there
is what it costs not to know the path.

The tape writes `if`. The graph decides in the graph (`ops.cond`, one executable for every path), computes every branch
and masks (`graph+masked`, `graph+padded`), or is made for one path alone (`graph+dynamic`), right for no other.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites import ways
from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

KNOBS = {"early_exit": "exit_rate", "many_paths": "entropy", "block_drop": "keep_rate", "moe": "skew"}
BATCHES = {"early_exit": (16,), "many_paths": (16,), "block_drop": (1, 16), "moe": (512,)}
SHARES = (0.0, 0.5, 1.0)
OTHERS = {
    "early_exit": "graph+masked",
    "many_paths": "graph+masked",
    "block_drop": "graph+masked",
    "moe": "graph+padded",
}
"""What else a graph can do, by workload."""


def cells(effort: Effort, device: str) -> list[Cell]:
    """Every workload from never to always; at quick effort two of them, halfway."""
    quick = effort.name == "quick"
    names = ("early_exit", "many_paths") if quick else tuple(KNOBS)
    plain = [
        ways.sized(Cell("branches", name, "loss_and_grad", batch, device=device), effort, **{KNOBS[name]: share})
        for name in names
        for batch in BATCHES[name]
        for share in ((0.5,) if quick else SHARES)
    ]
    return plain if quick else [*plain, *_equally_long(effort, device)]


def _equally_long(effort: Effort, device: str) -> list[Cell]:
    cell = Cell("branches", "many_paths", "loss_and_grad", 16, device=device)
    return [ways.sized(cell, effort, entropy=share, alternatives=1) for share in SHARES]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every way that the workload has of being written."""
    one_path = ("graph+dynamic",) if cell.workload == "many_paths" else ()
    return (*ways.tapes(effort), "graph", OTHERS[cell.workload], *one_path, "torch_eager")


def contender(name: str) -> Contender:
    """An engine on a formulation."""
    return ways.contender(name)


measure_cell = ways.measure_cell


def test_branches(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
