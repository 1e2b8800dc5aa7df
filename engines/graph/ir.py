"""The graph itself: immutable nodes in topological order.

    print(graph)

    graph f(x: f32[4], w: f32[4]) {
      %0: f32[4] = mul(x, w)  # model.py:3
      %1: f32[] = sum(%0)  # model.py:3
      return loss=%1
    }

A `Var` is one value; its identity is its name. A `Node` computes some from others. `Graph.nodes` stand in an order of
execution, so nobody sorts and nobody recurses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from engines.op import Op
from engines.value import Location, Spec

VIEWS = frozenset(
    {"reshape", "permute", "broadcast_to", "getitem", "split", "unstack", "sum_to", "cast", "stop_gradient"}
)
"""Ops whose results may stand in the storage of their first input, so that an update of it changes them too."""


SEEN = frozenset({"body", "carried", "scanned"})
"""Attributes that the text of a graph shows in its own way."""


class Var:
    """One value of a graph; two are the same only if they are one object."""

    __slots__ = ("spec",)

    def __init__(self, spec: Spec) -> None:
        self.spec = spec


Operand = Var | float | int | bool | None
"""What a node takes: a value, a Python number, or nothing for an optional input."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One application of an op; `where` is the user's line that asked for it."""

    op: Op
    inputs: tuple[Operand, ...]
    attrs: Mapping[str, Any]
    outputs: tuple[Var, ...]
    where: Location


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Where results stand while a graph runs: for these nodes in this order, with these outputs, and for no others.

    `places` has for a value its offset in the arena, or the operand whose memory it takes over; whatever is not there
    gets memory of its own. `arena_bytes` is the arena's size, `peak_bytes` that and all other memory alive at once.
    """

    nodes: tuple[Node, ...]
    outputs: Mapping[str, Var]
    places: Mapping[Var, int | Var]
    arena_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A function from named inputs to named outputs.

    `donated` names the inputs whose storage an update node overwrites; whoever calls must not use their old values. A
    `plan` is dropped as soon as the graph has other nodes or outputs than it was made for.
    """

    name: str
    inputs: Mapping[str, Var]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, Var]
    constants: Mapping[Var, torch.Tensor] = field(default_factory=dict)
    donated: frozenset[str] = frozenset()
    plan: Plan | None = None

    def __post_init__(self) -> None:
        stale = self.plan is not None and (self.plan.nodes is not self.nodes or self.plan.outputs is not self.outputs)
        if stale:
            object.__setattr__(self, "plan", None)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def names(self) -> dict[Var, str]:
        """A readable name for every value, unique in this graph."""
        names = {var: name for name, var in self.inputs.items()}
        names.update({var: f"const{i}" for i, var in enumerate(self.constants)})
        for node in self.nodes:
            for var in node.outputs:
                names[var] = f"%{len(names) - len(self.inputs) - len(self.constants)}"
        return names

    def with_nodes(self, nodes: tuple[Node, ...], outputs: Mapping[str, Var] | None = None) -> Graph:
        """The same function of the same inputs, computed by other nodes."""
        return replace(self, nodes=nodes, outputs=self.outputs if outputs is None else outputs)


def _lines(graph: Graph) -> list[str]:
    names = graph.names()
    inputs = ", ".join(
        f"{'donated ' if name in graph.donated else ''}{name}: {var.spec}" for name, var in graph.inputs.items()
    )
    lines = [f"graph {graph.name}({inputs}) {{"]
    places = {} if graph.plan is None else graph.plan.places
    if graph.plan is not None:
        lines.append(f"  arena of {graph.plan.arena_bytes} bytes, {graph.plan.peak_bytes} at the peak")
    lines += [f"  {names[var]}: {var.spec} = constant" for var in graph.constants]
    for node in graph.nodes:
        results = ", ".join(f"{names[var]}: {var.spec}{_place(places.get(var), names)}" for var in node.outputs)
        lines.append(f"  {results} = {node.op.name}({arguments(node, names)}){_body(node)}  # {node.where}")
    lines.append(f"  return {', '.join(f'{name}={names[var]}' for name, var in graph.outputs.items())}")
    lines.append("}")
    return lines


def _place(place: int | Var | None, names: Mapping[Var, str]) -> str:
    if place is None:
        return ""
    return f" in {names[place]}" if isinstance(place, Var) else f" at {place}"


def _body(node: Node) -> str:
    """The sub-graph of a node that has one, indented, to stand behind the node."""
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        return "\n".join([" {", *_inner(body)])
    if isinstance(body, tuple):
        return "\n".join(
            [" {", *(f"  {line}" for part in body for line in (f"  {part.name} {{", *_inner(part))), "  }"]
        )
    return ""


def _inner(graph: Graph) -> list[str]:
    """The lines of a sub-graph but the first, indented."""
    return [f"  {line}" for line in "\n".join(_lines(graph)[1:]).splitlines()]


def arguments(node: Node, names: Mapping[Var, str]) -> str:
    """A node's operands, and those of its attributes that are not at their default, as text."""
    operands = [names[i] if isinstance(i, Var) else repr(i) for i in node.inputs]
    body = node.attrs.get("body")
    attrs = [
        f"{name}={value!r}"
        for name, value in node.attrs.items()
        if name not in SEEN and value != node.op.attrs.get(name)
    ]
    if body is not None:
        taken = list((body if isinstance(body, Graph) else body[0]).inputs)
        own = len(operands) - len(taken)  # a predicate or an index, which no body takes
        given = [f"{name}={operand}" for name, operand in zip(taken, operands[own:], strict=True)]
        return ", ".join([*operands[:own], *given, *attrs])
    while operands and operands[-1] == "None":
        operands.pop()
    return ", ".join([*operands, *attrs])


def overwritten(node: Node) -> tuple[int, ...]:
    """The inputs whose storage a node overwrites: those that its op donates, or its body does."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return node.op.donates
    return tuple(index for index, name in enumerate(body.inputs) if name in body.donated)


def storage(graph: Graph) -> dict[Var, Var]:
    """For each value that may be a view, the value in whose storage it stands."""
    owners: dict[Var, Var] = {}
    for node in graph.nodes:
        if node.op.name in VIEWS and isinstance(node.inputs[0], Var):
            owner = owners.get(node.inputs[0], node.inputs[0])
            owners.update(dict.fromkeys(node.outputs, owner))
    return owners


Visit = Callable[[Node], "Node | tuple[Var, ...]"]


def rewrite(graph: Graph, visit: Visit) -> Graph:
    """One sweep over the nodes, each seen with its operands already rewritten.

    `visit` gives the node to keep (itself, or another with the same outputs), or a tuple of existing values that stand
    for its outputs from now on. Gives the same object if nothing changed.
    """
    renamed: dict[Var, Var] = {}
    nodes: list[Node] = []
    changed = False
    for original in graph.nodes:
        inputs = tuple(renamed.get(i, i) if isinstance(i, Var) else i for i in original.inputs)
        same = all(new is old for new, old in zip(inputs, original.inputs, strict=True))
        node = original if same else replace(original, inputs=inputs)
        found = visit(node)
        if isinstance(found, tuple):
            renamed.update(zip(node.outputs, found, strict=True))
        else:
            nodes.append(found)
        changed = changed or found is not original
    if not changed:
        return graph
    return graph.with_nodes(tuple(nodes), {name: renamed.get(var, var) for name, var in graph.outputs.items()})
