"""What each op of the table is tried on: one block per op, in the order of the table.

    CASES["exp"]            # the cases of one op: inputs, attributes, and what torch's own functions say
    case.build()            # the same inputs at every call, in float64

A case gives a deep test: test_ops.py compares forward, gradients and gradients of gradients of both engines with torch's
autograd of `torch_reference`, and with finite differences. Inputs keep away from kinks, so that these are valid.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Make = Callable[[np.random.Generator], torch.Tensor]
Domain = Callable[..., Make]
Reference = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One call of an op. `inputs` are makers of tensors, Python numbers, or None; `why` says why a check is left out."""

    id: str
    inputs: tuple[Make | float | None, ...]
    torch_reference: Reference
    attrs: Mapping[str, Any] = field(default_factory=dict)
    finite_differences: bool = True
    why: str = ""

    def build(self, salt: int = 0) -> list[Any]:
        """The inputs; another `salt` gives others of the same shapes."""
        rng = np.random.default_rng([zlib.crc32(self.id.encode()), salt])
        return [make(rng) if callable(make) else make for make in self.inputs]


# Domains: each gives a maker of float64 tensors of one shape (or, where it says so, of integers or truth values).


def normal(*shape: int) -> Make:
    """Standard normal."""
    return lambda rng: torch.tensor(rng.standard_normal(shape))


def uniform(*shape: int, low: float, high: float) -> Make:
    """Uniform from `low` to `high`."""
    return lambda rng: torch.tensor(rng.uniform(low, high, shape))


positive = partial(uniform, low=0.5, high=2.0)
inner = partial(uniform, low=-0.9, high=0.9)


def nonzero(*shape: int) -> Make:
    """At least 0.3 away from 0, of either sign."""
    return lambda rng: torch.tensor(rng.uniform(0.3, 1.5, shape) * rng.choice([-1.0, 1.0], shape))


def steps(*shape: int, start: float = 0.0) -> Make:
    """All different, 0.1 apart, in random order."""
    size = int(np.prod(shape))
    return lambda rng: torch.tensor((rng.permutation(size) - size // 2).reshape(shape) * 0.1 + start)


between_steps = partial(steps, start=0.05)


def few(*shape: int) -> Make:
    """-1.0, 0.0 and 1.0, so that many are equal."""
    return lambda rng: torch.tensor(rng.integers(-1, 2, shape).astype(np.float64))


def integers(*shape: int, below: int) -> Make:
    """int64 from 0 to before `below`."""
    return lambda rng: torch.tensor(rng.integers(0, below, shape))


def flags(*shape: int) -> Make:
    """Truth values, both kinds among the first two."""
    return lambda rng: torch.tensor((np.arange(int(np.prod(shape))) + rng.integers(2)).reshape(shape) % 2 == 0)


def exactly(*values: float) -> Make:
    """These very numbers."""
    return lambda _: torch.tensor(values, dtype=torch.float64)


def key(rng: np.random.Generator) -> torch.Tensor:
    """A key of random draws."""
    return torch.tensor(rng.integers(-(1 << 62), 1 << 62))


def places(*shape: int, **window: Any) -> Make:
    """Where the maxima under each window stand in the planes of an image of `shape`, int64."""
    return lambda rng: F.max_pool2d(steps(*shape)(rng), return_indices=True, **window)[1]


def turned(make: Make) -> Make:
    """A view with dimensions in the opposite order."""
    return lambda rng: (x := make(rng)).permute(*reversed(range(x.ndim)))


def spaced(make: Make) -> Make:
    """A view of every second element of a tensor twice as wide."""

    def build(rng: np.random.Generator) -> torch.Tensor:
        x = make(rng)
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 7, dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]

    return build


def stretched(make: Make, *shape: int) -> Make:
    """A view of `shape` whose broadcast dimensions have stride 0."""
    return lambda rng: make(rng).expand(shape)


# Families: the cases that many ops have in common.


def unary(reference: Reference, domain: Domain = normal, **options: Any) -> tuple[Case, ...]:
    makers = {
        "matrix": domain(3, 4),
        "scalar": domain(),
        "one": domain(1),
        "empty": domain(0, 3),
        "turned": turned(domain(2, 3, 4)),
        "spaced": spaced(domain(3, 4)),
        "stretched": stretched(domain(3, 1), 3, 4),
    }
    return tuple(Case(name, (make,), reference, **options) for name, make in makers.items())


def binary(
    reference: Reference, left: Domain = normal, right: Domain = normal, numbers: bool = True
) -> tuple[Case, ...]:
    def on_tensors(a: Any, b: Any) -> Any:
        return reference(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64))

    inputs: dict[str, tuple[Make | float, Make | float]] = {
        "same": (left(3, 4), right(3, 4)),
        "left is broadcast": (left(4), right(3, 4)),
        "right is broadcast": (left(2, 3, 4), right(3, 1)),
        "both are broadcast": (left(2, 1, 4), right(3, 1)),
        "scalars": (left(), right()),
        "scalar and matrix": (left(), right(2, 3)),
        "ones": (left(1, 1), right(1)),
        "empty": (left(0, 3), right(1, 3)),
        "views": (turned(left(4, 3)), spaced(right(3, 4))),
        "stretched": (stretched(left(3, 1), 3, 4), right(3, 4)),
    }
    if numbers:
        inputs |= {"number left": (1.5, right(3, 4)), "number right": (left(3, 4), 1.5)}
        inputs |= {"int left": (2, right(3, 4)), "int right": (left(3, 4), 2)}
    return tuple(Case(name, pair, on_tensors) for name, pair in inputs.items())


