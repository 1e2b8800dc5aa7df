"""Ops of a loop's trip that have loops of their own in C: sums, products, rows, and what picks or puts back.

    for line in WRITTEN["matmul"](arena, node): ...        # which gives the result a buffer

`T` is the float type of the loop. What meets an index outside sets `status`, and the trip ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping

import torch

from engines.graph.domain import domain
from engines.graph.fused import reads
from engines.graph.ir import Node, Var
from engines.graph.lower import blas
from engines.graph.lower.arena import CTYPES, Arena, UnfitError, count
from engines.graph.lower.formulas import ROWS
from engines.graph.lower.places import Place, indexed, loops, offset, strides_in_full
from engines.graph.lower.products import product
from engines.graph.lower.walk import Shape, kept_shape, strides_in

LARGEST_SMALL = 64 * 1024
"""Multiplications of the largest matrix product that one thread does, its sizes constants of the text."""

LARGEST_PRODUCT = 512 * 1024
"""Multiplications of the largest that threads share here: beyond, a BLAS is faster."""

NARROW, LARGEST_NARROW = range(2, 33), 2 * 1024 * 1024
"""Rows or columns of a narrow result, and the multiplications of the largest: a BLAS makes little of one."""

SHARES, SHARE_OF = 8, 8
"""Into how many parts a narrow product is cut for threads, and what their sizes are multiples of."""

LARGEST_ROWS = 256 * 1024
"""Elements of the largest table of rows that are taken from another: beyond, it leaves the processor's cache."""

