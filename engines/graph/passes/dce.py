"""Dead code: what no output needs is not computed.

    a = op(x), and nobody uses a     -> nothing

Same outputs, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace

from engines.graph.ir import Graph, Var
from engines.graph.passes.everywhere import everywhere


@everywhere
def dce(graph: Graph) -> Graph:
    """Drop nodes and constants that no output depends on."""
    live: set[Var] = set(graph.outputs.values())
    kept = []
    for node in reversed(graph.nodes):
        if any(var in live for var in node.outputs):
            live.update(i for i in node.inputs if isinstance(i, Var))
            kept.append(node)
    constants = {var: tensor for var, tensor in graph.constants.items() if var in live}
    if len(kept) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants)
