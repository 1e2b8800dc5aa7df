"""Control flow as nodes: the attribute `body` holds sub-graphs, one per branch, or condition and body of a loop.

    %1: f32[4] = cond(%0, a0=x) {
      then {
        %0: f32[4] = exp(a0)  # model.py:3
        return r0=%0
      }
      otherwise {
        return r0=a0
      }
    }  # model.py:3

Each sub-graph of a node takes the same inputs: the carry of a loop first, then for a scan one row of each of its xs,
then what is used from outside. The results of a loop's body are the next carry, then what is kept of every trip: for a
scan the rows of its ys. A while loop keeps what its gradient will read in *stores*, with one value a trip; since nobody
knows how many before it has run, the spec of a store says 0 where that of ys says how many. It is a list of values, or
one tensor of them where the loop ran as a whole (`lower/whole.py`).

Results never stand in the storage of an operand: a result that is an operand is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import torch

from engines.graph.ir import Graph, Node, Operand, Var
from engines.op import REQUIRED, Op
from engines.ops.control import past_limit, within
from engines.ops.finite import NotFiniteError
from engines.value import DTYPES, EngineError, Spec

Run = Callable[..., tuple[Any, ...]]
Attrs = Mapping[str, Any]


def execute(node: Node, runs: Sequence[Run], operands: Sequence[Any]) -> tuple[Any, ...]:
    """What a control node computes, given a way to run each of its sub-graphs. Raises EngineError."""
    return EXECUTE[node.op.name](node, runs, operands)


def _run_cond(_node: Node, runs: Sequence[Run], operands: Sequence[Any]) -> tuple[Any, ...]:
    given = operands[1:]
    return fresh((runs[0] if operands[0] else runs[1])(*given), given)


def _run_switch(node: Node, runs: Sequence[Run], operands: Sequence[Any]) -> tuple[Any, ...]:
    given = operands[1:]
    return fresh(runs[within("switch", int(operands[0]), len(runs), lambda: node.where)](*given), given)


def _run_while(node: Node, runs: Sequence[Run], operands: Sequence[Any]) -> tuple[Any, ...]:
    carried, limit = node.attrs["carried"], node.attrs["limit"]
    condition, body = runs
    carry, outside = operands[:carried], operands[carried:]
    stores: list[list[Any]] = [[] for _ in node.outputs[carried:]]
    trips = 0
    while condition(*carry, *outside)[0]:
        if trips == limit:
            raise past_limit(limit, node.where)
        try:
            carry = body(*carry, *outside)
        except NotFiniteError as error:
            raise error.in_trip("while_loop", trips) from None
        if stores:
            for store, value in zip(stores, carry[carried:], strict=True):
                store.append(value)
            carry = carry[:carried]
        trips += 1
    return (*fresh(carry, operands), *stores)


def _run_scan(node: Node, runs: Sequence[Run], operands: Sequence[Any]) -> tuple[Any, ...]:
    carried, scanned = node.attrs["carried"], node.attrs["scanned"]
    (body,) = runs
    carry = operands[:carried]
    xs = [_rows(x) for x in operands[carried : carried + scanned]]
    outside = operands[carried + scanned :]
    trips = node.attrs["length"] if node.attrs["length"] is not None else len(xs[0])
    columns: list[list[Any]] = [[None] * trips for _ in node.outputs[carried:]]
    for t in reversed(range(trips)) if node.attrs["reverse"] else range(trips):
        try:
            carry = body(*carry, *[x[t] for x in xs], *outside)
        except NotFiniteError as error:
            raise error.in_trip("scan", t) from None
        if columns:
            for column, value in zip(columns, carry[carried:], strict=True):
                column[t] = value
            carry = carry[:carried]
    rows = (_stacked(c, v) for c, v in zip(columns, node.outputs[carried:], strict=True))
    return (*fresh(carry, operands), *rows)


def _rows(x: Any) -> Any:
    return x if isinstance(x, list) else x.unbind(0)


def _stacked(column: list[Any], out: Var) -> Any:
    """What a scan kept, as one tensor; stores of a loop inside, each as long as it went, stay a list of them."""
    if any(isinstance(value, list) for value in column) or len({value.shape for value in column}) > 1:
        return column
    if column:
        return torch.stack(column)
    return torch.empty((0, *out.spec.shape[1:]), dtype=out.spec.dtype, device=out.spec.device)


def fresh(results: Sequence[Any], operands: Sequence[Any]) -> tuple[Any, ...]:
    """Results, those that are operands copied."""
    return tuple([r.clone() if any(r is given for given in operands) else r for r in results])


EXECUTE: Mapping[str, Callable[[Node, Sequence[Run], Sequence[Any]], tuple[Any, ...]]] = {
    "cond": _run_cond,
    "switch": _run_switch,
    "while": _run_while,
    "scan": _run_scan,
}
"""How a control node runs, by the name of its op."""


# What comes of a node


def _branch_specs(inputs: Sequence[Operand], attrs: Attrs) -> tuple[Spec, ...]:
    bodies: tuple[Graph, ...] = attrs["body"]
    _check_inputs(inputs[1:], bodies)
    found = [tuple(var.spec for var in body.outputs.values()) for body in bodies]
    if len(set(found)) != 1:
        raise EngineError(f"its branches give {', '.join(_listed(specs) for specs in found)}")
    return found[0]


def _while_specs(inputs: Sequence[Operand], attrs: Attrs) -> tuple[Spec, ...]:
    condition, body = attrs["body"]
    _check_inputs(inputs, attrs["body"])
    _check_carry(body, attrs["carried"])
    if [(var.spec.shape, var.spec.dtype) for var in condition.outputs.values()] != [((), torch.bool)]:
        raise EngineError("its condition gives no scalar bool")
    return _loop_specs(body, attrs["carried"], 0)


def _scan_specs(inputs: Sequence[Operand], attrs: Attrs) -> tuple[Spec, ...]:
    (body,) = attrs["body"]
    carried, end = attrs["carried"], attrs["carried"] + attrs["scanned"]
    rows = [Var(i.spec._replace(shape=i.spec.shape[1:])) for i in inputs[carried:end] if isinstance(i, Var)]
    _check_inputs([*inputs[:carried], *rows, *inputs[end:]], attrs["body"])
    _check_carry(body, carried)
    lengths = {i.spec.shape[0] for i in inputs[carried:end] if isinstance(i, Var)}
    if (attrs["length"] is None and not lengths) or lengths - {attrs["length"] or 0}:
        raise EngineError(f"its length is {attrs['length']}, that of its xs {sorted(lengths)}")
    return _loop_specs(body, carried, attrs["length"] or 0)


def _loop_specs(body: Graph, carried: int, length: int) -> tuple[Spec, ...]:
    specs = [var.spec for var in body.outputs.values()]
    return (*specs[:carried], *(spec._replace(shape=(length, *spec.shape)) for spec in specs[carried:]))


def _check_inputs(given: Sequence[Operand], bodies: Sequence[Graph]) -> None:
    found = [i.spec if isinstance(i, Var) else i for i in given]
    for body in bodies:
        expected = [var.spec for var in body.inputs.values()]
        if found != expected:
            raise EngineError(f"its sub-graph {body.name} takes {_listed(expected)}, it is given {_listed(found)}")


def _check_carry(body: Graph, carried: int) -> None:
    before, after = ([v.spec for v in values.values()][:carried] for values in (body.inputs, body.outputs))
    if before != after or len(after) != carried:
        raise EngineError(f"its carry is {_listed(before)}, its body gives {_listed(after)}")


def _listed(specs: Sequence[Any]) -> str:
    return f"({', '.join(map(str, specs))})"


def _no_kernel(*_: Any, **__: Any) -> Any:
    raise TypeError("a node of control flow has no kernel: a lowering runs its sub-graphs")


def _absent(*, shape: tuple[int, ...], dtype: str, device: str) -> torch.Tensor:
    return torch.zeros((), dtype=DTYPES[dtype], device=device).expand(shape)


_LOOP = {"body": REQUIRED, "carried": REQUIRED, "gradient": "store", "whole": False}

COND = Op("cond", _no_kernel, (None,), {"body": REQUIRED}, None, variadic=True, specs=_branch_specs)
SWITCH = Op("switch", _no_kernel, (None,), {"body": REQUIRED}, None, variadic=True, specs=_branch_specs)
WHILE = Op("while", _no_kernel, (None,), {**_LOOP, "limit": REQUIRED}, None, variadic=True, specs=_while_specs)
SCAN = Op(
    "scan",
    _no_kernel,
    (None,),
    {**_LOOP, "scanned": REQUIRED, "length": REQUIRED, "reverse": False},
    None,
    variadic=True,
    specs=_scan_specs,
)
ABSENT = Op(  # stands where only another branch gives a value; nobody reads it
    "absent",
    _absent,
    (),
    {"shape": REQUIRED, "dtype": REQUIRED, "device": REQUIRED},
    specs=lambda _inputs, attrs: (Spec(tuple(attrs["shape"]), DTYPES[attrs["dtype"]], attrs["device"]),),
)

OPS = (COND, SWITCH, WHILE, SCAN, ABSENT)
"""The ops of control flow in graphs; they stand in no engine's table."""

