"""Reductions over some dimensions (`dim`: an int, a tuple, or None for all)."""

from __future__ import annotations

import math
from typing import Any

import torch

from engines.op import REQUIRED, Namespace, Op
from engines.value import dtype_name

Dim = int | tuple[int, ...] | None
Shape = tuple[int, ...]


def reduced_dims(shape: Shape, dim: Dim) -> tuple[int, ...]:
    """The dimensions that `dim` means, none of them negative; for torch, () means all as None does."""
    if dim is None or dim == ():
        return tuple(range(len(shape)))
    return tuple(d % len(shape) for d in ((dim,) if isinstance(dim, int) else dim)) if shape else ()


def _kept(shape: Shape, dim: Dim) -> Shape:
    """The result's shape as if reduced dimensions had been kept with size 1."""
    gone = reduced_dims(shape, dim)
    return tuple(1 if d in gone else size for d, size in enumerate(shape))


def _count(shape: Shape, dim: Dim) -> int:
    return math.prod(shape[d] for d in reduced_dims(shape, dim))


def _restore(ops: Namespace, y: Any, shape: Shape, dim: Dim, keepdim: bool) -> Any:
    """A reduction's result (or its gradient) so that it broadcasts against the reduced input."""
    return y if keepdim else ops.reshape(y, shape=_kept(shape, dim))


def _spread(ops: Namespace, g: Any, shape: Shape, dim: Dim, keepdim: bool) -> Any:
    """A reduction's gradient broadcast over the input's shape."""
    return ops.broadcast_to(_restore(ops, g, shape, dim, keepdim), shape=shape)


def _max_rule(ops: Namespace, g: Any, out: Any, x: Any, *, dim: Dim, keepdim: bool) -> Any:
    """Elements that share the maximum share its gradient equally, as in torch.amax."""
    hit = ops.cast(ops.equal(x, _restore(ops, out, x.shape, dim, keepdim)), dtype=dtype_name(x.dtype))
    return _restore(ops, g, x.shape, dim, keepdim) * hit / ops.sum(hit, dim=dim, keepdim=True)


def _var_rule(ops: Namespace, g: Any, _out: Any, x: Any, *, dim: Dim, correction: int, keepdim: bool) -> Any:
    """2 (x - mean) / (n - correction)."""
    count = _count(x.shape, dim)
    scale = 2.0 / (count - correction) if count > correction else math.nan
    return _restore(ops, g, x.shape, dim, keepdim) * (x - ops.mean(x, dim=dim, keepdim=True)) * scale


def _amax(x: torch.Tensor, *, dim: Dim, keepdim: bool) -> torch.Tensor:
    return torch.amax(x, dim=() if dim is None else dim, keepdim=keepdim)


def _any(x: torch.Tensor, *, dim: Dim, keepdim: bool) -> torch.Tensor:
    return torch.any(x, dim=dim, keepdim=keepdim)


def _all(x: torch.Tensor, *, dim: Dim, keepdim: bool) -> torch.Tensor:
    return torch.all(x, dim=dim, keepdim=keepdim)


def _cumsum(x: torch.Tensor, *, dim: int, reverse: bool) -> torch.Tensor:
    return x.flip(dim).cumsum(dim).flip(dim) if reverse else x.cumsum(dim)


def _sum_to(x: torch.Tensor, *, shape: Shape) -> torch.Tensor:
    return x.sum_to_size(shape)


def _mean_rule(ops: Namespace, g: Any, _out: Any, x_shape: Shape, *, dim: Dim, keepdim: bool) -> Any:
    count = max(_count(x_shape, dim), 1)  # of nothing: NaN, but its gradient has no elements
    return _spread(ops, g * (1.0 / count), x_shape, dim, keepdim)


OPS = (
    Op(
        "sum",
        torch.sum,
        (lambda ops, g, _out, x_shape, dim, keepdim: _spread(ops, g, x_shape, dim, keepdim),),
        attrs={"dim": None, "keepdim": False},
    ),
    Op("mean", torch.mean, (_mean_rule,), attrs={"dim": None, "keepdim": False}),
    Op("max", _amax, (_max_rule,), attrs={"dim": None, "keepdim": False}),
    Op("argmax", torch.argmax, (None,), attrs={"dim": None, "keepdim": False}),
    Op("any", _any, (None,), attrs={"dim": None, "keepdim": False}),
    Op("all", _all, (None,), attrs={"dim": None, "keepdim": False}),
    Op("var", torch.var, (_var_rule,), attrs={"dim": None, "correction": 1, "keepdim": False}),
    Op(
        "cumsum",  # the sum of all elements up to and with each; with `reverse`, from each on
        _cumsum,
        (lambda ops, g, _out, _x, dim, reverse: ops.cumsum(g, dim=dim, reverse=not reverse),),
        attrs={"dim": REQUIRED, "reverse": False},
    ),
    Op(
        "sum_to",  # the inverse of broadcasting
        _sum_to,
        (lambda ops, g, _out, x_shape, shape: ops.broadcast_to(g, shape=x_shape),),
        attrs={"shape": REQUIRED},
    ),
)
