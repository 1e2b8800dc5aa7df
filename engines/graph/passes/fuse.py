"""Fusion: nodes that go over the same elements become one region, which a lowering may compute in one loop.

    y = tanh(x); z = y * 2                             -> z = fused(x) { y = tanh(x); z = y * 2 }
    s = sum(f(x)), s = sum_to(f(x))                    -> with f, in its region
    log_softmax(f(x)), nll_loss of it, and backward    -> one region, row by row
    sgd_update(p, v, g), sgd_update(q, w, h), ...      -> one region for all parameters
    f(linear(x, w, b))                                 -> f(linear(x, w) + b), where nothing else reads the linear

Same outputs, bit for bit, as long as regions are run node by node (the bias excepted, which BLAS may add in another
order). Nothing is computed twice, and no region needs its own result: every node has a level, which grows by one where
a value leaves one region for another, and a region holds nodes of one level only. Updates come after every reader of
what they overwrite.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from engines.graph.domain import ALONE, MAPS, UPDATES, Domain, Domains, domain
from engines.graph.fused import overwritten_values, readers_of, reads, region_node
from engines.graph.ir import Graph, Node, Var, storage
from engines.graph.passes.everywhere import everywhere
from engines.ops import TABLE


@everywhere
def fuse(graph: Graph) -> Graph:
    """Gather nodes into regions."""
    prepared = _prepared(graph)
    regions = _regions(prepared)
    if not regions:
        return graph
    return _gathered(prepared, regions)


# Before regions are formed


def _prepared(graph: Graph) -> Graph:
    """The graph with biases brought next to activations."""
    readers = readers_of(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(_unbiased(node) if _has_free_bias(node, readers) else [node])
    return graph if len(nodes) == len(graph.nodes) else graph.with_nodes(tuple(nodes))


def _has_free_bias(node: Node, readers: Mapping[Var, Sequence[Node | None]]) -> bool:
    if node.op.name != "linear" or not isinstance(node.inputs[2], Var):
        return False
    reader, *more = readers.get(node.outputs[0], [None])
    return not more and reader is not None and reader.op.name in MAPS and domain(reader) == _sum_domain(node)


def _sum_domain(node: Node) -> Domain:
    return Domain(*node.outputs[0].spec)


def _unbiased(node: Node) -> list[Node]:
    x, w, bias = node.inputs
    product = Var(node.outputs[0].spec)
    return [
        replace(node, inputs=(x, w, None), outputs=(product,)),
        Node(TABLE["add"], (product, bias), {}, node.outputs, node.where),
    ]


# Which nodes belong together


def _regions(graph: Graph) -> list[list[Node]]:
    """Nodes of one level and domain, in the graph's order; those left out that gain nothing."""
    over = {node: domain(node) for node in graph.nodes}
    levels = _lowered(graph, over, _levels(graph, over))
    members: dict[tuple[int, Domain], list[Node]] = {}
    for node, found in over.items():
        if found is not None:
            members.setdefault((levels[node], found), []).append(node)
    return [nodes for nodes in members.values() if len(nodes) > 1 or nodes[0].op.name in ALONE]


def _joins(node: Node, over: Domains) -> Domain | None:
    """The domain of those readers that a node's result may be handed to inside a region; a sum is whole only after."""
    return over[node] if node.op.name in MAPS else None


def _levels(graph: Graph, over: Domains) -> dict[Node, int]:
    """The least level of each node: above all that it reads, but on one level with what it may join."""
    levels: dict[Node, int] = {}
    makers: dict[Var, Node] = {}
    last_read: dict[Var, int] = {}
    owners = storage(graph)
    for node in graph.nodes:
        level = 0
        for maker in (makers[var] for var in reads(node) if var in makers):
            together = over[node] is not None and _joins(maker, over) == over[node]
            level = max(level, levels[maker] + (not together))
        for var in overwritten_values(node):
            level = max(level, last_read.get(owners.get(var, var), -1) + 1)
        for owner in (owners.get(var, var) for var in reads(node)):
            last_read[owner] = max(last_read.get(owner, 0), level)
        levels[node] = level
        makers.update(dict.fromkeys(node.outputs, node))
    return levels


def _lowered(graph: Graph, over: Domains, levels: dict[Node, int]) -> dict[Node, int]:
    """Nodes that wait for nobody moved down to their first reader, and updates to the end, where they meet others."""
    readers = readers_of(graph)
    made = {var for node in graph.nodes for var in node.outputs}
    fixed = made.union(graph.inputs[name] for name in graph.donated)
    end = max(levels.values(), default=0)
    for node in reversed(graph.nodes):
        ours = [reader for var in node.outputs for reader in readers.get(var, ())]
        if node.op.name in UPDATES and all(reader is None for reader in ours):
            levels[node] = end
        elif over[node] is not None and fixed.isdisjoint(reads(node)):
            latest = [levels[r] - (_joins(node, over) is None or over[r] != over[node]) for r in ours if r is not None]
            levels[node] = max(levels[node], min(latest, default=0))
    return levels


# From regions to nodes


def _gathered(graph: Graph, regions: Sequence[Sequence[Node]]) -> Graph:
    """Each region as one node where its last member stood; all others in their order as far as that allows."""
    region_of = {node: number for number, nodes in enumerate(regions) for node in nodes}
    readers = readers_of(graph)
    units: dict[int, Node] = {}  # by the position that a unit would like to have
    left = list(map(len, regions))
    for position, node in enumerate(graph.nodes):
        number = region_of.get(node)
        if number is None:
            units[position] = node
            continue
        left[number] -= 1
        if left[number] == 0:
            units[position] = region_node(regions[number], readers)
    return graph.with_nodes(tuple(_ordered(graph, units)))


def _ordered(graph: Graph, units: Mapping[int, Node]) -> Iterable[Node]:
    """Units such that each comes after what it reads, and an update after every reader of what it overwrites."""
    maker = {var: position for position, unit in units.items() for var in unit.outputs}
    owners = storage(graph)
    reading: dict[Var, set[int]] = {}
    for position, unit in units.items():
        for given in reads(unit):
            reading.setdefault(owners.get(given, given), set()).add(position)
    after: dict[int, list[int]] = {position: [] for position in units}
    waiting: dict[int, int] = {}
    for position, unit in units.items():
        before = {maker[given] for given in reads(unit) if given in maker}
        for given in overwritten_values(unit):
            before |= reading.get(owners.get(given, given), set()) - {position}
        waiting[position] = len(before)
        for earlier in before:
            after[earlier].append(position)
    ready = [position for position, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    while ready:
        position = heapq.heappop(ready)
        yield units[position]
        for later in after[position]:
            waiting[later] -= 1
            if waiting[later] == 0:
                heapq.heappush(ready, later)
