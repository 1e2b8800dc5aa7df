"""Recomputing under a budget: what is kept only for a late reader is dropped, and computed again just before it.

    passes = (*PIPELINE, rematerialise(budget_bytes=16 << 20))

    y = f(x); ...; z = g(y)        -> y = f(x); ...; y' = f(x); z = g(y'), where the most memory is in use in between

Same outputs, bit for bit: the same kernels on the same inputs; a dropout mask is drawn again from its key. Nothing that
updates, or reads what an update has overwritten by then, is computed again. First the nodes' order is tried (`order`);
then, of the values that lie idle at the peak, the one that frees most for the least work is dropped, as long as that
lowers what is above the budget. A graph within its budget is left as it is; one that had a plan gets a new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from engines.graph.fused import FUSED, overwritten_values, part_of, reads
from engines.graph.ir import Graph, Node, Var, overwritten
from engines.graph.lifetimes import Memory, bytes_of, is_opaque
from engines.graph.nhwc import NHWC
from engines.graph.passes.dce import dce
from engines.graph.passes.order import order
from engines.graph.plan_memory import SLACK, demand, plan_memory
from engines.value import EngineError

LONGEST = 16
"""Nodes that may be run again for one value."""

SMALL = 1 / 8
"""Of the value to drop: what may be kept longer for its sake."""

FLOPS_PER_BYTE = 8
"""What a processor computes while it moves a byte: so a matrix product and an elementwise op can be compared."""


def rematerialise(budget_bytes: int) -> Callable[[Graph], Graph]:
    """The pass for this budget, in bytes of a call's planned peak; raises EngineError where it cannot be kept."""

    def step(graph: Graph) -> Graph:
        if _planned(graph) <= budget_bytes:
            return graph
        found = _lowered(order(replace(graph, plan=None)), int(budget_bytes / (1 + SLACK)))
        least = _planned(found)
        if least > budget_bytes:
            levels = demand(found)
            node = found.nodes[levels.index(max(levels))]
            raise EngineError(
                f"rematerialise {graph.name}: the budget is {budget_bytes} bytes, the least found is {least}; "
                f"most are in use at {node.op.name}, from {node.where}"
            )
        return plan_memory(found) if graph.plan is not None else found

    step.__name__ = "rematerialise"
    return step


def _planned(graph: Graph) -> int:
    plan = plan_memory(graph).plan
    return max(demand(graph), default=0) if plan is None else plan.peak_bytes


def _lowered(graph: Graph, budget_bytes: int) -> Graph:
    """The graph with as much recomputed as brings it under the budget, or all that helps."""
    above = _above(graph, budget_bytes)
    while above:
        tried = ((found, _above(found, budget_bytes)) for found in _candidates(graph))
        better = next(((found, left) for found, left in tried if left < above), None)
        if better is None:
            return graph
        graph, above = better
    return graph


