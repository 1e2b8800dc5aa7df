"""What lies between the tape and the full compiler, as switches that are turned on one after the other.

    walk("cpu")                                 # tape, replay, straight line, passes, native, passes that need it
    load_switched(cell, "fuse")                 # the engine with all switches on up to this one
    load_switched(cell, "without fuse")         # the full set, but for this one
    load_switched(cell, "with layout")          # the full set, and a pass that is not in it

- `replay`: nothing is recorded. The graph, traced and differentiated once, is gone through by a loop that calls the
  same kernels in the same order as the tape does.
- `straight line`: nothing is looked up. The same calls stand in Python made for them, one line a node.
- the passes, by name, in the order of `PIPELINE`; what they fuse runs on the kernels, node by node.
- `native`: what is fused becomes C, on CUDA Triton. It comes ahead of the first pass that goes by how fast C is,
  `choose_kernels`; without C that does nothing.
- `CUDA graph`, on CUDA alone: all launches of a step are replayed as one.

A pass that joins `PIPELINE` joins here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from engines.engine import Engine
from engines.graph.engine import GraphEngine
from engines.graph.executable import Executable, left_to_kernels, regions_of
from engines.graph.fused import inline
from engines.graph.ir import Graph, Var
from engines.graph.lower.aten import Run
from engines.graph.lower.control import Lowered
from engines.graph.passes import CHANNELS_LAST, PIPELINE
from engines.registry import load_engine
from suites.harness.cell import Cell

BASE = "tape"
REPLAY, STRAIGHT, NATIVE, CUDA_GRAPH = "replay", "straight line", "native", "CUDA graph"
CHOOSING = "choose_kernels"
WITHOUT, WITH = "without ", "with "
"""How rows begin with one switch less, or one pass more, than the full set has."""

PASSES = tuple(dict.fromkeys(step.__name__ for step in PIPELINE))
MORE_PASSES = tuple(step.__name__ for step in CHANNELS_LAST if step not in PIPELINE)
_BY_SPEED = PASSES.index(CHOOSING)


def walk(device: str) -> tuple[str, ...]:
    """The rows of the walk: the tape, then each with one switch more on than the one before, by that switch's name."""
    captured = [CUDA_GRAPH] if device.startswith("cuda") else []
    return (BASE, REPLAY, STRAIGHT, *PASSES[:_BY_SPEED], NATIVE, *PASSES[_BY_SPEED:], *captured)


def left_out(device: str) -> tuple[str, ...]:
    """The rows with one switch off; without a graph there is nothing to switch."""
    return tuple(f"{WITHOUT}{switch}" for switch in walk(device)[2:])


def put_in(cell: Cell) -> tuple[str, ...]:
    """The rows with a pass more, where the workload has anything for it: images."""
    return tuple(f"{WITH}{name}" for name in MORE_PASSES) if cell.workload in IMAGES else ()


IMAGES = frozenset({"cnn", "lenet5"})
"""Workloads that convolve."""


def is_step(rows: Sequence[str], name: str, other: str) -> bool:
    """Whether two rows differ in one switch, or one of them is where the walk of these rows begins."""
    if name not in rows:
        return other in {BASE, rows[-1]}
    return other == BASE or (other in rows and rows.index(name) - rows.index(other) == 1)


def switches_on(rows: Sequence[str], name: str) -> frozenset[str]:
    """Which switches are on in this row, where the walk has these rows."""
    if name.startswith(WITHOUT):
        return frozenset(rows[1:]) - {name.removeprefix(WITHOUT)}
    if name.startswith(WITH):
        return frozenset(rows[1:]) | {name.removeprefix(WITH)}
    return frozenset(rows[1 : rows.index(name) + 1])


def load_switched(cell: Cell, name: str) -> Engine:
    """The engine of this row."""
    on = switches_on(walk(cell.device), name)
    if not on:
        return load_engine(BASE)
    idle = frozenset() if NATIVE in on else frozenset({CHOOSING})
    passes = tuple(step for step in CHANNELS_LAST if step.__name__ in on - idle)
    return GraphEngine(name, passes, lambda graph: _built(graph, on), capture=CUDA_GRAPH in on)


def _built(graph: Graph, on: frozenset[str]) -> Executable:
    if NATIVE not in on:
        graph = inline(graph)
    return Executable.build(graph) if STRAIGHT in on else looped(graph)


def looped(graph: Graph) -> Executable:
    """A graph that a loop goes through. What is fused runs as C or Triton, as in `Executable.build`."""
    functions, code = regions_of(graph)
    flat = inline(graph, lambda node: node.attrs["body"] not in functions)
    lost = left_to_kernels(graph, functions, code)
    return Executable(flat, Lowered(), _loop(flat, functions), code, regions_on_kernels=lost)


def _loop(graph: Graph, functions: Mapping[Graph, Callable[..., Any]]) -> Run:
    """A function of a graph's inputs: values in numbered places, each place emptied after its last use."""
    variables = (*graph.inputs.values(), *graph.constants, *(var for node in graph.nodes for var in node.outputs))
    place = {var: number for number, var in enumerate(variables)}
    frees = _freed(graph, place)
    calls = []
    for node, free in zip(graph.nodes, frees, strict=True):
        function = functions.get(node.attrs.get("body"))  # type: ignore[arg-type]  # None stands for no body
        call = node.op.run if function is None else lambda given, _, function=function: function(*given)
        given = tuple((place[i], None) if isinstance(i, Var) else (-1, i) for i in node.inputs)
        calls.append((call, given, node.attrs, tuple(place[var] for var in node.outputs), free))
    count, fixed = len(graph.inputs), list(graph.constants.values())
    room = [None] * (len(place) - count - len(fixed))
    results = [place[var] for var in graph.outputs.values()]

    def loop(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values: list[Any] = [*inputs[-count:], *fixed, *room]
        for call, given, attrs, outputs, free in calls:
            found = call([values[at] if at >= 0 else number for at, number in given], attrs)
            for at, value in zip(outputs, found, strict=True):
                values[at] = value
            for at in free:
                values[at] = None
        return tuple(values[at] for at in results)

    return loop


def _freed(graph: Graph, place: Mapping[Var, int]) -> Iterator[tuple[int, ...]]:
    """For each node, the places of what nobody reads after it; inputs, constants and outputs stay."""
    last: dict[Var, int] = {}
    for number, node in enumerate(graph.nodes):
        last.update(dict.fromkeys((*(i for i in node.inputs if isinstance(i, Var)), *node.outputs), number))
    kept = {*graph.inputs.values(), *graph.constants, *graph.outputs.values()}
    for number, node in enumerate(graph.nodes):
        read = (*(i for i in node.inputs if isinstance(i, Var)), *node.outputs)
        yield tuple({place[var] for var in read if last[var] == number and var not in kept})
