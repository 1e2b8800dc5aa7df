"""What each op of the table is tried on: one block per op, in the order of the table.

    CASES["exp"]            # the cases of one op: inputs, attributes, and what torch's own functions say

A case gives a deep test: test_ops.py compares forward, gradients and gradients of gradients of both engines with
torch's autograd, and with finite differences. Inputs keep away from kinks, so that these are valid.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from tests import op_references as ref
from tests.op_inputs import (
    Case,
    along,
    between_steps,
    binary,
    exactly,
    few,
    flags,
    inner,
    integers,
    key,
    nonzero,
    normal,
    paired,
    places,
    positive,
    reduction,
    spaced,
    steps,
    stretched,
    turned,
    unary,
)

SGD_STEP = {"finite_differences": False, "why": "overwrites its inputs, and is no part of a loss"}
DETACHED = {"finite_differences": False, "why": "a constant to gradients, by definition"}
TIED = {"finite_differences": False, "why": "at a kink, where torch too chooses a gradient by convention"}
NO_TORCH = {"finite_differences": False, "twice": False, "why": "at a kink, where torch's second derivative is NaN"}
NOTHING = {"finite_differences": False, "why": "the mean of nothing is NaN"}
COARSE = {"finite_differences": False, "why": "rounded to float32, which hides a small step"}

ONE_EACH = {"stride": 2, "padding": 1, "dilation": 2}
WHOLE = Case("integers", (integers(3, 4, below=50), 7), ref.whole_quotient)
PAIRS = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
WINDOW = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}

CASES: dict[str, tuple[Case, ...]] = {
    # elementwise
    "add": binary(torch.add),
    "sub": binary(torch.sub),
    "mul": binary(torch.mul),
    "div": binary(torch.div, right=nonzero),
    "power": (
        *binary(torch.pow, left=positive),
        Case("cube", (nonzero(3, 4), 3), torch.pow),
        Case("square root", (positive(3, 4), 0.5), torch.pow),
        Case("number 0 right", (nonzero(3, 4), 0), torch.pow),
        Case("number 0 left", (0.0, positive(3)), lambda a, b: torch.tensor(a, dtype=b.dtype) ** b, **NO_TORCH),
        Case("base 0", (exactly(0.0, 0.0, 0.0), exactly(2.0, 3.0, 4.0)), torch.pow, **NO_TORCH),
    ),
    "floor_divide": (*binary(ref.whole_quotient, right=nonzero), WHOLE),
    "neg": unary(torch.neg),
    "abs": unary(torch.abs, nonzero),
    "sign": unary(torch.sign, nonzero),
    "exp": unary(torch.exp),
    "log": unary(torch.log, positive),
    "sqrt": unary(torch.sqrt, positive),
    "tanh": unary(torch.tanh),
    "tanh_backward": paired(lambda g, y: g * (1 - y * y), inner),
    "sigmoid": unary(torch.sigmoid),
    "sigmoid_backward": paired(lambda g, y: g * y * (1 - y), inner),
    "relu": unary(torch.relu, nonzero),
    "relu_backward": (
        *paired(lambda g, y: g * (y > 0), nonzero),
        Case("at 0", (normal(4), exactly(0.0, -0.0, 1.0, -1.0)), lambda g, y: g * (y > 0), **TIED),
    ),
    "gelu": unary(F.gelu),
    "gelu_backward": paired(lambda g, x: ref.pullback(F.gelu, x, g), normal),
    "maximum": (
        *binary(torch.maximum, steps, between_steps, numbers=False),
        Case("ties", (few(3, 4), few(4)), torch.maximum, **TIED),
    ),
    "minimum": (
        *binary(torch.minimum, steps, between_steps, numbers=False),
        Case("ties", (few(3, 4), few(4)), torch.minimum, **TIED),
    ),
    "where": (
        Case("same", (flags(3, 4), normal(3, 4), normal(3, 4)), torch.where),
        Case("all are broadcast", (flags(3, 1), normal(4), normal(2, 1, 1)), torch.where),
        Case("scalars", (flags(2, 3), normal(), normal()), torch.where),
        Case("number left", (flags(3, 4), 1.5, normal(3, 4)), torch.where),
        Case("int right", (flags(3, 4), normal(4), -1), torch.where),
        Case("empty", (flags(0, 3), normal(3), normal(1, 3)), torch.where),
        Case("views", (turned(flags(4, 3)), spaced(normal(3, 4)), turned(normal(4, 3))), torch.where),
    ),
    "equal": binary(torch.eq, few, few),
    "not_equal": binary(torch.ne, few, few),
    "less": binary(torch.lt, few, few),
    "less_equal": binary(torch.le, few, few),
    "greater": binary(torch.gt, few, few),
    "greater_equal": binary(torch.ge, few, few),
    "logical_not": (*unary(torch.logical_not, flags), Case("floats", (few(3, 4),), torch.logical_not)),
    "logical_and": binary(torch.logical_and, flags, flags, numbers=False),
    "logical_or": binary(torch.logical_or, flags, flags, numbers=False),
    "cast": (
        Case("narrower", (normal(3, 4),), lambda x, dtype: x.float(), {"dtype": "float32"}, **COARSE),
        Case("same", (normal(3, 4),), lambda x, dtype: x.double(), {"dtype": "float64"}),
        Case("to integers", (normal(3, 4),), lambda x, dtype: x.long(), {"dtype": "int64"}),
        Case("from integers", (integers(3, below=9),), lambda x, dtype: x.double(), {"dtype": "float64"}),
        Case("from truth values", (flags(2, 3),), lambda x, dtype: x.double(), {"dtype": "float64"}),
        Case("one", (normal(1),), lambda x, dtype: x.double(), {"dtype": "float64"}),
        Case("empty", (normal(0, 3),), lambda x, dtype: x.float(), {"dtype": "float32"}, **COARSE),
    ),
    "stop_gradient": unary(torch.detach, **DETACHED),
    # reduction
    "sum": (*reduction(torch.sum), Case("no dims", (normal(3, 4),), torch.sum, {"dim": ()})),
    "mean": (*reduction(torch.mean), Case("of nothing", (normal(0, 3),), torch.mean, **NOTHING)),
    "max": (
        *reduction(ref.amax, steps),
        Case("ties", (few(4, 5),), ref.amax, {"dim": 1}, **TIED),
        Case("three of four", (exactly(2.0, 2.0, 1.0, 2.0),), ref.amax, **TIED),
    ),
    "argmax": reduction(torch.argmax, steps, (None, 0, 1, -1)),
    "any": reduction(torch.any, flags),
    "all": reduction(torch.all, flags),
    "var": (
        *(case for case in reduction(torch.var) if case.id not in {"size one", "empty result"}),  # where torch warns
        Case("of a population", (normal(3, 4),), torch.var, {"dim": 0, "correction": 0, "keepdim": True}),
        Case("of one", (normal(3, 1),), torch.var, {"dim": 1, "correction": 0}),
    ),
    "cumsum": (
        *along(torch.cumsum, normal),
        Case("reversed", (turned(normal(4, 3)),), ref.cumulated_back, {"dim": 1, "reverse": True}),
        Case("integers", (integers(2, 5, below=9),), torch.cumsum, {"dim": -1}),
    ),
    "sum_to": (
        Case("leading", (normal(2, 3, 4),), ref.summed_to, {"shape": (4,)}),
        Case("inner", (turned(normal(4, 3, 2)),), ref.summed_to, {"shape": (2, 1, 4)}),
        Case("scalar", (normal(2, 3),), ref.summed_to, {"shape": ()}),
        Case("same", (normal(2, 3),), ref.summed_to, {"shape": (2, 3)}),
        Case("empty", (normal(0, 3),), ref.summed_to, {"shape": (1, 3)}),
        Case("one", (normal(3, 1),), ref.summed_to, {"shape": (1,)}),
    ),
    # shape
    "reshape": (
        Case("joined", (normal(2, 3, 4),), torch.reshape, {"shape": (6, 4)}),
        Case("inferred", (turned(normal(4, 3)),), torch.reshape, {"shape": [2, -1]}),
        Case("scalar", (normal(1, 1),), torch.reshape, {"shape": ()}),
        Case("empty", (normal(0, 3),), torch.reshape, {"shape": (3, 0)}),
    ),
    "permute": (
        Case("cycle", (normal(2, 3, 4),), torch.permute, {"dims": (2, 0, 1)}),
        Case("negative", (normal(2, 3, 4),), torch.permute, {"dims": (-1, 0, -2)}),
        Case("scalar", (normal(),), torch.permute, {"dims": ()}),
        Case("turned", (turned(normal(4, 3, 2)),), torch.permute, {"dims": (1, 2, 0)}),
        Case("empty", (normal(0, 1, 3),), torch.permute, {"dims": (1, 2, 0)}),
    ),
    "broadcast_to": (
        Case("leading", (normal(4),), ref.stretched_to, {"shape": (2, 3, 4)}),
        Case("inner", (turned(normal(4, 1, 2)),), ref.stretched_to, {"shape": (2, 3, 4)}),
        Case("scalar", (normal(),), ref.stretched_to, {"shape": (2, 3)}),
        Case("to nothing", (normal(1, 3),), ref.stretched_to, {"shape": (0, 3)}),
        Case("empty", (normal(0, 1),), ref.stretched_to, {"shape": (2, 0, 3)}),
    ),
    "concat": (
        Case("rows", (normal(2, 3), normal(1, 3), normal(4, 3)), ref.joined),
        Case("negative dim", (turned(normal(3, 2)), normal(2, 1)), ref.joined, {"dim": -1}),
        Case("middle", (normal(2, 1, 4), normal(2, 3, 4)), ref.joined, {"dim": 1}),
        Case("only one", (normal(3),), ref.joined),
        Case("an empty one", (normal(2, 0), normal(2, 3)), ref.joined, {"dim": 1}),
    ),
    "split": (
        Case("rows", (normal(5, 2),), ref.parts, {"sizes": (1, 4)}),
        Case("negative dim", (turned(normal(6, 2)),), ref.parts, {"sizes": [2, 1, 3], "dim": -1}),
        Case("an empty part", (normal(2, 3, 2),), ref.parts, {"sizes": (3, 0), "dim": 1}),
        Case("only one", (normal(3),), ref.parts, {"sizes": (3,)}),
        Case("one", (normal(1, 3),), ref.parts, {"sizes": (1, 2), "dim": 1}),
        Case("empty", (normal(0, 3),), ref.parts, {"sizes": (1, 2), "dim": 1}),
    ),
    "unstack": (
        Case("rows", (normal(3, 2),), torch.unbind, {"dim": 0}),
        Case("negative dim", (turned(normal(2, 4)),), torch.unbind, {"dim": -1}),
        Case("numbers", (normal(3),), torch.unbind),
        Case("only one", (normal(1, 3),), torch.unbind),
        Case("empty", (normal(2, 0),), torch.unbind),
    ),
    "copy": unary(torch.clone),
    "getitem": (
        Case("int", (normal(3, 4),), ref.indexed, {"key": (-1,)}),
        Case("slices", (normal(5, 6),), ref.indexed, {"key": ((1, None, 2), (-4, -1, None))}),
        Case("dots and None", (turned(normal(4, 3, 2)),), ref.indexed, {"key": (None, "...", None, 2)}),
        Case("nothing", (normal(3, 4),), ref.indexed, {"key": ((2, 2, None),)}),
        Case("one element", (normal(3, 4),), ref.indexed, {"key": (1, 2)}),
        Case("one", (normal(1, 3),), ref.indexed, {"key": (0, (1, None, None))}),
        Case("empty", (normal(0, 3),), ref.indexed, {"key": ((None, None, None), 1)}),
    ),
    "getitem_backward": (
        Case("int", (normal(4),), ref.of_zeros(ref.indexed), {"key": (-1,), "shape": (3, 4)}),
        Case(
            "slices",
            (normal(2, 3),),
            ref.of_zeros(ref.indexed),
            {"key": ((1, None, 2), (-4, -1, None)), "shape": (5, 6)},
        ),
        Case("one element", (normal(),), ref.of_zeros(ref.indexed), {"key": (1, 2), "shape": (3, 4)}),
        Case("one", (normal(1),), ref.of_zeros(ref.indexed), {"key": ((1, 2, None),), "shape": (3,)}),
        Case("empty", (normal(0, 3),), ref.of_zeros(ref.indexed), {"key": ((2, 2, None),), "shape": (4, 3)}),
    ),
    "pad": (
        Case("both sides", (normal(2, 3),), ref.padded, {"widths": ((1, 0), (2, 3)), "value": 0.5}),
        Case("cropped", (turned(normal(5, 4)),), ref.padded, {"widths": [[-1, 2], [1, -2]]}),
        Case("last dim only", (normal(2, 3),), ref.padded, {"widths": ((1, 1),)}),
        Case("one", (normal(1, 1),), ref.padded, {"widths": ((1, 0), (0, 2))}),
        Case("empty", (normal(0, 3),), ref.padded, {"widths": ((1, 1), (0, 2)), "value": 0.5}),
    ),
    "full_like": (
        Case("same shape", (turned(normal(3, 2)),), lambda x, value: torch.full((2, 3), value).to(x), {"value": 1.5}),
        Case(
            "other shape",
            (normal(2),),
            lambda x, shape, value: torch.full(shape, value).to(x),
            {"shape": (3, 1), "value": 2},
        ),
        Case("one", (normal(1),), lambda x, value: torch.full((1,), value).to(x), {"value": 2}),
        Case("empty", (normal(0, 3),), lambda x, value: torch.full((0, 3), value).to(x), {"value": 1.5}),
    ),
    # linalg
    "matmul": (
        Case("matrices", (normal(3, 4), normal(4, 2)), torch.matmul),
        Case("turned", (turned(normal(4, 3)), turned(normal(2, 4))), torch.matmul),
        Case("vectors", (normal(4), normal(4)), torch.matmul),
        Case("vector left", (normal(4), normal(4, 2)), torch.matmul),
        Case("vector right", (spaced(normal(3, 4)), normal(4)), torch.matmul),
        Case("vector left of batch", (normal(4), normal(2, 4, 3)), torch.matmul),
        Case("vector right of batch", (normal(2, 3, 4), normal(4)), torch.matmul),
        Case("batches", (normal(2, 3, 4), normal(2, 4, 2)), torch.matmul),
        Case("left is broadcast", (normal(3, 4), normal(2, 4, 2)), torch.matmul),
        Case("right is broadcast", (normal(2, 3, 4), normal(4, 2)), torch.matmul),
        Case("both are broadcast", (normal(2, 1, 1, 4), normal(3, 4, 2)), torch.matmul),
        Case("ones", (normal(1, 1), normal(1, 1)), torch.matmul),
        Case("row by a large matrix", (normal(1, 512), normal(512, 512)), torch.matmul),
        Case("row by a large matrix, turned", (normal(1, 512), turned(normal(512, 512))), torch.matmul),
        Case("empty", (normal(0, 4), normal(4, 2)), torch.matmul),
        Case("sums of nothing", (normal(3, 0), normal(0, 2)), torch.matmul),
    ),
    "linear": (
        Case("with bias", (normal(3, 4), normal(2, 4), normal(2)), F.linear),
        Case("without bias", (normal(3, 4), turned(normal(4, 2)), None), F.linear),
        Case("batches", (turned(normal(4, 3, 2)), normal(5, 4), normal(5)), F.linear),
        Case("vector", (normal(4), normal(2, 4), normal(2)), F.linear),
        Case("ones", (normal(1, 1), normal(1, 1), normal(1)), F.linear),
        Case("row, large weight", (normal(1, 512), normal(512, 512), normal(512)), F.linear),
        Case("row, large weight, no bias", (normal(1, 256), turned(normal(256, 1024)), None), F.linear),
        Case("row, large weight, one bias", (normal(1, 512), normal(512, 512), normal(1)), F.linear),
        Case("row, large weight of odd columns", (normal(1, 512), normal(513, 512), normal(513)), F.linear),
        Case("empty", (normal(0, 4), normal(2, 4), normal(2)), F.linear),
    ),
    # conv
    "conv2d": (
        Case("with bias", (normal(2, 3, 5, 4), normal(4, 3, 3, 2), normal(4)), F.conv2d),
        Case("without bias", (normal(2, 3, 5, 4), normal(4, 3, 3, 2), None), F.conv2d),
        Case("one number each", (normal(1, 2, 7, 8), normal(2, 2, 2, 3), normal(2)), F.conv2d, ONE_EACH),
        Case("pairs, groups", (normal(2, 4, 7, 6), normal(6, 2, 3, 2), normal(6)), F.conv2d, PAIRS),
        Case("by channel", (normal(2, 3, 4, 4), normal(3, 1, 3, 3), None), F.conv2d, {"groups": 3, "padding": 1}),
        Case("turned", (turned(normal(4, 5, 3, 2)), turned(normal(2, 3, 3, 4)), normal(4)), F.conv2d),
        Case("one pixel", (normal(1, 1, 1, 1), normal(1, 1, 1, 1), normal(1)), F.conv2d),
        Case("empty batch", (normal(0, 3, 5, 4), normal(4, 3, 3, 2), normal(4)), F.conv2d),
    ),
    "conv2d_input": (
        Case("default", (normal(2, 4, 3, 3), normal(4, 3, 3, 2)), ref.of_zeros(F.conv2d), {"shape": (2, 3, 5, 4)}),
        Case(
            "one number each",
            (normal(1, 2, 4, 3), normal(2, 2, 2, 3)),
            ref.of_zeros(F.conv2d),
            ONE_EACH | {"shape": (1, 2, 7, 8)},
        ),
        Case(
            "pairs, groups",
            (normal(2, 6, 4, 8), normal(6, 2, 3, 2)),
            ref.of_zeros(F.conv2d),
            PAIRS | {"shape": (2, 4, 7, 6)},
        ),
        Case("empty batch", (normal(0, 4, 3, 3), normal(4, 3, 3, 2)), ref.of_zeros(F.conv2d), {"shape": (0, 3, 5, 4)}),
    ),
    "conv2d_weight": (
        Case("default", (normal(2, 4, 3, 3), normal(2, 3, 5, 4)), ref.of_zeros(ref.weighing), {"shape": (4, 3, 3, 2)}),
        Case(
            "one number each",
            (normal(1, 2, 4, 3), normal(1, 2, 7, 8)),
            ref.of_zeros(ref.weighing),
            ONE_EACH | {"shape": (2, 2, 2, 3)},
        ),
        Case(
            "pairs, groups",
            (normal(2, 6, 4, 8), normal(2, 4, 7, 6)),
            ref.of_zeros(ref.weighing),
            PAIRS | {"shape": (6, 2, 3, 2)},
        ),
        Case(
            "empty batch", (normal(0, 4, 3, 3), normal(0, 3, 5, 4)), ref.of_zeros(ref.weighing), {"shape": (4, 3, 3, 2)}
        ),
    ),
    "conv2d_weight_bias": (
        Case("default", (normal(2, 4, 3, 3), normal(2, 3, 5, 4)), ref.weight_and_bias, {"shape": (4, 3, 3, 2)}),
        Case(
            "one number each",
            (normal(1, 2, 4, 3), normal(1, 2, 7, 8)),
            ref.weight_and_bias,
            ONE_EACH | {"shape": (2, 2, 2, 3)},
        ),
        Case(
            "pairs, groups",
            (normal(2, 6, 4, 8), normal(2, 4, 7, 6)),
            ref.weight_and_bias,
            PAIRS | {"shape": (6, 2, 3, 2)},
        ),
        Case("empty batch", (normal(0, 4, 3, 3), normal(0, 3, 5, 4)), ref.weight_and_bias, {"shape": (4, 3, 3, 2)}),
    ),
    # pool
    "max_pool2d_with_indices": (
        Case("default", (steps(2, 3, 5, 4),), ref.maxima, {"kernel_size": 2}),
        Case("overlapping", (steps(1, 2, 6, 5),), ref.maxima, WINDOW),
        Case(
            "dilated",
            (steps(1, 2, 6, 7),),
            ref.maxima,
            {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": (2, 3)},
        ),
        Case("turned", (turned(steps(4, 5, 2, 2)),), ref.maxima, {"kernel_size": 2}),
        Case("many channels", (steps(2, 16, 32, 17),), ref.maxima, WINDOW),
        Case("empty batch", (steps(0, 2, 4, 4),), ref.maxima, {"kernel_size": 2}),
    ),
    "max_pool2d_backward": (
        Case(
            "default",
            (normal(2, 3, 2, 2), places(2, 3, 5, 4, kernel_size=2)),
            ref.put_back,
            {"kernel_size": 2, "shape": (2, 3, 5, 4)},
        ),
        Case(
            "overlapping",
            (stretched(normal(1, 2, 3, 1), 1, 2, 3, 4), places(1, 2, 6, 5, **WINDOW)),
            ref.put_back,
            WINDOW | {"shape": (1, 2, 6, 5)},
        ),
        Case(
            "empty batch",
            (normal(0, 2, 2, 2), places(0, 2, 4, 4, kernel_size=2)),
            ref.put_back,
            {"kernel_size": 2, "shape": (0, 2, 4, 4)},
        ),
    ),
    "avg_pool2d": (
        Case("default", (normal(2, 3, 5, 4),), F.avg_pool2d, {"kernel_size": 2}),
        Case("overlapping", (normal(1, 2, 6, 5),), F.avg_pool2d, WINDOW),
        Case("turned", (turned(normal(4, 5, 2, 2)),), F.avg_pool2d, {"kernel_size": (2, 1), "stride": 1}),
        Case("empty batch", (normal(0, 2, 4, 4),), F.avg_pool2d, {"kernel_size": 2}),
    ),
    "avg_pool2d_backward": (
        Case("default", (normal(2, 3, 2, 2),), ref.of_zeros(F.avg_pool2d), {"kernel_size": 2, "shape": (2, 3, 5, 4)}),
        Case(
            "overlapping",
            (stretched(normal(1, 2, 3, 1), 1, 2, 3, 4),),
            ref.of_zeros(F.avg_pool2d),
            WINDOW | {"shape": (1, 2, 6, 5)},
        ),
        Case(
            "empty batch", (normal(0, 2, 2, 2),), ref.of_zeros(F.avg_pool2d), {"kernel_size": 2, "shape": (0, 2, 4, 4)}
        ),
    ),
    "adaptive_avg_pool2d": (
        Case("one number", (normal(2, 3, 5, 4),), F.adaptive_avg_pool2d, {"output_size": 1}),
        Case("uneven", (turned(normal(4, 5, 3, 2)),), F.adaptive_avg_pool2d, {"output_size": (3, 2)}),
        Case("larger", (normal(1, 2, 2, 3),), F.adaptive_avg_pool2d, {"output_size": (4, 3)}),
        Case("empty batch", (normal(0, 2, 4, 4),), F.adaptive_avg_pool2d, {"output_size": 2}),
    ),
    "adaptive_avg_pool2d_backward": (
        Case("uneven", (normal(2, 3, 3, 2),), ref.spread, {"shape": (2, 3, 5, 4)}),
        Case("stretched", (stretched(normal(2, 3, 1, 1), 2, 3, 2, 2),), ref.spread, {"shape": (2, 3, 5, 4)}),
        Case("one", (normal(1, 1, 1, 1),), ref.spread, {"shape": (1, 1, 2, 3)}),
        Case("empty batch", (normal(0, 2, 2, 2),), ref.spread, {"shape": (0, 2, 4, 4)}),
    ),
    # norm
    "batch_norm_train": (
        Case("images", (normal(3, 2, 2, 3), normal(2), normal(2)), ref.batch_norm),
        Case("rows", (turned(normal(3, 4)), normal(3), normal(3)), ref.batch_norm, {"eps": 0.1}),
        Case("without weight", (normal(4, 3, 2), None, None), ref.batch_norm),
        Case("without bias", (normal(4, 3), normal(3), None), ref.batch_norm),
        Case("one", (normal(3, 1, 2), normal(1), normal(1)), ref.batch_norm),
    ),
    "batch_norm_gradients": (
        Case(
            "images",
            (normal(3, 2, 2, 3), normal(3, 2, 2, 3), normal(2), positive(2), normal(2)),
            ref.batch_norm_gradients,
        ),
        Case(
            "rows",
            (stretched(normal(4, 1), 4, 3), turned(normal(3, 4)), normal(3), positive(3), normal(3)),
            ref.batch_norm_gradients,
        ),
        Case(
            "one",
            (normal(3, 1, 2), normal(3, 1, 2), normal(1), positive(1), normal(1)),
            ref.batch_norm_gradients,
        ),
    ),
    "batch_norm_backward": (
        Case("images", (normal(3, 2, 2, 3), normal(3, 2, 2, 3), normal(2), positive(2)), ref.batch_norm_backward),
        Case(
            "rows",
            (stretched(normal(4, 1), 4, 3), turned(normal(3, 4)), normal(3), positive(3)),
            ref.batch_norm_backward,
        ),
        Case("one", (normal(3, 1, 2), normal(3, 1, 2), normal(1), positive(1)), ref.batch_norm_backward),
    ),
    "layer_norm_full": (
        Case("rows", (normal(3, 4), normal(4), normal(4)), ref.layer_norm, {"normalized_shape": (4,)}),
        Case(
            "planes",
            (turned(normal(4, 3, 2)), normal(3, 4), normal(3, 4)),
            ref.layer_norm,
            {"normalized_shape": (3, 4), "eps": 0.1},
        ),
        Case("without weight", (normal(2, 3, 4), None, None), ref.layer_norm, {"normalized_shape": [4]}),
        Case("without bias", (normal(3, 4), normal(4), None), ref.layer_norm, {"normalized_shape": (4,)}),
        Case("empty batch", (normal(0, 4), normal(4), normal(4)), ref.layer_norm, {"normalized_shape": (4,)}),
        Case("one", (normal(1, 4), normal(4), normal(4)), ref.layer_norm, {"normalized_shape": (4,)}),
    ),
    "layer_norm_backward": (
        Case(
            "rows",
            (normal(3, 4), normal(3, 4), normal(3, 1), positive(3, 1)),
            ref.layer_norm_backward,
            {"normalized_shape": (4,)},
        ),
        Case(
            "planes",
            (stretched(normal(2, 3, 1), 2, 3, 4), turned(normal(4, 3, 2)), normal(2, 1, 1), positive(2, 1, 1)),
            ref.layer_norm_backward,
            {"normalized_shape": (3, 4)},
        ),
        Case(
            "empty batch",
            (normal(0, 4), normal(0, 4), normal(0, 1), positive(0, 1)),
            ref.layer_norm_backward,
            {"normalized_shape": (4,)},
        ),
    ),
    # index
    "gather": (
        Case("columns", (normal(3, 4), integers(3, 2, below=4)), ref.gathered, {"dim": 1}),
        Case("rows", (turned(normal(4, 3)), integers(5, 2, below=3)), ref.gathered, {"dim": 0}),
        Case("negative dim", (normal(2, 3, 4), integers(2, 3, 6, below=4)), ref.gathered, {"dim": -1}),
        Case("empty", (normal(3, 4), integers(3, 0, below=4)), ref.gathered, {"dim": 1}),
        Case("one", (normal(3, 1), integers(3, 1, below=1)), ref.gathered, {"dim": 1}),
    ),
    "gather_backward": (
        Case(
            "columns", (normal(3, 2), integers(3, 2, below=4)), ref.of_zeros(ref.gathered), {"dim": 1, "shape": (3, 4)}
        ),
        Case(
            "rows",
            (turned(normal(2, 5)), integers(5, 2, below=3)),
            ref.of_zeros(ref.gathered),
            {"dim": 0, "shape": (3, 4)},
        ),
        Case("one", (normal(1, 1), integers(1, 1, below=4)), ref.of_zeros(ref.gathered), {"dim": 1, "shape": (1, 4)}),
        Case("empty", (normal(3, 0), integers(3, 0, below=4)), ref.of_zeros(ref.gathered), {"dim": 1, "shape": (3, 4)}),
    ),
    "scatter_add": (
        Case("columns", (normal(3, 4), integers(3, 5, below=4), normal(3, 5)), ref.added, {"dim": 1}),
        Case(
            "negative dim",
            (turned(normal(4, 3)), integers(2, 4, below=4), turned(normal(4, 2))),
            ref.added,
            {"dim": -1},
        ),
        Case("empty", (normal(3, 4), integers(0, 4, below=3), normal(0, 4)), ref.added, {"dim": 0}),
        Case("one", (normal(1, 4), integers(1, 1, below=4), normal(1, 1)), ref.added, {"dim": 1}),
    ),
    "embedding": (
        Case("vector", (normal(5, 3), integers(7, below=5)), ref.rows_of),
        Case("matrix", (turned(normal(3, 5)), integers(2, 3, below=5)), ref.rows_of),
        Case("scalar", (normal(5, 3), integers(below=5)), ref.rows_of),
        Case("empty", (normal(5, 3), integers(0, below=5)), ref.rows_of),
    ),
    "embedding_backward": (
        Case("vector", (normal(7, 3), integers(7, below=5)), ref.rows_back, {"rows": 5}),
        Case("matrix", (stretched(normal(2, 1, 4), 2, 3, 4), integers(2, 3, below=5)), ref.rows_back, {"rows": 6}),
        Case("one", (normal(1, 3), integers(1, below=5)), ref.rows_back, {"rows": 5}),
        Case("empty", (normal(0, 3), integers(0, below=5)), ref.rows_back, {"rows": 5}),
    ),
    "topk": (
        Case("last", (steps(3, 5),), torch.topk, {"k": 2}),
        Case("first", (turned(steps(4, 3)),), torch.topk, {"k": 3, "dim": 0}),
        Case("all", (steps(4),), torch.topk, {"k": 4}),
        Case("none", (steps(3, 4),), torch.topk, {"k": 0}),
        Case("one", (steps(1),), torch.topk, {"k": 1}),
        Case("empty", (steps(0, 3),), torch.topk, {"k": 2}),
    ),
    "argsort": (
        Case("last", (steps(3, 5),), torch.argsort),
        Case("falling", (turned(steps(4, 3)),), torch.argsort, {"dim": 0, "descending": True}),
        Case("equal ones keep their order", (few(4, 9),), partial(torch.argsort, stable=True)),
        Case("truth values", (flags(7),), partial(torch.argsort, stable=True)),
        Case("empty", (normal(3, 0),), torch.argsort),
        Case("one", (steps(1),), torch.argsort),
    ),
    "one_hot": (
        Case("default", (integers(5, below=3),), ref.one_hot, {"num_classes": 3}),
        Case("integers", (integers(2, 3, below=3),), ref.one_hot, {"num_classes": 4, "dtype": "int64"}),
        Case("one", (integers(1, below=3),), ref.one_hot, {"num_classes": 3}),
        Case("empty", (integers(0, below=3),), ref.one_hot, {"num_classes": 3}),
    ),
    # loss
    "softmax": along(torch.softmax, normal),
    "softmax_backward": along(lambda g, y, dim: y * (g - (g * y).sum(dim, True)), normal, positive),
    "log_softmax": along(torch.log_softmax, normal),
    "log_softmax_backward": along(lambda g, y, dim: g - y.exp() * g.sum(dim, True), normal, normal),
    "nll_loss": (
        Case("rows", (normal(5, 3), integers(5, below=3)), F.nll_loss),
        Case("turned", (turned(normal(3, 5)), integers(5, below=3)), F.nll_loss),
        Case("one", (normal(1, 1), integers(1, below=1)), F.nll_loss),
        Case("empty batch", (normal(0, 3), integers(0, below=3)), F.nll_loss, **NOTHING),
    ),
    "nll_loss_backward": (
        Case("rows", (normal(), integers(5, below=3)), ref.of_zeros(F.nll_loss), {"shape": (5, 3)}),
        Case("empty batch", (normal(), integers(0, below=3)), ref.of_zeros(F.nll_loss), {"shape": (0, 3)}, **NOTHING),
    ),
    # random
    "dropout_mask": (
        Case("default", (key,), ref.mask, {"shape": (3, 5), "rate": 0.4}),
        Case("another stream", (key,), ref.mask, {"shape": [7], "rate": 0.9, "stream": 5, "dtype": "float64"}),
        Case("scalar", (key,), ref.mask, {"shape": (), "rate": 0.5}),
        Case("empty", (key,), ref.mask, {"shape": (0, 3), "rate": 0.5}),
    ),
    # update
    "sgd_update": (
        Case("plain", (normal(3, 4), normal(3, 4), normal(3, 4)), ref.sgd, {"lr": 0.1}, **SGD_STEP),
        Case("momentum", (normal(4), normal(4), normal(4)), ref.sgd, {"lr": 0.1, "momentum": 0.9}, **SGD_STEP),
        Case("one", (normal(1), normal(1), normal(1)), ref.sgd, {"lr": 0.1}, **SGD_STEP),
    ),
    # composites
    "flatten": (
        Case("all", (normal(2, 3, 4),), torch.flatten),
        Case("from 1", (turned(normal(4, 3, 2)),), torch.flatten, {"start_dim": 1}),
        Case("negative", (normal(2, 3, 4),), torch.flatten, {"start_dim": -2}),
        Case("scalar", (normal(),), torch.flatten),
        Case("empty", (normal(0, 3),), torch.flatten),
    ),
    "transpose": (
        Case("matrix", (normal(2, 3),), torch.transpose, {"dim0": 0, "dim1": 1}),
        Case("negative", (normal(2, 3, 4),), torch.transpose, {"dim0": -1, "dim1": 0}),
        Case("one", (normal(1, 3),), torch.transpose, {"dim0": 0, "dim1": 1}),
        Case("empty", (normal(0, 3),), torch.transpose, {"dim0": 0, "dim1": 1}),
    ),
    "slice": (
        Case("rows", (normal(5, 3),), ref.sliced, {"dim": 0, "start": 1, "stop": 4}),
        Case("every second", (normal(2, 6),), ref.sliced, {"dim": 1, "step": 2}),
        Case("negative", (normal(2, 3, 5),), ref.sliced, {"dim": -1, "start": -3}),
        Case("one", (normal(1, 3),), ref.sliced, {"dim": 1, "start": 1}),
        Case("empty", (normal(0, 3),), ref.sliced, {"dim": 1, "stop": 2}),
    ),
    "stack": (
        Case("first", (normal(2, 3), normal(2, 3)), ref.stacked),
        Case("last", (normal(2, 3), turned(normal(3, 2)), normal(2, 3)), ref.stacked, {"dim": -1}),
        Case("scalars", (normal(), normal()), ref.stacked),
        Case("empty", (normal(0, 2), normal(0, 2)), ref.stacked),
    ),
    "conv2d_gradients": (
        Case("many images", (normal(2, 4, 3, 3), normal(2, 3, 5, 4), normal(4, 3, 3, 2)), ref.all_of_conv2d),
        Case("one image", (normal(1, 4, 3, 3), normal(1, 3, 5, 4), normal(4, 3, 3, 2)), ref.all_of_conv2d),
        Case("pairs", (normal(1, 6, 4, 8), normal(1, 4, 7, 6), normal(6, 2, 3, 2)), ref.all_of_conv2d, PAIRS),
        Case("empty batch", (normal(0, 4, 3, 3), normal(0, 3, 5, 4), normal(4, 3, 3, 2)), ref.all_of_conv2d),
    ),
    "max_pool2d": (
        Case("default", (steps(2, 3, 5, 4),), F.max_pool2d, {"kernel_size": 2}),
        Case("overlapping", (steps(1, 2, 6, 5),), F.max_pool2d, WINDOW),
        Case("empty batch", (steps(0, 2, 4, 4),), F.max_pool2d, {"kernel_size": 2}),
    ),
    "batch_norm": (
        Case("images", (normal(3, 2, 2, 3), normal(2), normal(2)), lambda *xs: ref.batch_norm(*xs)[0]),
        Case("without weight", (normal(3, 2, 2, 3),), lambda *xs: ref.batch_norm(*xs)[0]),
        Case("one", (normal(3, 1, 2), normal(1), normal(1)), lambda *xs: ref.batch_norm(*xs)[0]),
    ),
    "batch_norm_inference": (
        Case("images", (normal(3, 2, 2, 3), normal(2), positive(2), normal(2), normal(2)), ref.batch_norm_inference),
        Case(
            "rows", (normal(4, 3), normal(3), positive(3), normal(3), normal(3)), ref.batch_norm_inference, {"eps": 0.1}
        ),
        Case("one", (normal(3, 1), normal(1), positive(1), normal(1), normal(1)), ref.batch_norm_inference),
        Case("empty", (normal(0, 3), normal(3), positive(3), normal(3), normal(3)), ref.batch_norm_inference),
    ),
    "layer_norm": (
        Case(
            "rows",
            (normal(3, 4), normal(4), normal(4)),
            lambda *xs, **attrs: ref.layer_norm(*xs, **attrs)[0],
            {"normalized_shape": (4,)},
        ),
        Case("without weight", (normal(3, 4),), F.layer_norm, {"normalized_shape": (4,), "eps": 0.1}),
        Case("one", (normal(1, 4),), F.layer_norm, {"normalized_shape": (4,)}),
        Case("empty batch", (normal(0, 4),), F.layer_norm, {"normalized_shape": (4,)}),
    ),
    "cross_entropy": (
        Case("rows", (normal(5, 3), integers(5, below=3)), F.cross_entropy),
        Case("empty batch", (normal(0, 3), integers(0, below=3)), F.cross_entropy, **NOTHING),
        Case("one", (normal(1, 3), integers(1, below=3)), F.cross_entropy),
    ),
    "dropout": (
        Case("elements", (normal(3, 4), key), ref.dropout, {"rate": 0.4, "stream": 3}),
        Case("no key", (normal(3, 4), None), ref.dropout, {"rate": 0.4}),
        Case("rate 0", (normal(3, 4), key), ref.dropout, {"rate": 0.0}),
        Case("one", (normal(1), key), ref.dropout, {"rate": 0.4}),
        Case("empty", (normal(0, 3), key), ref.dropout, {"rate": 0.4}),
    ),
    "dropout2d": (
        Case("planes", (normal(3, 4, 2, 2), key), partial(ref.dropout, planes=True), {"rate": 0.4}),
        Case("no key", (normal(3, 4, 2, 2), None), partial(ref.dropout, planes=True), {"rate": 0.4}),
        Case("empty batch", (normal(0, 4, 2, 2), key), partial(ref.dropout, planes=True), {"rate": 0.4}),
    ),
}
