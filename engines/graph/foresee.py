"""What common ops will give, known from shapes alone, so that torch need not be asked.

    foresee(conv2d, (image, weight, bias), attrs)     ->  the specs that its kernel would give, or None

A kernel run on torch's meta device is what defines an op's results (`infer`), but the first such run imports parts of
torch that take longer than all else that happens before a graph first runs. So each rule here answers for the plain
case alone and gives None wherever the kernel might refuse, promote a type or bend a shape: then the kernel is asked,
and its own words are what a user reads. Rules cannot drift from kernels: `verify` asks the kernels about every node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engines.graph.ir import Operand, Var
from engines.op import Op
from engines.value import DTYPES, Spec

Shape = tuple[int, ...]
Specs = tuple[Spec, ...]
Rule = Callable[[Sequence[Operand], Mapping[str, Any]], Specs | None]


def foresee(op: Op, inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """The specs of an op's outputs where they are plain; None where its kernel must be asked."""
    rule = RULES.get(op.name)
    return None if rule is None or (len(inputs) != len(op.vjps) and not op.variadic) else rule(inputs, attrs)


def _floats(inputs: Sequence[Operand], *, optional: bool = False) -> list[Spec] | None:
    """The inputs' specs, if all are values of one float type; the last may be missing if it is `optional`."""
    given = inputs[:-1] if optional and inputs[-1] is None else inputs
    specs = [i.spec for i in given if isinstance(i, Var)]
    alike = len(specs) == len(given) and len({spec.dtype for spec in specs}) == 1
    return specs if alike and specs[0].dtype.is_floating_point else None


def _numeric(inputs: Sequence[Operand]) -> list[Spec] | None:
    """The specs of the values in the type that they take together, one of floats where there is one, else int64.

    None where they are of other types, or where a number beside them would change it.
    """
    specs = [i.spec for i in inputs if isinstance(i, Var)]
    dtypes = {spec.dtype for spec in specs}
    dtype = next(iter(dtypes - {torch.int64}), torch.int64)
    if not specs or not dtypes <= {torch.int64, dtype} or not (dtype == torch.int64 or dtype.is_floating_point):
        return None
    taken = {int, float} if dtype.is_floating_point else {int}
    plain = all(isinstance(i, Var) or type(i) in taken for i in inputs)
    return [spec._replace(dtype=dtype) for spec in specs] if plain else None


def _broadcast(specs: Sequence[Spec] | None, dtype: torch.dtype | None = None) -> Specs | None:
    """One value, of the specs' type or another, in the shape to which theirs broadcast."""
    if specs is None:
        return None
    try:
        shape = np.broadcast_shapes(*(spec.shape for spec in specs))
    except ValueError:
        return None
    return (specs[0]._replace(shape=shape, dtype=dtype or specs[0].dtype),)


