"""Broadcasts as late as possible: what is the same along a dimension is computed once for all of it.

    f(broadcast_to(x, S), y), y of shape S     -> f(x, y): the op broadcasts by itself
    f(broadcast_to(x, S))                      -> broadcast_to(f(x), S)

Same elements, bit for bit. The gradient of a sum begins as one number, and stays one as long as nothing else comes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from engines.graph.domain import BROADCASTING, UNARY, domain
from engines.graph.ir import Graph, Node, Operand, Var
from engines.graph.passes.everywhere import everywhere
from engines.ops import TABLE


@everywhere
def narrow(graph: Graph) -> Graph:
    """Move broadcasts behind the ops that read them."""
    spread: dict[Var, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op.name in BROADCASTING | UNARY | {"power"} and domain(node) is not None:
            nodes.extend(_narrowed(node, spread))
        else:
            nodes.append(node)
        if nodes[-1].op.name == "broadcast_to":
            spread[nodes[-1].outputs[0]] = nodes[-1]
    same = len(nodes) == len(graph.nodes) and all(new is old for new, old in zip(nodes, graph.nodes, strict=True))
    return graph if same else graph.with_nodes(tuple(nodes))


def _narrowed(node: Node, spread: dict[Var, Node]) -> Iterator[Node]:
    """The node on what its operands were before they were broadcast, as far as that goes."""
    (out,) = node.outputs
    inputs = tuple(spread[i].inputs[0] if isinstance(i, Var) and i in spread else i for i in node.inputs)
    if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
        yield node
        return
    shape = _together(inputs)
    if shape != out.spec.shape and any(isinstance(i, Var) and i not in spread for i in node.inputs):
        yield node  # some other operand is narrow too, in another way
    elif shape == out.spec.shape:
        yield replace(node, inputs=inputs)
    else:
        small = Var(out.spec._replace(shape=shape))
        yield replace(node, inputs=inputs, outputs=(small,))
        yield Node(TABLE["broadcast_to"], (small,), {"shape": out.spec.shape}, (out,), node.where)


def _together(operands: tuple[Operand, ...]) -> tuple[int, ...]:
    return np.broadcast_shapes(*(i.spec.shape for i in operands if isinstance(i, Var)))
