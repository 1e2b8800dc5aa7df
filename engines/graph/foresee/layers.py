"""Ops of whole layers: products, convolutions, pooling, normalisation, the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engines.graph.foresee.given import Rule, Shape, Specs, broadcast, floats, pair, shaped
from engines.graph.ir import Operand, Var
from engines.value import Spec


def _normalised(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    """batch_norm_train: x, then mean and reciprocal deviation of each channel."""
    specs = floats(inputs)
    if specs is None or len(specs[0].shape) < 2 or 0 in specs[0].shape:
        return None
    return (specs[0], specs[1], specs[1]) if {spec.shape for spec in specs[1:]} == {specs[0].shape[1:2]} else None


def _normalised_gradients(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs)
    if specs is None or specs[0] != specs[1]:
        return None
    return _normalised(inputs[1:], {})


def _layer_norm(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """layer_norm_full: x, then mean and reciprocal deviation over its last dimensions."""
    specs, normal = floats(inputs), attrs["normalized_shape"]
    plain = isinstance(normal, tuple) and normal and all(type(size) is int and size > 0 for size in normal)
    if specs is None or not plain or {spec.shape for spec in specs[1:]} != {normal}:
        return None
    kept = len(specs[0].shape) - len(normal)
    if kept < 0 or specs[0].shape[kept:] != normal:
        return None
    over = specs[0]._replace(shape=(*specs[0].shape[:kept], *(1 for _ in normal)))
    return specs[0], over, over


def _layer_norm_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs)
    if specs is None or specs[0] != specs[1]:
        return None
    normal = specs[1]._replace(shape=attrs["normalized_shape"])
    forward = _layer_norm((inputs[1], Var(normal), Var(normal)), attrs)
    return (specs[0],) if forward == (specs[0], specs[2], specs[3]) else None


def _linear(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs, optional=True)
    if specs is None or not specs[0].shape:
        return None
    x, weight, bias = specs[0].shape, specs[1].shape, specs[2:]
    fits = len(weight) == 2 and x[-1] == weight[1] and all(each.shape == weight[:1] for each in bias)
    return (specs[0]._replace(shape=(*x[:-1], weight[0])),) if fits else None


def _matmul(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    """Matrices, of which there may be several on either side."""
    specs = floats(inputs)
    if specs is None or len(specs[0].shape) < 2 or len(specs[1].shape) < 2:
        return None
    left, right = specs[0].shape, specs[1].shape
    many = broadcast([specs[0]._replace(shape=left[:-2]), specs[1]._replace(shape=right[:-2])])
    if many is None or left[-1] != right[-2]:
        return None
    return (specs[0]._replace(shape=(*many[0].shape, left[-2], right[-1])),)


def _windows(sizes: Shape, kernel: Shape, attrs: Mapping[str, Any]) -> Shape | None:
    """How many windows there are in each of two dimensions; None where there are none or attributes are odd."""
    step, pad, gap = (pair(attrs[name]) for name in ("stride", "padding", "dilation"))
    if any(len(each) != 2 for each in (step, pad, gap)) or min(*step, *gap) < 1 or min(pad) < 0:
        return None
    found = tuple((sizes[d] + 2 * pad[d] - gap[d] * (kernel[d] - 1) - 1) // step[d] + 1 for d in (0, 1))
    return found if min(found) > 0 else None


def _convolved(image: Shape, weight: Shape, attrs: Mapping[str, Any]) -> Shape | None:
    groups = attrs["groups"]
    if len(image) != 4 or len(weight) != 4 or 0 in (*image, *weight) or groups < 1:
        return None
    windows = _windows(image[2:], weight[2:], attrs)
    fits = image[1] == weight[1] * groups and weight[0] % groups == 0
    return (image[0], weight[0], *windows) if windows is not None and fits else None


def _conv2d(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs, optional=True)
    if specs is None:
        return None
    shape = _convolved(specs[0].shape, specs[1].shape, attrs)
    plain = all(bias.shape == specs[1].shape[:1] for bias in specs[2:])
    return (specs[0]._replace(shape=shape),) if shape is not None and plain else None


def _conv2d_input(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs)
    if specs is None or _convolved(attrs["shape"], specs[1].shape, attrs) != specs[0].shape:
        return None
    return shaped(specs[0], attrs["shape"])


def _conv2d_weight(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs)
    if specs is None or _convolved(specs[1].shape, attrs["shape"], attrs) != specs[0].shape:
        return None
    return shaped(specs[0], attrs["shape"])


def _conv2d_weight_bias(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    weight = _conv2d_weight(inputs, attrs)
    return None if weight is None else (*weight, weight[0]._replace(shape=attrs["shape"][:1]))


def _pooled(image: Shape, attrs: Mapping[str, Any]) -> Shape | None:
    kernel, pad = pair(attrs["kernel_size"]), pair(attrs["padding"])
    if len(image) != 4 or 0 in image or len(kernel) != 2 or len(pad) != 2:
        return None
    if min(kernel) < 1 or any(2 * padding > size for padding, size in zip(pad, kernel, strict=True)):
        return None
    step = kernel if attrs["stride"] is None else attrs["stride"]
    windows = _windows(image[2:], kernel, {**attrs, "stride": step})
    return None if windows is None else (*image[:2], *windows)


def _max_pool2d(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs)
    shape = None if specs is None else _pooled(specs[0].shape, attrs)
    if specs is None or shape is None:
        return None
    return specs[0]._replace(shape=shape), specs[0]._replace(shape=shape, dtype=torch.int64)


def _max_pool2d_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    g, indices = inputs
    if not isinstance(g, Var) or not isinstance(indices, Var) or not g.spec.dtype.is_floating_point:
        return None
    plain = indices.spec == g.spec._replace(dtype=torch.int64) and _pooled(attrs["shape"], attrs) == g.spec.shape
    return shaped(g.spec, attrs["shape"]) if plain else None


def _avg_pool2d(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs)
    shape = None if specs is None else _pooled(specs[0].shape, {**attrs, "dilation": 1})
    return None if specs is None or shape is None else (specs[0]._replace(shape=shape),)


def _avg_pool2d_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = floats(inputs, optional=True)
    plain = specs is not None and _pooled(attrs["shape"], {**attrs, "dilation": 1}) == specs[0].shape
    return shaped(specs[0], attrs["shape"]) if specs is not None and plain else None


def _picked(inputs: Sequence[Operand], shape: Shape) -> Spec | None:
    """What labels are picked for, if its type is plain and there is a label for each row."""
    given, label = inputs
    if not isinstance(given, Var) or not isinstance(label, Var) or len(shape) != 2:
        return None
    plain = given.spec.dtype.is_floating_point and label.spec.dtype == torch.int64 and label.spec.shape == shape[:1]
    return given.spec if plain else None


def _nll_loss(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    spec = _picked(inputs, inputs[0].spec.shape if isinstance(inputs[0], Var) else ())
    return None if spec is None else (spec._replace(shape=()),)


def _nll_loss_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    spec = _picked(inputs, attrs["shape"])
    return None if spec is None or math.prod(spec.shape) != 1 or spec.shape else shaped(spec, attrs["shape"])


RULES: Mapping[str, Rule] = {
    "batch_norm_train": _normalised,
    "batch_norm_gradients": _normalised_gradients,
    "layer_norm_full": _layer_norm,
    "layer_norm_backward": _layer_norm_backward,
    "linear": _linear,
    "matmul": _matmul,
    "conv2d": _conv2d,
    "conv2d_input": _conv2d_input,
    "conv2d_weight": _conv2d_weight,
    "conv2d_weight_bias": _conv2d_weight_bias,
    "max_pool2d_with_indices": _max_pool2d,
    "max_pool2d_backward": _max_pool2d_backward,
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": _avg_pool2d_backward,
    "nll_loss": _nll_loss,
    "nll_loss_backward": _nll_loss_backward,
}
