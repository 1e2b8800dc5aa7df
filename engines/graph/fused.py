"""A fused region: several nodes as one, its attribute `body` being the graph that they form.

    %4: f32[512] = fused(a0=x, a1=%1) {
      %0: f32[512] = tanh(a0)  # model.py:3
      %1: f32[512] = mul(%0, a1)  # model.py:4
      return r0=%1
    }  # model.py:4

What it means is what its body means, node by node on the kernels. A lowering may compute it in any other way that gives
the same within rounding, or undo it: `inline` puts the nodes back.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from engines.graph.ir import Graph, Node, Operand, Var, overwritten
from engines.op import KERNEL_ERRORS, REQUIRED, Op
from engines.value import EngineError


def interpret(operands: Sequence[Any], *, body: Graph) -> tuple[Any, ...]:
    """A body run node by node, its operands in the order of its inputs. Raises EngineError naming the user's line."""
    values: dict[Var, Any] = dict(zip(body.inputs.values(), operands, strict=True))
    for node in body.nodes:
        given = [values[i] if isinstance(i, Var) else i for i in node.inputs]
        try:
            values.update(zip(node.outputs, node.op.run(given, node.attrs), strict=True))
        except KERNEL_ERRORS as error:
            raise EngineError(f"{node.op.name}: {error}; in a fused region, from {node.where}") from None
    return tuple(values[var] for var in body.outputs.values())


FUSED = Op("fused", interpret, (None,), attrs={"body": REQUIRED}, outputs=None, variadic=True)
"""The op of a fused region. It stands in no engine's table: only a pass makes it."""


def inline(graph: Graph, where: Callable[[Node], bool] = lambda _: True) -> Graph:
    """The graph with the nodes of its fused regions (of those that `where` chooses) in their place."""
    if not any(node.op is FUSED and where(node) for node in graph.nodes):
        return graph
    renamed: dict[Var, Operand] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op is not FUSED or not where(node):
            nodes.append(_renamed(node, renamed, node.outputs))
            continue
        body: Graph = node.attrs["body"]
        inner: dict[Var, Operand] = {
            var: renamed.get(given, given) if isinstance(given, Var) else given
            for var, given in zip(body.inputs.values(), node.inputs, strict=True)
        }
        for part in body.nodes:
            outputs = tuple(Var(var.spec) for var in part.outputs)
            nodes.append(_renamed(part, inner, outputs))
            inner.update(zip(part.outputs, outputs, strict=True))
        renamed.update({out: inner[var] for out, var in zip(node.outputs, body.outputs.values(), strict=True)})
    outputs_by_name = {name: renamed.get(var, var) for name, var in graph.outputs.items()}
    return graph.with_nodes(tuple(nodes), {name: var for name, var in outputs_by_name.items() if isinstance(var, Var)})


def _renamed(node: Node, renamed: Mapping[Var, Operand], outputs: tuple[Var, ...]) -> Node:
    inputs = tuple(renamed.get(i, i) if isinstance(i, Var) else i for i in node.inputs)
    same = outputs is node.outputs and all(new is old for new, old in zip(inputs, node.inputs, strict=True))
    return node if same else Node(node.op, inputs, node.attrs, outputs, node.where)


def readers_of(graph: Graph) -> Mapping[Var, list[Node | None]]:
    """Who reads each value; None stands for the caller."""
    readers: dict[Var, list[Node | None]] = {}
    for node in graph.nodes:
        for given in dict.fromkeys(reads(node)):
            readers.setdefault(given, []).append(node)
    for var in graph.outputs.values():
        readers.setdefault(var, []).append(None)
    return readers


def region_node(nodes: Sequence[Node], readers: Mapping[Var, Sequence[Node | None]]) -> Node:
    """A region's nodes as the body of one node; values keep their identity inside and outside."""
    inside = set(nodes)
    made = {var for node in nodes for var in node.outputs}
    inputs = dict.fromkeys(i for node in nodes for i in reads(node) if i not in made)
    kept = [v for node in nodes for v in node.outputs if any(r not in inside for r in readers.get(v, ()))]
    names = {var: f"a{number}" for number, var in enumerate(inputs)}
    donated = {names[i] for node in nodes for i in overwritten_values(node)}
    body = Graph(
        "fused",
        {name: var for var, name in names.items()},
        tuple(nodes),
        {f"r{number}": var for number, var in enumerate(kept)},
        donated=frozenset(donated),
    )
    return Node(FUSED, tuple(inputs), {"body": body}, tuple(kept), nodes[-1].where)


def part_of(node: Node, parts: Sequence[Node], wanted: Container[Var] | None = None) -> Node:
    """Some of a region's nodes as a region: it reads what these need, and gives what the whole gave, or is `wanted`."""
    body: Graph = node.attrs["body"]
    made = {var for part in parts for var in part.outputs}
    needed = {i for part in parts for i in reads(part)} - made
    taken = [
        (name, var, given) for (name, var), given in zip(body.inputs.items(), node.inputs, strict=True) if var in needed
    ]
    pairs = zip(body.outputs.values(), node.outputs, strict=True)
    kept = [(v, out) for v, out in pairs if v in made and (wanted is None or out in wanted)]
    smaller = Graph(
        body.name,
        {f"a{number}": var for number, (_, var, _) in enumerate(taken)},
        tuple(parts),
        {f"r{number}": var for number, (var, _) in enumerate(kept)},
        donated=frozenset(f"a{number}" for number, (name, _, _) in enumerate(taken) if name in body.donated),
    )
    inputs, outputs = tuple(given for *_, given in taken), tuple(out for _, out in kept)
    return Node(FUSED, inputs, {"body": smaller}, outputs, parts[-1].where)


def reads(node: Node) -> list[Var]:
    """The values that a node reads."""
    return [i for i in node.inputs if isinstance(i, Var)]


def overwritten_values(node: Node) -> Iterable[Var]:
    """The values whose storage a node overwrites."""
    return (given for given in (node.inputs[index] for index in overwritten(node)) if isinstance(given, Var))
