"""Ops of a loop's trip that have loops of their own in C: sums, products, and what joins or puts back.

    for line in WRITTEN["matmul"](arena, node): ...        # which gives the result a buffer

`T` is the float type of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from engines.graph.fused import reads
from engines.graph.ir import Node, Var
from engines.graph.lower.arena import Arena, UnfitError, count
from engines.graph.lower.places import indexed, loops, offset, strides_in_full
from engines.graph.lower.walk import kept_shape, strides_in

LARGEST_PRODUCT = 64 * 1024
"""Multiplications of the largest matrix product: beyond, BLAS is faster than a plain loop."""

Writer = Callable[[Arena, Node], Iterator[str]]


def copied(arena: Arena, var: Var, target: str) -> Iterator[str]:
    """Statements that write a value to `target`, contiguously."""
    shape, place = var.spec.shape, arena.places[var]
    yield from loops(
        shape,
        [place.strides, strides_in_full(shape)],
        lambda i, s: [f"{target}[{offset(i, s[1])}] = {place.pointer}[{offset(i, s[0])}];"],
    )


def _reduced(arena: Arena, node: Node) -> Iterator[str]:
    """A sum or a mean, in double precision."""
    given, (out,) = node.inputs[0], node.outputs
    assert isinstance(given, Var)
    shape, source = given.spec.shape, arena.places[given]
    if not out.spec.dtype.is_floating_point or not given.spec.dtype.is_floating_point:
        raise UnfitError
    kept = kept_shape(node, shape)
    target = arena.buffer(out)
    size = count(out)
    divisor = count(given) // size if node.op.name == "mean" else 1
    yield f"{{ double sums[{size}] = {{0}};"
    yield from loops(
        shape,
        [source.strides, strides_in(shape, kept)],
        lambda i, s: [f"sums[{offset(i, s[1])}] += {source.pointer}[{offset(i, s[0])}];"],
        simd=False,
    )
    yield f"for (long j = 0; j < {size}L; j++) {target.pointer}[j] = (T)(sums[j] / {divisor}); }}"


def _product(arena: Arena, node: Node) -> Iterator[str]:
    """A matrix product of two matrices, or a linear layer."""
    a, b, *bias = node.inputs
    assert isinstance(a, Var)
    assert isinstance(b, Var)
    if len(a.spec.shape) != 2 or len(b.spec.shape) != 2 or not a.spec.dtype.is_floating_point:
        raise UnfitError
    (n, k), turned = a.spec.shape, node.op.name == "linear"
    m = b.spec.shape[0 if turned else 1]
    if n * m * k > LARGEST_PRODUCT:
        raise UnfitError
    left, right = arena.places[a], arena.places[b]
    along, across = (right.strides[1], right.strides[0]) if turned else right.strides
    target = arena.buffer(node.outputs[0])
    start, step = "NULL", 0
    if bias and isinstance(bias[0], Var):
        start, step = arena.places[bias[0]].pointer, arena.places[bias[0]].strides[0]
    yield "{"
    packed = right.pointer
    if across != 1 or along != m:
        packed = "packed"
        yield f"T packed[{k * m}];"
        yield f"for (long l = 0; l < {k}L; l++) for (long j = 0; j < {m}L; j++)"
        yield f"  packed[l * {m}L + j] = {right.pointer}[l * {along}L + j * {across}L];"
    yield (
        f"product_{arena.kind}({left.pointer}, {left.strides[0]}L, {left.strides[1]}L, {packed}, {start}, {step}L, "
        f"{target.pointer}, {n}L, {m}L, {k}L); }}"
    )


def _joined(arena: Arena, node: Node) -> Iterator[str]:
    """Values one after another along a dimension."""
    (out,) = node.outputs
    target, dim = arena.buffer(out), node.attrs["dim"] % len(out.spec.shape)
    at = 0
    for var in reads(node):
        place = arena.places[var]
        first = at * target.strides[dim] if out.spec.shape[dim] > 1 else 0
        yield from loops(
            var.spec.shape,
            [place.strides, target.strides],
            lambda i, s, place=place, first=first: [  # type: ignore[misc]
                f"{target.pointer}[{first}L + {offset(i, s[1])}] = {place.pointer}[{offset(i, s[0])}];"
            ],
        )
        at += var.spec.shape[dim]


def _put_back(arena: Arena, node: Node) -> Iterator[str]:
    """Zeros, and a value where it was taken from."""
    given, (out,) = node.inputs[0], node.outputs
    assert isinstance(given, Var)
    source, target = arena.places[given], arena.buffer(out)
    found = indexed(target, out.spec.shape, node.attrs["key"])
    yield f"memset({target.pointer}, 0, {count(out)} * sizeof({target.ctype}));"
    yield from loops(
        given.spec.shape,
        [source.strides, found.strides],
        lambda i, s: [f"({found.pointer})[{offset(i, s[1])}] = {source.pointer}[{offset(i, s[0])}];"],
    )


WRITTEN: Mapping[str, Writer] = {
    "sum": _reduced,
    "mean": _reduced,
    "sum_to": _reduced,
    "matmul": _product,
    "linear": _product,
    "concat": _joined,
    "getitem_backward": _put_back,
}
"""By the name of the op."""