def _elementwise(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    return _broadcast(_floats(inputs))


def _arithmetic(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    """Elementwise, where inputs may be numbers, which take a value's type."""
    return _broadcast(_numeric(inputs))


def _float_arithmetic(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = _numeric(inputs)
    return _broadcast(specs) if specs is not None and specs[0].dtype.is_floating_point else None


def _comparison(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    return _broadcast(_numeric(inputs), torch.bool)


def _truths(inputs: Sequence[Operand]) -> list[Spec] | None:
    """The inputs' specs, if all are truth values."""
    specs = [i.spec for i in inputs if isinstance(i, Var)]
    return specs if len(specs) == len(inputs) and {spec.dtype for spec in specs} == {torch.bool} else None


def _logical(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    return _broadcast(_truths(inputs))


def _where(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    condition, chosen = _truths(inputs[:1]), _numeric(inputs[1:])
    return None if condition is None or chosen is None else _broadcast([*chosen, *condition])


def _along(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """As its inputs, which are alike, along a dimension that there is."""
    specs = _floats(inputs)
    if specs is None or len(set(specs)) > 1 or not -len(specs[0].shape) <= attrs["dim"] < len(specs[0].shape):
        return None
    return (specs[0],)


def _running(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """cumsum, as its input along a dimension that there is."""
    specs = _numeric(inputs)
    plain = specs is not None and _dims(specs[0].shape, attrs["dim"]) is not None
    return (specs[0],) if specs is not None and plain else None


def _dims(shape: Shape, dim: Any) -> tuple[int, ...] | None:
    """Dimensions that there are, each once, counted from the front; None where they are odd."""
    given = tuple(range(len(shape))) if dim is None else dim if isinstance(dim, tuple) and dim else (dim,)
    if not all(type(each) is int and -len(shape) <= each < len(shape) for each in given):
        return None
    found = tuple(each % len(shape) for each in given)
    return found if len(set(found)) == len(found) else None


def _reduced(specs: Sequence[Spec] | None, attrs: Mapping[str, Any]) -> Specs | None:
    if specs is None or type(attrs["keepdim"]) is not bool:
        return None
    dims = _dims(specs[0].shape, attrs["dim"])
    if dims is None:
        return None
    kept = attrs["keepdim"]
    shape = tuple(1 if d in dims else size for d, size in enumerate(specs[0].shape) if kept or d not in dims)
    return (specs[0]._replace(shape=shape),)


def _sum(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """As its input; truth values are counted."""
    truths = _truths(inputs)
    return _reduced(_numeric(inputs) if truths is None else [truths[0]._replace(dtype=torch.int64)], attrs)


def _mean(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    return _reduced(_floats(inputs), attrs)


def _all(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    return _reduced(_truths(inputs), attrs)


def _concat(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """Values of one type that differ in size along one dimension alone."""
    specs = [i.spec for i in inputs if isinstance(i, Var)]
    ranks = {len(spec.shape) for spec in specs}
    if len(specs) != len(inputs) or len({spec.dtype for spec in specs}) != 1 or len(ranks) != 1:
        return None
    dims = _dims(specs[0].shape, attrs["dim"]) if type(attrs["dim"]) is int else None
    if dims is None:
        return None
    (dim,) = dims
    if len({(*spec.shape[:dim], *spec.shape[dim + 1 :]) for spec in specs}) != 1:
        return None
    shape = specs[0].shape
    return (specs[0]._replace(shape=(*shape[:dim], sum(spec.shape[dim] for spec in specs), *shape[dim + 1 :])),)


def _one_hot(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    (index,), classes, dtype = inputs, attrs["num_classes"], DTYPES.get(attrs["dtype"])
    if not isinstance(index, Var) or index.spec.dtype != torch.int64 or type(classes) is not int or classes < 0:
        return None
    return None if dtype is None else (index.spec._replace(shape=(*index.spec.shape, classes), dtype=dtype),)


def _normalised(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    """batch_norm_train: x, then mean and reciprocal deviation of each channel."""
    specs = _floats(inputs)
    if specs is None or len(specs[0].shape) < 2 or 0 in specs[0].shape:
        return None
    return (specs[0], specs[1], specs[1]) if {spec.shape for spec in specs[1:]} == {specs[0].shape[1:2]} else None


def _normalised_gradients(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    if specs is None or specs[0] != specs[1]:
        return None
    return _normalised(inputs[1:], {})


def _layer_norm(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """layer_norm_full: x, then mean and reciprocal deviation over its last dimensions."""
    specs, normal = _floats(inputs), attrs["normalized_shape"]
    plain = isinstance(normal, tuple) and normal and all(type(size) is int and size > 0 for size in normal)
    if specs is None or not plain or {spec.shape for spec in specs[1:]} != {normal}:
        return None
    kept = len(specs[0].shape) - len(normal)
    if kept < 0 or specs[0].shape[kept:] != normal:
        return None
    over = specs[0]._replace(shape=(*specs[0].shape[:kept], *(1 for _ in normal)))
    return specs[0], over, over


def _layer_norm_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    if specs is None or specs[0] != specs[1]:
        return None
    normal = specs[1]._replace(shape=attrs["normalized_shape"])
    forward = _layer_norm((inputs[1], Var(normal), Var(normal)), attrs)
    return (specs[0],) if forward == (specs[0], specs[2], specs[3]) else None


def _filled(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    if specs is None:
        return None
    return _shaped(specs[0], specs[0].shape if attrs["shape"] is None else attrs["shape"])


def _shaped(spec: Spec, shape: Any) -> Specs | None:
    plain = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    return (spec._replace(shape=shape),) if plain else None


def _mask(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    (key,) = inputs
    dtype = DTYPES.get(attrs["dtype"], torch.int64)
    if not isinstance(key, Var) or not dtype.is_floating_point or not 0.0 <= attrs["rate"] < 1.0:
        return None
    plain = key.spec.shape == () and key.spec.dtype == torch.int64
    return _shaped(key.spec._replace(dtype=dtype), attrs["shape"]) if plain else None


def _linear(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs, optional=True)
    if specs is None or not specs[0].shape:
        return None
    x, weight, bias = specs[0].shape, specs[1].shape, specs[2:]
    fits = len(weight) == 2 and x[-1] == weight[1] and all(each.shape == weight[:1] for each in bias)
    return (specs[0]._replace(shape=(*x[:-1], weight[0])),) if fits else None


def _matmul(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    if specs is None or [len(spec.shape) for spec in specs] != [2, 2] or specs[0].shape[1] != specs[1].shape[0]:
        return None
    return (specs[0]._replace(shape=(specs[0].shape[0], specs[1].shape[1])),)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _windows(sizes: Shape, kernel: Shape, attrs: Mapping[str, Any]) -> Shape | None:
    """How many windows there are in each of two dimensions; None where there are none or attributes are odd."""
    step, pad, gap = (_pair(attrs[name]) for name in ("stride", "padding", "dilation"))
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
    specs = _floats(inputs, optional=True)
    if specs is None:
        return None
    shape = _convolved(specs[0].shape, specs[1].shape, attrs)
    plain = all(bias.shape == specs[1].shape[:1] for bias in specs[2:])
    return (specs[0]._replace(shape=shape),) if shape is not None and plain else None


def _conv2d_input(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    if specs is None or _convolved(attrs["shape"], specs[1].shape, attrs) != specs[0].shape:
        return None
    return _shaped(specs[0], attrs["shape"])


def _conv2d_weight(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    if specs is None or _convolved(specs[1].shape, attrs["shape"], attrs) != specs[0].shape:
        return None
    return _shaped(specs[0], attrs["shape"])


def _conv2d_weight_bias(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    weight = _conv2d_weight(inputs, attrs)
    return None if weight is None else (*weight, weight[0]._replace(shape=attrs["shape"][:1]))


def _pooled(image: Shape, attrs: Mapping[str, Any]) -> Shape | None:
    kernel, pad = _pair(attrs["kernel_size"]), _pair(attrs["padding"])
    if len(image) != 4 or 0 in image or len(kernel) != 2 or len(pad) != 2:
        return None
    if min(kernel) < 1 or any(2 * padding > size for padding, size in zip(pad, kernel, strict=True)):
        return None
    step = kernel if attrs["stride"] is None else attrs["stride"]
    windows = _windows(image[2:], kernel, {**attrs, "stride": step})
    return None if windows is None else (*image[:2], *windows)


def _max_pool2d(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    shape = None if specs is None else _pooled(specs[0].shape, attrs)
    if specs is None or shape is None:
        return None
    return specs[0]._replace(shape=shape), specs[0]._replace(shape=shape, dtype=torch.int64)


def _max_pool2d_backward(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    g, indices = inputs
    if not isinstance(g, Var) or not isinstance(indices, Var) or not g.spec.dtype.is_floating_point:
        return None
    plain = indices.spec == g.spec._replace(dtype=torch.int64) and _pooled(attrs["shape"], attrs) == g.spec.shape
    return _shaped(g.spec, attrs["shape"]) if plain else None


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
    return None if spec is None or math.prod(spec.shape) != 1 or spec.shape else _shaped(spec, attrs["shape"])


def _summed(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """sum_to: a shape that broadcasts to the input's."""
    specs, shape = _floats(inputs), attrs["shape"]
    if specs is None or len(shape) > len(specs[0].shape):
        return None
    last = specs[0].shape[len(specs[0].shape) - len(shape) :]
    return _shaped(specs[0], shape) if all(size in {1, s} for size, s in zip(shape, last, strict=True)) else None


def _update(inputs: Sequence[Operand], _: Mapping[str, Any]) -> Specs | None:
    specs = _floats(inputs)
    return (specs[0], specs[1]) if specs is not None and len(set(specs)) == 1 else None


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("add", "sub", "mul", "floor_divide"), _arithmetic),
    **dict.fromkeys(("div", "power"), _float_arithmetic),
    **dict.fromkeys(("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"), _comparison),
    **dict.fromkeys(("logical_not", "logical_and", "logical_or"), _logical),
    "where": _where,
    **dict.fromkeys(("maximum", "minimum", "tanh_backward", "sigmoid_backward", "relu_backward"), _elementwise),
    **dict.fromkeys(("neg", "abs", "sign", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"), _elementwise),
    **dict.fromkeys(("softmax", "softmax_backward", "log_softmax", "log_softmax_backward"), _along),
    "cumsum": _running,
    "sum": _sum,
    "mean": _mean,
    "all": _all,
    "concat": _concat,
    "one_hot": _one_hot,
    "batch_norm_train": _normalised,
    "batch_norm_gradients": _normalised_gradients,
    "layer_norm_full": _layer_norm,
    "layer_norm_backward": _layer_norm_backward,
    "full_like": _filled,
    "dropout_mask": _mask,
    "linear": _linear,
    "matmul": _matmul,
    "conv2d": _conv2d,
    "conv2d_input": _conv2d_input,
    "conv2d_weight": _conv2d_weight,
    "conv2d_weight_bias": _conv2d_weight_bias,
    "max_pool2d_with_indices": _max_pool2d,
    "max_pool2d_backward": _max_pool2d_backward,
    "nll_loss": _nll_loss,
    "nll_loss_backward": _nll_loss_backward,
    "sum_to": _summed,
    "sgd_update": _update,
}
"""Ops whose results are foreseen: those of the models here, where asking costs most."""