CONTROL = frozenset({COND, SWITCH, WHILE, SCAN})
"""Those with sub-graphs."""


LOOPS = frozenset({WHILE, SCAN})
"""Those that go round."""


def map_bodies(graph: Graph, change: Callable[[Graph], Graph], but: Container[Any] = ()) -> Graph:
    """The graph with each sub-graph of its control nodes changed, but for these bodies; itself if nothing changes."""
    nodes = tuple(
        _changed(node, change, but) if node.op in CONTROL and node.attrs["body"] not in but else node
        for node in graph.nodes
    )
    same = all(new is old for new, old in zip(nodes, graph.nodes, strict=True))
    return graph if same else graph.with_nodes(nodes)


def _changed(node: Node, change: Callable[[Graph], Graph], but: Container[Any]) -> Node:
    bodies: tuple[Graph, ...] = node.attrs["body"]
    changed = tuple(change(map_bodies(body, change, but)) for body in bodies)
    if all(new is old for new, old in zip(changed, bodies, strict=True)):
        return node
    return Node(node.op, node.inputs, {**node.attrs, "body": changed}, node.outputs, node.where)


def all_nodes(graph: Graph) -> Iterator[Node]:
    """Every node of a graph and of the sub-graphs of its control nodes."""
    for node in graph.nodes:
        if node.op in CONTROL:
            for body in node.attrs["body"]:
                yield from all_nodes(body)
        yield node
