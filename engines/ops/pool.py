"""Pooling over images in (batch, channel, height, width) order."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch

from engines.op import REQUIRED, Namespace, Op, direct, of_sizes
from engines.ops.conv import Pair, Shape, pair

adaptive_avg_pool2d_backward = direct(torch.ops.aten._adaptive_avg_pool2d_backward.default)
avg_pool2d_backward = direct(torch.ops.aten.avg_pool2d_backward.grad_input)
max_pool2d_with_indices = direct(torch.ops.aten.max_pool2d_with_indices.default)
max_pool2d_with_indices_backward = direct(torch.ops.aten.max_pool2d_with_indices_backward.grad_input)


FEWEST_CHANNELS, FEWEST_NUMBERS = 8, 1 << 14
"""From here on max-pooling on the CPU takes less time with the channels last, where torch compares a vector of them at
once, the copies there and back included. With the channels first it branches on every number."""


@lru_cache(maxsize=256)
def _window(kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair) -> tuple[list[int], ...]:
    """What a max-pooling kernel is told, after its tensors."""
    return pair(kernel_size), pair(kernel_size if stride is None else stride), pair(padding), pair(dilation)


def _max_pool2d(x: torch.Tensor, *, kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair) -> Any:
    window = _window(kernel_size, stride, padding, dilation)
    many = x.dim() == 4 and x.shape[1] >= FEWEST_CHANNELS and x.numel() >= FEWEST_NUMBERS
    if many and x.is_cpu and x.is_contiguous():
        maxima, indices = max_pool2d_with_indices(_channels_last(x), *window)
        return maxima.contiguous(), indices.contiguous()
    return max_pool2d_with_indices(x, *window)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _max_pool2d_backward(
    g: torch.Tensor,
    indices: torch.Tensor,
    x: torch.Tensor | None = None,
    *,
    shape: Shape,
    kernel_size: Pair,
    stride: Pair | None,
    padding: Pair,
    dilation: Pair,
) -> Any:
    x = g.new_empty(shape) if x is None else x  # only its sizes are read, so the result may lie there
    window = _window(kernel_size, stride, padding, dilation)
    return max_pool2d_with_indices_backward(g, x, *window, False, indices, grad_input=x)


def _at_indices(ops: Namespace, c: Any, _out: Any, _g: Any, indices: Any, **_: Any) -> Any:
    """Gradient of max_pool2d_backward with respect to g: what stands where the maxima were."""
    planes = (*indices.shape[:2], math.prod(indices.shape[2:]))
    c = ops.reshape(c, shape=(*c.shape[:2], math.prod(c.shape[2:])))
    return ops.reshape(ops.gather(c, ops.reshape(indices, shape=planes), dim=2), shape=indices.shape)


def _avg_pool2d(x: torch.Tensor, *, kernel_size: Pair, stride: Pair | None, padding: Pair) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, kernel_size, stride, padding)


def _avg_pool2d_backward(
    g: torch.Tensor,
    x: torch.Tensor | None = None,
    *,
    shape: Shape,
    kernel_size: Pair,
    stride: Pair | None,
    padding: Pair,
) -> Any:
    step = pair(kernel_size if stride is None else stride)
    x = g.new_empty(shape) if x is None else x  # only its sizes are read, so the result may lie there
    return avg_pool2d_backward(g, x, pair(kernel_size), step, pair(padding), False, True, None, grad_input=x)


def _adaptive_backward(g: torch.Tensor, *, shape: Shape) -> Any:
    return adaptive_avg_pool2d_backward(g.contiguous(), of_sizes(shape, g))


def _adaptive(x: torch.Tensor, *, output_size: Pair) -> torch.Tensor:
    height, width = pair(output_size)
    return torch.nn.functional.adaptive_avg_pool2d(x, (height, width))


MAX_ATTRS = {"kernel_size": REQUIRED, "stride": None, "padding": 0, "dilation": 1}
AVG_ATTRS = {"kernel_size": REQUIRED, "stride": None, "padding": 0}

OPS = (
    Op(
        "max_pool2d_with_indices",  # the maxima, and where each stands in its plane (int64)
        _max_pool2d,
        (
            lambda ops, g, _out, indices, x_shape, **attrs: ops.max_pool2d_backward(
                g[0], indices, shape=x_shape, **attrs
            ),
        ),
        attrs=MAX_ATTRS,
        outputs=2,
    ),
    Op(
        "max_pool2d_backward",
        _max_pool2d_backward,
        (_at_indices, None),
        attrs={"shape": REQUIRED, **MAX_ATTRS},
    ),
    Op(
        "avg_pool2d",
        _avg_pool2d,
        (lambda ops, g, _out, x_shape, **attrs: ops.avg_pool2d_backward(g, shape=x_shape, **attrs),),
        attrs=AVG_ATTRS,
    ),
    Op(
        "avg_pool2d_backward",
        _avg_pool2d_backward,
        (lambda ops, c, _out, _g, shape, **attrs: ops.avg_pool2d(c, **attrs),),
        attrs={"shape": REQUIRED, **AVG_ATTRS},
    ),
    Op(
        "adaptive_avg_pool2d",
        _adaptive,
        (lambda ops, g, _out, x_shape, output_size: ops.adaptive_avg_pool2d_backward(g, shape=x_shape),),
        attrs={"output_size": REQUIRED},
    ),
    Op(
        "adaptive_avg_pool2d_backward",
        _adaptive_backward,
        (lambda ops, c, _out, g_shape, shape: ops.adaptive_avg_pool2d(c, output_size=tuple(g_shape[-2:])),),
        attrs={"shape": REQUIRED},
    ),
)


def max_pool2d(ops: Namespace, x: Any, **attrs: Any) -> Any:
    """The largest element under each window of `kernel_size` (`stride` None: as large as the window)."""
    return ops.max_pool2d_with_indices(x, **attrs)[0]


COMPOSITES = (max_pool2d,)
