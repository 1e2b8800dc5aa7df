"""Ops in torch's own differentiable functions, where torch has no single one of the same signature.

Written apart from the op table, so that a slip there shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Reference = Callable[..., Any]


def pullback(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The gradient of `function` at x, contracted with g, by torch's autograd, itself differentiable."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        (found,) = torch.autograd.grad(function(x), x, g, create_graph=True)
    return found


def of_zeros(function: Callable[..., torch.Tensor]) -> Reference:
    """The transpose of a linear `function`: its gradient with respect to an input of `shape`."""

    def reference(g: torch.Tensor, *others: Any, shape: tuple[int, ...], **attrs: Any) -> torch.Tensor:
        return pullback(lambda x: function(x, *others, **attrs), torch.zeros(shape, dtype=g.dtype), g)

    return reference


def amax(x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    return torch.amax(x, () if dim is None else dim, keepdim)


def indexed(x: torch.Tensor, key: tuple[Any, ...]) -> torch.Tensor:
    return x[tuple(slice(*part) if isinstance(part, tuple) else ... if part == "..." else part for part in key)]


def sliced(x: torch.Tensor, dim: int, start: int = 0, stop: int | None = None, step: int = 1) -> torch.Tensor:
    return x.index_select(dim, torch.arange(x.shape[dim])[start:stop:step])


def padded(x: torch.Tensor, widths: Any, value: float = 0.0) -> torch.Tensor:
    return F.pad(x, [width for pair in widths[::-1] for width in pair], value=value)


def summed_to(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return x.sum_to_size(shape)


def stretched_to(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.broadcast_to(x, shape)


def joined(*xs: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return torch.cat(xs, dim)


def stacked(*xs: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return torch.stack(xs, dim)


def parts(x: torch.Tensor, sizes: Any, dim: int = 0) -> tuple[torch.Tensor, ...]:
    return torch.split(x, list(sizes), dim)


def weighing(weight: torch.Tensor, x: torch.Tensor, **attrs: Any) -> torch.Tensor:
    return F.conv2d(x, weight, **attrs)


def weight_and_bias(g: torch.Tensor, x: torch.Tensor, **attrs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return of_zeros(weighing)(g, x, **attrs), g.sum((0, 2, 3))


def all_of_conv2d(g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, **attrs: Any) -> tuple[torch.Tensor, ...]:
    by_input = of_zeros(F.conv2d)(g, weight, shape=x.shape, **attrs)
    return by_input, *weight_and_bias(g, x, shape=weight.shape, **attrs)


def maxima(x: torch.Tensor, **window: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return F.max_pool2d(x, return_indices=True, **window)


def spread(g: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return pullback(lambda x: F.adaptive_avg_pool2d(x, g.shape[-2:]), torch.zeros(shape, dtype=g.dtype), g)


def gathered(x: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.gather(x, dim, index)


def added(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.scatter_add(x, dim, index, source)


def rows_of(weight: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return weight[index]


def rows_back(g: torch.Tensor, index: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.zeros(rows, g.shape[-1], dtype=g.dtype).index_add(0, index.flatten(), g.reshape(-1, g.shape[-1]))


def one_hot(index: torch.Tensor, num_classes: int, dtype: str = "float32") -> torch.Tensor:
    return F.one_hot(index, num_classes).to(getattr(torch, dtype))


def whole_quotient(a: torch.Tensor, b: Any) -> torch.Tensor:
    return torch.floor_divide(a.detach(), b.detach() if isinstance(b, torch.Tensor) else b)


def cumulated_back(x: torch.Tensor, dim: int, reverse: bool) -> torch.Tensor:
    assert reverse
    return x.sum(dim, keepdim=True) - x.cumsum(dim) + x


def put_back(g: torch.Tensor, indices: torch.Tensor, shape: tuple[int, ...], **_: Any) -> torch.Tensor:
    planes = torch.zeros(*shape[:2], shape[2] * shape[3], dtype=g.dtype)
    return planes.scatter_add(2, indices.flatten(2), g.flatten(2)).reshape(shape)


def normalised(x: Any, dims: tuple[int, ...], eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    mean = x.mean(dims, keepdim=True)
    return mean, 1 / torch.sqrt(((x - mean) ** 2).mean(dims, keepdim=True) + eps)


def batch_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> tuple[torch.Tensor, ...]:
    mean, rstd = normalised(x, (0, *range(2, x.ndim)), eps)
    return F.batch_norm(x, None, None, weight, bias, True, 0.1, eps), mean.flatten(), rstd.flatten()


def layer_norm(x: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float = 1e-5) -> tuple[torch.Tensor, ...]:
    statistics = normalised(x, tuple(range(-len(normalized_shape), 0)), eps)
    return F.layer_norm(x, normalized_shape, weight, bias, eps), *statistics


def norm_backward(g: Any, x: Any, mean: Any, rstd: Any, dims: tuple[int, ...]) -> torch.Tensor:
    u = (x - mean) * rstd
    return rstd * (g - g.mean(dims, keepdim=True) - u * (g * u).mean(dims, keepdim=True))


def batch_norm_backward(g: Any, x: Any, mean: Any, rstd: Any) -> torch.Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    return norm_backward(g, x, mean.reshape(shape), rstd.reshape(shape), (0, *range(2, x.ndim)))


def batch_norm_gradients(g: Any, x: Any, mean: Any, rstd: Any, weight: Any) -> tuple[torch.Tensor, ...]:
    shape, dims = (-1, *[1] * (x.ndim - 2)), (0, *range(2, x.ndim))
    u = (x - mean.reshape(shape)) * rstd.reshape(shape)
    return batch_norm_backward(g * weight.reshape(shape), x, mean, rstd), (g * u).sum(dims), g.sum(dims)


def layer_norm_backward(g: Any, x: Any, mean: Any, rstd: Any, normalized_shape: tuple[int, ...]) -> torch.Tensor:
    return norm_backward(g, x, mean, rstd, tuple(range(-len(normalized_shape), 0)))


def splitmix64(key: int, position: int) -> int:
    """Number `position` of the stream that starts at `key`, in Python's own integers, as the paper's listing has it."""
    word = (1 << 64) - 1
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    return ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word


def mask(key: Any, shape: Any, rate: float, stream: int = 0, dtype: str = "float32") -> torch.Tensor:
    """Keeps where a word, read as a signed number, lies in the lowest `1 - rate` of all words."""
    words = [splitmix64(int(key), (stream << 40) + i) for i in range(int(np.prod(shape)))]
    kept = [((word ^ (1 << 63)) < (1 - rate) * 2**64) / (1 - rate) for word in words]
    return torch.tensor(kept, dtype=getattr(torch, dtype)).reshape(shape)


def dropout(x: Any, key: Any, rate: float, stream: int = 0, planes: bool = False) -> torch.Tensor:
    shape = (*x.shape[:2], 1, 1) if planes else x.shape
    return x if key is None else x * mask(key, shape, rate, stream, str(x.dtype)[6:])


def batch_norm_inference(x: Any, mean: Any, var: Any, *affine: Any, eps: float = 1e-5) -> torch.Tensor:
    mean, var, weight, bias = (value.reshape(-1, *[1] * (x.ndim - 2)) for value in (mean, var, *affine))
    return (x - mean) * torch.rsqrt(var + eps) * weight + bias


def sgd(p: torch.Tensor, velocity: torch.Tensor, gradient: torch.Tensor, **attrs: Any) -> tuple[torch.Tensor, ...]:
    parameter = p.detach().clone().requires_grad_()
    parameter.grad = gradient.detach()
    optimizer = torch.optim.SGD([parameter], **attrs)
    state = optimizer.state[parameter]
    state["momentum_buffer"] = velocity.detach().clone()
    optimizer.step()
    return parameter.detach(), state["momentum_buffer"] if attrs.get("momentum") else gradient.detach()
