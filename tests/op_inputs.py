"""What a case of an op consists of, the inputs that cases are made of, and the cases that many ops have in common.

    Case("broadcast", (normal(3, 4), turned(positive(4, 1))), torch.mul)
    binary(torch.mul)

Each domain gives a maker of float64 tensors of one shape, or of integers or truth values where it says so.
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
    """One call of an op, and `torch_reference(*inputs, **attrs)`, the same in torch's own functions.

    `inputs` are makers of tensors, Python numbers, or None; `why` says why a check is left out.
    """

    id: str
    inputs: tuple[Make | float | None, ...]
    torch_reference: Reference
    attrs: Mapping[str, Any] = field(default_factory=dict)
    finite_differences: bool = True
    twice: bool = True  # whether gradients of gradients are compared
    why: str = ""

    def build(self, salt: int = 0) -> list[Any]:
        """The inputs; another `salt` gives others of the same shapes."""
        rng = np.random.default_rng([zlib.crc32(self.id.encode()), salt])
        return [make(rng) if callable(make) else make for make in self.inputs]


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
    """Ops of one input."""
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
    """Ops of two inputs that broadcast, and of a Python number on either side unless `numbers` is False."""

    def on_tensors(a: Any, b: Any) -> Any:
        dtype = a.dtype if isinstance(a, torch.Tensor) else b.dtype
        return reference(torch.as_tensor(a, dtype=dtype), torch.as_tensor(b, dtype=dtype))

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
    """Gradients of unary ops: of g, and of what the op gave or was given, from `domain`."""
    return (
        Case("matrix", (normal(3, 4), domain(3, 4)), reference),
        Case("views", (stretched(normal(3, 1), 3, 4), turned(domain(4, 3))), reference),
        Case("one", (normal(1), domain(1)), reference),
        Case("empty", (normal(0, 3), domain(0, 3)), reference),
    )


DIMS = (None, 0, 1, -1, (0, 2), (-1, 1), (0, 1, 2))


def reduction(reference: Reference, domain: Domain = normal, dims: tuple[Any, ...] = DIMS) -> tuple[Case, ...]:
    """Ops that take `dim` and `keepdim`."""
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
