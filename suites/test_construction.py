"""How does the cost of building the record or the graph grow with the number of ops?

A dynamic engine runs forward once with recording. A static one traces, differentiates, optimises and compiles, and is
then ready for forward and backward. Engines that take many seconds for that stop at `LONGEST_SLOW` ops, and take no
part at quick effort, which ends at 2,000 ops.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import everyone
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

SHAPES_AT = 1000
LONGEST_SLOW = 100
LARGE, LARGEST = 10_000, 100_000


def cells(effort: Effort, device: str) -> list[Cell]:
    """The deep chain at every length; where there is time the wide and the tree-shaped one at one of them."""

    def cell(name: str, ops: int) -> Cell:
        few = effort.prepare_rounds if ops < LARGEST else effort.prepare_rounds // 2
        rounds = few if ops >= (SHAPES_AT if effort.name == "quick" else LARGE) else None
        return Cell(
            "construction", name, "construct", knobs=(("elements", 1), ("ops", ops)), device=device, rounds=rounds
        )

    others = () if effort.name == "quick" else ("chain_wide", "chain_tree")
    return [*(cell("chain", ops) for ops in effort.chain_lengths), *(cell(name, SHAPES_AT) for name in others)]


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every engine, those that are slow to get ready on short chains alone."""
    return everyone(cell.device, slow=effort.name != "quick" and dict(cell.knobs)["ops"] <= LONGEST_SLOW)


def test_construction(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
