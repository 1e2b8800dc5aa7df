"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

import torch

from engines.op import Namespace, Op
from engines.ops.elementwise import unbroadcast

Shape = tuple[int, ...]


def _swap(ops: Namespace, x: Any) -> Any:
    """The last two dimensions exchanged."""
    return ops.transpose(x, dim0=-2, dim1=-1)


def _as_matrices(ops: Namespace, g: Any, a_shape: Shape, b_shape: Shape) -> Any:
    """The gradient of a @ b with the dimensions that a vector operand took away put back."""
    shape = tuple(g.shape)
    if len(b_shape) == 1:
        shape = (*shape, 1)
    if len(a_shape) == 1:
        shape = (*shape[:-1], 1, shape[-1])
    return ops.reshape(g, shape=shape)


def _left(ops: Namespace, g: Any, _out: Any, a_shape: Shape, b: Any) -> Any:
    """g b^T."""
    if len(a_shape) == 1 or len(b.shape) == 1:
        g = _as_matrices(ops, g, a_shape, b.shape)
        b = ops.reshape(b, shape=(-1, 1)) if len(b.shape) == 1 else b
    rows = a_shape if len(a_shape) > 1 else (1, *a_shape)
    return ops.reshape(unbroadcast(ops, ops.matmul(g, _swap(ops, b)), rows), shape=a_shape)


def _right(ops: Namespace, g: Any, _out: Any, a: Any, b_shape: Shape) -> Any:
    """a^T g."""
    if len(a.shape) == 1 or len(b_shape) == 1:
        g = _as_matrices(ops, g, a.shape, b_shape)
        a = ops.reshape(a, shape=(1, -1)) if len(a.shape) == 1 else a
    columns = b_shape if len(b_shape) > 1 else (*b_shape, 1)
    return ops.reshape(unbroadcast(ops, ops.matmul(_swap(ops, a), g), columns), shape=b_shape)


def _rows(ops: Namespace, x: Any) -> Any:
    """All dimensions but the last joined."""
    if len(x.shape) == 2:
        return x
    return ops.reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))


def _linear_weight(ops: Namespace, g: Any, _out: Any, x: Any, _w: Any, _b: Any) -> Any:
    """g^T x; of one row it is an outer product, for which a matrix product takes twice the time."""
    g, x = ops.transpose(_rows(ops, g), dim0=0, dim1=1), _rows(ops, x)
    return g * x if x.shape[0] == 1 else ops.matmul(g, x)


OPS = (
    Op("matmul", torch.matmul, (_left, _right)),
    Op(
        "linear",  # x w^T + b, with w of shape (out, in) as in torch
        torch.nn.functional.linear,
        (
            lambda ops, g, _out, _x, w, _b: ops.matmul(g, w),
            _linear_weight,
            lambda ops, g, _out, _x, _w, b_shape: ops.sum_to(g, shape=b_shape),
        ),
    ),
)
