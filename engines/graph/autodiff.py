"""Differentiating a graph: the gradient rules, run once on symbols, become nodes of the same graph.

graph = differentiate(graph, "loss", ["w", "b"])      # has outputs loss, grad.w, grad.b
graph = update(graph, Sgd(lr=0.01), ["w", "b"])        # has outputs loss, w, w.velocity, b, b.velocity
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engines.graph import parts
from engines.graph.backward import walk_back
from engines.graph.dependence import depending
from engines.graph.ir import Graph, Var
from engines.graph.trace import OPS, Builder, Symbol
from engines.op import describe
from engines.optim import Sgd
from engines.value import EngineError, user_location


def gradients(loss: Symbol, wrt: Sequence[Symbol]) -> list[Symbol]:
    """Gradients of a scalar `loss` with respect to each of `wrt`, as new nodes; zeros where it does not depend.

    Inside a branch or a body the loss is one made there; `wrt` may come from outside. Raises EngineError.
    """
    for value in (loss, *wrt):
        if not isinstance(value, Symbol) or not value.builder.open.reaches(value.builder):
            raise EngineError(f"gradients: needs symbols of this trace, found {describe(value)} at {user_location()}")
    if math.prod(loss.shape) != 1:
        where = user_location()
        raise EngineError(f"gradients: the loss is {loss.spec}, not a scalar, at {where}; reduce it with ops.sum")
    for value in (loss, *wrt):
        if not value.dtype.is_floating_point:
            raise EngineError(f"gradients: needs a float dtype, found {value.spec} at {user_location()}")
    builder = loss.builder.open
    nodes = tuple(builder.nodes)
    wanted = {symbol.var for symbol in wrt}
    _check_all_inside(builder, wanted)
    with builder.on_behalf_of(nodes[-1].where if nodes else user_location()):
        grads: dict[Var, Any] = {loss.var: OPS.full_like(loss, value=1.0)}
    walk_back(builder, len(nodes), grads, depending(nodes, wanted), wanted)
    return [grads[s.var] if s.var in grads else OPS.full_like(s, value=0.0) for s in wrt]


def _check_all_inside(builder: Builder, wanted: set[Var]) -> None:
    """Refuse a way back that would leave the part that is open, where other nodes may depend on what is wanted."""
    read = {i for node in builder.nodes for i in node.inputs if isinstance(i, Var)}
    part = builder.parent
    while part is not None:
        around = depending(part.nodes, wanted) - wanted
        if around & read:
            spec = next(iter(around & read)).spec
            raise EngineError(
                f"gradients: the loss depends by way of {spec}, which was made outside of this branch or body, "
                f"at {user_location()}; make it inside"
            )
        part = part.parent


def differentiate(graph: Graph, loss: str, wrt: Sequence[str]) -> Graph:
    """The graph with one more output, `grad.NAME`, for each input named in `wrt`. Raises EngineError."""
    builder = Builder.resume(graph)
    inputs = [Symbol(_named(graph, "input", graph.inputs, name), builder) for name in wrt]
    found = gradients(Symbol(_named(graph, "output", graph.outputs, loss), builder), inputs)
    outputs = {f"grad.{name}": symbol.var for name, symbol in zip(wrt, found, strict=True)}
    return replace(graph, nodes=tuple(builder.nodes), constants=builder.constants, outputs={**graph.outputs, **outputs})


def _named(graph: Graph, kind: str, found: Mapping[str, Var], name: str) -> Var:
    if name not in found:
        raise EngineError(f"graph {graph.name}: no {kind} {name!r}; it has {sorted(found)}")
    return found[name]


def update(graph: Graph, optimizer: Sgd, parameters: Sequence[str]) -> Graph:
    """A differentiated graph as a whole training step.

    Each parameter gets an input `NAME.velocity`; both are donated, overwritten in place, and stand among the outputs
    instead of the gradient. Raises EngineError where a name is taken.
    """
    builder = Builder.resume(graph)
    kept = {name: var for name, var in graph.outputs.items() if not name.startswith("grad.")}
    taken = [name for name in parameters if name in kept]
    taken += [name for name in map("{}.velocity".format, parameters) if name in graph.inputs]
    if taken:
        raise EngineError(f"update {graph.name}: the name {taken[0]!r} of a parameter or its velocity is taken")
    state = {name: Var(graph.inputs[name].spec) for name in parameters}
    last = graph.nodes[-1].where if graph.nodes else user_location()
    with builder.on_behalf_of(last):
        stepped, velocity = optimizer.update(
            OPS,
            {name: Symbol(graph.inputs[name], builder) for name in parameters},
            {name: Symbol(var, builder) for name, var in state.items()},
            {name: Symbol(_named(graph, "output", graph.outputs, f"grad.{name}"), builder) for name in parameters},
        )
    for name in parameters:
        kept |= {name: stepped[name].var, f"{name}.velocity": velocity[name].var}
    inputs = {**graph.inputs, **{f"{name}.velocity": var for name, var in state.items()}}
    donated = frozenset([*parameters, *(f"{name}.velocity" for name in parameters)])
    return replace(
        graph, inputs=inputs, nodes=tuple(builder.nodes), constants=builder.constants, outputs=kept, donated=donated
    )


for name, function in {"gradients": gradients, **parts.FUNCTIONS}.items():
    OPS.add_function(name, function)
