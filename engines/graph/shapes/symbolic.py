"""An executable whose marked sizes are read from its inputs.

The model is traced at several sizes, and what differs between the graphs becomes formulas of the sizes
(`generalise.py`). They are computed at each call, in the text that runs:

    def run(w, tokens, size_batch, size_length):
        v0 = embedding(w, tokens)
        v1 = reshape(v0, shape=((size_batch * size_length), 64)); del v0

A Python branch on a size makes graphs that differ, and is refused; one that none of the probes comes upon, such as
`if length == 17`, goes unseen.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from engines.engine import Varying, phase
from engines.graph.ir import Graph
from engines.graph.lower.aten import FIRST_NODE_LINE, lower
from engines.graph.passes import Pass
from engines.graph.passes.cse import cse
from engines.graph.passes.dce import dce
from engines.graph.passes.narrow import narrow
from engines.graph.passes.simplify import simplify
from engines.graph.shapes.generalise import generalise, told, variable
from engines.graph.shapes.probes import Sizes, probes
from engines.op import KERNEL_ERRORS, kernels_only
from engines.value import EngineError

SIZELESS: tuple[Pass, ...] = (simplify, narrow, cse, dce)
"""Passes whose decisions do not hang on how large something is. Folding makes constants of one size, and regions become
C with sizes in it, so a symbolic graph does without both."""


class SymbolicExecutable:
    """A callable for all sizes. `source` is the Python text that runs."""

    def __init__(self, graph: Graph, sizes: Sequence[str]) -> None:
        self.graph = graph
        self.source, self._run = lower(graph)
        self._sizes = [(variable(name), name) for name in sizes]

    def run_named(self, inputs: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Outputs by name, of inputs by name and their sizes. Raises EngineError naming the user's line."""
        given: dict[str, Any] = {**inputs, **{ours: sizes[name] for ours, name in self._sizes}}
        missing = [name for name in self.graph.inputs if name not in given]
        if missing:
            raise EngineError(f"{self.graph.name}: input {missing[0]!r} is missing, found {sorted(inputs)}")
        try:
            with kernels_only():
                found = self._run(*(given[name] for name in self.graph.inputs))
        except KERNEL_ERRORS as error:
            raise self._refusal(error, sizes) from None
        return dict(zip(self.graph.outputs, found, strict=True))

    def _refusal(self, error: Exception, sizes: Mapping[str, int]) -> EngineError:
        line = next((entry.lineno for entry in traceback.extract_tb(error.__traceback__) if entry.name == "run"), None)
        if line is None:
            return EngineError(f"{self.graph.name}: {error}")
        node = self.graph.nodes[line - FIRST_NODE_LINE]
        return EngineError(
            f"{node.op.name}: {error}; in the graph {self.graph.name}, where {told(dict(sizes))}, from {node.where}"
        )


def symbolic(
    build: Callable[[Sizes], Graph],
    varying: Sequence[Varying],
    others: frozenset[int],
    passes: Sequence[Pass],
    phases: dict[str, float],
) -> SymbolicExecutable:
    """An executable for all sizes, from a function that gives the graph for some; `others` are the model's other sizes.

    Of `passes`, those that do not look at sizes are applied. `phases` receives the seconds of each phase. Raises
    EngineError where the model makes graphs that no formulas bring together.
    """
    generic, corners = probes(varying, others)
    graphs = [_probed(build, sizes) for sizes in [*generic, *corners]]
    with phase(phases, "generalise"):
        generalise(graphs, [*generic, *corners])
        graphs = graphs[: len(generic)]
    for step in passes:
        if step in SIZELESS:
            with phase(phases, step.__name__):
                graphs = [step(graph) for graph in graphs]
    with phase(phases, "generalise"):
        graph = generalise(graphs, generic)
    with phase(phases, "lower"):
        return SymbolicExecutable(graph, [each.name for each in varying])


def _probed(build: Callable[[Sizes], Graph], sizes: Sizes) -> Graph:
    try:
        return build(sizes)
    except EngineError as error:
        raise EngineError(f"{error}; where {told(sizes)}") from None
