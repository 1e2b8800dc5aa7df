"""What do changing shapes cost? A stream of batches, from nothing to its end, by the number of distinct shapes in it.

The tape takes each shape as it comes. The graph meets them by one of four policies: an executable for each (`exact`),
sizes rounded up (`bucket`, `pad`), or one executable for all (`symbolic`).
"""

from pytest_benchmark.fixture import BenchmarkFixture

from suites import streams
from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.replay import RunRow
from suites.harness.statistics import FEWEST_ROUNDS
from suites.streams import POLICIES

ENGINES = ("tape", *POLICIES)
LAWS = ("shape_stream", "shape_stream_zipf", "shape_stream_sentences")


def cells(effort: Effort, device: str) -> list[Cell]:
    """Every law where the effort allows it, over the number of distinct shapes; the even law alone at quick effort."""
    steps, *distinct = effort.streams
    laws = LAWS[:1] if effort.name == "quick" else LAWS
    return [
        Cell("shapes", law, "stream", knobs=(("distinct", d), ("steps", steps)), device=device, rounds=FEWEST_ROUNDS)
        for law in laws
        for d in distinct
    ]


def contender(name: str) -> Contender:
    """An engine, or the graph under a policy."""
    return streams.contender(name)


measure_cell = streams.measure_cell


def test_shapes(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
