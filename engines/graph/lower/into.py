"""Kernels that write into memory that they are given: the same bits as the op's own kernel, without an allocation.

    INTO["relu"].kernel(x, out=y)

Only kernels that truly write there have a row. Torch has an `out=` form of nearly every op, but many of these compute a
fresh result and copy it, convolutions among them: such a form costs more than it spares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from engines.graph.ir import Node, Var
from engines.op import direct
from engines.ops import linalg

aten = torch.ops.aten
clamp_min = torch.clamp_min  # which torch's relu is, too
threshold_backward = direct(aten.threshold_backward.grad_input)
tanh_backward = direct(aten.tanh_backward.grad_input)
sigmoid_backward = direct(aten.sigmoid_backward.grad_input)


class Into(NamedTuple):
    """`kernel(*inputs, out=tensor)` where `fits(node)`.

    One that is `elementwise` may write over an operand of the result's shape and type; of contiguous operands it makes
    a contiguous result. Any other makes a contiguous result of whatever operands, none of which it may write over.
    """

    kernel: Callable[..., Any]
    elementwise: bool
    fits: Callable[[Node], bool]


def _of_tensors(node: Node) -> bool:
    """Torch's functions, unlike Python's operators, take no number on the left."""
    return isinstance(node.inputs[0], Var)


def _of_matrices(node: Node) -> bool:
    """Two dimensions each: with more, torch's forms may take another way and round in another order."""
    return all(not isinstance(i, Var) or len(i.spec.shape) == 2 for i in node.inputs[:2])


def _elementwise(kernel: Callable[..., Any]) -> Into:
    return Into(kernel, True, _of_tensors)


INTO: Mapping[str, Into] = {
    "add": _elementwise(torch.add),
    "sub": _elementwise(torch.sub),
    "mul": _elementwise(torch.mul),
    "div": _elementwise(torch.div),
    "neg": _elementwise(torch.neg),
    "abs": _elementwise(torch.abs),
    "sign": _elementwise(torch.sign),
    "exp": _elementwise(torch.exp),
    "log": _elementwise(torch.log),
    "sqrt": _elementwise(torch.sqrt),
    "tanh": _elementwise(torch.tanh),
    "sigmoid": _elementwise(torch.sigmoid),
    "relu": _elementwise(lambda x, *, out: clamp_min(x, 0, out=out)),
    "tanh_backward": _elementwise(lambda g, y, *, out: tanh_backward(g, y, grad_input=out)),
    "sigmoid_backward": _elementwise(lambda g, y, *, out: sigmoid_backward(g, y, grad_input=out)),
    "relu_backward": _elementwise(lambda g, y, *, out: threshold_backward(g, y, 0, grad_input=out)),
    "maximum": _elementwise(torch.maximum),
    "minimum": _elementwise(torch.minimum),
    "equal": _elementwise(torch.eq),
    "not_equal": _elementwise(torch.ne),
    "less": _elementwise(torch.lt),
    "less_equal": _elementwise(torch.le),
    "greater": _elementwise(torch.gt),
    "greater_equal": _elementwise(torch.ge),
    "matmul": Into(linalg.matmul, False, _of_matrices),
    "linear": Into(linalg.linear, False, _of_matrices),
}
"""By the name of the op; kept small: what is worth fusing writes into given memory anyway."""


def into(node: Node) -> Into | None:
    """How a node's kernel writes into given memory, if it does. It reads no attributes: no op of the table has any."""
    found = INTO.get(node.op.name)
    return found if found is not None and found.fits(node) else None
