"""Loop-invariant code: what is the same in every trip is computed once, in front of the loop.

    while { y = op(what comes from outside); ... }     -> y = op(...); while { ... }
    scan { c = constant; ... }, cond { ... }           -> a constant of the graph around, used inside
    scan { ...; return carry0=carry0 }                 -> what is carried and never changes comes from outside

Same outputs, bit for bit. A loop that makes no trip has then computed something in vain; nothing moves out of a branch
but constants, since whoever takes the other branch would pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from engines.graph.control import CONTROL, LOOPS
from engines.graph.ir import Graph, Node, Operand, Var, overwritten
from engines.graph.parts import Taken
from engines.graph.passes.everywhere import everywhere
from engines.ops import TABLE

COPY = TABLE["copy"]


@everywhere
def hoist(graph: Graph) -> Graph:
    """Move out of each loop what no trip changes."""
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(_Out(node).lifted(constants) if node.op in CONTROL else [node])
    same = len(nodes) == len(graph.nodes) and all(new is old for new, old in zip(nodes, graph.nodes, strict=True))
    return graph if same else replace(graph, nodes=tuple(nodes), constants=constants)


@dataclass
class _Out:
    """What leaves the sub-graphs of one node: nodes in front of it, and the values it gives back to them."""

    node: Node
    before: list[Node] = field(default_factory=list)
    given: list[tuple[int, Var, Operand]] = field(default_factory=list)  # to which part, as what there, from where

    def lifted(self, constants: dict[Var, torch.Tensor]) -> Iterator[Node]:
        """The node with less inside, behind what was moved out."""
        node = _settled(self.node, self.before)
        parts: tuple[Graph, ...] = node.attrs["body"]
        own = len(node.inputs) - len(parts[0].inputs)
        first = own + node.attrs.get("carried", 0) + node.attrs.get("scanned", 0)
        lifted = [
            self._part(node, number, part, first - own if node.op in LOOPS else None, constants)
            for number, part in enumerate(parts)
        ]
        if not self.given and node is self.node:
            yield node
            return
        count = len(parts[0].inputs) - (first - own)
        bodies = []
        for number, part in enumerate(lifted):
            more = [var if to == number else Var(var.spec) for to, var, _ in self.given]
            named = {f"a{count + i}": var for i, var in enumerate(more)}
            bodies.append(replace(part, inputs={**part.inputs, **named}))
        yield from self.before
        inputs = (*node.inputs, *(operand for _, _, operand in self.given))
        yield replace(node, inputs=inputs, attrs={**node.attrs, "body": tuple(bodies)})

    def _part(
        self, node: Node, number: int, part: Graph, first: int | None, constants: dict[Var, torch.Tensor]
    ) -> Graph:
        """A sub-graph without what can be outside; inputs from `first` on are the same in every trip."""
        known: dict[Var, Operand] = {}
        if first is not None:
            start = len(node.inputs) - len(part.inputs) + first
            known.update(zip(list(part.inputs.values())[first:], node.inputs[start:], strict=True))
        taken = set(known)
        for var, tensor in part.constants.items():
            outside = Var(var.spec)
            constants[outside], known[var] = tensor, outside
        kept = []
        for inner in part.nodes:
            inputs = [i for i in inner.inputs if isinstance(i, Var)]
            fixed = first is not None and inputs and all(i in known for i in inputs)
            if not fixed or inner.op in CONTROL or overwritten(inner):
                kept.append(inner)
                continue
            outputs = tuple(Var(var.spec) for var in inner.outputs)
            moved = tuple(known[i] if isinstance(i, Var) else i for i in inner.inputs)
            self.before.append(replace(inner, inputs=moved, outputs=outputs))
            known.update(zip(inner.outputs, outputs, strict=True))
        read = dict.fromkeys([i for inner in kept for i in inner.inputs if isinstance(i, Var)])
        read |= dict.fromkeys(part.outputs.values())
        self.given += [(number, var, known[var]) for var in read if var in known and var not in taken]
        if len(kept) == len(part.nodes) and not part.constants:
            return part
        return replace(part, nodes=tuple(kept), constants={})


def _settled(node: Node, before: list[Node]) -> Node:
    """A loop whose carries that never change come from outside; what they were at the end is a copy of the start."""
    if node.op not in LOOPS:
        return node
    body: Graph = node.attrs["body"][-1]
    carried, end = node.attrs["carried"], node.attrs["carried"] + node.attrs.get("scanned", 0)
    inputs, results = list(body.inputs.values()), list(body.outputs.values())
    still = [k for k in range(carried) if results[k] is inputs[k]]
    if not still:
        return node
    order = [*(k for k in range(len(inputs)) if k < end and k not in still), *range(end, len(inputs)), *still]
    moving = [k for k in range(carried) if k not in still]
    before += [Node(COPY, (node.inputs[k],), {}, (node.outputs[k],), node.where) for k in still]
    parts = []
    for part in node.attrs["body"]:
        values = [list(part.inputs.values())[k] for k in order]
        split = len(moving) + end - carried
        names = Taken(values[: len(moving)], values[len(moving) : split]).named(values[split:])
        outputs = part.outputs
        if part is body:
            outputs = {f"carry{i}": results[k] for i, k in enumerate(moving)}
            outputs |= {name: var for name, var in body.outputs.items() if name.startswith("y")}
        parts.append(replace(part, inputs=names, outputs=outputs))
    return Node(
        node.op,
        tuple(node.inputs[k] for k in order),
        {**node.attrs, "body": tuple(parts), "carried": len(moving)},
        tuple(var for k, var in enumerate(node.outputs) if k not in still),
        node.where,
    )
