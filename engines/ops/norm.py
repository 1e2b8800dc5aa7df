"""Batch and layer normalisation.

Both have three outputs: the normalised value y, and the mean and reciprocal standard deviation that it was made with.
Their gradients come from torch's fused kernels, once; gradients of gradients from the formulas below, where
u = (x - mean) rstd and n is the number of elements that share one mean.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from engines.op import REQUIRED, Joint, Namespace, Op, direct

native_batch_norm = direct(torch.ops.aten.native_batch_norm.default)
native_batch_norm_backward = direct(torch.ops.aten.native_batch_norm_backward.default)
native_layer_norm = direct(torch.ops.aten.native_layer_norm.default)
native_layer_norm_backward = direct(torch.ops.aten.native_layer_norm_backward.default)
Shape = tuple[int, ...]


def _channel_dims(x: Any) -> tuple[int, ...]:
    return (0, *range(2, len(x.shape)))


def _per_channel(ops: Namespace, statistic: Any, x: Any) -> Any:
    """A value of shape (channels,), or None, so that it broadcasts against x."""
    return statistic if statistic is None else ops.reshape(statistic, shape=(1, -1, *(1,) * (len(x.shape) - 2)))


def _last_dims(x: Any, normalized_shape: Shape) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - len(normalized_shape), len(x.shape)))


def _batch_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    return native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)


def _batch_norm_backward(g: Any, x: Any, mean: Any, rstd: Any) -> Any:
    flags = [True, False, False]
    return native_batch_norm_backward(g, x, None, None, None, mean, rstd, True, 0.0, flags)[0]


def _batch_norm_gradients(g: Any, x: Any, mean: Any, rstd: Any, weight: Any) -> Any:
    return native_batch_norm_backward(g, x, weight, None, None, mean, rstd, True, 0.0, [True] * 3)


def _layer_norm(x: Any, weight: Any, bias: Any, *, normalized_shape: Shape, eps: float) -> Any:
    return native_layer_norm(x, list(normalized_shape), weight, bias, eps)


def _layer_norm_backward(g: Any, x: Any, mean: Any, rstd: Any, *, normalized_shape: Shape) -> Any:
    flags = [True, False, False]
    mean, rstd = mean.contiguous(), rstd.contiguous()  # the kernel does not look at their strides
    return native_layer_norm_backward(g, x, list(normalized_shape), mean, rstd, None, None, flags)[0]


def _through_statistics(ops: Namespace, total: Any, g: Any, x: Any, mean: Any, rstd: Any, n: int) -> Any:
    """Add to `total` what flows into x through the outputs mean and rstd: 1/n and -rstd^2 u / n."""
    _, g_mean, g_rstd = g
    if g_mean is not None:
        part = ops.broadcast_to(g_mean * (1.0 / n), shape=tuple(x.shape))
        total = part if total is None else total + part
    if g_rstd is not None:
        part = g_rstd * rstd * rstd * rstd * (x - mean) * (-1.0 / n)
        total = part if total is None else total + part
    return total


def _nothing(ops: Namespace, g: Any, shape: Shape) -> Any:
    """The gradient of weight or bias where y itself was not used: zeros."""
    used = next(part for part in g if part is not None)
    return ops.full_like(used, shape=shape, value=0.0)


def _batch_norm_x(ops: Namespace, g: Any, _y: Any, mean: Any, rstd: Any, x: Any, weight: Any, _b: Any, **_: Any) -> Any:
    total = None
    if g[0] is not None:
        scaled = g[0] if weight is None else g[0] * _per_channel(ops, weight, x)
        total = ops.batch_norm_backward(scaled, x, mean, rstd)
    g_statistics = (None, _per_channel(ops, g[1], x), _per_channel(ops, g[2], x))
    n = math.prod(x.shape[d] for d in _channel_dims(x))
    return _through_statistics(ops, total, g_statistics, x, _per_channel(ops, mean, x), _per_channel(ops, rstd, x), n)


def _batch_norm_weight(
    ops: Namespace, g: Any, _y: Any, mean: Any, rstd: Any, x: Any, _w: Any, _b: Any, **_: Any
) -> Any:
    if g[0] is None:
        return ops.full_like(mean, value=0.0)
    u = (x - _per_channel(ops, mean, x)) * _per_channel(ops, rstd, x)
    return ops.sum(g[0] * u, dim=_channel_dims(x))


def _batch_norm_bias(
    ops: Namespace, g: Any, _y: Any, _mean: Any, _r: Any, _x: Any, _w: Any, b_shape: Shape, **_: Any
) -> Any:
    return _nothing(ops, g, b_shape) if g[0] is None else ops.sum(g[0], dim=_channel_dims(g[0]))


def _batch_norm_together(
    ops: Namespace, g: Any, _y: Any, mean: Any, rstd: Any, x: Any, weight: Any, _b: Any, **attrs: Any
) -> Any:
    """The gradients of x, weight and bias, in one pass where y alone was used."""
    if g[0] is not None and g[1] is None and g[2] is None:
        return ops.batch_norm_gradients(g[0], x, mean, rstd, weight)
    return (
        _batch_norm_x(ops, g, None, mean, rstd, x, weight, None, **attrs),
        _batch_norm_weight(ops, g, None, mean, rstd, x, None, None, **attrs),
        _batch_norm_bias(ops, g, None, None, None, None, None, weight.shape, **attrs),
    )


def _layer_norm_x(
    ops: Namespace,
    g: Any,
    _y: Any,
    mean: Any,
    rstd: Any,
    x: Any,
    weight: Any,
    _b: Any,
    *,
    normalized_shape: Shape,
    eps: float,
) -> Any:
    total = None
    if g[0] is not None:
        scaled = g[0] if weight is None else g[0] * weight
        total = ops.layer_norm_backward(scaled, x, mean, rstd, normalized_shape=normalized_shape)
    return _through_statistics(ops, total, g, x, mean, rstd, math.prod(normalized_shape))


def _layer_norm_weight(
    ops: Namespace, g: Any, _y: Any, mean: Any, rstd: Any, x: Any, w_shape: Shape, _b: Any, **_: Any
) -> Any:
    if g[0] is None:
        return ops.full_like(x, shape=w_shape, value=0.0)
    return ops.sum_to(g[0] * ((x - mean) * rstd), shape=w_shape)


def _layer_norm_bias(
    ops: Namespace, g: Any, _y: Any, _mean: Any, _r: Any, _x: Any, _w: Any, b_shape: Shape, **_: Any
) -> Any:
    return _nothing(ops, g, b_shape) if g[0] is None else ops.sum_to(g[0], shape=b_shape)


def _second_order(
    ops: Namespace, c: Any, g: Any, x: Any, mean: Any, rstd: Any, dims: tuple[int, ...]
) -> dict[str, Any]:
    """Gradients of D(g, x, mean, rstd) = rstd (g - mean(g) - u mean(g u)), contracted with c, statistics broadcast."""

    def average(value: Any) -> Any:
        return ops.mean(value, dim=dims, keepdim=True)

    u = (x - mean) * rstd
    g_u, c_u = average(g * u), average(c * u)
    by_u = -(c * g_u + g * c_u) * rstd
    by_rstd = c * (g - average(g) - u * g_u) + by_u * (x - mean)
    return {
        "x": by_u * rstd,
        "mean": -ops.sum(by_u * rstd, dim=dims, keepdim=True),
        "rstd": ops.sum(by_rstd, dim=dims, keepdim=True),
    }


def _batch_second(name: str) -> Any:
    def rule(ops: Namespace, c: Any, _out: Any, g: Any, x: Any, mean: Any, rstd: Any) -> Any:
        found = _second_order(ops, c, g, x, _per_channel(ops, mean, x), _per_channel(ops, rstd, x), _channel_dims(x))[
            name
        ]
        return found if name == "x" else ops.reshape(found, shape=tuple(mean.shape))

    return rule


def _total(ops: Namespace, parts: list[Any], x: Any, shape: Shape) -> Any:
    """The sum of parts, zeros of a shape where there are none."""
    return sum(parts[1:], parts[0]) if parts else ops.full_like(x, shape=shape, value=0.0)


def _gradients_g(
    ops: Namespace, c: Any, _x: Any, _w: Any, _b: Any, _g: Any, x: Any, mean: Any, rstd: Any, weight: Any
) -> Any:
    c_x, c_weight, c_bias = (c[0], *(_per_channel(ops, part, x) for part in c[1:]))
    parts = []
    if c_x is not None:  # D is symmetric in g, c
        parts.append(ops.batch_norm_backward(c_x, x, mean, rstd) * _per_channel(ops, weight, x))
    if c_weight is not None:
        parts.append(c_weight * (x - _per_channel(ops, mean, x)) * _per_channel(ops, rstd, x))
    if c_bias is not None:
        parts.append(ops.broadcast_to(c_bias, shape=tuple(x.shape)))
    return _total(ops, parts, x, tuple(x.shape))


def _gradients_weight(
    ops: Namespace, c: Any, _x: Any, _w: Any, _b: Any, g: Any, x: Any, mean: Any, rstd: Any, _weight: Any
) -> Any:
    back = [] if c[0] is None else [ops.sum(g * ops.batch_norm_backward(c[0], x, mean, rstd), dim=_channel_dims(x))]
    return _total(ops, back, x, tuple(mean.shape))


def _gradients_second(name: str) -> Any:
    """By x, mean or rstd."""
    of_backward = _batch_second(name)

    def of_sum(ops: Namespace, c_g: Any, x: Any, mean: Any, rstd: Any) -> Any:
        """Of the sum of g u, of whose terms c_g are the weights times g."""
        if name == "x":
            return c_g * rstd
        return ops.sum(-(c_g * rstd) if name == "mean" else c_g * (x - mean), dim=_channel_dims(x))

    def rule(
        ops: Namespace, c: Any, _x: Any, _w: Any, _b: Any, g: Any, x: Any, mean: Any, rstd: Any, weight: Any
    ) -> Any:
        parts = []
        if c[0] is not None:
            parts.append(of_backward(ops, c[0], None, g * _per_channel(ops, weight, x), x, mean, rstd))
        if c[1] is not None:
            apart = (_per_channel(ops, statistic, x) for statistic in (mean, rstd))
            parts.append(of_sum(ops, _per_channel(ops, c[1], x) * g, x, *apart))
        return _total(ops, parts, x, tuple(x.shape if name == "x" else mean.shape))

    return rule


def _layer_second(name: str) -> Any:
    def rule(
        ops: Namespace, c: Any, _out: Any, g: Any, x: Any, mean: Any, rstd: Any, *, normalized_shape: Shape
    ) -> Any:
        return _second_order(ops, c, g, x, mean, rstd, _last_dims(x, normalized_shape))[name]

    return rule


OPS = (
    Op(
        "batch_norm_train",  # statistics over all dimensions but the channels', number 1
        _batch_norm,
        (_batch_norm_x, _batch_norm_weight, _batch_norm_bias),
        attrs={"eps": 1e-5},
        outputs=3,
        joints=(Joint((0, 1, 2), _batch_norm_together),),
    ),
    Op(
        "batch_norm_gradients",  # with respect to x, weight and bias, in one pass over g
        _batch_norm_gradients,
        (_gradients_g, *map(_gradients_second, ("x", "mean", "rstd")), _gradients_weight),
        outputs=3,
    ),
    Op(
        "batch_norm_backward",
        _batch_norm_backward,
        (
            lambda ops, c, _out, _g, x, mean, rstd: ops.batch_norm_backward(c, x, mean, rstd),  # D is symmetric in g, c
            _batch_second("x"),
            _batch_second("mean"),
            _batch_second("rstd"),
        ),
    ),
    Op(
        "layer_norm_full",  # statistics over the last dimensions, of `normalized_shape`
        _layer_norm,
        (_layer_norm_x, _layer_norm_weight, _layer_norm_bias),
        attrs={"normalized_shape": REQUIRED, "eps": 1e-5},
        outputs=3,
    ),
    Op(
        "layer_norm_backward",
        _layer_norm_backward,
        (
            lambda ops, c, _out, _g, x, mean, rstd, **attrs: ops.layer_norm_backward(c, x, mean, rstd, **attrs),
            _layer_second("x"),
            _layer_second("mean"),
            _layer_second("rstd"),
        ),
        attrs={"normalized_shape": REQUIRED},
    ),
)


def batch_norm(ops: Namespace, x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Any:
    """x (batch, channels, ...) normalised by the statistics of this batch, scaled and shifted per channel."""
    return ops.batch_norm_train(x, weight, bias, eps=eps)[0]


def batch_norm_inference(
    ops: Namespace, x: Any, mean: Any, var: Any, weight: Any, bias: Any, *, eps: float = 1e-5
) -> Any:
    """x (batch, channels, ...) normalised by given statistics (channels,), scaled and shifted per channel."""
    scale = weight / ops.sqrt(var + eps)
    return x * _per_channel(ops, scale, x) + _per_channel(ops, bias - mean * scale, x)


def layer_norm(
    ops: Namespace, x: Any, weight: Any = None, bias: Any = None, *, normalized_shape: Shape, eps: float = 1e-5
) -> Any:
    """x normalised over its last dimensions, of `normalized_shape`, then scaled and shifted."""
    return ops.layer_norm_full(x, weight, bias, normalized_shape=normalized_shape, eps=eps)[0]


COMPOSITES = (batch_norm, batch_norm_inference, layer_norm)
