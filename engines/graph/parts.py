"""Tracing of branches and loops: the functions that `ops.cond` and its like are in a graph.

Each branch or body is traced once, in a part of the graph under construction. What it uses from outside becomes an
input of the sub-graph by itself.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from engines.graph.control import COND, SCAN, SWITCH, WHILE
from engines.graph.ir import Graph, Operand, Var, storage
from engines.graph.trace import OPS, Builder, Symbol, local
from engines.op import Op, describe, lift
from engines.ops import TABLE
from engines.ops.control import (
    Kept,
    check_carry,
    check_index,
    check_loop,
    check_predicate,
    check_values,
    common_length,
    pair,
    within,
)
from engines.ops.structure import Outline, describe_outline, flatten, paths, unflatten
from engines.value import EngineError, Spec, user_location

COPY = TABLE["copy"]


class Taken(NamedTuple):
    """What a sub-graph takes of its own, before what is used from outside: a carry, and rows of the xs of a scan."""

    carry: Sequence[Var] = ()
    rows: Sequence[Var] = ()

    def named(self, outside: Iterable[Var]) -> dict[str, Var]:
        """All inputs of the sub-graph by name."""
        kinds = {"carry": self.carry, "x": self.rows, "a": outside}
        return {f"{kind}{number}": var for kind, values in kinds.items() for number, var in enumerate(values)}


NOTHING = Taken()
CONDITION = "condition"


def close(builder: Builder, name: str, taken: Taken, outputs: Sequence[Var]) -> Graph:
    """A part as a graph of what it takes, and after that of what it uses from outside.

    Results beyond the carry of a loop are kept of every trip. A result that is a view of an input is copied, unless a
    loop copies it in any case when it stacks what it kept.
    """
    inputs = taken.named(_outside(builder, (*taken.carry, *taken.rows), outputs))
    owners, given = storage(Graph(name, {}, tuple(builder.nodes), {})), set(inputs.values())
    count = len(taken.carry) if taken.carry or taken.rows else len(outputs)
    made = list(outputs)
    for index, var in enumerate(outputs[:count]):
        if owners.get(var) in given:
            (made[index],) = builder.add(COPY, (var,), {})
    kind = "carry" if taken.carry and name != CONDITION else "r"
    results = {f"{kind}{i}": var for i, var in enumerate(made[:count])}
    results |= {f"y{i}": var for i, var in enumerate(made[count:])}
    return Graph(name, inputs, tuple(builder.nodes), results)


def _outside(builder: Builder, own: Sequence[Var], outputs: Sequence[Var]) -> Iterable[Var]:
    """The values that a part uses and neither takes nor makes, in the order of use."""
    ours = {*own, *(var for node in builder.nodes for var in node.outputs)}
    read = [i for node in builder.nodes for i in node.inputs if isinstance(i, Var)]
    return dict.fromkeys(var for var in (*read, *outputs) if var not in ours)


def alike(
    graphs: Sequence[Graph], taken: Taken, operands: Mapping[Var, Operand] = MappingProxyType({})
) -> tuple[list[Operand], tuple[Graph, ...]]:
    """What graphs use from outside, together, and the graphs, each taking all of it in one order.

    `operands` says what a graph's value is outside, where it is not the same there.
    """
    own = len(taken.carry) + len(taken.rows)
    places: dict[tuple[Operand, int], None] = {}
    used: list[dict[tuple[Operand, int], Var]] = []
    for graph in graphs:
        ours: dict[tuple[Operand, int], Var] = {}
        for var in list(graph.inputs.values())[own:]:
            operand = operands.get(var, var)
            again = sum(operand is other for other, _ in ours)
            ours[operand, again] = var
        used.append(ours)
        places.update(dict.fromkeys(ours))
    inputs = [[ours.get(place) or Var(_spec(place[0])) for place in places] for ours in used]
    widened = [replace(graph, inputs=taken.named(outside)) for graph, outside in zip(graphs, inputs, strict=True)]
    return [operand for operand, _ in places], tuple(widened)


def _spec(operand: Operand) -> Spec:
    assert isinstance(operand, Var)
    return operand.spec


def _cond(pred: Any, then: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """`ops.cond`: see `engines.ops.control.cond`. A Python bool chooses while tracing."""
    if isinstance(pred, (bool, np.bool_)):
        return (then if pred else otherwise)(*operands)
    check_predicate("cond", pred)
    return _branches(COND, pred, {"then": then, "otherwise": otherwise}, operands)


def _switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """`ops.switch`: see `engines.ops.control.switch`. A Python int chooses while tracing."""
    check_index(index)
    if isinstance(index, numbers.Integral):
        return branches[within("switch", int(index), len(branches), user_location)](*operands)
    return _branches(SWITCH, index, {f"branch {i}": branch for i, branch in enumerate(branches)}, operands)


def _branches(op: Op, chooser: Symbol, branches: Mapping[str, Callable[..., Any]], operands: Sequence[Any]) -> Any:
    builder = chooser.builder.open
    graphs, outlines = [], []
    for name, branch in branches.items():
        with builder.part() as inner:
            leaves, outline = flatten(branch(*operands))
            outlines.append(outline)
            check_values(op.name, f"the result of {name}", outline, leaves)
            graphs.append(close(inner, name, NOTHING, [_value(op.name, leaf, inner) for leaf in leaves]))
    _check_alike(op.name, list(branches), graphs, outlines)
    outside, bodies = alike(graphs, NOTHING)
    made = builder.add(op, (local(op.name, chooser, builder), *outside), {"body": bodies})
    return unflatten(outlines[0], [Symbol(var, builder) for var in made])


def _check_alike(op: str, names: Sequence[str], graphs: Sequence[Graph], outlines: Sequence[Outline]) -> None:
    """Refuse branches that give different structures, shapes or dtypes."""
    for name, graph, outline in zip(names, graphs, outlines, strict=True):
        if outline != outlines[0]:
            found, expected = describe_outline(outline), describe_outline(outlines[0])
            raise EngineError(f"{op}: {names[0]} gives {expected}, {name} gives {found}, at {user_location()}")
        ours, theirs = ([var.spec for var in g.outputs.values()] for g in (graph, graphs[0]))
        for i, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            if our != their:
                path = paths(outline, "result")[i]
                raise EngineError(
                    f"{op}: branches differ in their {path}: {names[0]} gives {their}, {name} {our}, "
                    f"at {user_location()}"
                )


def _while_loop(
    condition: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any, *, limit: int, gradient: Kept = "store"
) -> Any:
    """`ops.while_loop`: see `engines.ops.control.while_loop`."""
    check_loop("while_loop", gradient, limit)
    leaves, outline = flatten(carry)
    builder, given = _operands("while_loop", outline, leaves)
    taken = Taken([Var(var.spec) for var in given])
    with builder.part() as inner:
        holds = condition(unflatten(outline, [Symbol(var, inner) for var in taken.carry]))
        holds = torch.tensor(holds) if isinstance(holds, bool) else holds
        check_predicate("while_loop", holds)
        asked = close(inner, CONDITION, taken, [_value("while_loop", holds, inner)])
    with builder.part() as inner:
        after, found = flatten(body(unflatten(outline, [Symbol(var, inner) for var in taken.carry])))
        check_carry("while_loop", outline, leaves, found, after)
        done = close(inner, "body", taken, [_value("while_loop", leaf, inner) for leaf in after])
    outside, bodies = alike([asked, done], taken)
    attrs = {"body": bodies, "carried": len(taken.carry), "gradient": gradient, "limit": limit, "whole": False}
    made = builder.add(WHILE, (*given, *outside), attrs)
    return unflatten(outline, [Symbol(var, builder) for var in made])


def _scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
    gradient: Kept = "store",
) -> tuple[Any, Any]:
    """`ops.scan`: see `engines.ops.control.scan`."""
    check_loop("scan", gradient, 0)
    rows, row_outline = flatten(xs)
    leaves, outline = flatten(carry)
    check_values("scan", "xs", row_outline, rows)
    check_values("scan", "carry", outline, leaves)
    trips = common_length(rows, row_outline, length)
    builder, given = _operands("scan", (outline, row_outline), [*leaves, *rows])
    taken = Taken(
        [Var(var.spec) for var in given[: len(leaves)]],
        [Var(var.spec._replace(shape=var.spec.shape[1:])) for var in given[len(leaves) :]],
    )
    with builder.part() as inner:
        before, row = ([Symbol(var, inner) for var in values] for values in taken)
        result = body(unflatten(outline, before), unflatten(row_outline, row))
        after, found = flatten(pair(result)[0])
        check_carry("scan", outline, leaves, found, after)
        made, made_outline = flatten(result[1])
        check_values("scan", "y", made_outline, made)
        done = close(inner, "body", taken, [_value("scan", leaf, inner) for leaf in (*after, *made)])
    outside, bodies = alike([done], taken)
    attrs = {"carried": len(leaves), "scanned": len(rows), "length": trips, "reverse": reverse, "gradient": gradient}
    attrs["whole"] = False
    results = [Symbol(v, builder) for v in builder.add(SCAN, (*given, *outside), {"body": bodies, **attrs})]
    return unflatten(outline, results[: len(leaves)]), unflatten(made_outline, results[len(leaves) :])


def _without_gradient(function: Callable[..., Any], *values: Any) -> Any:
    """`ops.without_gradient`: what comes out is constant to every gradient."""
    leaves, outline = flatten(function(*values))
    return unflatten(outline, [OPS.stop_gradient(leaf) for leaf in leaves])


def _operands(name: str, outline: Outline, leaves: Sequence[Any]) -> tuple[Builder, list[Var]]:
    """The part that is open, and each leaf as a value of it. Raises EngineError."""
    check_values(name, "carry", outline, leaves)
    for leaf in leaves:
        if isinstance(leaf, Symbol):
            builder = leaf.builder.open
            return builder, [_value(name, leaf, builder) for leaf in leaves]
    found = ", ".join(map(describe, leaves))
    raise EngineError(f"{name}: no symbol of a graph among its values ({found}) at {user_location()}")


def _value(name: str, leaf: Any, builder: Builder) -> Var:
    if isinstance(leaf, Symbol):
        return local(name, leaf, builder)
    return builder.constant(lift(name, leaf, "graph", builder.device))


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "cond": _cond,
    "switch": _switch,
    "while_loop": _while_loop,
    "scan": _scan,
    "without_gradient": _without_gradient,
}
"""What these names of `ops` are in a graph."""
