"""How does the cost of building the record or the graph grow with the number of ops?

A dynamic engine runs forward once with recording. A static one traces, differentiates, optimises and compiles, and is
then ready for forward and backward.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

SHAPES_AT = 1000
LARGE, LARGEST = 10_000, 100_000


def cells(effort: Effort, device: str) -> list[Cell]:
    """The deep chain at every length; the wide and the tree-shaped one at one length, to compare shapes."""

    def cell(name: str, ops: int) -> Cell:
        few = effort.prepare_rounds if ops < LARGEST else effort.prepare_rounds // 2
        rounds = few if ops >= LARGE else None
        return Cell(
            "construction", name, "construct", knobs=(("elements", 1), ("ops", ops)), device=device, rounds=rounds
        )

    return [
        *(cell("chain", ops) for ops in effort.chain_lengths),
        *(cell(name, SHAPES_AT) for name in ("chain_wide", "chain_tree")),
    ]


def test_construction(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
