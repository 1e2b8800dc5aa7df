"""Convolution over images in (batch, channel, height, width) order.

The two gradients are ops of their own, each asked for by itself, so nobody computes the gradient of a batch of images
that nobody wants. Both are again convolutions, which gives gradients of gradients.
"""

from __future__ import annotations

import torch

from engines.op import REQUIRED, Op

Pair = int | tuple[int, int]
Shape = tuple[int, ...]


def pair(size: Pair) -> list[int]:
    """A size for height and width."""
    return [size, size] if isinstance(size, int) else list(size)


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
    # The transposed convolution is this gradient, to the bit, and unlike convolution_backward it needs no input tensor.
    steps, pads, gaps = pair(stride), pair(padding), pair(dilation)
    rest = [
        shape[d] - ((g.shape[d] - 1) * steps[d - 2] - 2 * pads[d - 2] + gaps[d - 2] * (weight.shape[d] - 1) + 1)
        for d in (2, 3)
    ]
    return torch.conv_transpose2d(g, weight, None, steps, pads, rest, groups, gaps)


def _conv2d_weight(
    g: torch.Tensor, x: torch.Tensor, *, shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> torch.Tensor:
    weight = g.new_empty(1).expand(shape)  # only its sizes are read
    flags = [False, True, False]
    found = torch.ops.aten.convolution_backward.default(
        g, x, weight, None, pair(stride), pair(padding), pair(dilation), False, [0, 0], groups, flags
    )
    gradient: torch.Tensor = found[1]
    return gradient


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
)
