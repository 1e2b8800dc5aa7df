"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

import torch

from engines.op import Namespace, Op, direct
from engines.ops.elementwise import unbroadcast

linear_out = direct(torch.ops.aten.linear.out)

Shape = tuple[int, ...]

SHARED_ELEMENTS = 1 << 18
"""Numbers of a matrix from which on its product with one row is shared out between threads."""


def matmul(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.matmul`, one row by a large matrix on all threads."""
    if _is_large(b) and (threads := _threads(a, b, columns=1)) > 1:
        return _one_row(a, b.view(b.shape[0], threads, -1).transpose(0, 1), None, out)
    return torch.matmul(a, b, out=out)


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x w^T + b, one row x and a large matrix w on all threads."""
    if _is_large(weight) and (threads := _threads(x, weight, columns=0)) > 1:
        return _one_row(x, weight.view(threads, -1, weight.shape[1]).transpose(1, 2), bias, out)
    if out is None:
        return torch.nn.functional.linear(x, weight, bias)
    given: torch.Tensor = linear_out(x, weight, bias, out=out)
    return given


def _is_large(matrix: Any) -> bool:
    return isinstance(matrix, torch.Tensor) and matrix.numel() >= SHARED_ELEMENTS


def _threads(row: Any, matrix: torch.Tensor, *, columns: int) -> int:
    """How many threads share a product of one row, each so many of its columns: MKL would run it on one alone.

    `columns` is the dimension of the matrix that gives the result's columns. Torch itself sees to all other operands.
    """
    if not isinstance(row, torch.Tensor) or row.dim() != 2 or row.shape[0] != 1 or matrix.dim() != 2 or not row.is_cpu:
        return 1
    threads = torch.get_num_threads()
    return threads if matrix.shape[columns] % threads == 0 else 1


def _one_row(
    row: torch.Tensor, shares: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    """A row by the columns of each thread, (threads, rows, columns), as a batch of products."""
    threads, _, wide = shares.shape
    rows = row.expand(threads, 1, -1)
    given = None if out is None else out.view(-1, 1, wide)
    if bias is None:
        return torch.bmm(rows, shares, out=given).view(1, -1)
    each = bias.expand(threads * wide).view(-1, 1, wide)
    return torch.baddbmm(each, rows, shares, out=given).view(1, -1)


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
    g, x = ops.permute(_rows(ops, g), dims=(1, 0)), _rows(ops, x)
    return g * x if x.shape[0] == 1 else ops.matmul(g, x)


OPS = (
    Op("matmul", matmul, (_left, _right)),
    Op(
        "linear",  # x w^T + b, with w of shape (out, in) as in torch
        linear,
        (
            lambda ops, g, _out, _x, w, _b: ops.matmul(g, w),
            _linear_weight,
            lambda ops, g, _out, _x, _w, b_shape: ops.sum_to(g, shape=b_shape),
        ),
    ),
)
