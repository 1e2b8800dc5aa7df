"""What does a loop cost each style: of known length, of a length that data decide, with a gradient through every trip?

The tape writes `for` and `while`. The graph has `ops.scan` and `ops.while_loop`, whose trips may store what the
gradient needs or compute it again (`graph+recomputed`), or is unrolled (`graph+dynamic`, `graph+unrolled`). How long a
graph takes to get ready is measured against the number of trips, for a loop, a scan and unrolled. One cell is of trips
that do next to nothing: what its loop takes more than the same steps unrolled is what a trip costs beside its body.
"""

from dataclasses import replace

from pytest_benchmark.fixture import BenchmarkFixture

from suites import ways
from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

BATCHES = {
    "lstm_stack": (1,),
    "rnn_lm": (1, 16),
    "dynamic_rnn": (32,),
    "seq2seq": (4,),
    "beam_search": (1,),
    "fixed_point": (16,),
    "l2hmc": (50, 10, 200),
    "in_graph_training": (200,),
}
SPREADS = ("rnn_lm", "dynamic_rnn", "seq2seq", "fixed_point")
"""Workloads whose rows differ in length by the knob `spread`."""
QUICK = ("lstm_stack", "l2hmc", "in_graph_training")
OTHERS = {
    "lstm_stack": ("graph+dynamic", "graph+by_layer", "tape+by_layer"),
    "rnn_lm": ("graph+unrolled",),
    "dynamic_rnn": ("graph+scan", "graph+unrolled"),
    "seq2seq": ("graph+unrolled",),
    "fixed_point": ("graph+recomputed",),
}
"""In what other ways the workload is written, and where that takes another look at it, for the tape too."""
SLOW = ("graph+dynamic",)
"""What takes longer to compile than all else of its cell, and takes no part at quick effort."""
COMPILED = TRIP = "dynamic_rnn"
LENGTHS = (8, 32, 128, 512, 1024)


def cells(effort: Effort, device: str) -> list[Cell]:
    """Every workload, over the spread of lengths, and getting ready over the number of trips; less at quick effort."""
    if effort.name == "quick":
        timed = [_timed(name, BATCHES[name][0], effort, device) for name in QUICK]
        return [*timed, *(_compiled(steps, effort, device) for steps in LENGTHS[:2])]
    return [
        *(
            _timed(name, batch, effort, device, **spread)
            for name, batches in BATCHES.items()
            for batch in batches
            for spread in ([{"spread": share} for share in (0.0, 0.5, 1.0)] if name in SPREADS else [{}])
        ),
        _timed(TRIP, 1, effort, device, spread=0.0, hidden=8),
        *(_compiled(steps, effort, device) for steps in LENGTHS),
    ]


def _timed(name: str, batch: int, effort: Effort, device: str, **knobs: float) -> Cell:
    return ways.sized(Cell("loops", name, "loss_and_grad", batch, device=device), effort, **knobs)


def _compiled(steps: int, effort: Effort, device: str) -> Cell:
    rounds = effort.prepare_rounds
    cell = ways.sized(Cell("loops", COMPILED, "construct", 4, device=device), effort, hidden=8, steps=steps)
    return replace(cell, rounds=rounds)


def engines(cell: Cell, effort: Effort) -> tuple[str, ...]:
    """Every way that the workload has of being written; those of a graph where getting it ready is measured."""
    others = OTHERS.get(cell.workload, ())
    graphs = ("graph", *(way for way in others if effort.name != "quick" or way not in SLOW))
    return graphs if cell.quantity == "construct" else (*ways.tapes(effort), *graphs, "torch_eager")


def contender(name: str) -> Contender:
    """An engine on a formulation."""
    return ways.contender(name)


measure_cell = ways.measure_cell


def test_loops(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
