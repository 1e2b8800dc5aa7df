"""Running a graph node by node, through regions and sub-graphs, checking that every result is finite.

outputs = checked(graph, True)(*inputs)     # raises NotFiniteError naming op, line and trip
"""

from __future__ import annotations

from functools import partial
from typing import Any

from engines.graph.control import CONTROL, execute, map_bodies
from engines.graph.fused import inline
from engines.graph.ir import Graph, Var
from engines.graph.lower.aten import Run
from engines.op import KERNEL_ERRORS
from engines.ops.finite import Finite, check_finite
from engines.value import EngineError


def checked(graph: Graph, what: Finite) -> Run:
    """A graph as a function that looks at every result."""
    return partial(_run, inline(map_bodies(graph, inline)), what)


def _run(graph: Graph, what: Finite, *operands: Any) -> tuple[Any, ...]:
    values: dict[Var, Any] = dict(zip(graph.inputs.values(), operands, strict=True))
    values.update(graph.constants)
    for node in graph.nodes:
        given = [values[i] if isinstance(i, Var) else i for i in node.inputs]
        if node.op in CONTROL:
            runs = [partial(_run, body, what) for body in node.attrs["body"]]
            outputs = execute(node, runs, given)
        else:
            try:
                outputs = node.op.run(given, node.attrs)
            except KERNEL_ERRORS as error:
                raise EngineError(f"{node.op.name}: {error}; in the graph {graph.name}, from {node.where}") from None
            check_finite(node.op.name, outputs, given, node.where, what)
        values.update(zip(node.outputs, outputs, strict=True))
    return tuple(values[var] for var in graph.outputs.values())
