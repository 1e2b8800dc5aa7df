"""Common subexpressions: what is computed twice is computed once.

    a = op(x, attrs); b = op(x, attrs)     -> b is a

Same outputs, bit for bit: an op is a function of its inputs and attributes; randomness is an input too. Updates, which
overwrite their inputs, are never merged, nor are nodes with a body.
"""

from __future__ import annotations

from typing import Any

from engines.graph.ir import Graph, Node, Operand, Var, overwritten, rewrite
from engines.graph.passes.everywhere import everywhere


@everywhere
def cse(graph: Graph) -> Graph:
    """Keep the first of equal nodes."""
    first: dict[Any, tuple[Var, ...]] = {}

    def visit(node: Node) -> Node | tuple[Var, ...]:
        if overwritten(node) or "body" in node.attrs:
            return node
        key = (node.op, tuple(map(_identity, node.inputs)), tuple(_literal(v) for v in node.attrs.items()))
        found = first.setdefault(key, node.outputs)
        return node if found is node.outputs else found

    return rewrite(graph, visit)


def _identity(operand: Operand) -> Any:
    return operand if isinstance(operand, Var) else _literal(operand)


def _literal(value: Any) -> str:
    """Numbers by their text: 1, 1.0 and True are equal in Python but not to a kernel, and nor are 0.0 and -0.0."""
    return repr(value)
