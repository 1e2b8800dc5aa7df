"""A loop in C as a function of tensors.

function = bound_loop(library.loop_0, node, "loop_0")
(carry, ys) = function(carry, xs, weight)
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import torch

from engines.graph.control import execute
from engines.graph.fused import interpret
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.written import OUTSIDE
from engines.op import kernels_only
from engines.ops.control import past_limit
from engines.value import EngineError, Spec

Function = Callable[..., tuple[torch.Tensor, ...]]
PAST_LIMIT = 1


def bound_loop(function: Callable[..., int], node: Node, name: str) -> Function:
    """What to call for the node of a loop. C trusts shapes, which are the same at every call, so one look is enough."""
    specs = [var.spec for var in node.outputs]
    pack = struct.Struct(f"{len(node.inputs) + len(specs)}P").pack
    on_kernels = [_on_kernels(part) for part in node.attrs["body"]]
    checked = False

    def call(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nonlocal checked
        if not checked:
            _check(node, given)
            checked = True
        given = tuple([tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in given])
        outputs = tuple([torch.empty(spec.shape, dtype=spec.dtype) for spec in specs])
        status = function(pack(*map(torch.Tensor.data_ptr, (*given, *outputs))))
        if status == PAST_LIMIT:
            raise past_limit(node.attrs["limit"], node.where)
        if status == OUTSIDE:  # the kernels say which
            with kernels_only():
                return execute(node, on_kernels, given)
        if status:
            raise EngineError(f"{node.op.name}: no memory for the values of its body, from {node.where}")
        return outputs

    call.__name__ = name
    return call


def _on_kernels(part: Graph) -> Function:
    return lambda *given: interpret(given, body=part)


def _check(node: Node, given: tuple[torch.Tensor, ...]) -> None:
    for operand, tensor in zip(node.inputs, given, strict=True):
        assert isinstance(operand, Var)
        if Spec.of(tensor) != operand.spec:
            raise EngineError(f"{node.op.name}: takes {operand.spec}, found {Spec.of(tensor)}; from {node.where}")
