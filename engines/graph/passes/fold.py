"""Constant folding: what depends on constants alone is computed once, now.

    op(constants and numbers only)     -> a constant
    full_like(x, shape, value)         -> a constant: of x it reads only shape, dtype and device

Same outputs, bit for bit: the very kernel that would have run later runs now.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from engines.graph.ir import Graph, Node, Var, overwritten, rewrite
from engines.graph.passes.everywhere import everywhere
from engines.op import kernels_only
from engines.ops import TABLE

LARGEST = 4096
"""Elements of the largest constant to make: a larger one would trade a little time for memory held for ever."""

FULL_LIKE = TABLE["full_like"]


@everywhere
def fold(graph: Graph) -> Graph:
    """Replace nodes whose value is known by constants."""
    constants = dict(graph.constants)

    def visit(node: Node) -> Node | tuple[Var, ...]:
        if overwritten(node) or "body" in node.attrs:
            return node
        if sum(math.prod(var.spec.shape) for var in node.outputs) > LARGEST:
            return node
        operands = [_known(node, i, constants) for i in range(len(node.inputs))]
        if any(operand is NotImplemented for operand in operands):
            return node
        with kernels_only():
            constants.update(zip(node.outputs, node.op.run(operands, node.attrs), strict=True))
        return node.outputs

    folded = rewrite(graph, visit)
    return graph if folded is graph else replace(folded, constants=constants)


def _known(node: Node, index: int, constants: dict[Var, torch.Tensor]) -> object:
    """An operand's value, or NotImplemented where it is known only when the graph runs."""
    operand = node.inputs[index]
    if not isinstance(operand, Var):
        return operand
    if node.op is FULL_LIKE:
        spec = operand.spec
        return torch.empty((), dtype=spec.dtype, device=spec.device).expand(spec.shape)
    return constants.get(operand, NotImplemented)
