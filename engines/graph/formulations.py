"""Ops that compute in another way what an op of the table does. No engine offers them: only a pass makes them.

    conv2d(x, w, b)   and  conv2d_winograd(x, w, b)       # the same within rounding
    conv2d(x, w, b)   and  conv2d_direct(x, w, b)
    conv2d_weight(g, x)  and  conv2d_weight_patches(g, x)
    conv2d_weight(g, x)  and  conv2d_weight_direct(g, x)
    linear(x, w, b)  and  linear_onednn(x, w, b)  and  linear_few_rows(x, w, b)

A formulation is an op with a kernel of its own, so that a graph that holds one still says what it means and runs
anywhere. A lowering may write it in C.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from engines.graph.ir import Node, Var
from engines.op import REQUIRED, Op
from engines.ops import TABLE
from engines.ops.conv import Pair, pair

FEWEST_CHANNELS = 8
"""Channels from which on Winograd's sums outweigh its transforms, and a library's order of channels what it costs to
bring images into it."""


def _winograd(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, padding: Pair) -> torch.Tensor:
    """F(2x2, 3x3): tiles of 4 by 4 and the weight are transformed, multiplied, and give 2 by 2 results each."""
    into = x.new_tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    spread = x.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    back = x.new_tensor([[1, 1, 1, 0], [0, 1, -1, -1]])
    high, wide = pair(padding)
    rows, columns = x.shape[2] + 2 * high - 2, x.shape[3] + 2 * wide - 2
    padded = torch.constant_pad_nd(x, [wide, wide + columns % 2, high, high + rows % 2])
    tiles = into @ padded.unfold(2, 4, 2).unfold(3, 4, 2) @ into.t()
    products = torch.einsum("ocij,nctuij->notuij", spread @ weight @ spread.t(), tiles)
    whole = (back @ products @ back.t()).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
    result = whole[:, :, :rows, :columns].contiguous()
    return result if bias is None else result + bias[:, None, None]


WINOGRAD = Op("conv2d_winograd", _winograd, (None, None, None), attrs={"padding": 0})
"""A convolution of 3 by 3 without stride, in 4 multiplications where the sum over the window takes 9: S. Winograd,
"Arithmetic Complexity of Computations", 1980; A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural
Networks", 2016. From an infinity may come NaN, and on the kernels a NaN fills its tile."""


def _direct(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, padding: Pair) -> torch.Tensor:
    return torch.conv2d(x, weight, bias, padding=pair(padding))


DIRECT = Op("conv2d_direct", _direct, (None, None, None), attrs={"padding": 0})
"""A convolution without stride as C writes it: the plain sum, with nothing to prepare. Elsewhere it is torch's own."""

FEWEST_COLUMNS = 4
"""Columns of a result that are worth vectors."""


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if x.is_meta:
        return torch.nn.functional.linear(x, weight, bias)
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


LINEAR_ONEDNN = Op("linear_onednn", _onednn, (None, None, None))
"""x w' + b by oneDNN, where torch's own way is by a BLAS; which is faster turns on the processor's maker."""

MATMUL_ONEDNN = Op("matmul_onednn", lambda a, b: _onednn(a, b.t()), (None, None))
"""The product of two matrices by oneDNN."""

MOST_ROWS = 8
"""Rows of a left operand that are few: a vector of sums for each takes half of the registers that AVX2 has."""

FEWEST_ELEMENTS = 1 << 15
"""Of a right operand from which on reading it takes longer than the way to a library's kernel."""

LINEAR_FEW_ROWS = Op("linear_few_rows", torch.nn.functional.linear, (None, None, None))
"""x w' + b of a few rows x, as C writes it: w is read once, in its order. Elsewhere it is torch's own."""

MATMUL_FEW_ROWS = Op("matmul_few_rows", torch.matmul, (None, None))
"""The product of a matrix of few rows and another, as C writes it."""


