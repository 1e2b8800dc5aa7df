"""Which values of a graph a gradient flows between.

depending(nodes, sources)      # what it may come from, on its way to the sources
reaching(nodes, results)       # what it may get to, on its way from the results
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engines.graph.control import CONTROL, WHILE
from engines.graph.ir import Node, Var


def depending(nodes: Iterable[Node], sources: Iterable[Var]) -> set[Var]:
    """The sources and all values that a gradient flows from to one of them."""
    found = set(sources)
    for node in nodes:
        if node.op in CONTROL:
            found.update(_depending_results(node, found))
        elif any(v in found and node.op.rule(i) is not None for i, v in enumerate(node.inputs) if isinstance(v, Var)):
            found.update(node.outputs)
    return found


def _depending_results(node: Node, sources: set[Var]) -> set[Var]:
    """The results of a control node that depend on the sources."""
    own = len(node.inputs) - len(node.attrs["body"][0].inputs)
    given = {i for i, v in enumerate(node.inputs[own:]) if v in sources}
    carried = node.attrs.get("carried", 0)
    found: set[int] = set()
    while True:
        before = len(given)
        for body in node.attrs["body"]:
            inside = depending(body.nodes, (v for i, v in enumerate(body.inputs.values()) if i in given))
            if node.op is not WHILE or body is node.attrs["body"][1]:
                found |= {i for i, v in enumerate(body.outputs.values()) if v in inside}
        given |= {i for i in found if i < carried}
        if len(given) == before:
            return {v for i, v in enumerate(node.outputs) if i in found and v.spec.dtype.is_floating_point}


def reaching(nodes: Sequence[Node], results: Iterable[Var]) -> set[Var]:
    """All values that a gradient of the results may flow back to."""
    found = set(results)
    for node in reversed(nodes):
        if any(var in found for var in node.outputs):
            inputs = [(i, v) for i, v in enumerate(node.inputs) if isinstance(v, Var)]
            found.update(v for i, v in inputs if node.op in CONTROL or node.op.rule(i) is not None)
    return found