def _above(graph: Graph, budget_bytes: int) -> int:
    """The bytes above the budget, summed over all nodes."""
    return sum(max(0, level - budget_bytes) for level in demand(graph))


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a graph while a value to drop is looked for."""

    graph: Graph
    memory: Memory
    makers: Mapping[Var, int]
    overwritten: Mapping[Var, int]

    @classmethod
    def of(cls, graph: Graph) -> Standing:
        """Where each value is made, and where each storage is overwritten."""
        memory = Memory.of(graph)
        gone: dict[Var, int] = {}
        for position, node in enumerate(graph.nodes):
            for var in overwritten_values(node):
                gone.setdefault(memory.owners.get(var, var), position)
        makers = {var: position for position, node in enumerate(graph.nodes) for var in node.outputs}
        return cls(graph, memory, makers, gone)

    def owner(self, var: Var) -> Var:
        """The value in whose storage one stands."""
        return self.memory.owners.get(var, var)


def _candidates(graph: Graph) -> Iterator[Graph]:
    """The graph with one of the values dropped that lie idle where most is in use, the best bargain first."""
    levels = demand(graph)
    peak = levels.index(max(levels))
    at = Standing.of(graph)
    used: dict[Var, list[tuple[int, Var]]] = {}
    for position, node in enumerate(graph.nodes):
        for var in reads(node):
            used.setdefault(at.owner(var), []).append((position, var))
    bargains: list[tuple[float, int, list[int], set[Var], int]] = []
    for owner, life in at.memory.lives.items():
        late = [(position, var) for position, var in used.get(owner, ()) if position > peak]
        idle = life.first < peak < life.last < len(graph.nodes) and all(p != peak for p, _ in used[owner])
        if idle and late:
            reader = late[0][0]
            wanted = dict.fromkeys(var for _, var in late if at.makers[var] < reader)
            recipe = _recipe(at, owner, wanted, reader)
            if recipe is not None:
                cost = sum(_cost(graph.nodes[position]) for position in recipe)
                bargains.append((cost / life.bytes, len(bargains), recipe, set(wanted), reader))
    for *_, recipe, used_late, reader in sorted(bargains):
        yield _again(graph, recipe, used_late, reader)


def _recipe(at: Standing, dropped: Var, wanted: Mapping[Var, None], reader: int) -> list[int] | None:
    """Which nodes to run again ahead of `reader`, by position, instead of keeping what is dropped; None if none do."""
    found: set[int] = set()
    left = list(wanted)
    while left:
        position = at.makers.get(left.pop())
        node = None if position is None else at.graph.nodes[position]
        if position is None or node is None or is_opaque(node) or overwritten(node) or len(found) > LONGEST:
            return None
        if position in found:
            continue
        found.add(position)
        for given in reads(node):
            owner = at.owner(given)
            if at.overwritten.get(owner, reader) < reader:
                return None
            life = at.memory.lives.get(owner)
            kept = life is None or life.last >= reader or life.bytes <= SMALL * bytes_of(dropped)
            if owner is dropped or not kept:
                left.append(given)
    return sorted(found)


def _again(graph: Graph, recipe: list[int], wanted: set[Var], reader: int) -> Graph:
    """The graph with these nodes run a second time ahead of `reader`, for it and for those behind it."""
    renamed: dict[Var, Var] = {}
    needed = set(wanted)
    for position in reversed(recipe):
        needed.update(reads(graph.nodes[position]))
    copies = []
    for position in recipe:
        node = _pruned(graph.nodes[position], needed)
        fresh = {var: Var(var.spec) for var in node.outputs}
        copies.append(replace(_reading(node, renamed), outputs=tuple(fresh.values())))
        renamed.update(fresh)
    renamed = {var: renamed[var] for var in renamed if var in wanted}
    later = (_reading(node, renamed) for node in graph.nodes[reader:])
    return dce(graph.with_nodes((*graph.nodes[:reader], *copies, *later)))


def _reading(node: Node, renamed: Mapping[Var, Var]) -> Node:
    return replace(node, inputs=tuple(renamed.get(i, i) if isinstance(i, Var) else i for i in node.inputs))


def _pruned(node: Node, needed: set[Var]) -> Node:
    """A region without what nobody needs of it."""
    if node.op is not FUSED:
        return node
    body: Graph = node.attrs["body"]
    live = {v for v, out in zip(body.outputs.values(), node.outputs, strict=True) if out in needed}
    parts: list[Node] = []
    for part in reversed(body.nodes):
        if not live.isdisjoint(part.outputs):
            live.update(reads(part))
            parts.append(part)
    return part_of(node, parts[::-1], needed)


def _cost(node: Node) -> float:
    """What running a node takes, as the bytes that could be moved meanwhile."""
    parts = node.attrs["body"].nodes if node.op is FUSED else (node,)
    moved = sum(map(bytes_of, (*reads(node), *node.outputs)))
    return moved + sum(map(_flops, parts)) / FLOPS_PER_BYTE


def _flops(node: Node) -> float:
    """Of the ops that do much more than to move elements."""
    if node.op.name not in {"matmul", "linear", "conv2d", NHWC["conv2d"].name}:
        return 0.0
    x, w = (i.spec.shape for i in node.inputs[:2] if isinstance(i, Var))
    inner = x[-1] if node.op.name in {"matmul", "linear"} else math.prod(w[1:])
    return 2.0 * math.prod(node.outputs[0].spec.shape) * inner
