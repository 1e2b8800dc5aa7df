"""Native lowering: the fused regions of a graph as one C file, compiled, loaded, and called from the generated Python.

    functions, source = native(graph)       # one function for each fused node, and the C text
    outputs = functions[node](x, y)         # as its kernels would give, within rounding

Where no compiler is found or it refuses, there are no functions and the graph runs on its kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import torch

from engines.graph.fused import FUSED, interpret
from engines.graph.ir import Graph, Node, overwritten
from engines.graph.lower import compiler
from engines.graph.lower.loops import Pieces, region
from engines.graph.lower.prelude import PRELUDE
from engines.graph.passes.fuse import domain

Function = Callable[..., tuple[torch.Tensor, ...]]


def native(graph: Graph) -> tuple[Mapping[Node, Function], str]:
    """What each fused node is as a function of its inputs, and the C source that they come from."""
    nodes = [node for node in graph.nodes if node.op is FUSED and can_compile(node.attrs["body"])]
    if not nodes:
        return {}, ""
    names = {node: f"fused_{number}" for number, node in enumerate(nodes)}
    source = text({name: node.attrs["body"] for node, name in names.items()})
    library = compiler.load(source)
    if library is None:
        return {}, source
    return {node: bound(getattr(library, name), node, name) for node, name in names.items()}, source


def text(bodies: Mapping[str, Graph]) -> str:
    """The C file of these regions."""
    pieces = Pieces()
    functions = [region(name, body, pieces) for name, body in bodies.items()]
    return "\n".join([PRELUDE, str(pieces), *functions, ""])


def can_compile(body: Graph) -> bool:
    """Whether a region is one that can be written in C: a stored file may hold any."""
    domains = {domain(node) for node in body.nodes}
    return len(domains) == 1 and None not in domains and not body.constants


def bound(function: Callable[..., int], node: Node, name: str) -> Function:
    """A C function as one of tensors."""
    body: Graph = node.attrs["body"]
    given_count = len(body.inputs)
    updated = _updated(body)
    results = [(var.spec.shape, var.spec.dtype) if var not in updated else None for var in body.outputs.values()]
    in_place = bool(overwritten(node))
    aliases = [updated.get(var, 0) for var in body.outputs.values()]
    pointers = ctypes.c_void_p * (given_count + len(results))
    empty = torch.empty

    def call(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for tensor in given:
            if not tensor.is_contiguous():
                if in_place:
                    return interpret(given, body=body)
                given = tuple(each.contiguous() for each in given)
                break
        outputs = [
            given[alias] if result is None else empty(result[0], dtype=result[1])
            for result, alias in zip(results, aliases, strict=True)
        ]
        if function(pointers(*[t.data_ptr() for t in given], *[t.data_ptr() for t in outputs])):
            return interpret(given, body=body)  # which says what is wrong, and where
        return tuple(outputs)

    call.__name__ = name
    return call


def _updated(body: Graph) -> dict[object, int]:
    """Results that stand in the storage of an input: which one."""
    index = {var: number for number, var in enumerate(body.inputs.values())}
    return {
        node.outputs[position]: index[given]
        for node in body.nodes
        for position in node.op.donates
        if (given := node.inputs[position]) in index
    }
