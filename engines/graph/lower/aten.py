"""Lowering to straight-line Python over the kernels, one statement a node, every value freed after its last use.

def f(image, label, conv1_weight):
    v0 = conv2d(image, conv1_weight, None, stride=1, padding=0, dilation=1, groups=1)  # cnn.py:41
    v1 = relu(v0); del v0  # cnn.py:41
    return (v1,)

Where a plan says where a result stands, the kernel is told by `out=`; views of the arena are parameters ahead of the
inputs: `def f(p0, p1, image, ...)`, `slots` says which.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from engines.graph.ir import Graph, Node, Operand, Var
from engines.graph.lower.into import INTO
from engines.value import Spec

Run = Callable[..., tuple[torch.Tensor, ...]]

INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.pow: "**",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
"""Kernels that are Python's own operators, and so need no call."""

FIRST_NODE_LINE = 2
"""The line of the source on which the first node stands; one line a node from there on."""

RESERVED = re.compile(r"\d|[cpv]\d+$|run$|inf$|nan$|_?$|__debug__$")
"""Names that an input may not keep."""


class Slot(NamedTuple):
    """A view of the arena."""

    offset: int
    spec: Spec


def slots(graph: Graph) -> list[Slot]:
    """The views of the arena that a run is given, each once."""
    places = {} if graph.plan is None else graph.plan.places
    made = (var for node in graph.nodes for var in node.outputs)
    return list(dict.fromkeys(Slot(place, v.spec) for v in made if isinstance(place := places.get(v), int)))


def lower(graph: Graph, functions: Mapping[Graph, Callable[..., Any]] = MappingProxyType({})) -> tuple[str, Run]:
    """The source of a function, and the function: of the graph's slots and inputs, in their order, to its outputs.

    `functions` are what to call, by its `__name__`, for a node that has a certain body.
    """
    source = "\n".join(_source(graph, functions))
    scope: dict[str, Any] = {node.op.name: node.op.kernel for node in graph.nodes}
    scope |= {function.__name__: function for function in functions.values()}
    scope |= {f"c{i}": tensor for i, tensor in enumerate(graph.constants.values())}
    if graph.plan is not None:
        scope |= {f"{name}_into": INTO[name].kernel for name in scope.keys() & INTO.keys()}
    scope |= {"inf": math.inf, "nan": math.nan}
    # The text is ours, made above from op names of the table and from the repr of plain data.
    exec(compile(source, f"<graph {graph.name}>", "exec"), scope)  # noqa: S102
    return source, scope.pop("run")  # popped, so that dropping the function frees its constants at once


def is_called(node: Node, functions: Mapping[Graph, Callable[..., Any]]) -> bool:
    """Whether a node is one of those that a function stands for."""
    return node.attrs.get("body") in functions


def _source(graph: Graph, functions: Mapping[Graph, Callable[..., Any]]) -> Iterator[str]:
    names = _names(graph, {function.__name__ for function in functions.values()})
    last_use = _last_uses(graph)
    ours = {var for node in graph.nodes for var in node.outputs}
    given = {slot: f"p{number}" for number, slot in enumerate(slots(graph))}
    where = {var: _where(place, var, names, given) for var, place in graph.plan.places.items()} if graph.plan else {}
    yield f"def run({', '.join([*given.values(), *(names[var] for var in graph.inputs.values())])}):"
    for node in graph.nodes:
        results = ", ".join(names[var] if var in last_use else "_" for var in node.outputs)
        comma = "," if node.op.outputs is None and len(node.outputs) == 1 else ""
        done = [names[var] for var in _operands(node) if last_use[var] is node and var in ours]
        done += ["_"] * any(var not in last_use for var in node.outputs)
        free = f"; del {', '.join(dict.fromkeys(done))}" if done else ""
        function = functions[node.attrs["body"]] if is_called(node, functions) else None
        call = _call(node, names, function, [where.get(var, "None") for var in node.outputs])
        yield f"    {results}{comma} = {call}{free}  # {_comment(str(node.where))}"
    returned = [names[var] for var in graph.outputs.values()]
    yield f"    return ({', '.join(returned)}{',' * (len(returned) == 1)})"


def _where(place: int | Var, var: Var, names: Mapping[Var, str], given: Mapping[Slot, str]) -> str:
    return names[place] if isinstance(place, Var) else given[Slot(place, var.spec)]


def _comment(text: str) -> str:
    """Text that cannot end its comment: a file name may hold a line break, and a saved graph may hold any."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _names(graph: Graph, taken: set[str]) -> Mapping[Var, str]:
    """Identifiers: inputs keep their names as far as Python allows, constants are c0, c1, ..., results v0, v1, ..."""
    names: dict[Var, str] = {}
    taken = {name for node in graph.nodes for name in (node.op.name, f"{node.op.name}_into")} | taken
    for name, var in graph.inputs.items():
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = f"in_{plain}" if keyword.iskeyword(plain) or RESERVED.match(plain) else plain
        while plain in taken:
            plain += "_"
        taken.add(plain)
        names[var] = plain
    names.update({var: f"c{i}" for i, var in enumerate(graph.constants)})
    results = (var for node in graph.nodes for var in node.outputs)
    names.update({var: f"v{i}" for i, var in enumerate(results)})
    return names


def _operands(node: Node) -> list[Var]:
    return [i for i in node.inputs if isinstance(i, Var)]


def _last_uses(graph: Graph) -> dict[Var, Node | None]:
    """The last node that reads each value; None for outputs, which outlive every node."""
    last: dict[Var, Node | None] = {}
    for node in graph.nodes:
        last.update(dict.fromkeys(_operands(node), node))
    last.update(dict.fromkeys(graph.outputs.values()))
    return last


def _text(operand: Operand, names: Mapping[Var, str]) -> str:
    if isinstance(operand, Var):
        return names[operand]
    text = repr(operand)
    return f"({text})" if text.startswith("-") else text


def _call(node: Node, names: Mapping[Var, str], function: Callable[..., Any] | None, places: Sequence[str] = ()) -> str:
    operands = [_text(i, names) for i in node.inputs]
    planned = any(place != "None" for place in places)
    if function is not None:
        out = [f"out=({', '.join(places)},)"] if planned else []
        return f"{function.__name__}({', '.join([*operands, *out])})"
    if planned:
        return f"{node.op.name}_into({', '.join([*operands, f'out={places[0]}'])})"
    if node.op.kernel in INFIX:
        return f" {INFIX[node.op.kernel]} ".join(operands)
    if node.op.kernel is operator.neg:
        return f"-{operands[0]}"
    given = [f"[{', '.join(operands)}]"] if node.op.variadic else operands
    return f"{node.op.name}({', '.join([*given, *(f'{name}={value!r}' for name, value in node.attrs.items())])})"
