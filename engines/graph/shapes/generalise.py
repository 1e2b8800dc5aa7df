"""From one graph for each of several sizes to one graph for all: what differs becomes a formula of the sizes.

    print(generalise(graphs, probes))

    graph f(x: f32[size_length,4], size_length: i64[]) {
      %0: f32[size_length,4] = tanh(x)  # model.py:3
      %1: f32[(4 * size_length)] = reshape(%0, shape=((4 * size_length),))  # model.py:4
      return out=%1
    }

Graphs are alike where their nodes are the same ops on the same values, from the first to the last. Sizes are inputs of
the graph, and formulas stand in attributes, in numbers among the operands, and in specs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NoReturn

import torch

from engines.graph.ir import Graph, Node, Operand, Var
from engines.graph.shapes.formula import solve
from engines.graph.shapes.probes import Sizes
from engines.value import EngineError, Location, Spec

ADVICE = "use masks (Bucket, Pad), or one graph for each shape (Exact)"
SIZE = Spec((), torch.int64, "cpu")


def variable(name: str) -> str:
    """What a size is called inside a graph."""
    return f"size_{name}"


@dataclass(frozen=True, slots=True)
class Generaliser:
    """The graphs at hand, the sizes that each was made for, and which values correspond to which of the first graph."""

    graphs: Sequence[Graph]
    sizes: Sequence[Sizes]
    alike: Sequence[dict[Var, Var]]
    general: dict[Var, Var]

    def pair(self, values: Sequence[Var], what: str, where: Location | None) -> Var:
        """Take values to be one; gives the value that stands for them in the general graph."""
        first = values[0]
        for known, value in zip(self.alike, values, strict=True):
            known[value] = first
        specs = [value.spec for value in values]
        if len({(len(spec.shape), spec.dtype, spec.device) for spec in specs}) != 1:
            self.refuse(f"{what} is {specs[0]} here and {specs[-1]} there", where)
        shape = self.solved([spec.shape for spec in specs], f"the shape of {what}", where)
        var = self.general[first] = Var(specs[0]._replace(shape=shape))
        return var

    def node(self, nodes: Sequence[Node]) -> Node:
        """Nodes that correspond, as one."""
        first = nodes[0]
        name, where = first.op.name, first.where
        if "body" in first.attrs:
            self.refuse(f"{name} has graphs of its own, which sizes do not reach", where)
        operands = tuple(
            self.operand(given, f"input {index} of {name}", where)
            for index, given in enumerate(zip(*(node.inputs for node in nodes), strict=True))
        )
        attrs = {
            key: self.solved([node.attrs[key] for node in nodes], f"{key} of {name}", where) for key in first.attrs
        }
        made = zip(*(node.outputs for node in nodes), strict=True)
        outputs = tuple(self.pair(values, f"the result of {name}", where) for values in made)
        return Node(first.op, operands, attrs, outputs, where)

    def operand(self, given: Sequence[Operand], what: str, where: Location) -> Any:
        """Operands that correspond, as one."""
        values = [value for value in given if isinstance(value, Var)]
        if not values:
            return self.solved(given, what, where)
        known = {id(k.get(v)) if isinstance(v, Var) else None for k, v in zip(self.alike, given, strict=True)}
        if len(known) != 1 or len(values) != len(given):
            self.refuse(f"{what} is another value for other sizes", where)
        return self.general[values[0]]

    def solved(self, values: Sequence[Any], what: str, where: Location | None) -> Any:
        """Data that correspond, numbers among them by a formula where they differ."""
        first = values[0]
        if all(isinstance(value, tuple) for value in values) and len({len(value) for value in values}) == 1:
            return tuple(self.solved(parts, what, where) for parts in zip(*values, strict=True))
        if all(type(value) is type(first) and value == first for value in values):
            return first
        found = solve(values, self.named()) if all(type(value) in (int, float) for value in values) else None
        if found is None:
            listed = "; ".join(f"{value} where {told(s)}" for value, s in zip(values, self.sizes, strict=True))
            self.refuse(f"{what} is no formula that can be found of the sizes: {listed}", where)
        return found

    def named(self) -> list[dict[str, int]]:
        """The sizes under the names that they have inside a graph."""
        return [{variable(name): size for name, size in sizes.items()} for sizes in self.sizes]

    def refuse(self, what: str, where: Location | None) -> NoReturn:
        """Raise the error for a graph that no formula makes of the sizes."""
        at = "" if where is None else f", at {where}"
        raise EngineError(f"symbolic: {what}{at}; {ADVICE}")


def generalise(graphs: Sequence[Graph], sizes: Sequence[Sizes]) -> Graph:
    """One graph for all sizes, from one for each of these (see `probes`). Raises EngineError naming the user's line."""
    base = graphs[0]
    names = dict.fromkeys(map(variable, sizes[0]), SIZE)
    if taken := sorted(names.keys() & base.inputs.keys()):
        raise EngineError(f"symbolic: the name {taken[0]!r} of an input is taken by a size")
    found = Generaliser(graphs, sizes, [{} for _ in graphs], {})
    inputs = {
        name: found.pair([graph.inputs[name] for graph in graphs], f"input {name!r}", None) for name in base.inputs
    }
    constants = _constants(found)
    nodes = []
    for group in zip_longest(*(graph.nodes for graph in graphs)):
        _check_alike(group, found)
        nodes.append(found.node(group))
    outputs = {
        name: found.operand([g.outputs[name] for g in graphs], f"output {name!r}", _last(base)) for name in base.outputs
    }
    inputs |= {name: Var(spec) for name, spec in names.items()}
    return replace(base, inputs=inputs, nodes=tuple(nodes), outputs=outputs, constants=constants)


def _constants(found: Generaliser) -> Mapping[Var, torch.Tensor]:
    """What is fixed must be so for all sizes."""
    kept = {}
    for group in zip_longest(*(graph.constants.items() for graph in found.graphs)):
        if any(each is None for each in group) or not all(_same(group[0][1], tensor) for _, tensor in group):
            readers = [n for n in found.graphs[0].nodes if group[0] is not None and group[0][0] in n.inputs]
            where = (readers[0] if readers else found.graphs[0].nodes[0]).where
            found.refuse("a constant, or how many there are, differs with the sizes", where)
        kept[found.pair([var for var, _ in group], "a constant", None)] = group[0][1]
    return kept


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return Spec.of(one) == Spec.of(other) and torch.equal(one, other)


def _check_alike(group: Sequence[Node | None], found: Generaliser) -> None:
    """Refuse nodes of different ops, or graphs of different lengths: a branch on a size, or a loop over one."""
    first = group[0]
    for index, node in enumerate(group):
        if first is None or node is None or node.op is not first.op or len(node.inputs) != len(first.inputs):
            here, there = (_told(each, found.sizes[at]) for each, at in ((first, 0), (node, index)))
            raise EngineError(
                f"symbolic: the model makes other graphs for other sizes: {here}, {there}; "
                f"where that is a branch on a size or a loop over one, {ADVICE}"
            )


def _told(node: Node | None, sizes: Sizes) -> str:
    step = "nothing more" if node is None else f"{node.op.name} at {node.where}"
    return f"{step} where {told(sizes)}"


def told(sizes: Sizes) -> str:
    """Sizes in words."""
    return " and ".join(f"{name} is {size}" for name, size in sizes.items())


def _last(graph: Graph) -> Location:
    return graph.nodes[-1].where if graph.nodes else Location("<unknown>", 0)
