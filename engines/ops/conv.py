"""Convolution over images in (batch, channel, height, width) order.

The two gradients are ops of their own, each asked for by itself, so nobody computes the gradient of a batch of images
that nobody wants. Both are again convolutions, which gives gradients of gradients.
"""

from __future__ import annotations

from typing import Any

import torch

from engines.op import REQUIRED, Op

Pair = int | tuple[int, int]
Shape = tuple[int, ...]


def pair(size: Pair) -> list[int]:
    """A size for height and width."""
    return [size, size] if isinstance(size, int) else list(size)


def _backward(
    g: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    mask: list[bool],
) -> Any:
    return torch.ops.aten.convolution_backward.default(
        g, x, weight, None, pair(stride), pair(padding), pair(dilation), False, [0, 0], groups, mask
    )


def _conv2d_input(g: torch.Tensor, weight: torch.Tensor, *, shape: Shape, **attrs: Any) -> torch.Tensor:
    # Only the sizes of the input are read; a stretched single element has them without the memory.
    x = g.new_empty(1).expand(shape)
    gradient: torch.Tensor = _backward(g, x, weight, **attrs, mask=[True, False, False])[0]
    return gradient


def _conv2d_weight(g: torch.Tensor, x: torch.Tensor, *, shape: Shape, **attrs: Any) -> torch.Tensor:
    weight = g.new_empty(1).expand(shape)
    gradient: torch.Tensor = _backward(g, x, weight, **attrs, mask=[False, True, False])[1]
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