OUTSIDE = 3
"""What C returns that met an index outside."""

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
    if size == 1:
        yield "{ double total = 0;"
        yield from loops(
            shape,
            [source.strides],
            lambda i, s: [f"total += {source.pointer}[{offset(i, s[0])}];"],
            simd="simd reduction(+:total)",
        )
        yield f"{target.pointer}[0] = (T)(total / {divisor}); }}"
        return
    yield f"{{ double sums[{size}] = {{0}};"
    yield from loops(
        shape,
        [source.strides, strides_in(shape, kept)],
        lambda i, s: [f"sums[{offset(i, s[1])}] += {source.pointer}[{offset(i, s[0])}];"],
        simd="",
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
    target = arena.buffer(node.outputs[0])
    begin = arena.places[bias[0]] if bias and isinstance(bias[0], Var) else None
    start = "NULL" if begin is None else begin.pointer
    if n * m * k > LARGEST_SMALL:
        if min(n, m) == 1:  # outside a loop such a product has kernels of its own, `few_rows.py`, faster than a BLAS
            raise UnfitError
        large = n * m * k > (LARGEST_NARROW if min(n, m) in NARROW else LARGEST_PRODUCT)
        write = _by_blas if large else _shared
        yield from write(arena, a, b, (n, m, k), turned, target, start, 0 if begin is None else begin.strides[0])
        return
    left, right = arena.places[a], arena.places[b]
    along, across = (right.strides[1], right.strides[0]) if turned else right.strides
    yield "{"
    packed = right.pointer
    if across != 1 or along != m:
        packed = "packed"
        yield f"T packed[{k * m}];"
        yield f"for (long l = 0; l < {k}L; l++) for (long j = 0; j < {m}L; j++)"
        yield f"  packed[l * {m}L + j] = {right.pointer}[l * {along}L + j * {across}L];"
    steps = (left.strides[0], left.strides[1])
    name = product(arena.kind, (n, m, k), steps, None if begin is None else begin.strides[0])
    yield f"{name}({left.pointer}, {packed}, {start}, {target.pointer}); }}"


def _shared(
    arena: Arena, a: Var, b: Var, sizes: tuple[int, int, int], turned: bool, target: Place, start: str, step: int
) -> Iterator[str]:
    """A product whose result is shared out among threads along its longer side."""
    (n, m, k), order = sizes, -1 if turned else 1
    left, right = arena.places[a], arena.places[b]
    if 1 not in right.strides:
        right = yield from _contiguous(arena, b)
    bk, bj = right.strides[::order]
    if bj != 1 and left.strides[1] != 1:
        left = yield from _contiguous(arena, a)
    ai, ak = left.strides
    name, steps_a, steps_b = ("outer", f"{ai}L, {ak}L", bk) if bj == 1 else ("dots", f"{ai}L", bj)
    size = max(n, m)
    share = -(-size // (SHARES * SHARE_OF)) * SHARE_OF
    rows, columns = ("size", f"{m}L") if n >= m else (f"{n}L", "size")
    first, then = (f" + c * {ai}L", "") if n >= m else ("", f" + c * {bj}L")
    begin = start if n >= m or start == "NULL" else f"{start} + c * {step}L"
    to = f"{target.pointer} + c * {m if n >= m else 1}L"
    yield "#pragma omp parallel for schedule(static)"
    yield f"for (long c = 0; c < {size}L; c += {share}L) {{"
    yield f"const long size = c + {share}L < {size}L ? {share}L : {size}L - c;"
    yield f"{name}_{arena.kind}({left.pointer}{first}, {steps_a}, {right.pointer}{then}, {steps_b}L, {begin}, {step}L,"
    yield f"  {to}, {m}L, {rows}, {columns}, {k}L); }}"


def _by_blas(
    arena: Arena, a: Var, b: Var, sizes: tuple[int, int, int], turned: bool, target: Place, start: str, step: int
) -> Iterator[str]:
    """A product that PyTorch's BLAS makes."""
    if not blas.available():
        raise UnfitError
    (n, m, k), given = sizes, []
    for var, shape, order in ((a, (n, k), 1), (b, (k, m), -1 if turned else 1)):
        place = arena.places[var]
        by = _by_rows_or_columns(place.strides[::order], shape)
        if by is None:
            place = yield from _contiguous(arena, var)
            by = _by_rows_or_columns(place.strides[::order], shape)
        given.append(f"{place.pointer}, {by}")
    yield f"gemm_{arena.kind}({', '.join(given)}, {start}, {step}L, {target.pointer}, {n}L, {m}L, {k}L);"


def _by_rows_or_columns(strides: Shape, shape: Shape) -> str | None:
    """How a BLAS is told where a matrix lies: by rows or by columns, so far apart. None where neither lie together."""
    (rows, columns), (height, width) = strides, shape
    if (columns == 1 or width == 1) and (rows >= width or height == 1):
        return f"'N', {max(rows, width)}L"
    if (rows == 1 or height == 1) and (columns >= height or width == 1):
        return f"'T', {max(columns, height)}L"
    return None


def _contiguous(arena: Arena, var: Var) -> Generator[str, None, Place]:
    """Statements that put a value into one piece until the next op, if it is not; gives its place."""
    place = arena.places[var]
    if place.strides == strides_in_full(var.spec.shape):
        return place
    found = arena.room(var, last=-1)
    yield from copied(arena, var, found.pointer)
    return found


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


def _rowwise(arena: Arena, node: Node) -> Iterator[str]:
    """A softmax or its like over the last of two dimensions."""
    if domain(node) is None:
        raise UnfitError
    pointers = []
    for var in reads(node):
        place = yield from _contiguous(arena, var)
        pointers.append(place.pointer)
    (out,) = node.outputs
    target, (rows, columns) = arena.buffer(out), out.spec.shape
    yield f"for (long r = 0; r < {rows}L; r++) {{"
    yield from (f"const T *const x{i} = {pointer} + r * {columns}L;" for i, pointer in enumerate(pointers))
    yield f"T *const out = {target.pointer} + r * {columns}L; const long n = {columns}L;"
    yield ROWS[node.op.name].strip().replace("_K(", f"_{arena.kind}(") + " }"


def _index(at: str, size: int) -> str:
    """The beginning of a block in which `at` is an index below `size`."""
    return f"{{ int64_t at = {at}; if ((uint64_t)at >= {size}u) {{ status = {OUTSIDE}; at = 0; }}"


def _embedding(arena: Arena, node: Node) -> Iterator[str]:
    """The rows that an index names."""
    weight, index = reads(node)
    (out,) = node.outputs
    if len(weight.spec.shape) != 2 or count(out) > LARGEST_ROWS:
        raise UnfitError
    source, named, target = arena.places[weight], arena.places[index], arena.buffer(out)
    (rows, width), (down, along) = weight.spec.shape, source.strides
    yield from loops(
        index.spec.shape,
        [named.strides, target.strides[:-1]],
        lambda i, s: [
            _index(f"{named.pointer}[{offset(i, s[0])}]", rows),
            f"const {source.ctype} *const row = {source.pointer} + at * {down}L;",
            f"{target.ctype} *const to = {target.pointer} + {offset(i, s[1])};",
            f"for (long j = 0; j < {width}L; j++) to[j] = row[j * {along}L]; }}",
        ],
        simd="",
    )


def _gathered(arena: Arena, node: Node) -> Iterator[str]:
    """An element for each of an index, by its place along a dimension."""
    given, index = reads(node)
    (out,) = node.outputs
    yield from _along(arena, node, index, (given, arena.places[given]), arena.buffer(out), "{each} = {found};")


def _scattered(arena: Arena, node: Node) -> Iterator[str]:
    """A value to which another is added where an index says along a dimension."""
    given, index, source = reads(node)
    (out,) = node.outputs
    target = arena.buffer(out)
    yield from copied(arena, given, target.pointer)
    yield from _along(arena, node, index, (out, target), arena.places[source], "{found} += {each};")


def _gathered_back(arena: Arena, node: Node) -> Iterator[str]:
    """Zeros, to which gradients are added where elements were taken from."""
    source, index = reads(node)
    (out,) = node.outputs
    target = arena.buffer(out)
    yield f"memset({target.pointer}, 0, {count(out)} * sizeof({target.ctype}));"
    yield from _along(arena, node, index, (out, target), arena.places[source], "{found} += {each};")


def _along(
    arena: Arena, node: Node, index: Var, table: tuple[Var, Place], each: Place, statement: str
) -> Iterator[str]:
    """A statement for each element of an index: `found` is where it points in the table along a dimension."""
    shape, place = table[0].spec.shape, table[1]
    if not shape or place.ctype == CTYPES[torch.bool]:  # truths do not add up as bytes do
        raise UnfitError
    dim, named = node.attrs["dim"] % len(shape), arena.places[index]
    yield from loops(
        index.spec.shape,
        [named.strides, _without(place.strides, dim), each.strides],
        lambda i, s: [
            _index(f"{named.pointer}[{offset(i, s[0])}]", shape[dim]),
            statement.format(
                found=f"{place.pointer}[{offset(i, s[1])} + at * {place.strides[dim]}L]",
                each=f"{each.pointer}[{offset(i, s[2])}]",
            )
            + " }",
        ],
        simd="",
    )


def _without(strides: Shape, dim: int) -> Shape:
    return tuple(0 if d == dim else stride for d, stride in enumerate(strides))


WRITTEN: Mapping[str, Writer] = {
    "sum": _reduced,
    "mean": _reduced,
    "sum_to": _reduced,
    "matmul": _product,
    "linear": _product,
    "concat": _joined,
    "getitem_backward": _put_back,
    "log_softmax": _rowwise,
    "log_softmax_backward": _rowwise,
    "softmax": _rowwise,
    "softmax_backward": _rowwise,
    "embedding": _embedding,
    "gather": _gathered,
    "gather_backward": _gathered_back,
    "scatter_add": _scattered,
}
"""By the name of the op."""
