"""Order: among the orders that keep every read before what it waits for, one that needs less memory at its peak.

    updates of all parameters, one region     -> those of large gradients each by itself, as soon as it may run
    f (takes memory), g (gives it back)       -> g, f

Same outputs, bit for bit. Nodes that may run are run by what they take minus what they give back, least first; the
order found is kept only where its peak is lower than before. An update comes after every reader of what it overwrites.

Not in `PIPELINE`: what was computed last is read last, so it is more often read from slow memory, and updates apart are
more calls. For those who need the memory; `rematerialise` begins with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from engines.graph.domain import UPDATES
from engines.graph.fused import FUSED, overwritten_values, part_of, reads
from engines.graph.ir import Graph, Node, Var
from engines.graph.lifetimes import Memory, bytes_of

LARGE = 1 / 64
"""Of the peak: the gradient that is worth a call of its own to be rid of sooner."""


def order(graph: Graph) -> Graph:
    """The graph with its nodes in another order, or the same graph."""
    before = Memory.of(graph).peak_bytes
    apart = _apart(graph, before)
    found = apart.with_nodes(tuple(_scheduled(apart)))
    return found if Memory.of(found).peak_bytes < before else graph


def _apart(graph: Graph, peak_bytes: int) -> Graph:
    """The graph with updates of large gradients taken out of the region of all updates."""
    nodes: list[Node] = []
    for node in graph.nodes:
        parts: Sequence[Node] = node.attrs["body"].nodes if node.op is FUSED else ()
        if len(parts) < 2 or any(part.op.name not in UPDATES for part in parts):
            nodes.append(node)
            continue
        large = [part for part in parts if bytes_of(part.outputs[0]) > LARGE * peak_bytes]
        small = [part for part in parts if bytes_of(part.outputs[0]) <= LARGE * peak_bytes]
        found = [part_of(node, members) for members in (*([part] for part in large), small) if members]
        nodes += found if all(each.outputs for each in found) else [node]
    return graph if len(nodes) == len(graph.nodes) else graph.with_nodes(tuple(nodes))


def _scheduled(graph: Graph) -> Iterator[Node]:
    """Nodes, each time the one that adds least to the memory in use of those that may run."""
    memory = Memory.of(graph)
    after, waiting = _dependencies(graph, memory)
    readers = _readers(graph, memory)
    left = {owner: len(found) for owner, found in readers.items()}
    taken = [sum(memory.lives[v].bytes for v in n.outputs if v in memory.lives) for n in graph.nodes]
    freed = [0] * len(graph.nodes)
    for position, node in enumerate(graph.nodes):
        freed[position] += sum(memory.lives[v].bytes for v in node.outputs if v in memory.lives and v not in readers)
    for owner, found in readers.items():
        if len(found) == 1:
            freed[next(iter(found))] += memory.lives[owner].bytes
    ready = [(taken[p] - freed[p], p) for p, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    done: set[int] = set()
    while ready:
        cost, position = heapq.heappop(ready)
        if position in done or cost != taken[position] - freed[position]:
            continue  # it has become cheaper since, and stands in the heap a second time
        done.add(position)
        yield graph.nodes[position]
        for owner in _owned(graph.nodes[position], memory):
            if owner not in left:
                continue
            left[owner] -= 1
            readers[owner].discard(position)
            if left[owner] == 1 and len(readers[owner]) == 1:
                (last,) = readers[owner]
                freed[last] += memory.lives[owner].bytes
                if waiting[last] == 0:
                    heapq.heappush(ready, (taken[last] - freed[last], last))
        for later in after[position]:
            waiting[later] -= 1
            if waiting[later] == 0:
                heapq.heappush(ready, (taken[later] - freed[later], later))


def _owned(node: Node, memory: Memory) -> set[Var]:
    """The storages that a node reads."""
    return {memory.owners.get(given, given) for given in reads(node)}


def _readers(graph: Graph, memory: Memory) -> dict[Var, set[int]]:
    """Who reads each storage that a node makes and nobody keeps, itself or by a view."""
    readers: dict[Var, set[int]] = {}
    for position, node in enumerate(graph.nodes):
        for owner in _owned(node, memory):
            life = memory.lives.get(owner)
            if life is not None and life.last < len(graph.nodes):
                readers.setdefault(owner, set()).add(position)
    return readers


def _dependencies(graph: Graph, memory: Memory) -> tuple[list[list[int]], list[int]]:
    """By position: which nodes wait for a node, and for how many nodes each waits."""
    makers = {var: position for position, node in enumerate(graph.nodes) for var in node.outputs}
    reading: dict[Var, set[int]] = {}
    for position, node in enumerate(graph.nodes):
        for owner in _owned(node, memory):
            reading.setdefault(owner, set()).add(position)
    after: list[list[int]] = [[] for _ in graph.nodes]
    waiting = [0] * len(graph.nodes)
    for position, node in enumerate(graph.nodes):
        before = {makers[given] for given in reads(node) if given in makers}
        for given in overwritten_values(node):
            before |= reading.get(memory.owners.get(given, given), set()) - {position}
        waiting[position] = len(before)
        for earlier in before:
            after[earlier].append(position)
    return after, waiting
