"""Elementwise ops, with NumPy broadcasting.

Kernels of arithmetic are Python's own operators: they take a number on either side, and cost less per call than torch's
functions of the same name. For the same reason kernels of one input are methods.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

from engines.op import REQUIRED, Namespace, Op, direct
from engines.value import DTYPE_NAMES, DTYPES, Spec

aten = torch.ops.aten
threshold_backward = direct(aten.threshold_backward.default)


def unbroadcast(ops: Namespace, g: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of an input of `shape` that was broadcast to the shape of `g`: summed back."""
    return g if g.shape == shape else ops.sum_to(g, shape=shape)


def _one_less(ops: Namespace, base: Any, exponent: Any) -> Any:
    """exponent - 1, but 0 where both are 0: there the factor `exponent` decides, and 0 times infinity is not 0."""
    if isinstance(exponent, (int, float)):
        return exponent - 1 if exponent else 0
    less = exponent - 1
    return ops.where(ops.equal(base, 0), ops.where(ops.equal(exponent, 0), 0.0, less), less)


def _log_base(ops: Namespace, base: Any) -> Any:
    """log(base), but 0 where the base is 0: there the factor `out` decides."""
    if isinstance(base, (int, float)):
        return math.log(base) if base > 0 else 0.0 if base == 0 else math.nan
    return ops.log(ops.where(ops.equal(base, 0), 1.0, base))


def _cast(x: torch.Tensor, *, dtype: str) -> torch.Tensor:
    return x.to(DTYPES[dtype])


def _cast_back(ops: Namespace, g: Any, _out: Any, x_spec: Spec, *, dtype: str) -> Any:
    """A cast to integers or truth values is piecewise constant."""
    g = g if DTYPES[dtype].is_floating_point else ops.full_like(g, value=0.0)
    return ops.cast(g, dtype=DTYPE_NAMES[x_spec.dtype])


def _gelu_slope_derivative(ops: Namespace, x: Any) -> Any:
    """Second derivative of gelu(x) = x Phi(x): (2 - x^2) phi(x), phi the normal density."""
    return (2.0 - x * x) * ops.exp(x * x * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))


