"""Dead results: what nobody reads of a branch or a loop is not computed in it.

    y, z = cond(p) { ... }, and nobody uses z      -> y = cond(p) { ... }
    scan { return carry0, y0, y1 }, y1 unused      -> scan { return carry0, y0 }
    a carry that only itself depends on            -> not carried
    an input that no sub-graph uses                -> not given

Same outputs, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from engines.graph.control import COND, CONTROL, SCAN, SWITCH, WHILE
from engines.graph.ir import Graph, Node, Var
from engines.graph.parts import NOTHING, Taken


def prune(graph: Graph) -> Graph:
    """Leave out what nobody reads, in sub-graphs too, outermost first."""
    live: set[Var] = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        slim = node
        if node.op in CONTROL and any(var in live for var in node.outputs):
            slim = _branches(node, live) if node.op in (COND, SWITCH) else _loop(node, live)
        if node.op not in CONTROL or any(var in live for var in node.outputs):
            live.update(i for i in slim.inputs if isinstance(i, Var))
            kept.append(slim)
    kept.reverse()
    same = len(kept) == len(graph.nodes) and all(new is old for new, old in zip(kept, graph.nodes, strict=True))
    return graph if same else graph.with_nodes(tuple(kept))


def _needed(graph: Graph, results: Iterable[Var]) -> tuple[tuple[Node, ...], set[Var]]:
    """The nodes that results depend on, and all values that these read."""
    read = set(results)
    kept = []
    for node in reversed(graph.nodes):
        if any(var in read for var in node.outputs):
            read.update(i for i in node.inputs if isinstance(i, Var))
            kept.append(node)
    return tuple(reversed(kept)), read


def _slim(graph: Graph, results: Sequence[int], taken: Taken, outside: Sequence[int]) -> Graph:
    """A sub-graph that gives some of its results only and takes some of its inputs only."""
    items, inputs = list(graph.outputs.items()), list(graph.inputs.values())
    first = sum(name.startswith("carry") for name, _ in (items[i] for i in results))
    outputs = {
        name if not taken.carry and not taken.rows else f"carry{n}" if n < first else f"y{n - first}": var
        for n, (name, var) in enumerate(items[i] for i in results)
    }
    nodes, _ = _needed(graph, outputs.values())
    slim = replace(graph, inputs=taken.named([inputs[i] for i in outside]), nodes=nodes, outputs=outputs)
    return prune(slim)


def _branches(node: Node, live: set[Var]) -> Node:
    bodies: tuple[Graph, ...] = node.attrs["body"]
    results = [i for i, var in enumerate(node.outputs) if var in live]
    slim = [_slim(body, results, NOTHING, range(len(body.inputs))) for body in bodies]
    reads = [_needed(body, body.outputs.values())[1] for body in slim]
    used = [
        i
        for i in range(len(node.inputs) - 1)
        if any(list(body.inputs.values())[i] in read for body, read in zip(slim, reads, strict=True))
    ]
    if len(used) == len(node.inputs) - 1 and len(results) == len(node.outputs):
        same = all(len(new.nodes) == len(old.nodes) for new, old in zip(slim, bodies, strict=True))
        if same:
            return node
    return Node(
        node.op,
        (node.inputs[0], *(node.inputs[i + 1] for i in used)),
        {**node.attrs, "body": tuple(_slim(body, range(len(results)), NOTHING, used) for body in slim)},
        tuple(node.outputs[i] for i in results),
        node.where,
    )


def _loop(node: Node, live: set[Var]) -> Node:
    parts: tuple[Graph, ...] = node.attrs["body"]
    body, carried = parts[-1], node.attrs["carried"]
    end = carried + node.attrs.get("scanned", 0)
    inputs, results = list(body.inputs.values()), list(body.outputs.values())
    asked = set().union(*(_read_at(part, part.outputs.values()) for part in parts[:-1]))
    kept = {i for i, var in enumerate(node.outputs) if var in live} | {k for k in asked if k < carried}
    while True:
        read = _read_at(body, [results[i] for i in kept])
        more = {k for k in read if k < carried} - kept
        if not more:
            break
        kept |= more
    used = read | asked
    rows = [i for i in range(carried, end) if i in used]
    if node.op is SCAN and node.attrs["length"] is None and not rows:
        rows = [carried]  # which says how many trips there are
    carries = [k for k in range(carried) if k in kept]
    outside = [i for i in range(end, len(inputs)) if i in used]
    order = [*carries, *rows, *outside]
    chosen = sorted(kept)
    if len(order) == len(inputs) and len(chosen) == len(results):
        slim = tuple(prune(part) for part in parts)
        same = all(new is old for new, old in zip(slim, parts, strict=True))
        return node if same else replace(node, attrs={**node.attrs, "body": slim})
    bodies = []
    for part in parts:
        values = list(part.inputs.values())
        taken = Taken([values[k] for k in carries], [values[i] for i in rows])
        if part is body:
            bodies.append(_slim(part, chosen, taken, outside))
        else:
            bodies.append(prune(replace(part, inputs=taken.named([values[i] for i in outside]))))
    attrs = {**node.attrs, "body": tuple(bodies), "carried": len(carries)}
    if node.op is not WHILE:
        attrs["scanned"] = len(rows)
    outputs = tuple(node.outputs[i] for i in chosen)
    return Node(node.op, tuple(node.inputs[i] for i in order), attrs, outputs, node.where)


def _read_at(graph: Graph, results: Iterable[Var]) -> set[int]:
    """Which inputs some results depend on, by place."""
    _, read = _needed(graph, results)
    return {i for i, var in enumerate(graph.inputs.values()) if var in read}
