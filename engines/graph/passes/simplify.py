"""Algebraic identities.

    x * 1, x / 1, x - 0, x + (-0.0)                  -> x       (x + 0.0 stays: it turns -0.0 into 0.0)
    x ** 1, by a number                              -> x       (by a tensor of ones it may turn a NaN's sign)
    neg(neg(x))                                      -> x
    relu(relu(x)), abs(abs(x))                       -> the inner one
    reshape, broadcast_to, sum_to to x's own shape   -> x
    cast to x's own dtype; permute that moves nothing -> x
    reshape(reshape(x))                              -> reshape(x)
    permute(permute(x))                              -> permute(x)
    concat([x])                                      -> x

Same elements, bit for bit: only identities that hold for every float, signed zeros and NaN included, stand here. What
may differ is where they lie: x may be a view where a copy was, and torch sums in the order of memory. None is applied
where it would put a donated input, or a view of one, in the place of a fresh value: an update would change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from engines.graph.ir import Graph, Node, Operand, Var, rewrite, storage
from engines.graph.passes.everywhere import everywhere

SAME_ELEMENTS = ("reshape", "permute", "broadcast_to")
"""Ops whose result has no element that their input has not."""

Found = Node | tuple[Var, ...] | None
Producers = Mapping[Var, Node]


@everywhere
def simplify(graph: Graph) -> Graph:
    """Apply each identity once, operands first."""
    producers: dict[Var, Node] = {}
    owners = storage(graph)
    donated = {graph.inputs[name] for name in graph.donated}

    def visit(node: Node) -> Node | tuple[Var, ...]:
        rule = RULES.get(node.op.name)
        found = rule(node, producers) if rule is not None else None
        if isinstance(found, tuple):
            owner = owners.get(found[0], found[0])
            if found[0].spec != node.outputs[0].spec:
                found = None  # the identity would lose a broadcast or a promotion
            elif owner in donated and owners.get(node.outputs[0]) is not owner:
                found = None  # an update would overwrite what was a copy
        kept = node if found is None else found
        if isinstance(kept, Node):
            producers.update((var, kept) for var in kept.outputs)
        return kept

    return rewrite(graph, visit)


def _value(operand: Operand, producers: Producers) -> float | None:
    """The number that every element of an operand is, where that is known."""
    if isinstance(operand, Var):
        node = producers.get(operand)
        while node is not None and node.op.name in SAME_ELEMENTS and isinstance(node.inputs[0], Var):
            node = producers.get(node.inputs[0])
        if node is None or node.op.name != "full_like":
            return None
        value = node.attrs["value"]
        return float(value if node.outputs[0].spec.dtype.is_floating_point else int(value))  # no integer is -0.0
    return None if operand is None else float(operand)


def _one(operand: Operand, producers: Producers) -> bool:
    return _value(operand, producers) == 1.0


def _zero(operand: Operand, producers: Producers, sign: float) -> bool:
    value = _value(operand, producers)
    return value == 0.0 and math.copysign(1.0, value) == sign


def _mul(node: Node, producers: Producers) -> Found:
    a, b = node.inputs
    if isinstance(a, Var) and _one(b, producers):
        return (a,)
    return (b,) if isinstance(b, Var) and _one(a, producers) else None


def _div(node: Node, producers: Producers) -> Found:
    a, b = node.inputs
    return (a,) if isinstance(a, Var) and _one(b, producers) else None


def _power(node: Node, producers: Producers) -> Found:
    return None if isinstance(node.inputs[1], Var) else _div(node, producers)


def _sub(node: Node, producers: Producers) -> Found:
    a, b = node.inputs
    return (a,) if isinstance(a, Var) and _zero(b, producers, 1.0) else None


def _add(node: Node, producers: Producers) -> Found:
    a, b = node.inputs
    if isinstance(a, Var) and _zero(b, producers, -1.0):
        return (a,)
    return (b,) if isinstance(b, Var) and _zero(a, producers, -1.0) else None


def _inner(node: Node, producers: Producers) -> Node | None:
    """The node that made this one's input, if it is of the same op."""
    operand = node.inputs[0]
    inner = producers.get(operand) if isinstance(operand, Var) else None
    return inner if inner is not None and inner.op is node.op else None


def _neg(node: Node, producers: Producers) -> Found:
    inner = _inner(node, producers)
    operand = None if inner is None else inner.inputs[0]
    return (operand,) if isinstance(operand, Var) else None


def _idempotent(node: Node, producers: Producers) -> Found:
    inner = _inner(node, producers)
    return None if inner is None else inner.outputs


def _same_spec(node: Node, _: Producers) -> Found:
    operand = node.inputs[0]
    return (operand,) if isinstance(operand, Var) and operand.spec == node.outputs[0].spec else None


def _reshape(node: Node, producers: Producers) -> Found:
    inner = _inner(node, producers)
    if inner is not None:
        node = replace(node, inputs=inner.inputs)
        return _same_spec(node, producers) or node
    return _same_spec(node, producers)


def _permute(node: Node, producers: Producers) -> Found:
    inner = _inner(node, producers)
    dims = _positive(node)
    if inner is not None:
        first = _positive(inner)
        dims = tuple(first[d] for d in dims)
        node = replace(node, inputs=inner.inputs, attrs={"dims": dims})
    operand = node.inputs[0]
    if dims == tuple(range(len(dims))) and isinstance(operand, Var):
        return (operand,)
    return None if inner is None else node


def _positive(node: Node) -> tuple[int, ...]:
    dims = node.attrs["dims"]
    return tuple(d % len(dims) for d in dims)


def _concat(node: Node, _: Producers) -> Found:
    (only,) = node.inputs if len(node.inputs) == 1 else (None,)
    return (only,) if isinstance(only, Var) else None


RULES: Mapping[str, Callable[[Node, Producers], Found]] = {
    "mul": _mul,
    "div": _div,
    "power": _power,
    "sub": _sub,
    "add": _add,
    "neg": _neg,
    "relu": _idempotent,
    "abs": _idempotent,
    "reshape": _reshape,
    "permute": _permute,
    "broadcast_to": _same_spec,
    "sum_to": _same_spec,
    "cast": _same_spec,
    "concat": _concat,
}
