"""Ops that move elements and compute nothing. Results may be views of their inputs, as in torch."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from engines.op import REQUIRED, Namespace, Op

Shape = tuple[int, ...]
Key = tuple[Any, ...]


def basic_index(key: Key) -> tuple[Any, ...]:
    """A stored key (see `Value.__getitem__`) as Python's own indexing objects."""
    return tuple(
        builtins.slice(*part) if isinstance(part, tuple) else Ellipsis if part == "..." else part for part in key
    )


def _getitem(x: torch.Tensor, *, key: Key) -> torch.Tensor:
    return x[basic_index(key)]


def _getitem_backward(g: torch.Tensor, *, key: Key, shape: Shape) -> torch.Tensor:
    out = g.new_zeros(shape)
    out[basic_index(key)] = g
    return out


def _pad(x: torch.Tensor, *, widths: tuple[tuple[int, int], ...], value: float) -> torch.Tensor:
    return torch.nn.functional.pad(x, [w for pair in reversed(widths) for w in pair], value=value)


def _unpad(ops: Namespace, g: Any, _out: Any, _x: Any, *, widths: Sequence[tuple[int, int]], value: float) -> Any:
    """What was padded is cut off, and what was cut off (a negative width) comes back as zeros."""
    return ops.pad(g, widths=tuple((-before, -after) for before, after in widths), value=0.0)


def _inverse(dims: Sequence[int]) -> tuple[int, ...]:
    positive = [d % len(dims) for d in dims]
    return tuple(positive.index(d) for d in range(len(dims)))


def _part_of_concat(ops: Namespace, g: Any, _out: Any, *x_shapes: Shape, dim: int, index: int) -> Any:
    start = sum(shape[dim] for shape in x_shapes[:index])
    return ops.slice(g, dim=dim % len(x_shapes[index]), start=start, stop=start + x_shapes[index][dim])


def _split(x: torch.Tensor, *, sizes: tuple[int, ...], dim: int) -> tuple[torch.Tensor, ...]:
    return torch.split(x, list(sizes), dim)


def _join(ops: Namespace, g: Sequence[Any], x_shape: Shape, *, sizes: tuple[int, ...], dim: int) -> Any:
    """The gradient of split: concatenation, with zeros where a part was not used."""
    used = next(part for part in g if part is not None)
    shape = list(x_shape)
    parts = []
    for part, shape[dim] in zip(g, sizes, strict=True):
        parts.append(ops.full_like(used, shape=tuple(shape), value=0.0) if part is None else part)
    return ops.concat(parts, dim=dim)


def _stacked(ops: Namespace, g: Sequence[Any], x_shape: Shape, *, dim: int) -> Any:
    """The gradient of unstack: stacked again, with zeros where a part was not used."""
    dim %= len(x_shape)
    used = next(part for part in g if part is not None)
    shape = (*x_shape[:dim], 1, *x_shape[dim + 1 :])
    zeros = None
    parts = []
    for part in g:
        if part is None and zeros is None:
            zeros = ops.full_like(used, shape=shape, value=0.0)
        parts.append(zeros if part is None else ops.reshape(part, shape=shape))
    return ops.concat(parts, dim=dim)


def _full_like(x: torch.Tensor, *, shape: Shape | None, value: float) -> torch.Tensor:
    return torch.full_like(x, value) if shape is None else x.new_full(shape, value)


OPS = (
    Op(
        "reshape",
        torch.reshape,
        (lambda ops, g, _out, x_shape, shape: ops.reshape(g, shape=x_shape),),
        attrs={"shape": REQUIRED},
    ),
    Op(
        "permute",
        torch.permute,
        (lambda ops, g, _out, _x, dims: ops.permute(g, dims=_inverse(dims)),),
        attrs={"dims": REQUIRED},
    ),
    Op(
        "broadcast_to",
        lambda x, *, shape: x.expand(shape),
        (lambda ops, g, _out, x_shape, shape: ops.sum_to(g, shape=x_shape),),
        attrs={"shape": REQUIRED},
    ),
    Op("concat", torch.cat, (_part_of_concat,), attrs={"dim": 0}, variadic=True, promotes=True),
    Op("split", _split, (_join,), attrs={"sizes": REQUIRED, "dim": 0}, outputs=None),
    Op("unstack", lambda x, *, dim: torch.unbind(x, dim), (_stacked,), attrs={"dim": 0}, outputs=None),
    Op("copy", torch.clone, (lambda ops, g, _out, _x: g,)),  # the same elements in a storage of their own
    Op(
        "getitem",
        _getitem,
        (lambda ops, g, _out, x_shape, key: ops.getitem_backward(g, key=key, shape=x_shape),),
        attrs={"key": REQUIRED},
    ),
    Op(
        "getitem_backward",
        _getitem_backward,
        (lambda ops, c, _out, _g, key, shape: ops.getitem(c, key=key),),
        attrs={"key": REQUIRED, "shape": REQUIRED},
    ),
    Op("pad", _pad, (_unpad,), attrs={"widths": REQUIRED, "value": 0.0}),
    Op("full_like", _full_like, (None,), attrs={"shape": None, "value": REQUIRED}),
)


def flatten(ops: Namespace, x: Any, *, start_dim: int = 0) -> Any:
    """All dimensions from `start_dim` on joined into one."""
    joined = 1
    for size in x.shape[start_dim:]:
        joined *= size
    return ops.reshape(x, shape=(*x.shape[:start_dim], joined))


def transpose(ops: Namespace, x: Any, *, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged."""
    dims = list(range(len(x.shape)))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return ops.permute(x, dims=tuple(dims))


def slice(ops: Namespace, x: Any, *, dim: int, start: int | None = None, stop: int | None = None, step: int = 1) -> Any:
    """Every `step`-th element from `start` to before `stop` along `dim`."""
    skipped = itertools.repeat((None, None, None), dim % len(x.shape))
    return ops.getitem(x, key=(*skipped, (start, stop, step)))


def stack(ops: Namespace, xs: Sequence[Any], *, dim: int = 0) -> Any:
    """Values of one shape joined along a new dimension."""
    dim %= len(xs[0].shape) + 1
    return ops.concat([ops.reshape(x, shape=(*x.shape[:dim], 1, *x.shape[dim:])) for x in xs], dim=dim)


COMPOSITES = (flatten, transpose, slice, stack)
