"""Ops that join, pad, and read or write at positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engines.graph.foresee.given import Rule, Specs, alike, floats, named_dims, numeric, positions, shaped
from engines.graph.ir import Operand, Var
from engines.value import DTYPES, Spec


def _concat(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """Values of one type that differ in size along one dimension alone."""
    specs = [i.spec for i in inputs if isinstance(i, Var)]
    ranks = {len(spec.shape) for spec in specs}
    if len(specs) != len(inputs) or len({spec.dtype for spec in specs}) != 1 or len(ranks) != 1:
        return None
    dims = named_dims(specs[0].shape, attrs["dim"]) if type(attrs["dim"]) is int else None
    if dims is None:
        return None
    (dim,) = dims
    if len({(*spec.shape[:dim], *spec.shape[dim + 1 :]) for spec in specs}) != 1:
        return None
    shape = specs[0].shape
    return (specs[0]._replace(shape=(*shape[:dim], sum(spec.shape[dim] for spec in specs), *shape[dim + 1 :])),)


def _pad(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """Each dimension longer, or shorter where a width is negative, but not gone."""
    specs, widths = floats(inputs), attrs["widths"]
    if specs is None or not isinstance(widths, tuple) or len(widths) != len(specs[0].shape):
        return None
    if not all(isinstance(pair, tuple) and [type(width) for width in pair] == [int, int] for pair in widths):
        return None
    shape = tuple(size + before + after for size, (before, after) in zip(specs[0].shape, widths, strict=True))
    return shaped(specs[0], shape) if 0 not in specs[0].shape and min(shape, default=0) > 0 else None


def _one_hot(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    index, classes, dtype = positions(inputs[0]), attrs["num_classes"], DTYPES.get(attrs["dtype"])
    if index is None or type(classes) is not int or classes < 0 or dtype is None:
        return None
    return (index._replace(shape=(*index.shape, classes), dtype=dtype),)


def _embedding(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    weight, index = alike(inputs[:1]), positions(inputs[1])
    if weight is None or index is None or len(weight[0].shape) != 2:
        return None
    return (weight[0]._replace(shape=(*index.shape, weight[0].shape[1])),)


def _embedding_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    g, index = floats(inputs[:1]), positions(inputs[1])
    if g is None or index is None or not g[0].shape or g[0].shape[:-1] != index.shape:
        return None
    return shaped(g[0], (attrs["rows"], g[0].shape[-1]))


def _index_along(values: Spec, index: Spec | None, attrs: Mapping[str, Any]) -> bool:
    """Whether these are positions along one dimension, in every other no more than there are values."""
    if index is None or not values.shape or len(index.shape) != len(values.shape):
        return False
    dims = named_dims(values.shape, attrs["dim"]) if type(attrs["dim"]) is int else None
    return dims is not None and all(
        d in dims or size <= there for d, (size, there) in enumerate(zip(index.shape, values.shape, strict=True))
    )


def _gather(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    values, index = inputs[0], positions(inputs[1])
    if not isinstance(values, Var) or index is None or not _index_along(values.spec, index, attrs):
        return None
    return (values.spec._replace(shape=index.shape),)


def _gather_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs, index = floats(inputs[:1]), positions(inputs[1])
    found = None if specs is None else shaped(specs[0], attrs["shape"])
    if specs is None or found is None or index is None or index.shape != specs[0].shape:
        return None
    return found if _index_along(found[0], index, attrs) else None


def _scatter_add(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs, index = alike((inputs[0], inputs[2])), positions(inputs[1])
    if specs is None or index is None or index.shape != specs[1].shape:
        return None
    return (specs[0],) if _index_along(specs[0], index, attrs) else None


def _topk(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """The largest, then where they stand."""
    specs, k = floats(inputs), attrs["k"]
    dims = named_dims(specs[0].shape, attrs["dim"]) if specs is not None and type(attrs["dim"]) is int else None
    if specs is None or not dims or type(k) is not int or not 0 <= k <= specs[0].shape[dims[0]]:
        return None
    shape = tuple(k if d in dims else size for d, size in enumerate(specs[0].shape))
    return specs[0]._replace(shape=shape), specs[0]._replace(shape=shape, dtype=torch.int64)


def _argsort(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = numeric(inputs)
    if specs is None or type(attrs["dim"]) is not int or not named_dims(specs[0].shape, attrs["dim"]):
        return None
    return (specs[0]._replace(dtype=torch.int64),)


RULES: Mapping[str, Rule] = {
    "concat": _concat,
    "pad": _pad,
    "one_hot": _one_hot,
    "embedding": _embedding,
    "embedding_backward": _embedding_backward,
    "gather": _gather,
    "gather_backward": _gather_backward,
    "scatter_add": _scatter_add,
    "topk": _topk,
    "argsort": _argsort,
}
