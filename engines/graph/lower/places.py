"""Where a value stands in generated C, and loops over several values at once.

    Place("b3", (10, 1), "T")
    loops((20, 10), [(10, 1), (0, 1)], lambda index, strides: [...])

A view is a pointer into its operand with strides of its own; no elements move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from engines.graph.ir import Node
from engines.graph.lower.walk import Shape, joined, strides_in
from engines.ops.shape import basic_index


class Place(NamedTuple):
    """Where a value stands: a pointer, and its strides in elements."""

    pointer: str
    strides: Shape
    ctype: str


def strides_in_full(shape: Shape) -> Shape:
    """Strides of a contiguous value, those of single elements included."""
    return strides_in(shape, shape)


def offset(index: Sequence[str], strides: Shape) -> str:
    """An index as C adds it up."""
    return " + ".join(f"{i} * {stride}L" for i, stride in zip(index, strides, strict=True) if stride) or "0"


def spread(strides: Shape, given: Shape, shape: Shape) -> Shape:
    """Strides of a value that is broadcast to `shape`."""
    padded = (0,) * (len(shape) - len(given)) + strides
    sizes = (1,) * (len(shape) - len(given)) + given
    return tuple(0 if size == 1 else stride for size, stride in zip(sizes, padded, strict=True))


Inside = Callable[[Sequence[str], Sequence[Shape]], list[str]]


def loops(shape: Shape, layouts: Sequence[Shape], inside: Inside, *, simd: str = "simd") -> Iterator[str]:
    """Loops over a shape, with as few dimensions as the layouts allow; the innermost as OpenMP is told by `simd`."""
    sizes, strides = joined(shape, layouts, keep_rows=False)
    index = [f"i{d}" for d in range(len(sizes))]
    for d, (i, size) in enumerate(zip(index, sizes, strict=True)):
        if simd and d == len(sizes) - 1 and size > 1:
            yield f"#pragma omp {simd}"
        yield f"for (long {i} = 0; {i} < {size}L; {i}++) {{"
    yield from inside(index, strides)
    yield "}" * len(sizes)


# Views: where the results stand, if they can stand in the operand


def indexed(place: Place, shape: Shape, key: Sequence[object]) -> Place:
    """Where the elements stand that a basic index takes."""
    view = torch.empty_strided(shape, place.strides, device="meta")[basic_index(tuple(key))]
    strides = tuple(0 if size == 1 else step for size, step in zip(view.shape, view.stride(), strict=True))
    return Place(f"({place.pointer} + {view.storage_offset()}L)", strides, place.ctype)


def _reshaped(node: Node, place: Place, shape: Shape) -> list[Place] | None:
    if place.strides != strides_in_full(shape):
        return None
    return [place._replace(strides=strides_in_full(node.outputs[0].spec.shape))]


def _permuted(node: Node, place: Place, _: Shape) -> list[Place]:
    return [place._replace(strides=tuple(place.strides[d] for d in node.attrs["dims"]))]


def _broadcast(node: Node, place: Place, shape: Shape) -> list[Place]:
    return [place._replace(strides=spread(place.strides, shape, node.outputs[0].spec.shape))]


def _split(node: Node, place: Place, shape: Shape) -> list[Place]:
    dim, found, at = node.attrs["dim"] % len(shape), [], 0
    for var in node.outputs:
        size = var.spec.shape[dim]
        strides = tuple(0 if d == dim and size == 1 else s for d, s in enumerate(place.strides))
        found.append(Place(f"({place.pointer} + {at * place.strides[dim]}L)", strides, place.ctype))
        at += size
    return found


def _unstacked(node: Node, place: Place, shape: Shape) -> list[Place]:
    dim = node.attrs["dim"] % len(shape)
    strides = tuple(s for d, s in enumerate(place.strides) if d != dim)
    return [
        Place(f"({place.pointer} + {n * place.strides[dim]}L)", strides, place.ctype) for n in range(len(node.outputs))
    ]


VIEWED: Mapping[str, Callable[[Node, Place, Shape], list[Place] | None]] = {
    "reshape": _reshaped,
    "permute": _permuted,
    "broadcast_to": _broadcast,
    "getitem": lambda node, place, shape: [indexed(place, shape, node.attrs["key"])],
    "split": _split,
    "unstack": _unstacked,
    "stop_gradient": lambda _node, place, _shape: [place],
}
"""Ops whose results are pointers into their operand."""
