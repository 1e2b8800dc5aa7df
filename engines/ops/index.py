"""Ops that read or write at positions given by an integer value, and those that find such positions."""

from __future__ import annotations

from typing import Any

import torch

from engines.op import REQUIRED, Op, direct
from engines.value import DTYPES

embedding_dense_backward = direct(torch.ops.aten.embedding_dense_backward.default)

Shape = tuple[int, ...]


def _gather(x: torch.Tensor, index: torch.Tensor, *, dim: int) -> torch.Tensor:
    return torch.gather(x, dim, index)


def _gather_backward(g: torch.Tensor, index: torch.Tensor, *, dim: int, shape: Shape) -> torch.Tensor:
    return g.new_zeros(shape).scatter_add_(dim, index, g)


def _scatter_add(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, *, dim: int) -> torch.Tensor:
    return torch.scatter_add(x, dim, index, source)


def _topk(x: torch.Tensor, *, k: int, dim: int) -> Any:
    return torch.topk(x, k, dim)


def _argsort(x: torch.Tensor, *, dim: int, descending: bool) -> torch.Tensor:
    return torch.argsort(x, dim=dim, descending=descending, stable=True)


def _embedding(weight: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    try:
        return torch.embedding(weight, index)
    except IndexError:
        if not weight.ndim or not (error := outside(index, len(weight))):
            raise
        raise error from None


def outside(index: torch.Tensor, rows: int) -> IndexError | None:
    """The error to raise for an index that names none of so many rows; None where each names one."""
    wrong = index[(index < 0) | (index >= rows)]
    return IndexError(f"index {wrong[0]} is none of the {rows} rows, 0 to {rows - 1}") if len(wrong) else None


def _embedding_backward(g: torch.Tensor, index: torch.Tensor, *, rows: int) -> Any:
    return embedding_dense_backward(g, index, rows, -1, False)


def _one_hot(index: torch.Tensor, *, num_classes: int, dtype: str) -> torch.Tensor:
    classes = torch.arange(num_classes, device=index.device)
    return (index.unsqueeze(-1) == classes).to(DTYPES[dtype])


OPS = (
    Op(
        "gather",
        _gather,
        (lambda ops, g, _out, x_shape, index, dim: ops.gather_backward(g, index, dim=dim, shape=x_shape), None),
        attrs={"dim": REQUIRED},
    ),
    Op(
        "gather_backward",
        _gather_backward,
        (lambda ops, c, _out, _g, index, dim, shape: ops.gather(c, index, dim=dim), None),
        attrs={"dim": REQUIRED, "shape": REQUIRED},
    ),
    Op(
        "scatter_add",
        _scatter_add,
        (
            lambda ops, g, _out, _x, _index, _source, dim: g,
            None,
            lambda ops, g, _out, _x, index, _source, dim: ops.gather(g, index, dim=dim),
        ),
        attrs={"dim": REQUIRED},
    ),
    Op(
        "embedding",  # the rows of weight (rows, width) that index names
        _embedding,
        (lambda ops, g, _out, w_shape, index: ops.embedding_backward(g, index, rows=w_shape[0]), None),
    ),
    Op(
        "embedding_backward",
        _embedding_backward,
        (lambda ops, c, _out, _g, index, rows: ops.embedding(c, index), None),
        attrs={"rows": REQUIRED},
    ),
    Op(
        "topk",  # the k largest along dim, the largest first, and where each stands (int64)
        _topk,
        (lambda ops, g, _out, indices, x_shape, k, dim: ops.gather_backward(g[0], indices, dim=dim, shape=x_shape),),
        attrs={"k": REQUIRED, "dim": -1},
        outputs=2,
    ),
    Op("argsort", _argsort, (None,), attrs={"dim": -1, "descending": False}),  # equal elements keep their order
    Op("one_hot", _one_hot, (None,), attrs={"num_classes": REQUIRED, "dtype": "float32"}),
)
