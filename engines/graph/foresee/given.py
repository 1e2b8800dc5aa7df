"""What rules ask about an op's operands, and how they say what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engines.graph.ir import Operand, Var
from engines.value import Spec

Shape = tuple[int, ...]
Specs = tuple[Spec, ...]
Rule = Callable[[Sequence[Operand], Mapping[str, Any]], Specs | None]


def floats(inputs: Sequence[Operand], *, optional: bool = False) -> list[Spec] | None:
    """The inputs' specs, if all are values of one float type; the last may be missing if it is `optional`."""
    given = inputs[:-1] if optional and inputs[-1] is None else inputs
    specs = [i.spec for i in given if isinstance(i, Var)]
    alike = len(specs) == len(given) and len({spec.dtype for spec in specs}) == 1
    return specs if alike and specs[0].dtype.is_floating_point else None


def numeric(inputs: Sequence[Operand]) -> list[Spec] | None:
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


def alike(inputs: Sequence[Operand]) -> list[Spec] | None:
    """The inputs' specs, if all are values of one type, a float or int64."""
    dtypes = {i.spec.dtype if isinstance(i, Var) else None for i in inputs}
    return numeric(inputs) if len(dtypes) == 1 else None


def truths(inputs: Sequence[Operand]) -> list[Spec] | None:
    """The inputs' specs, if all are truth values."""
    specs = [i.spec for i in inputs if isinstance(i, Var)]
    return specs if len(specs) == len(inputs) and {spec.dtype for spec in specs} == {torch.bool} else None


def positions(given: Operand) -> Spec | None:
    """Where to read or write: whole numbers."""
    return given.spec if isinstance(given, Var) and given.spec.dtype == torch.int64 else None


def broadcast(specs: Sequence[Spec] | None, dtype: torch.dtype | None = None) -> Specs | None:
    """One value, of the specs' type or another, in the shape to which theirs broadcast."""
    if specs is None:
        return None
    try:
        shape = np.broadcast_shapes(*(spec.shape for spec in specs))
    except ValueError:
        return None
    return (specs[0]._replace(shape=shape, dtype=dtype or specs[0].dtype),)


def named_dims(shape: Shape, dim: Any) -> tuple[int, ...] | None:
    """Dimensions that there are, each once, counted from the front; None where they are odd."""
    given = tuple(range(len(shape))) if dim is None else dim if isinstance(dim, tuple) and dim else (dim,)
    if not all(type(each) is int and -len(shape) <= each < len(shape) for each in given):
        return None
    found = tuple(each % len(shape) for each in given)
    return found if len(set(found)) == len(found) else None


def shaped(spec: Spec, shape: Any) -> Specs | None:
    """A value like this one, in another shape if that is one."""
    plain = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    return (spec._replace(shape=shape),) if plain else None


def pair(size: Any) -> tuple[int, int]:
    """A size for each of two dimensions, which one number gives alike."""
    return (size, size) if isinstance(size, int) else size
