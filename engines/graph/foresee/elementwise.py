"""Ops on elements, alone or gathered up along dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engines.graph.foresee.given import Rule, Specs, alike, broadcast, floats, named_dims, numeric, shaped, truths
from engines.graph.ir import Operand, Var
from engines.value import DTYPES, Spec


def _elementwise(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    return broadcast(floats(inputs))


def _arithmetic(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    """Elementwise, where inputs may be numbers, which take a value's type."""
    return broadcast(numeric(inputs))


def _float_arithmetic(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = numeric(inputs)
    return broadcast(specs) if specs is not None and specs[0].dtype.is_floating_point else None


def _comparison(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    return broadcast(numeric(inputs), torch.bool)


def _logical(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    return broadcast(truths(inputs))


def _where(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    condition, chosen = truths(inputs[:1]), numeric(inputs[1:])
    return None if condition is None or chosen is None else broadcast([*chosen, *condition])


def _along(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """As its inputs, which are alike, along a dimension that there is."""
    specs = floats(inputs)
    if specs is None or len(set(specs)) > 1 or not -len(specs[0].shape) <= attrs["dim"] < len(specs[0].shape):
        return None
    return (specs[0],)


def _running(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """cumsum, as its input along a dimension that there is."""
    specs = numeric(inputs)
    plain = specs is not None and named_dims(specs[0].shape, attrs["dim"]) is not None
    return (specs[0],) if specs is not None and plain else None


def _reduced(specs: Sequence[Spec] | None, attrs: Mapping[str, Any]) -> Specs | None:
    if specs is None or type(attrs["keepdim"]) is not bool:
        return None
    dims = named_dims(specs[0].shape, attrs["dim"])
    if dims is None:
        return None
    kept = attrs["keepdim"]
    shape = tuple(1 if d in dims else size for d, size in enumerate(specs[0].shape) if kept or d not in dims)
    return (specs[0]._replace(shape=shape),)


def _sum(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """As its input; truth values are counted."""
    counted = truths(inputs)
    return _reduced(numeric(inputs) if counted is None else [counted[0]._replace(dtype=torch.int64)], attrs)


def _mean(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    return _reduced(floats(inputs), attrs)


def _max(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """Of no elements there is no largest."""
    specs = numeric(inputs)
    return None if specs is None or 0 in specs[0].shape else _reduced(specs, attrs)


def _argmax(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    if isinstance(attrs["dim"], tuple):
        return None
    found = _max(inputs, attrs)
    return None if found is None else (found[0]._replace(dtype=torch.int64),)


def _all(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    return _reduced(truths(inputs), attrs)


def _summed(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """sum_to: a shape that broadcasts to the input's."""
    specs, shape = floats(inputs), attrs["shape"]
    if specs is None or len(shape) > len(specs[0].shape):
        return None
    last = specs[0].shape[len(specs[0].shape) - len(shape) :]
    return shaped(specs[0], shape) if all(size in {1, s} for size, s in zip(shape, last, strict=True)) else None


def _filled(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = alike(inputs)
    if specs is None or type(attrs["value"]) is not (float if specs[0].dtype.is_floating_point else int):
        return None
    return shaped(specs[0], specs[0].shape if attrs["shape"] is None else attrs["shape"])


def _mask(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    (key,) = inputs
    dtype = DTYPES.get(attrs["dtype"], torch.int64)
    if not isinstance(key, Var) or not dtype.is_floating_point or not 0.0 <= attrs["rate"] < 1.0:
        return None
    plain = key.spec.shape == () and key.spec.dtype == torch.int64
    return shaped(key.spec._replace(dtype=dtype), attrs["shape"]) if plain else None


def _update(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs)
    return (specs[0], specs[1]) if specs is not None and len(set(specs)) == 1 else None


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("add", "sub", "mul", "floor_divide"), _arithmetic),
    **dict.fromkeys(("div", "power"), _float_arithmetic),
    **dict.fromkeys(("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"), _comparison),
    **dict.fromkeys(("logical_not", "logical_and", "logical_or"), _logical),
    "where": _where,
    **dict.fromkeys(("maximum", "minimum", "tanh_backward", "sigmoid_backward", "relu_backward"), _elementwise),
    **dict.fromkeys(("neg", "abs", "sign", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"), _elementwise),
    **dict.fromkeys(("softmax", "softmax_backward", "log_softmax", "log_softmax_backward"), _along),
    "cumsum": _running,
    "sum": _sum,
    "mean": _mean,
    "max": _max,
    "argmax": _argmax,
    "all": _all,
    "full_like": _filled,
    "dropout_mask": _mask,
    "sum_to": _summed,
    "sgd_update": _update,
}