def _patches(
    g: torch.Tensor, x: torch.Tensor, *, shape: tuple[int, ...], stride: Pair, padding: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of a weight of `shape`, and g as a matrix with a row for each channel."""
    (high, wide), (down, right) = pair(padding), pair(stride)
    padded = torch.constant_pad_nd(x, [wide, wide, high, high]) if high or wide else x
    windows = padded.unfold(2, shape[2], down).unfold(3, shape[3], right)
    patches = windows.permute(1, 4, 5, 0, 2, 3).reshape(math.prod(shape[1:]), -1)
    rows = g.transpose(0, 1).reshape(shape[0], -1)
    return (rows @ patches.t()).view(shape), rows


def _patches_bias(g: torch.Tensor, x: torch.Tensor, **attrs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    weight, rows = _patches(g, x, **attrs)
    return weight, rows.sum(1)


PATCHES_ATTRS = {"shape": REQUIRED, "stride": 1, "padding": 0}
WEIGHT_ATTRS = {"shape": REQUIRED, "padding": 0}

PATCHES = Op("conv2d_weight_patches", lambda g, x, **attrs: _patches(g, x, **attrs)[0], (None, None), PATCHES_ATTRS)
"""The gradient by a convolution's weight as one product of matrices: g, and what each of its elements saw of x."""

PATCHES_BIAS = Op("conv2d_weight_bias_patches", _patches_bias, (None, None), PATCHES_ATTRS, outputs=2)
"""The same with the gradient by the bias."""

MOST_PATCHES = 1 << 18
"""Elements of all patches, up to which they stay in a core's cache: where they do not, writing them costs more than the
product saves."""


def _weight_direct(g: torch.Tensor, x: torch.Tensor, *, bias: bool, shape: tuple[int, ...], padding: Pair) -> Any:
    return TABLE["conv2d_weight_bias" if bias else "conv2d_weight"].kernel(
        g, x, stride=1, shape=shape, padding=padding, dilation=1, groups=1
    )


WEIGHT_DIRECT = Op("conv2d_weight_direct", partial(_weight_direct, bias=False), (None, None), WEIGHT_ATTRS)
"""The gradient by a convolution's weight as C writes it: the plain sums. Elsewhere it is torch's own."""

WEIGHT_BIAS_DIRECT = Op(
    "conv2d_weight_bias_direct", partial(_weight_direct, bias=True), (None, None), WEIGHT_ATTRS, outputs=2
)
"""The same with the gradient by the bias."""

HAS_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")

FEWEST_PRODUCTS = 1 << 20
"""Multiplications of a matrix product from which on it is worth a second look."""

OPS = (
    *(WINOGRAD, DIRECT, PATCHES, PATCHES_BIAS, WEIGHT_DIRECT, WEIGHT_BIAS_DIRECT),
    *(LINEAR_ONEDNN, MATMUL_ONEDNN, LINEAR_FEW_ROWS, MATMUL_FEW_ROWS),
)


def winograd_of(node: Node) -> Node | None:
    """A `conv2d` as Winograd's, where that fits: 3 by 3, no stride, dilation or groups, enough channels, float32."""
    outs, ins, *window = _weight_of(node)
    if window != [3, 3] or min(outs, ins) < FEWEST_CHANNELS:
        return None
    return Node(WINOGRAD, node.inputs, {"padding": node.attrs["padding"]}, node.outputs, node.where)


def direct_of(node: Node) -> Node | None:
    """A `conv2d` as the sum that it is, where Winograd's does not fit: no stride, dilation or groups, float32."""
    if not _weight_of(node)[2:] or winograd_of(node) or node.outputs[0].spec.shape[3] < FEWEST_COLUMNS:
        return None
    return Node(DIRECT, node.inputs, {"padding": node.attrs["padding"]}, node.outputs, node.where)


def _weight_of(node: Node) -> tuple[int, ...]:
    """The weight's shape of a plain convolution of float32: no stride, dilation or groups; else nothing but (0, 0)."""
    x, weight, *_ = node.inputs
    if node.op.name != "conv2d" or not isinstance(x, Var) or not isinstance(weight, Var):
        return (0, 0)
    steps = [*pair(node.attrs["stride"]), *pair(node.attrs["dilation"]), node.attrs["groups"]]
    plain = steps == [1] * 5 and x.spec.dtype == torch.float32 and 0 not in node.outputs[0].spec.shape
    return weight.spec.shape if plain else (0, 0)


def patches_of(node: Node) -> Node | None:
    """A weight's gradient by patches, where these are few: no dilation or groups, float32."""
    op = {"conv2d_weight": PATCHES, "conv2d_weight_bias": PATCHES_BIAS}.get(node.op.name)
    g, x = node.inputs
    if op is None or not isinstance(g, Var) or not isinstance(x, Var):
        return None
    plain = [*pair(node.attrs["dilation"]), node.attrs["groups"]] == [1] * 3
    images, _, *seen = g.spec.shape
    elements = images * math.prod(seen) * math.prod(node.attrs["shape"][1:])
    if not plain or g.spec.dtype != torch.float32 or not 0 < elements <= MOST_PATCHES:
        return None
    return Node(op, node.inputs, {name: node.attrs[name] for name in PATCHES_ATTRS}, node.outputs, node.where)


def weight_direct_of(node: Node) -> Node | None:
    """A weight's gradient as the sums that it is, where few channels are read: no stride or dilation, float32."""
    op = {"conv2d_weight": WEIGHT_DIRECT, "conv2d_weight_bias": WEIGHT_BIAS_DIRECT}.get(node.op.name)
    g, x, *_ = node.inputs
    if op is None or not isinstance(g, Var) or not isinstance(x, Var) or x is g:
        return None
    plain = [*pair(node.attrs["stride"]), *pair(node.attrs["dilation"]), node.attrs["groups"]] == [1] * 5
    few = node.attrs["shape"][1] < FEWEST_CHANNELS and g.spec.shape[3] >= FEWEST_COLUMNS and 0 not in g.spec.shape
    if not plain or g.spec.dtype != torch.float32 or not few:
        return None
    return Node(op, node.inputs, {name: node.attrs[name] for name in WEIGHT_ATTRS}, node.outputs, node.where)


def onednn_of(node: Node) -> Node | None:
    """A `linear` or `matmul` of large float32 matrices by oneDNN, where torch has it."""
    op, shapes = {"linear": LINEAR_ONEDNN, "matmul": MATMUL_ONEDNN}.get(node.op.name), _matrices_of(node)
    if op is None or shapes is None or not HAS_ONEDNN:
        return None
    if math.prod(shapes[0]) * node.outputs[0].spec.shape[1] < FEWEST_PRODUCTS:
        return None
    return Node(op, node.inputs, {}, node.outputs, node.where)


def few_rows_of(node: Node) -> Node | None:
    """A `linear` or `matmul` of float32, of few rows by a large matrix, as C writes it."""
    op, shapes = {"linear": LINEAR_FEW_ROWS, "matmul": MATMUL_FEW_ROWS}.get(node.op.name), _matrices_of(node)
    if op is None or shapes is None:
        return None
    (rows, _), matrix = shapes
    if not 0 < rows <= MOST_ROWS or math.prod(matrix) < FEWEST_ELEMENTS or min(matrix) < FEWEST_COLUMNS:
        return None
    return Node(op, node.inputs, {}, node.outputs, node.where)


def _matrices_of(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shapes of what a product multiplies, if that is two matrices of float32."""
    a, b, *_ = node.inputs
    if not isinstance(a, Var) or not isinstance(b, Var) or not a.spec.dtype == b.spec.dtype == torch.float32:
        return None
    return (a.spec.shape, b.spec.shape) if len(a.spec.shape) == len(b.spec.shape) == 2 else None
