"""Checking a graph: what every pass must leave true."""

from __future__ import annotations

from engines.graph.check_plan import check_plan
from engines.graph.ir import Graph, Node, Var, overwritten, storage
from engines.graph.trace import infer
from engines.value import EngineError, Spec


def verify(graph: Graph) -> Graph:
    """Re-infer every node and check every use; gives the graph. Raises EngineError naming the first broken node.

    A value is defined once, before its uses; specs are what the kernels give; a donated value, and a view of one, is
    read by nobody after it was overwritten; outputs are defined; a plan lets no value destroy another.
    """
    names = graph.names()
    _check_head(graph)
    owners = storage(graph)
    defined: set[Var] = {*graph.inputs.values(), *graph.constants}
    gone: set[Var] = set()
    donated = {graph.inputs[name] for name in graph.donated}
    for node in graph.nodes:
        for operand in (i for i in node.inputs if isinstance(i, Var)):
            _check_use(graph, node, operand, defined, names)
            if owners.get(operand, operand) in gone:
                raise _broken(graph, node, f"reads {names[operand]} after an update has overwritten it")
        _check_node(graph, node, defined, names)
        for index in overwritten(node):
            given = node.inputs[index]
            if given not in donated:
                raise _broken(graph, node, f"overwrites input {index}, which is not donated")
            assert isinstance(given, Var)
            gone.add(given)
        defined.update(node.outputs)
    for name, var in graph.outputs.items():
        if var not in defined:
            raise EngineError(f"graph {graph.name}: output {name!r} is not defined")
        if owners.get(var, var) in gone:
            raise EngineError(f"graph {graph.name}: output {name!r} is overwritten by an update")
    return check_plan(graph)


def _check_head(graph: Graph) -> None:
    if len({*graph.inputs.values(), *graph.constants}) < len(graph.inputs) + len(graph.constants):
        raise EngineError(f"graph {graph.name}: two of its inputs and constants are one value")
    unknown = sorted(graph.donated - set(graph.inputs))
    if unknown:
        raise EngineError(f"graph {graph.name}: donates {unknown[0]!r}, which is no input of {sorted(graph.inputs)}")
    for var, tensor in graph.constants.items():
        if Spec.of(tensor) != var.spec:
            raise EngineError(f"graph {graph.name}: a constant is {Spec.of(tensor)}, declared {var.spec}")


def _check_use(graph: Graph, node: Node, operand: Var, defined: set[Var], names: dict[Var, str]) -> None:
    if operand not in names:
        raise _broken(graph, node, "uses a value of another graph")
    if operand not in defined:
        raise _broken(graph, node, f"uses {names[operand]} before it is defined")


def _check_node(graph: Graph, node: Node, defined: set[Var], names: dict[Var, str]) -> None:
    if set(node.attrs) != set(node.op.attrs):
        raise _broken(graph, node, f"has attributes {sorted(node.attrs)}, the op takes {sorted(node.op.attrs)}")
    if not node.op.variadic and len(node.inputs) != len(node.op.vjps):
        raise _broken(graph, node, f"has {len(node.inputs)} inputs, the op takes {len(node.op.vjps)}")
    body = node.attrs.get("body", ())
    for part in body if isinstance(body, tuple) else (body,):
        verify(part)
    found = tuple(var.spec for var in node.outputs)
    try:
        expected = infer(node.op, node.inputs, node.attrs)
    except EngineError as error:
        raise _broken(graph, node, f"is refused by its kernel: {error}") from None
    if found != expected:
        raise _broken(graph, node, f"has outputs {[*map(str, found)]}, the kernel gives {[*map(str, expected)]}")
    again = [var for var in node.outputs if var in defined]
    if again:
        raise _broken(graph, node, f"defines {names[again[0]]} a second time")


def _broken(graph: Graph, node: Node, what: str) -> EngineError:
    return EngineError(f"graph {graph.name}: {node.op.name} from {node.where} {what}")
