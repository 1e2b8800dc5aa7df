"""What it takes to write a model whose course depends on data, for each workload and each way of writing it.

    python -m suites.expressing                      # a table as text
    python -m suites.expressing moe --json FILE      # of some workloads, and stored for the page

Everything in the table comes from running the formulation at small sizes, or from counting its text. *Runs* means that
loss and gradients agree with those of the dynamic formulation on the tape, in float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from engines.engine import Outputs, Task
from engines.graph import Graph
from engines.graph.engine import GraphEngine, GraphProgram
from engines.registry import ENGINES, load_engine
from engines.value import EngineError
from suites.counting import Length, length_of
from suites.harness import exits
from suites.sheets import Sheet, keep
from suites.workloads import CONTROL_FLOW, UnknownWorkloadError, load_workload
from suites.workloads.workload import Workload

REFERENCE = ("tape", "dynamic")
DEFAULT_ENGINES = ("tape", "torch_eager", "graph")
SMALL: Mapping[str, int] = MappingProxyType(
    {
        "steps": 4,
        "layers": 3,
        "blocks": 1,
        "trips": 3,
        "leaves": 4,
        "lanes": 2,
        "beam": 3,
        "experts": 4,
        "hidden": 4,
        "width": 4,
        "inner": 3,
        "embedding": 3,
        "vocabulary": 9,
        "channels": 2,
    }
)
"""Values of knobs at which anything runs quickly, whichever workload has them."""
ROWS = 3
STRUCTURES = 4
"""So many batches are tried to see in how many graphs they end."""
TRIPS = "steps"
"""The knob that says how often a loop goes round."""
TOLERANCE = 1e-9
RUNS, DIFFERS = "runs", "runs, but what it gives differs"


@dataclass(frozen=True)
class Way:
    """One way of writing one workload.

    `outcomes` says by engine whether it runs, or how it ends; `how` what a fixed graph makes of it; `breaks` is the
    first line of what the graph says where it refuses.
    """

    workload: str
    formulation: str
    length: Length
    outcomes: Mapping[str, str]
    how: str
    breaks: str


def small(workload: Workload) -> Workload:
    """The workload at small sizes."""
    return workload.sized({knob: SMALL[knob] for knob in workload.size if knob in SMALL})


def ways(names: Iterable[str] = CONTROL_FLOW, engines: Sequence[str] = DEFAULT_ENGINES) -> Iterator[Way]:
    """Every formulation of these workloads, tried on these engines. Raises UnknownWorkloadError, EngineError."""
    for name in names:
        workload = small(load_workload(name))
        if not workload.formulations:
            raise UnknownWorkloadError(f"{name} is written in one way only; there are {', '.join(CONTROL_FLOW)}")
        expected = _run(REFERENCE[0], _task(workload, REFERENCE[1]))
        for formulation in workload.formulations:
            outcomes = {engine: _outcome(engine, _task(workload, formulation), expected) for engine in engines}
            how, breaks = in_a_graph(workload, formulation)
            yield Way(name, formulation, length_of(workload.formulations, formulation), outcomes, how, breaks)


def in_a_graph(workload: Workload, formulation: str) -> tuple[str, str]:
    """How a fixed graph comes to this formulation, and what it says where it refuses to trace it as it stands."""
    try:
        graph = _traced(workload, formulation)
    except EngineError as error:
        return _by_structure(workload, formulation), str(error).splitlines()[0]
    control = sorted(control_ops(graph))
    if control:
        return f"rewritten: {', '.join(control)}", ""
    if TRIPS in workload.size:
        longer = _traced(workload.sized({TRIPS: workload.size[TRIPS] + 1}), formulation)
        if len(longer.nodes) > len(graph.nodes):
            return "unrolled", ""
    return ("as is" if formulation == REFERENCE[1] else "padded or masked"), ""


def control_ops(graph: Graph) -> set[str]:
    """The control flow in a graph, inner parts included, by the names of its ops."""
    found: set[str] = set()
    left = [graph]
    while left:
        for node in left.pop().nodes:
            bodies = node.attrs.get("body", ())
            found |= {node.op.name} if bodies else set()
            left.extend(bodies)
    return found


def _by_structure(workload: Workload, formulation: str) -> str:
    """Whether graphs can be made of single structures, and of how many batches each."""
    if not workload.structure:
        return "cannot be: its batches declare no structure"
    try:
        graphs = {str(_traced(workload, formulation, seed, known=True)) for seed in range(STRUCTURES)}
    except EngineError as error:
        return f"cannot be: {str(error).splitlines()[0]}"
    return f"compiled again for each structure: {len(graphs)} graphs in {STRUCTURES} batches"


def _task(workload: Workload, formulation: str, seed: int = 0, *, known: bool = False) -> Task:
    return workload.task(
        "loss_and_grad", ROWS, dtype="float64", seed=seed, formulation=formulation, structure_known=known
    )


def _traced(workload: Workload, formulation: str, seed: int = 0, *, known: bool = False) -> Graph:
    """The graph of the loss as it is written: before any pass, and without gradients, which add loops of their own."""
    task = replace(_task(workload, formulation, seed, known=known), quantity="forward")
    program = GraphEngine(passes=()).prepare(task)
    assert isinstance(program, GraphProgram)
    return program.executable.graph


def _run(engine: str, task: Task) -> Outputs:
    program = load_engine(engine).prepare(task)
    return program.run(program.place(task.batch, 0))


def _outcome(engine: str, task: Task, expected: Outputs) -> str:
    try:
        found = _run(engine, task)
    except (EngineError, RuntimeError, TypeError, ValueError) as error:
        return f"refused: {type(error).__name__}"
    pairs = [(found.loss, expected.loss), *((found.gradients[name], g) for name, g in expected.gradients.items())]
    return RUNS if all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in pairs) else DIFFERS


# The tables

LEAD = (
    "What each model whose course depends on data takes to write: lines and tokens of each way of writing it, whether "
    "loss and gradients come out right on each engine, and how a fixed graph comes to it."
)


def sheets(found: Sequence[Way]) -> list[Sheet]:
    """A line for each way; then what the graph says where it refuses, if it does."""
    engines = list(found[0].outcomes) if found else []
    head = ["workload", "formulation", "lines", "tokens", *engines, "as a graph"]
    rows = [
        [w.workload, w.formulation, str(w.length.lines), str(w.length.tokens), *w.outcomes.values(), w.how]
        for w in found
    ]
    refusals = [[way.workload, way.formulation, way.breaks] for way in found if way.breaks]
    ways_found = Sheet("What it takes to write", LEAD, head, rows, numbers=(2, 3))
    said = Sheet("What breaks in a graph", "", ["workload", "formulation", "what it says"], refusals)
    return [ways_found, said] if refusals else [ways_found]


@exits.interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives an exit code."""
    options = _parser().parse_args(arguments)
    try:
        found = list(ways(options.workload or CONTROL_FLOW, options.engine))
    except (UnknownWorkloadError, EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.USAGE
    tables = sheets(found)
    first, *others = tables
    print("\n\n".join([first.text(), *(f"{sheet.title}:\n{sheet.text()}" for sheet in others)]))
    return keep(options.json, "python -m suites.expressing", tables)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.expressing", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", nargs="*", help="default: all with control flow")
    parser.add_argument("--engine", nargs="+", default=DEFAULT_ENGINES, choices=ENGINES)
    parser.add_argument("--json", type=Path, help="a file for the tables; the page shows those in results/tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
