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
NARROW = {"lanes": 4}
"""One tree has few nodes on a level, and the graph's lanes that no node is in cost as much as others."""


def cells(effort: Effort, device: str) -> list[Cell]:
    """One tree and many; bushy ones and, with more effort, chains."""
    many = Cell("recursion", "tree_lstm", "loss_and_grad", 32, device=device)
    if effort.name == "quick":
        return [ways.sized(replace(many, batch_size=8), effort)]
    one = Cell("recursion", "tree_lstm", "loss_and_grad", 1, device=device)
    every = ((one, NARROW), (many, {}))
    return [ways.sized(cell, effort, chain=chain, **knobs) for cell, knobs in every for chain in (0.0, 0.5, 1.0)]


def contender(name: str) -> Contender:
    """An engine on a formulation."""
    return ways.contender(name)


measure_cell = ways.measure_cell


def test_recursion(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
