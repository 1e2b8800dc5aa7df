"""What does recursion over trees cost each style: node by node, as one writes it, and level by level, batched?

The tape recurs over each tree, or goes up the levels of all trees at once (`tape+levels`). The graph loops over levels
(`ops.while_loop`), or is made for the very trees of one batch (`graph+levels`), right for no others.
"""

from dataclasses import replace

from pytest_benchmark.fixture import BenchmarkFixture

from suites import ways
from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

ENGINES = ("tape", "tape+levels", "graph", "graph+levels", "torch_eager")
NARROW = 4
"""Lanes for one tree, which has few nodes on a level: the graph's lanes without a node cost as much as others."""


def cells(effort: Effort, device: str) -> list[Cell]:
    """One tree and many; bushy ones and, with more effort, chains."""
    many = Cell("recursion", "tree_lstm", "loss_and_grad", 32, device=device)
    if effort.name == "quick":
        return [ways.sized(replace(many, batch_size=8), effort)]
    one = Cell("recursion", "tree_lstm", "loss_and_grad", 1, device=device)
    chains = (0.0, 0.5, 1.0)
    return [
        *(ways.sized(one, effort, chain=chain, lanes=NARROW) for chain in chains),
        *(ways.sized(many, effort, chain=chain) for chain in chains),
    ]


def contender(name: str) -> Contender:
    """An engine on a formulation."""
    return ways.contender(name)


measure_cell = ways.measure_cell


def test_recursion(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
