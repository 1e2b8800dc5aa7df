"""Convolution over images in (batch, channel, height, width) order.

The gradients are ops of their own, each asked for by itself, so nobody computes the gradient of a batch of images that
nobody wants; weight and bias, wanted together, share one pass. All are again convolutions, which gives gradients of
gradients. Who wants all three on kernels has them of one image from a single call, where calls are what costs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from engines.op import REQUIRED, Joint, Namespace, Op, direct, of_sizes

convolution_backward = direct(torch.ops.aten.convolution_backward.default)

Pair = int | tuple[int, int]
Shape = tuple[int, ...]


def pair(size: Pair) -> list[int]:
    """A size for height and width."""
    return [size, size] if isinstance(size, int) else list(size)


@lru_cache(maxsize=256)
def _told(stride: Pair, padding: Pair, dilation: Pair, groups: int) -> tuple[Any, ...]:
    """What convolution_backward is told between the tensors and which gradients are wanted."""
    return pair(stride), pair(padding), pair(dilation), False, [0, 0], groups


def _conv2d_input(
    g: torch.Tensor,
    weight: torch.Tensor,
    *,
    shape: Shape,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> torch.Tensor:
    if _is_one_image(g):
        x, told = of_sizes(shape, g), _told(stride, padding, dilation, groups)
        gradient: torch.Tensor = convolution_backward(g, x, weight, [weight.shape[0]], *told, [True, False, False])[0]
        return gradient
    # The transposed convolution is this gradient, too, and needs no input to read sizes of. Of one image torch may have
    # it from other kernels, where it takes twice the time, and is not the same to the bit.
    rest = 0 if stride == 1 else _rest(g.shape, weight.shape, shape, pair(stride), pair(padding), pair(dilation))
    return torch.conv_transpose2d(g, weight, None, stride, padding, rest, groups, dilation)


def _rest(g: Shape, weight: Shape, x: Shape, steps: list[int], pads: list[int], gaps: list[int]) -> list[int]:
    """How many rows and columns of x lie beyond the last place of the kernel, from the shapes of all three."""
    return [x[d] - ((g[d] - 1) * steps[d - 2] - 2 * pads[d - 2] + gaps[d - 2] * (weight[d] - 1) + 1) for d in (2, 3)]


def _conv2d_weight(
    g: torch.Tensor, x: torch.Tensor, *, shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> torch.Tensor:
    weight, told = of_sizes(shape, g), _told(stride, padding, dilation, groups)
    gradient: torch.Tensor = convolution_backward(g, x, weight, shape[:1], *told, [False, True, False])[1]
    return gradient


def _conv2d_weight_bias(
    g: torch.Tensor, x: torch.Tensor, *, shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    weight, told = of_sizes(shape, g), _told(stride, padding, dilation, groups)
    _, by_weight, by_bias = convolution_backward(g, x, weight, shape[:1], *told, [False, True, True])
    return by_weight, by_bias


def _is_one_image(g: torch.Tensor) -> bool:
    return g.is_cpu and g.shape[0] == 1


def conv2d_gradients(ops: Namespace, g: Any, x: Any, weight: Any, **attrs: Any) -> tuple[Any, Any, Any]:
    """The gradients of conv2d with respect to input, weight and bias."""
    by_weight, by_bias = ops.conv2d_weight_bias(g, x, shape=weight.shape, **attrs)
    return ops.conv2d_input(g, weight, shape=x.shape, **attrs), by_weight, by_bias


def conv2d_gradients_on_kernels(
    g: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Any:
    """The same to the bit. Of many images the weights' come first: whoever reads the input's has it from the cache."""
    told = _told(stride, padding, dilation, groups)
    if _is_one_image(g):
        return convolution_backward(g, x, weight, weight.shape[:1], *told, [True, True, True])
    by_weight, by_bias = convolution_backward(g, x, weight, weight.shape[:1], *told, [False, True, True])[1:]
    by_input = _conv2d_input(g, weight, shape=x.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return by_input, by_weight, by_bias


def _weight_bias_g(ops: Namespace, c: Any, _weight: Any, _bias: Any, g_shape: Shape, x: Any, **attrs: Any) -> Any:
    """By g: the convolution of x with what stands for the weight, plus what stands for the bias."""
    attrs.pop("shape")
    c_weight, c_bias = c
    if c_weight is not None:
        return ops.conv2d(x, c_weight, c_bias, **attrs)
    return ops.broadcast_to(ops.reshape(c_bias, shape=(1, -1, 1, 1)), shape=g_shape)


def _weight_bias_x(ops: Namespace, c: Any, _weight: Any, _bias: Any, g: Any, x_shape: Shape, **attrs: Any) -> Any:
    if c[0] is None:
        return ops.full_like(g, shape=x_shape, value=0.0)
    return ops.conv2d_input(g, c[0], **{**attrs, "shape": x_shape})


ATTRS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}

OPS = (
    Op(
        "conv2d",
        torch.conv2d,
        (
            lambda ops, g, _out, x_shape, w, _b, **attrs: ops.conv2d_input(g, w, shape=x_shape, **attrs),
            lambda ops, g, _out, x, w_shape, _b, **attrs: ops.conv2d_weight(g, x, shape=w_shape, **attrs),
            lambda ops, g, _out, _x, _w, _b, **_: ops.sum(g, dim=(0, 2, 3)),
        ),
        attrs=ATTRS,
        joints=(
            Joint((0, 1, 2), lambda ops, g, _out, x, w, _b, **attrs: ops.conv2d_gradients(g, x, w, **attrs)),
            Joint(
                (1, 2),
                lambda ops, g, _out, x, w_shape, _b, **attrs: ops.conv2d_weight_bias(g, x, shape=w_shape, **attrs),
            ),
        ),
    ),
    Op(
        "conv2d_input",  # the gradient of conv2d with respect to its input, of `shape`
        _conv2d_input,
        (
            lambda ops, c, _out, _g, w, shape, **attrs: ops.conv2d(c, w, None, **attrs),
            lambda ops, c, _out, g, w_shape, shape, **attrs: ops.conv2d_weight(g, c, shape=w_shape, **attrs),
        ),
        attrs={"shape": REQUIRED, **ATTRS},
    ),
    Op(
        "conv2d_weight",  # the gradient of conv2d with respect to its weight, of `shape`
        _conv2d_weight,
        (
            lambda ops, c, _out, _g, x, shape, **attrs: ops.conv2d(x, c, None, **attrs),
            lambda ops, c, _out, g, x_shape, shape, **attrs: ops.conv2d_input(g, c, shape=x_shape, **attrs),
        ),
        attrs={"shape": REQUIRED, **ATTRS},
    ),
    Op(
        "conv2d_weight_bias",  # both gradients in one pass over g
        _conv2d_weight_bias,
        (_weight_bias_g, _weight_bias_x),
        attrs={"shape": REQUIRED, **ATTRS},
        outputs=2,
    ),
)

COMPOSITES = (conv2d_gradients,)