def paired(reference: Reference, domain: Domain) -> tuple[Case, ...]:
    """Gradients of unary ops: of g and what the op gave or was given."""
    return (
        Case("matrix", (normal(3, 4), domain(3, 4)), reference),
        Case("views", (stretched(normal(3, 1), 3, 4), turned(domain(4, 3))), reference),
        Case("empty", (normal(0, 3), domain(0, 3)), reference),
    )


DIMS = (None, 0, 1, -1, (0, 2), (-1, 1), (0, 1, 2))


def reduction(reference: Reference, domain: Domain = normal, dims: tuple[Any, ...] = DIMS) -> tuple[Case, ...]:
    cases = [
        Case(f"dim={dim}{', kept' * keep}", (domain(2, 3, 4),), reference, {"dim": dim, "keepdim": keep})
        for dim in dims
        for keep in (False, True)
    ]
    return (
        *cases,
        Case("defaults", (domain(3, 4),), reference),
        Case("size one", (domain(3, 1, 2),), reference, {"dim": 1}),
        Case("empty result", (domain(0, 3),), reference, {"dim": 1}),
        Case("turned", (turned(domain(2, 3, 4)),), reference, {"dim": 1}),
    )


def along(reference: Reference, *domains: Domain) -> tuple[Case, ...]:
    """Ops with a required `dim`, on inputs of one shape."""

    def inputs(view: Callable[[Make], Make], *shape: int) -> tuple[Make, ...]:
        return tuple(view(domain(*shape)) for domain in domains)

    return (
        Case("rows", inputs(spaced, 3, 4), reference, {"dim": 1}),
        Case("last", inputs(turned, 2, 3, 4), reference, {"dim": -1}),
        Case("first", inputs(lambda make: make, 3, 2), reference, {"dim": 0}),
        Case("scalar", inputs(lambda make: make), reference, {"dim": 0}),
        Case("one", inputs(lambda make: make, 3, 1), reference, {"dim": 1}),
        Case("empty", inputs(lambda make: make, 0, 3), reference, {"dim": 1}),
    )


# References that torch does not offer as one differentiable function.


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


