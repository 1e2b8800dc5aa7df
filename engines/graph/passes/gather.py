"""Sums over trips: a gradient that every trip adds to is computed once, behind the loop, from all trips together.

    scan { acc = acc + matmul(permute(g), x); ... }     -> scan { ...; keep g and x }; acc + matmul(permute(G), X)
    scan { acc = acc + permute(g) * x; ... }            -> the same, for a g and an x of one row
    scan { acc = acc + sum_to(g, shape=(n,)); ... }     -> scan { ...; keep g }; acc + sum of G

G and X are the rows of all trips, one below the other. The weight is written once instead of once a trip, and one large
product takes the place of many small ones. Same outputs within rounding: sums are taken in another order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engines.graph.control import SCAN
from engines.graph.fused import readers_of
from engines.graph.ir import Graph, Node, Var
from engines.graph.passes.everywhere import everywhere
from engines.graph.passes.prune import prune
from engines.graph.trace import Builder
from engines.ops import TABLE

FEWEST = 1024
"""Elements from which on a sum is worth a place of its own behind the loop."""


@dataclass(frozen=True)
class Sum:
    """Carry number `carry` grows in every trip by a product of `left`, turned, and `right`, or by the sum of `left`."""

    carry: int
    left: Var
    right: Var | None


@everywhere
def gather(graph: Graph) -> Graph:
    """Take sums over trips out of scans."""
    nodes: list[Node] = []
    for node in graph.nodes:
        sums = _sums(node) if node.op is SCAN and node.attrs["length"] is not None else []
        nodes.extend(_without(node, sums) if sums else [node])
    return graph if len(nodes) == len(graph.nodes) else prune(graph.with_nodes(tuple(nodes)))


def _sums(node: Node) -> list[Sum]:
    """The carries that are nothing but sums over trips."""
    body: Graph = node.attrs["body"][0]
    inputs, results = list(body.inputs.values()), list(body.outputs.values())
    readers = readers_of(body)
    makers = {var: each for each in body.nodes for var in each.outputs}
    found = []
    for k in range(node.attrs["carried"]):
        add = makers.get(results[k])
        grows = add is not None and add.op.name == "add" and readers.get(inputs[k]) == [add]
        if not grows or add is None or readers.get(results[k]) != [None] or math.prod(results[k].spec.shape) < FEWEST:
            continue
        part = [i for i in add.inputs if i is not inputs[k]]
        made = makers.get(part[0]) if len(part) == 1 and isinstance(part[0], Var) else None
        pair = _factors(made, makers) if made is not None else None
        if pair is not None and pair[0].spec.dtype == results[k].spec.dtype:
            found.append(Sum(k, *pair))
    return found


def _factors(node: Node, makers: Mapping[Var, Node]) -> tuple[Var, Var | None] | None:
    """What is multiplied or summed up, as matrices whose rows are the samples of a trip."""
    left = node.inputs[0]
    if not isinstance(left, Var):
        return None
    if node.op.name == "sum_to" and len(left.spec.shape) == 2 and node.attrs["shape"] == left.spec.shape[1:]:
        return left, None
    right, turned = node.inputs[-1], makers.get(left)
    if node.op.name not in ("matmul", "mul") or not isinstance(right, Var) or turned is None:
        return None
    given = turned.inputs[0]
    if turned.op.name != "permute" or tuple(turned.attrs["dims"]) != (1, 0) or not isinstance(given, Var):
        return None
    flat = len(right.spec.shape) == 2 and given.spec.shape[0] == right.spec.shape[0]
    outer = node.op.name == "matmul" or right.spec.shape[0] == 1
    return (given, right) if flat and outer else None


def _without(node: Node, sums: Sequence[Sum]) -> list[Node]:
    """The loop keeping the factors of its sums, which nobody reads now, and what adds them up behind it."""
    body: Graph = node.attrs["body"][0]
    builder = Builder(node.outputs[0].spec.device)
    kept: dict[Var, Var] = {}
    for var in (v for each in sums for v in (each.left, each.right) if v is not None):
        kept.setdefault(var, Var(var.spec._replace(shape=(node.attrs["length"], *var.spec.shape))))
    count = len(body.outputs) - node.attrs["carried"]
    results = {**body.outputs, **{f"y{count + i}": var for i, var in enumerate(kept)}}
    ends = list(node.outputs)
    behind: list[Node] = []
    with builder.on_behalf_of(node.where):
        for each in sums:
            ends[each.carry] = Var(node.outputs[each.carry].spec)
            start = node.inputs[each.carry]
            rows = _rows(builder, kept[each.left])
            if each.right is None:
                (total,) = builder.add(TABLE["sum_to"], (rows,), {"shape": tuple(rows.spec.shape[1:])})
            else:
                (turned,) = builder.add(TABLE["permute"], (rows,), {"dims": (1, 0)})
                (total,) = builder.add(TABLE["matmul"], (turned, _rows(builder, kept[each.right])), {})
            behind.append(Node(TABLE["add"], (start, total), {}, (node.outputs[each.carry],), node.where))
    loop = replace(
        node, attrs={**node.attrs, "body": (replace(body, outputs=results),)}, outputs=(*ends, *kept.values())
    )
    return [loop, *builder.nodes, *behind]


def _rows(builder: Builder, kept: Var) -> Var:
    """The rows of all trips, one below the other."""
    trips, rows, width = kept.spec.shape
    return builder.add(TABLE["reshape"], (kept,), {"shape": (trips * rows, width)})[0]
