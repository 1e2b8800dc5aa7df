"""Ops on images whose channels lie innermost: (batch, height, width, channel), in memory as in shape.

    y = to_nchw(conv2d_nhwc(to_nhwc(x), to_nhwc(w), b))      # the same as conv2d(x, w, b) within rounding

No engine offers them: only the pass `layout` makes them. The order of elements stands in the shape, so everything else
(loops in C, a memory plan, a saved file) may take every value to be contiguous, as ever. A kernel hands torch its
operands as views in torch's order, which torch knows as `torch.channels_last`, and computes in that format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from engines.op import Op
from engines.ops import TABLE
from engines.value import Spec

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""For each dimension of the result, which one it is of what is turned."""


def _copied(order: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    # Always new memory: a view of an input could be overwritten by an update.
    return lambda x: x.permute(order).clone(memory_format=torch.contiguous_format)


INWARD = Op("to_nhwc", _copied(TO_NHWC), (None,))
"""(batch, channel, height, width) to (batch, height, width, channel); a weight's outputs count as a batch."""

OUTWARD = Op("to_nchw", _copied(TO_NCHW), (None,))
"""The way back."""


def _as_torch_takes_it(value: Any) -> Any:
    """An image as a view in torch's order; of another rank, or no tensor, as it is."""
    return value.permute(TO_NCHW) if isinstance(value, torch.Tensor) and value.dim() == 4 else value


def _as_it_lies(value: torch.Tensor) -> torch.Tensor:
    """The way back; contiguous in any case, should a kernel have chosen another order."""
    return value.permute(TO_NHWC).contiguous() if value.dim() == 4 else value


def _kernel(op: Op) -> Callable[..., Any]:
    """An op's kernel between two changes of view."""

    def kernel(*operands: Any, **attrs: Any) -> Any:
        found = op.run([*map(_as_torch_takes_it, operands)], attrs)
        turned = tuple(map(_as_it_lies, found))
        return turned[0] if op.outputs == 1 else turned

    return kernel


def _kernel_into(op: Op) -> Callable[..., Any]:
    """The same of an op whose kernel writes into an image that it is given, and takes over that image's format."""
    plain = _kernel(op)

    def kernel(*operands: torch.Tensor, shape: tuple[int, ...], **attrs: Any) -> Any:
        images, channels, *sizes = shape
        return plain(*operands, operands[0].new_empty((images, *sizes, channels)), shape=shape, **attrs)

    return kernel


def _op(name: str, make: Callable[[Op], Callable[..., Any]]) -> Op:
    op = TABLE[name]
    return Op(f"{name}_nhwc", make(op), (None,) * len(op.vjps), attrs=op.attrs, outputs=op.outputs)


CONVOLUTIONS = ("conv2d", "conv2d_input", "conv2d_weight", "conv2d_weight_bias")
NORMS = ("batch_norm_train", "batch_norm_backward", "batch_norm_gradients")
PLAIN = ("max_pool2d_with_indices", "avg_pool2d", *NORMS)
INTO = ("max_pool2d_backward", "avg_pool2d_backward")

NHWC: Mapping[str, Op] = MappingProxyType(
    {name: _op(name, _kernel) for name in (*CONVOLUTIONS, *PLAIN)} | {name: _op(name, _kernel_into) for name in INTO}
)
"""By the name of the op of the table, the same on images that lie so. Attributes say what they say there: a `shape` is
in torch's order, and so are the places that indices of a max-pool count."""

OPS = (INWARD, OUTWARD, *NHWC.values())


def turned(spec: Spec, order: tuple[int, ...]) -> Spec:
    """The spec of an image turned."""
    return spec._replace(shape=tuple(spec.shape[d] for d in order))