def joined(*xs: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return torch.cat(xs, dim)


def stacked(*xs: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return torch.stack(xs, dim)


def parts(x: torch.Tensor, sizes: Any, dim: int = 0) -> tuple[torch.Tensor, ...]:
    return torch.split(x, list(sizes), dim)


def weighing(weight: torch.Tensor, x: torch.Tensor, **attrs: Any) -> torch.Tensor:
    return F.conv2d(x, weight, **attrs)


def maxima(x: torch.Tensor, **window: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return F.max_pool2d(x, return_indices=True, **window)


def spread(g: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return pullback(lambda x: F.adaptive_avg_pool2d(x, g.shape[-2:]), torch.zeros(shape, dtype=g.dtype), g)


def gathered(x: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.gather(x, dim, index)


def added(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.scatter_add(x, dim, index, source)


def rows_of(weight: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return F.embedding(index, weight)


def rows_back(g: torch.Tensor, index: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.zeros(rows, g.shape[-1], dtype=g.dtype).index_add(0, index.flatten(), g.reshape(-1, g.shape[-1]))


def one_hot(index: torch.Tensor, num_classes: int, dtype: str = "float32") -> torch.Tensor:
    return F.one_hot(index, num_classes).to(getattr(torch, dtype))


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


def batch_norm_inference(x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float = 1e-5) -> torch.Tensor:
    mean, var, weight, bias = (value.reshape(-1, *[1] * (x.ndim - 2)) for value in (mean, var, weight, bias))
    return (x - mean) * torch.rsqrt(var + eps) * weight + bias


def sgd(p: torch.Tensor, velocity: torch.Tensor, gradient: torch.Tensor, **attrs: Any) -> tuple[torch.Tensor, ...]:
    parameter = p.detach().clone().requires_grad_()
    parameter.grad = gradient.detach()
    optimizer = torch.optim.SGD([parameter], **attrs)
    state = optimizer.state[parameter]
    state["momentum_buffer"] = velocity.detach().clone()
    optimizer.step()
    return parameter.detach(), state["momentum_buffer"] if attrs.get("momentum") else gradient.detach()


SGD_STEP = {"finite_differences": False, "why": "overwrites its inputs, and is no part of a loss"}
DETACHED = {"finite_differences": False, "why": "a constant to gradients, by definition"}
TIED = {"finite_differences": False, "why": "at a kink, where torch too chooses a gradient by convention"}
COARSE = {"finite_differences": False, "why": "rounded to float32, which hides a small step"}

ONE_EACH = {"stride": 2, "padding": 1, "dilation": 2}
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
        Case("number 0 left", (0.0, positive(3)), lambda a, b: torch.pow(torch.tensor(a, dtype=b.dtype), b)),
        Case("base 0", (exactly(0.0, 0.0, 0.0), exactly(2.0, 3.0, 4.0)), torch.pow, **TIED),
    ),
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
    "gelu_backward": paired(lambda g, x: pullback(F.gelu, x, g), normal),
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
    "cast": (
        Case("narrower", (normal(3, 4),), lambda x, dtype: x.float(), {"dtype": "float32"}, **COARSE),
        Case("same", (normal(3, 4),), lambda x, dtype: x, {"dtype": torch.float64}),
        Case("to integers", (normal(3, 4),), lambda x, dtype: x.long(), {"dtype": "int64"}),
        Case("from integers", (integers(3, below=9),), lambda x, dtype: x.double(), {"dtype": "float64"}),
        Case("from truth values", (flags(2, 3),), lambda x, dtype: x.double(), {"dtype": "float64"}),
    ),
    "stop_gradient": unary(torch.detach, **DETACHED),
    # reduction
    "sum": (*reduction(torch.sum), Case("no dims", (normal(3, 4),), torch.sum, {"dim": ()})),
    "mean": (*reduction(torch.mean), Case("of nothing", (normal(0, 3),), torch.mean)),
    "max": (
        *reduction(amax, steps),
        Case("ties", (few(4, 5),), amax, {"dim": 1}, **TIED),
        Case("three of four", (exactly(2.0, 2.0, 1.0, 2.0),), amax, **TIED),
    ),
    "argmax": reduction(torch.argmax, steps, (None, 0, 1, -1)),
    "var": (
        *(case for case in reduction(torch.var) if case.id != "size one"),  # torch warns where n = correction
        Case("of a population", (normal(3, 4),), torch.var, {"dim": 0, "correction": 0, "keepdim": True}),
        Case("of one", (normal(3, 1),), torch.var, {"dim": 1, "correction": 0}),
    ),
    "sum_to": (
        Case("leading", (normal(2, 3, 4),), torch.Tensor.sum_to_size, {"shape": (4,)}),
        Case("inner", (turned(normal(4, 3, 2)),), torch.Tensor.sum_to_size, {"shape": (2, 1, 4)}),
        Case("scalar", (normal(2, 3),), torch.Tensor.sum_to_size, {"shape": ()}),
        Case("same", (normal(2, 3),), torch.Tensor.sum_to_size, {"shape": (2, 3)}),
        Case("empty", (normal(0, 3),), torch.Tensor.sum_to_size, {"shape": (1, 3)}),
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
    ),
    "broadcast_to": (
        Case("leading", (normal(4),), torch.broadcast_to, {"shape": (2, 3, 4)}),
        Case("inner", (turned(normal(4, 1, 2)),), torch.broadcast_to, {"shape": (2, 3, 4)}),
        Case("scalar", (normal(),), torch.broadcast_to, {"shape": (2, 3)}),
        Case("to nothing", (normal(1, 3),), torch.broadcast_to, {"shape": (0, 3)}),
    ),
    "concat": (
        Case("rows", (normal(2, 3), normal(1, 3), normal(4, 3)), joined),
        Case("negative dim", (turned(normal(3, 2)), normal(2, 1)), joined, {"dim": -1}),
        Case("middle", (normal(2, 1, 4), normal(2, 3, 4)), joined, {"dim": 1}),
        Case("only one", (normal(3),), joined),
        Case("an empty one", (normal(2, 0), normal(2, 3)), joined, {"dim": 1}),
    ),
    "split": (
        Case("rows", (normal(5, 2),), parts, {"sizes": (1, 4)}),
        Case("negative dim", (turned(normal(6, 2)),), parts, {"sizes": [2, 1, 3], "dim": -1}),
        Case("an empty part", (normal(2, 3, 2),), parts, {"sizes": (3, 0), "dim": 1}),
        Case("only one", (normal(3),), parts, {"sizes": (3,)}),
    ),
    "getitem": (
        Case("int", (normal(3, 4),), indexed, {"key": (-1,)}),
        Case("slices", (normal(5, 6),), indexed, {"key": ((1, None, 2), (-4, -1, None))}),
        Case("dots and None", (turned(normal(4, 3, 2)),), indexed, {"key": (None, "...", None, 2)}),
        Case("nothing", (normal(3, 4),), indexed, {"key": ((2, 2, None),)}),
        Case("one element", (normal(3, 4),), indexed, {"key": (1, 2)}),
    ),
    "getitem_backward": (
        Case("int", (normal(4),), of_zeros(indexed), {"key": (-1,), "shape": (3, 4)}),
        Case("slices", (normal(2, 3),), of_zeros(indexed), {"key": ((1, None, 2), (-4, -1, None)), "shape": (5, 6)}),
        Case("one element", (normal(),), of_zeros(indexed), {"key": (1, 2), "shape": (3, 4)}),
    ),
    "pad": (
        Case("both sides", (normal(2, 3),), padded, {"widths": ((1, 0), (2, 3)), "value": 0.5}),
        Case("cropped", (turned(normal(5, 4)),), padded, {"widths": [[-1, 2], [1, -2]]}),
        Case("last dim only", (normal(2, 3),), padded, {"widths": ((1, 1),)}),
    ),
    "full_like": (
        Case("same shape", (turned(normal(3, 2)),), lambda x, value: torch.full((2, 3), value).to(x), {"value": 1.5}),
        Case(
            "other shape",
            (normal(2),),
            lambda x, shape, value: torch.full(shape, value).to(x),
            {"shape": (3, 1), "value": 2},
        ),
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
        Case("empty", (normal(0, 4), normal(4, 2)), torch.matmul),
        Case("sums of nothing", (normal(3, 0), normal(0, 2)), torch.matmul),
    ),
    "linear": (
        Case("with bias", (normal(3, 4), normal(2, 4), normal(2)), F.linear),
        Case("without bias", (normal(3, 4), turned(normal(4, 2)), None), F.linear),
        Case("batches", (turned(normal(4, 3, 2)), normal(5, 4), normal(5)), F.linear),
        Case("vector", (normal(4), normal(2, 4), normal(2)), F.linear),
        Case("ones", (normal(1, 1), normal(1, 1), normal(1)), F.linear),
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
        Case("default", (normal(2, 4, 3, 3), normal(4, 3, 3, 2)), of_zeros(F.conv2d), {"shape": (2, 3, 5, 4)}),
        Case(
            "one number each",
            (normal(1, 2, 4, 3), normal(2, 2, 2, 3)),
            of_zeros(F.conv2d),
            ONE_EACH | {"shape": (1, 2, 7, 8)},
        ),
        Case(
            "pairs, groups",
            (normal(2, 6, 4, 8), normal(6, 2, 3, 2)),
            of_zeros(F.conv2d),
            PAIRS | {"shape": (2, 4, 7, 6)},
        ),
    ),
    "conv2d_weight": (
        Case("default", (normal(2, 4, 3, 3), normal(2, 3, 5, 4)), of_zeros(weighing), {"shape": (4, 3, 3, 2)}),
        Case(
            "one number each",
            (normal(1, 2, 4, 3), normal(1, 2, 7, 8)),
            of_zeros(weighing),
            ONE_EACH | {"shape": (2, 2, 2, 3)},
        ),
        Case(
            "pairs, groups",
            (normal(2, 6, 4, 8), normal(2, 4, 7, 6)),
            of_zeros(weighing),
            PAIRS | {"shape": (6, 2, 3, 2)},
        ),
    ),
    # pool
    "max_pool2d_with_indices": (
        Case("default", (steps(2, 3, 5, 4),), maxima, {"kernel_size": 2}),
        Case("overlapping", (steps(1, 2, 6, 5),), maxima, WINDOW),
        Case(
            "dilated", (steps(1, 2, 6, 7),), maxima, {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": (2, 3)}
        ),
        Case("turned", (turned(steps(4, 5, 2, 2)),), maxima, {"kernel_size": 2}),
        Case("empty batch", (steps(0, 2, 4, 4),), maxima, {"kernel_size": 2}),
    ),
    "max_pool2d_backward": (
        Case(
            "default",
            (normal(2, 3, 2, 2), places(2, 3, 5, 4, kernel_size=2)),
            put_back,
            {"kernel_size": 2, "shape": (2, 3, 5, 4)},
        ),
        Case(
            "overlapping",
            (stretched(normal(1, 2, 3, 1), 1, 2, 3, 4), places(1, 2, 6, 5, **WINDOW)),
            put_back,
            WINDOW | {"shape": (1, 2, 6, 5)},
        ),
    ),
    "avg_pool2d": (
        Case("default", (normal(2, 3, 5, 4),), F.avg_pool2d, {"kernel_size": 2}),
        Case("overlapping", (normal(1, 2, 6, 5),), F.avg_pool2d, WINDOW),
        Case("turned", (turned(normal(4, 5, 2, 2)),), F.avg_pool2d, {"kernel_size": (2, 1), "stride": 1}),
        Case("empty batch", (normal(0, 2, 4, 4),), F.avg_pool2d, {"kernel_size": 2}),
    ),
    "avg_pool2d_backward": (
        Case("default", (normal(2, 3, 2, 2),), of_zeros(F.avg_pool2d), {"kernel_size": 2, "shape": (2, 3, 5, 4)}),
        Case(
            "overlapping",
            (stretched(normal(1, 2, 3, 1), 1, 2, 3, 4),),
            of_zeros(F.avg_pool2d),
            WINDOW | {"shape": (1, 2, 6, 5)},
        ),
    ),
    "adaptive_avg_pool2d": (
        Case("one number", (normal(2, 3, 5, 4),), F.adaptive_avg_pool2d, {"output_size": 1}),
        Case("uneven", (turned(normal(4, 5, 3, 2)),), F.adaptive_avg_pool2d, {"output_size": (3, 2)}),
        Case("larger", (normal(1, 2, 2, 3),), F.adaptive_avg_pool2d, {"output_size": (4, 3)}),
    ),
    "adaptive_avg_pool2d_backward": (
        Case("uneven", (normal(2, 3, 3, 2),), spread, {"shape": (2, 3, 5, 4)}),
        Case("stretched", (stretched(normal(2, 3, 1, 1), 2, 3, 2, 2),), spread, {"shape": (2, 3, 5, 4)}),
    ),
    # norm
    "batch_norm_train": (
        Case("images", (normal(3, 2, 2, 3), normal(2), normal(2)), batch_norm),
        Case("rows", (turned(normal(3, 4)), normal(3), normal(3)), batch_norm, {"eps": 0.1}),
        Case("without weight", (normal(4, 3, 2), None, None), batch_norm),
        Case("without bias", (normal(4, 3), normal(3), None), batch_norm),
    ),
    "batch_norm_backward": (
        Case("images", (normal(3, 2, 2, 3), normal(3, 2, 2, 3), normal(2), positive(2)), batch_norm_backward),
        Case(
            "rows", (stretched(normal(4, 1), 4, 3), turned(normal(3, 4)), normal(3), positive(3)), batch_norm_backward
        ),
    ),
    "layer_norm_full": (
        Case("rows", (normal(3, 4), normal(4), normal(4)), layer_norm, {"normalized_shape": (4,)}),
        Case(
            "planes",
            (turned(normal(4, 3, 2)), normal(3, 4), normal(3, 4)),
            layer_norm,
            {"normalized_shape": (3, 4), "eps": 0.1},
        ),
        Case("without weight", (normal(2, 3, 4), None, None), layer_norm, {"normalized_shape": [4]}),
        Case("without bias", (normal(3, 4), normal(4), None), layer_norm, {"normalized_shape": (4,)}),
        Case("empty batch", (normal(0, 4), normal(4), normal(4)), layer_norm, {"normalized_shape": (4,)}),
    ),
    "layer_norm_backward": (
        Case(
            "rows",
            (normal(3, 4), normal(3, 4), normal(3, 1), positive(3, 1)),
            layer_norm_backward,
            {"normalized_shape": (4,)},
        ),
        Case(
            "planes",
            (stretched(normal(2, 3, 1), 2, 3, 4), turned(normal(4, 3, 2)), normal(2, 1, 1), positive(2, 1, 1)),
            layer_norm_backward,
            {"normalized_shape": (3, 4)},
        ),
    ),
    # index
    "gather": (
        Case("columns", (normal(3, 4), integers(3, 2, below=4)), gathered, {"dim": 1}),
        Case("rows", (turned(normal(4, 3)), integers(5, 2, below=3)), gathered, {"dim": 0}),
        Case("negative dim", (normal(2, 3, 4), integers(2, 3, 6, below=4)), gathered, {"dim": -1}),
        Case("empty", (normal(3, 4), integers(3, 0, below=4)), gathered, {"dim": 1}),
    ),
    "gather_backward": (
        Case("columns", (normal(3, 2), integers(3, 2, below=4)), of_zeros(gathered), {"dim": 1, "shape": (3, 4)}),
        Case("rows", (turned(normal(2, 5)), integers(5, 2, below=3)), of_zeros(gathered), {"dim": 0, "shape": (3, 4)}),
    ),
    "scatter_add": (
        Case("columns", (normal(3, 4), integers(3, 5, below=4), normal(3, 5)), added, {"dim": 1}),
        Case("negative dim", (turned(normal(4, 3)), integers(2, 4, below=4), turned(normal(4, 2))), added, {"dim": -1}),
        Case("empty", (normal(3, 4), integers(0, 4, below=3), normal(0, 4)), added, {"dim": 0}),
    ),
    "embedding": (
        Case("vector", (normal(5, 3), integers(7, below=5)), rows_of),
        Case("matrix", (turned(normal(3, 5)), integers(2, 3, below=5)), rows_of),
        Case("scalar", (normal(5, 3), integers(below=5)), rows_of),
        Case("empty", (normal(5, 3), integers(0, below=5)), rows_of),
    ),
    "embedding_backward": (
        Case("vector", (normal(7, 3), integers(7, below=5)), rows_back, {"rows": 5}),
        Case("matrix", (stretched(normal(2, 1, 4), 2, 3, 4), integers(2, 3, below=5)), rows_back, {"rows": 6}),
    ),
    "one_hot": (
        Case("default", (integers(5, below=3),), one_hot, {"num_classes": 3}),
        Case("integers", (integers(2, 3, below=3),), one_hot, {"num_classes": 4, "dtype": "int64"}),
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
        Case("empty batch", (normal(0, 3), integers(0, below=3)), F.nll_loss),
    ),
    "nll_loss_backward": (
        Case("rows", (normal(), integers(5, below=3)), of_zeros(F.nll_loss), {"shape": (5, 3)}),
        Case("empty batch", (normal(), integers(0, below=3)), of_zeros(F.nll_loss), {"shape": (0, 3)}),
    ),
    # random
    "dropout_mask": (
        Case("default", (key,), mask, {"shape": (3, 5), "rate": 0.4}),
        Case("another stream", (key,), mask, {"shape": [7], "rate": 0.9, "stream": 5, "dtype": "float64"}),
        Case("scalar", (key,), mask, {"shape": (), "rate": 0.5}),
        Case("empty", (key,), mask, {"shape": (0, 3), "rate": 0.5}),
    ),
    # update
    "sgd_update": (
        Case("plain", (normal(3, 4), normal(3, 4), normal(3, 4)), sgd, {"lr": 0.1}, **SGD_STEP),
        Case("momentum", (normal(4), normal(4), normal(4)), sgd, {"lr": 0.1, "momentum": 0.9}, **SGD_STEP),
    ),
    # composites
    "flatten": (
        Case("all", (normal(2, 3, 4),), torch.flatten),
        Case("from 1", (turned(normal(4, 3, 2)),), torch.flatten, {"start_dim": 1}),
        Case("negative", (normal(2, 3, 4),), torch.flatten, {"start_dim": -2}),
        Case("scalar", (normal(),), torch.flatten),
    ),
    "transpose": (
        Case("matrix", (normal(2, 3),), torch.transpose, {"dim0": 0, "dim1": 1}),
        Case("negative", (normal(2, 3, 4),), torch.transpose, {"dim0": -1, "dim1": 0}),
    ),
    "slice": (
        Case("rows", (normal(5, 3),), sliced, {"dim": 0, "start": 1, "stop": 4}),
        Case("every second", (normal(2, 6),), sliced, {"dim": 1, "step": 2}),
        Case("negative", (normal(2, 3, 5),), sliced, {"dim": -1, "start": -3}),
    ),
    "stack": (
        Case("first", (normal(2, 3), normal(2, 3)), stacked),
        Case("last", (normal(2, 3), turned(normal(3, 2)), normal(2, 3)), stacked, {"dim": -1}),
        Case("scalars", (normal(), normal()), stacked),
    ),
    "max_pool2d": (
        Case("default", (steps(2, 3, 5, 4),), F.max_pool2d, {"kernel_size": 2}),
        Case("overlapping", (steps(1, 2, 6, 5),), F.max_pool2d, WINDOW),
    ),
    "batch_norm": (
        Case("images", (normal(3, 2, 2, 3), normal(2), normal(2)), lambda *xs: batch_norm(*xs)[0]),
        Case("without weight", (normal(3, 2, 2, 3),), lambda *xs: batch_norm(*xs)[0]),
    ),
    "batch_norm_inference": (
        Case("images", (normal(3, 2, 2, 3), normal(2), positive(2), normal(2), normal(2)), batch_norm_inference),
        Case("rows", (normal(4, 3), normal(3), positive(3), normal(3), normal(3)), batch_norm_inference, {"eps": 0.1}),
    ),
    "layer_norm": (
        Case(
            "rows",
            (normal(3, 4), normal(4), normal(4)),
            lambda *xs, **attrs: layer_norm(*xs, **attrs)[0],
            {"normalized_shape": (4,)},
        ),
        Case("without weight", (normal(3, 4),), F.layer_norm, {"normalized_shape": (4,), "eps": 0.1}),
    ),
    "cross_entropy": (
        Case("rows", (normal(5, 3), integers(5, below=3)), F.cross_entropy),
        Case("empty batch", (normal(0, 3), integers(0, below=3)), F.cross_entropy),
    ),
    "dropout": (
        Case("elements", (normal(3, 4), key), dropout, {"rate": 0.4, "stream": 3}),
        Case("no key", (normal(3, 4), None), dropout, {"rate": 0.4}),
        Case("rate 0", (normal(3, 4), key), dropout, {"rate": 0.0}),
    ),
    "dropout2d": (
        Case("planes", (normal(3, 4, 2, 2), key), partial(dropout, planes=True), {"rate": 0.4}),
        Case("no key", (normal(3, 4, 2, 2), None), partial(dropout, planes=True), {"rate": 0.4}),
    ),
}