OPS = (
    Op(
        "add",
        operator.add,
        (
            lambda ops, g, _out, a_shape, _b: unbroadcast(ops, g, a_shape),
            lambda ops, g, _out, _a, b_shape: unbroadcast(ops, g, b_shape),
        ),
        promotes=True,
    ),
    Op(
        "sub",
        operator.sub,
        (
            lambda ops, g, _out, a_shape, _b: unbroadcast(ops, g, a_shape),
            lambda ops, g, _out, _a, b_shape: unbroadcast(ops, -g, b_shape),
        ),
        promotes=True,
    ),
    Op(
        "mul",
        operator.mul,
        (
            lambda ops, g, _out, a_shape, b: unbroadcast(ops, g * b, a_shape),
            lambda ops, g, _out, a, b_shape: unbroadcast(ops, g * a, b_shape),
        ),
        promotes=True,
    ),
    Op(
        "div",
        operator.truediv,
        (
            lambda ops, g, _out, a_shape, b: unbroadcast(ops, g / b, a_shape),
            lambda ops, g, out, _a, b: unbroadcast(ops, -g * out / b, b.shape),
        ),
        promotes=True,
    ),
    Op(
        "power",
        operator.pow,
        (
            lambda ops, g, _out, a, b: unbroadcast(ops, g * b * a ** _one_less(ops, a, b), a.shape),
            lambda ops, g, out, a, b_shape: unbroadcast(ops, g * out * _log_base(ops, a), b_shape),
        ),
        promotes=True,
    ),
    Op("floor_divide", torch.floor_divide, (None, None), promotes=True),
    Op("neg", operator.neg, (lambda ops, g, _out, _x: -g,)),
    Op("abs", torch.Tensor.abs, (lambda ops, g, _out, x: g * ops.sign(x),)),
    Op("sign", torch.Tensor.sign, (None,)),
    Op("exp", torch.Tensor.exp, (lambda ops, g, out, _x: g * out,)),
    Op("log", torch.Tensor.log, (lambda ops, g, _out, x: g / x,)),
    Op("sqrt", torch.Tensor.sqrt, (lambda ops, g, out, _x: g / (out * 2.0),)),
    Op("tanh", torch.Tensor.tanh, (lambda ops, g, out, _x: ops.tanh_backward(g, out),)),
    Op(
        "tanh_backward",  # g (1 - y^2)
        direct(aten.tanh_backward.default),
        (
            lambda ops, c, _out, _g, y: ops.tanh_backward(c, y),
            lambda ops, c, _out, g, y: c * g * y * -2.0,
        ),
        promotes=True,
    ),
    Op("sigmoid", torch.Tensor.sigmoid, (lambda ops, g, out, _x: ops.sigmoid_backward(g, out),)),
    Op(
        "sigmoid_backward",  # g y (1 - y)
        direct(aten.sigmoid_backward.default),
        (
            lambda ops, c, _out, _g, y: ops.sigmoid_backward(c, y),
            lambda ops, c, _out, g, y: c * g * (1.0 - y * 2.0),
        ),
        promotes=True,
    ),
    Op("relu", torch.Tensor.relu, (lambda ops, g, out, _x: ops.relu_backward(g, out),)),
    Op(
        "relu_backward",  # g where y > 0
        lambda g, y: threshold_backward(g, y, 0),
        (lambda ops, c, _out, _g, y: ops.relu_backward(c, y), None),
        promotes=True,
    ),
    Op("gelu", torch.nn.functional.gelu, (lambda ops, g, _out, x: ops.gelu_backward(g, x),)),
    Op(
        "gelu_backward",  # g (Phi(x) + x phi(x)), Hendrycks and Gimpel, 2016
        direct(aten.gelu_backward.default),
        (
            lambda ops, c, _out, _g, x: ops.gelu_backward(c, x),
            lambda ops, c, _out, g, x: c * g * _gelu_slope_derivative(ops, x),
        ),
        promotes=True,
    ),
    Op(
        "maximum",  # a tie shares its gradient equally
        torch.maximum,
        (
            lambda ops, g, _out, a, b: unbroadcast(ops, _winner(ops, g, a < b, ops.equal(a, b)), a.shape),
            lambda ops, g, _out, a, b: unbroadcast(ops, _winner(ops, g, a > b, ops.equal(a, b)), b.shape),
        ),
        promotes=True,
    ),
    Op(
        "minimum",
        torch.minimum,
        (
            lambda ops, g, _out, a, b: unbroadcast(ops, _winner(ops, g, a > b, ops.equal(a, b)), a.shape),
            lambda ops, g, _out, a, b: unbroadcast(ops, _winner(ops, g, a < b, ops.equal(a, b)), b.shape),
        ),
        promotes=True,
    ),
    Op(
        "where",
        torch.where,
        (
            None,
            lambda ops, g, _out, condition, a_shape, _b: unbroadcast(ops, ops.where(condition, g, 0.0), a_shape),
            lambda ops, g, _out, condition, _a, b_shape: unbroadcast(ops, ops.where(condition, 0.0, g), b_shape),
        ),
        promotes=True,
    ),
    Op("equal", operator.eq, (None, None), promotes=True),
    Op("not_equal", operator.ne, (None, None), promotes=True),
    Op("less", operator.lt, (None, None), promotes=True),
    Op("less_equal", operator.le, (None, None), promotes=True),
    Op("greater", operator.gt, (None, None), promotes=True),
    Op("greater_equal", operator.ge, (None, None), promotes=True),
    Op("logical_not", torch.Tensor.logical_not, (None,)),
    Op("logical_and", torch.logical_and, (None, None), promotes=True),
    Op("logical_or", torch.logical_or, (None, None), promotes=True),
    Op(
        "cast",
        _cast,
        (_cast_back,),
        attrs={"dtype": REQUIRED},
    ),
    Op("stop_gradient", torch.Tensor.detach, (None,)),
)


def _winner(ops: Namespace, g: Any, lost: Any, tied: Any) -> Any:
    """What of `g` goes to one side of a maximum or minimum."""
    return ops.where(lost, 0.0, ops.where(tied, g * 0.5, g))
