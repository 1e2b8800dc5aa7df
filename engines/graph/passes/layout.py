"""Layout: convolutions, and what lies between them, work on images whose channels lie innermost.

    conv2d(x, w, b)                                     -> to_nchw(conv2d_nhwc(to_nhwc(x), to_nhwc(w), b))
    f(x, y), elementwise                                -> to_nchw(f(to_nhwc(x), to_nhwc(y)))
    sum(x, dim=(2, 3))                                  -> sum(to_nhwc(x), dim=(1, 2))
    to_nhwc(to_nchw(x))                                 -> x
    to_nhwc(constant)                                   -> a constant
    to_nhwc(x), of one channel or one pixel             -> reshape(x)

Same outputs within rounding, and of the same shapes: the order of what lies inside a region stands in the shapes there
(nhwc.py), so whatever comes after this pass takes values to be contiguous, as ever. Each value is converted at most
once each way, where it enters or leaves a region, and regions are such that fewest elements are converted.

A weight that is an input is converted at every call, once for all its readers. To keep what was converted would need
to know that nobody has written to the weight since; an update in C leaves no trace of that. One that shall not change
can be a constant.

Not in `PIPELINE`, but in `CHANNELS_LAST`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from engines.graph.domain import BINARY, COMPARISONS, SLOPES, UNARY
from engines.graph.fused import readers_of, reads
from engines.graph.ir import Graph, Node, Operand, Var
from engines.graph.nhwc import CONVOLUTIONS, INWARD, NHWC, OUTWARD, TO_NHWC, turned
from engines.graph.passes.everywhere import everywhere
from engines.op import Op, kernels_only
from engines.ops import TABLE
from engines.value import Location

ELEMENTWISE = BINARY | COMPARISONS | SLOPES | UNARY | {"where", "logical_not", "power", "cast", "log"}
SUMS = frozenset({"sum", "mean", "sum_to"})


@everywhere
def layout(graph: Graph) -> Graph:
    """Put regions around convolutions into channels-last order, with conversions at their edges."""
    inside = _cheapest(graph)
    return _Rewriting(graph, inside).graph() if inside else graph


# Which nodes


def _can(node: Node) -> bool:
    """Whether a node can work on images whose channels lie innermost."""
    name, first = node.op.name, node.inputs[0] if node.inputs else None
    if node.op is not TABLE.get(name) or any(0 in v.spec.shape for v in (*reads(node), *node.outputs)):
        return False
    if name in NHWC:
        return _is_image(first) and isinstance(first, Var) and first.spec.dtype.is_floating_point
    if name in ELEMENTWISE:
        return _is_image(node.outputs[0]) and all(_is_image(i) or not i.spec.shape for i in reads(node))
    return name in SUMS and _is_image(first) and _keeps_order(node)


def _is_image(operand: Operand) -> bool:
    return isinstance(operand, Var) and len(operand.spec.shape) == 4


def _keeps_order(node: Node) -> bool:
    """Whether the dimensions that a sum keeps follow one another as before."""
    if node.op.name == "sum_to":
        return _is_image(node.outputs[0]) and node.outputs[0].spec != reads(node)[0].spec  # else it may be a view
    summed = _dims(node.attrs["dim"])
    kept = [place for place, d in enumerate(TO_NHWC) if d not in summed]
    return node.attrs["keepdim"] or kept == sorted(kept, key=lambda place: TO_NHWC[place])


def _dims(dim: Any) -> tuple[int, ...]:
    """The dimensions that a sum goes over, counted from the front."""
    given = (0, 1, 2, 3) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(d % 4 for d in given)


def _cheapest(graph: Graph) -> set[Node]:
    """All convolutions that can, and those of their neighbours with which fewest elements are converted.

    A minimum cut between convolutions and what cannot: a value is converted, once, where not all who make or read it
    are on one side. What would make no difference stays outside.
    """
    able = {node for node in graph.nodes if _can(node)}
    convolutions = {node for node in able if node.op.name in CONVOLUTIONS}
    if not convolutions:
        return set()
    makers = {var: node for node in graph.nodes for var in node.outputs}
    network: Network = {SOURCE: {}, SINK: {}}
    for var, readers in readers_of(graph).items():
        if not _is_image(var) or _lies_the_same(var) or var in graph.constants:
            continue
        nodes = {makers.get(var), *readers}
        ends = {SOURCE if node in convolutions else node if node in able else SINK for node in nodes}
        network[var, 0], network[var, 1] = {(var, 1): math.prod(var.spec.shape)}, dict.fromkeys(ends, ENDLESS)
        for end in ends:
            network.setdefault(end, {})[var, 0] = ENDLESS
    return convolutions | (able & _before_the_cut(network))


Network = dict[object, dict[object, int]]
SOURCE, SINK, ENDLESS = "source", "sink", 1 << 62


def _before_the_cut(network: Network) -> set[object]:
    """What the source still reaches when as much flows as can (J. Edmonds and R. Karp, 1972); changes capacities."""
    while True:
        came: dict[object, object] = {SOURCE: None}
        waiting: deque[object] = deque([SOURCE])
        while waiting and SINK not in came:
            here = waiting.popleft()
            new = [there for there, room in network[here].items() if room > 0 and there not in came]
            came |= dict.fromkeys(new, here)
            waiting += new
        if SINK not in came:
            return set(came)
        path: list[object] = [SINK]
        while path[-1] != SOURCE:
            path.append(came[path[-1]])
        steps = list(pairwise(reversed(path)))
        amount = min(network[here][there] for here, there in steps)
        for here, there in steps:
            network[here][there] -= amount
            network[there][here] = network[there].get(here, 0) + amount


def _lies_the_same(var: Var) -> bool:
    """Of one channel, or one pixel, both orders are the same in memory."""
    _, channels, high, wide = var.spec.shape
    return channels == 1 or high * wide == 1


# What becomes of them


class _Rewriting:
    """A graph's nodes gone through once, those inside turned, conversions put where a value is first read outside."""

    def __init__(self, graph: Graph, inside: set[Node]) -> None:
        self._graph = graph
        self._inside = inside
        self._constants = dict(graph.constants)
        self._turned: dict[Var, Var] = {}  # what stands inside for a value
        self._absent: dict[Var, Location] = {}  # values that stand inside alone so far, and where they come from
        self._nodes: list[Node] = []

    def graph(self) -> Graph:
        """The graph anew."""
        for node in self._graph.nodes:
            if node in self._inside:
                self._turn(node)
            else:
                self._bring_out(reads(node))
                self._nodes.append(node)
        self._bring_out(self._graph.outputs.values())
        return replace(self._graph, nodes=tuple(self._nodes), constants=self._constants)

    def _turn(self, node: Node) -> None:
        inputs = tuple(self._within(i, node.where) if isinstance(i, Var) else i for i in node.inputs)
        attrs = ATTRS[node.op.name](node.attrs) if node.op.name in ATTRS else node.attrs
        outputs = tuple(self._made(var, node.where) for var in node.outputs)
        self._nodes.append(Node(NHWC.get(node.op.name, node.op), inputs, attrs, outputs, node.where))

    def _made(self, var: Var, where: Location) -> Var:
        if not _is_image(var):
            return var
        self._absent[var] = where
        self._turned[var] = Var(turned(var.spec, TO_NHWC))
        return self._turned[var]

    def _within(self, var: Var, where: Location) -> Var:
        """What stands for a value inside."""
        if not _is_image(var):
            return var
        if var not in self._turned:
            new = self._turned[var] = Var(turned(var.spec, TO_NHWC))
            if var in self._constants:
                with kernels_only():
                    self._constants[new] = INWARD.kernel(self._constants[var])
            else:
                self._nodes.append(_conversion(INWARD, var, new, where))
        return self._turned[var]

    def _bring_out(self, wanted: Iterable[Var]) -> None:
        for var in wanted:
            if var in self._absent:
                self._nodes.append(_conversion(OUTWARD, self._turned[var], var, self._absent.pop(var)))


def _conversion(op: Op, given: Var, made: Var, where: Location) -> Node:
    if _lies_the_same(given if op is INWARD else made):
        return Node(TABLE["reshape"], (given,), {"shape": made.spec.shape}, (made,), where)
    return Node(op, (given,), {}, (made,), where)


def _turned_dims(attrs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**attrs, "dim": tuple(sorted(TO_NHWC.index(d) for d in _dims(attrs["dim"])))}


def _turned_shape(attrs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**attrs, "shape": tuple(attrs["shape"][d] for d in TO_NHWC)}


ATTRS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "sum": _turned_dims,
    "mean": _turned_dims,
    "sum_to": _turned_shape,
}
"""Attributes that name dimensions, in the new order."""
