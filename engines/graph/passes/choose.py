"""Branches on what is known: the branch that will be taken stands in place of all of them.

    cond(a constant) { then { ... } otherwise { ... } }     -> the nodes of one of the two
    switch(a constant) { ... }                              -> the nodes of that branch

Same outputs, bit for bit. A result that is an operand itself becomes a copy, since results are values of their own.
An index that is out of range stays, to be refused when the graph runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from engines.graph.control import COND, SWITCH
from engines.graph.fused import FUSED, inline
from engines.graph.ir import Graph, Node, Var
from engines.graph.passes.everywhere import everywhere
from engines.ops import TABLE


@everywhere
def choose(graph: Graph) -> Graph:
    """Put the branch that is known to be taken in place of its node."""
    chosen: dict[Node, None] = {}
    nodes = []
    constants = dict(graph.constants)
    for node in graph.nodes:
        branch = _branch(node, graph.constants)
        nodes.append(
            node if branch is None else Node(FUSED, node.inputs[1:], {"body": branch}, node.outputs, node.where)
        )
        if branch is not None:
            chosen[nodes[-1]] = None
            constants.update(branch.constants)
    if not chosen:
        return graph
    return inline(replace(graph, nodes=tuple(nodes), constants=constants), lambda node: node in chosen)


def _branch(node: Node, constants: Mapping[Var, torch.Tensor]) -> Graph | None:
    """The branch that a node will take, with copies of what is only passed through; None where that is not known."""
    known = constants.get(node.inputs[0]) if node.op in (COND, SWITCH) and isinstance(node.inputs[0], Var) else None
    if known is None:
        return None
    bodies: tuple[Graph, ...] = node.attrs["body"]
    index = int(not bool(known)) if node.op is COND else int(known)
    if not 0 <= index < len(bodies):
        return None
    body = bodies[index]
    given, copies, outputs = set(body.inputs.values()), [], dict(body.outputs)
    for name, var in body.outputs.items():
        if var in given:
            outputs[name] = Var(var.spec)
            copies.append(Node(TABLE["copy"], (var,), {}, (outputs[name],), node.where))
    return body.with_nodes((*body.nodes, *copies), outputs)
