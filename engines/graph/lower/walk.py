"""What a region goes over: shapes, the strides of operands that are broadcast to them, and types.

strides_in((64, 10), (10,))     ->    (0, 1)
joined((64, 10), [(10, 1), (10, 1)], keep_rows=False)    ->    (640,), [(1,), (1,)]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engines.graph.ir import Node, Var
from engines.ops.reduction import reduced_dims

Shape = tuple[int, ...]

CTYPES = {torch.float32: "float", torch.float64: "double"}

SUMS = frozenset({"sum", "mean", "sum_to", "nll_loss"})
"""Ops of which a region goes over what they read; of all others, over what they make."""


def strides_in(shape: Shape, given: Shape) -> Shape:
    """The strides, in elements, of a contiguous operand of shape `given` that is broadcast to `shape`."""
    strides, step = [], 1
    padded = (1,) * (len(shape) - len(given)) + tuple(given)
    for size in reversed(padded):
        strides.append(0 if size == 1 else step)
        step *= size
    return tuple(reversed(strides))


def joined(shape: Shape, layouts: Sequence[Shape], *, keep_rows: bool) -> tuple[Shape, list[Shape]]:
    """The same walk with as few dimensions as possible, and each layout's strides in these; at least one dimension."""
    sizes: list[int] = []
    columns: list[list[int]] = []
    for d, size in reversed(list(enumerate(shape))):
        steps = [layout[d] for layout in layouts]
        whole = size == 1 and not (keep_rows and d == len(shape) - 1)
        fits = sizes and not (keep_rows and len(sizes) == 1)
        if whole:
            continue
        if fits and all(step == inner * sizes[-1] for step, inner in zip(steps, columns[-1], strict=True)):
            sizes[-1] *= size
        else:
            sizes.append(size)
            columns.append(steps)
    if not sizes:
        sizes, columns = [1], [[0] * len(layouts)]
    return tuple(reversed(sizes)), [tuple(reversed(strides)) for strides in zip(*columns, strict=True)]


def kept_shape(node: Node, shape: Shape) -> Shape:
    """The shape of a reduction's result as if reduced dimensions had been kept with size 1."""
    if node.op.name == "sum_to":
        return tuple(node.attrs["shape"])
    if node.op.name == "nll_loss":
        return ()
    gone = reduced_dims(shape, node.attrs["dim"])
    return tuple(1 if d in gone else size for d, size in enumerate(shape))


def given_shape(node: Node, index: int) -> Shape:
    """The shape of an operand, as it is broadcast to the region's: a label goes with a row."""
    operand = node.inputs[index]
    assert isinstance(operand, Var)
    shape = operand.spec.shape
    return (*shape, 1) if node.op.name in {"nll_loss", "nll_loss_backward"} and index == 1 else shape


def goes_over(node: Node) -> tuple[Shape, torch.dtype]:
    """The shape that a node of a region goes over, and its float type."""
    values = [i for i in (*node.inputs, *node.outputs) if isinstance(i, Var)]
    dtype = next(var.spec.dtype for var in values if var.spec.dtype.is_floating_point)
    over = node.inputs[0] if node.op.name in SUMS else node.outputs[0]
    assert isinstance(over, Var)
    return over.spec.shape, dtype


def memory_type(var: Var) -> str:
    """The C type of a value's elements outside the region."""
    return {torch.bool: "uint8_t", torch.int64: "int64_t"}.get(var.spec.dtype) or CTYPES[var.spec.dtype]


def value_type(var: Var) -> str:
    """The C type of a value inside a piece."""
    return "int" if var.spec.dtype == torch.bool else "T"


def width_of(ctype: str) -> int:
    """Bytes of an element of a C type."""
    return 4 if ctype == "float" else 8
