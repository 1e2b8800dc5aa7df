"""From a fused region to C: loops over blocks of elements, each block going through the region's pieces.

A region goes over one shape. Dimensions are joined as far as every operand's strides allow; what is left are an inner
loop, in which an operand stands still or moves on by one, and an outer one, cut into tasks that threads share. The
inner loop is cut into blocks so short that the values of one block stay in the nearer caches, and the region's nodes
into pieces, each a vectorised loop. Pieces that read alike are one C function: numbers and places are its arguments, so
that a chain of a hundred thousand ops compiles as fast as one of a hundred.

Sums are taken in the region's type within a block, and in double precision across blocks and threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.formulas import ROWS, UPDATES
from engines.graph.lower.nest import SHORTEST_BLOCK, Nest, Outer, rounded
from engines.graph.lower.piece import Piece, Pieces
from engines.graph.lower.walk import CTYPES, SUMS, Shape, given_shape, goes_over, kept_shape, width_of


def fits(body: Graph) -> bool:
    """Whether every value is there when it is read, and as large as C takes it to be, which would not notice."""
    defined = set(body.inputs.values())
    for node in body.nodes:
        shape, _ = goes_over(node)
        ours = [(index, var) for index, var in enumerate(node.inputs) if isinstance(var, Var)]
        if any(var not in defined for _, var in ours) or not defined.isdisjoint(node.outputs):
            return False
        whole = node.op.name in UPDATES or (node.op.name in ROWS and "nll_loss" not in node.op.name)
        if not all(_reaches(given_shape(node, index), shape, whole=whole) for index, _ in ours):
            return False
        if node.op.name in SUMS and math.prod(node.outputs[0].spec.shape) != math.prod(kept_shape(node, shape)):
            return False
        defined.update(node.outputs)
    return defined.issuperset(body.outputs.values())


def _reaches(given: Shape, shape: Shape, *, whole: bool) -> bool:
    """Whether an operand of shape `given` may be read as one of `shape`: broadcast, or not where it must be whole."""
    padded = (1,) * (len(shape) - len(given)) + tuple(given)
    broadcast = len(padded) == len(shape) and all(size in {1, s} for size, s in zip(padded, shape, strict=True))
    return given == shape if whole else broadcast


def region(name: str, body: Graph, pieces: Pieces) -> str:
    """A C function `int name(void **p)`: p points to the body's inputs, then to its outputs; not 0 if it refuses."""
    pointers = {var: f"p[{number}]" for number, var in enumerate(body.inputs.values())}
    results: dict[Var, list[str]] = {}
    for number, var in enumerate(body.outputs.values(), len(body.inputs)):
        results.setdefault(var, []).append(f"p[{number}]")
    groups: dict[tuple[Shape, torch.dtype], list[Node]] = {}
    for node in body.nodes:
        groups.setdefault(goes_over(node), []).append(node)
    nests = [
        _nest_text(Nest(nodes, shape, CTYPES[dtype], pointers, results), pieces)
        for (shape, dtype), nodes in groups.items()
    ]
    lines = ", ".join(dict.fromkeys(comment(str(node.where)) for node in body.nodes))
    return "\n".join([f"// {lines}", f"int {name}(void **p) {{", "  int bad = 0;", *nests, "  return bad;", "}"])


def comment(text: str) -> str:
    """Text that cannot end its comment, or continue it."""
    return "".join(char if char.isprintable() and char != "\\" else "?" for char in text)


def _nest_text(nest: Nest, pieces: Pieces) -> str:
    """The loops of one nest."""
    calls = [Piece(nest, nodes, pieces) for nodes in nest.cut]
    width = rounded(nest.block) * width_of(nest.ctype)
    blocks = -(-nest.inner // nest.block)
    lines = ["  {", *_tables(nest, calls)]
    if nest.totals:
        threads = "omp_get_max_threads()" if nest.parallel else "1"
        lines.append(f"    double *totals = calloc({threads} * {nest.totals}L, sizeof(double));")
        lines.append("    if (totals == NULL) return 2;")
    lines += ["    #pragma omp parallel" if nest.parallel else "", "    {"]
    lines += _memory_of_a_thread(nest, width)
    lines.append("      #pragma omp for schedule(static)" if nest.parallel else "")
    lines.append(f"      for (long task = 0; task < {nest.outer * blocks}L; task++) {{")
    lines += [f"        {line}" for line in _task(nest, blocks)]
    if len(calls) == 1:
        lines.append(f"        {calls[0].name}(b, t, values, numbers, n, real, at, {width}L);")
    else:
        lines.append(f"        for (long j = 0; j < {len(calls)}L; j++)")
        lines.append("          steps[j].run(b, t, values + steps[j].values, numbers + steps[j].numbers, n, real,")
        lines.append(f"                       at, {width}L);")
    lines += [f"        {line}" for line in _taken_back(nest)]
    lines += ["      }", "      free(heap);" if _on_heap(nest, width) else "", "    }"]
    lines += _totalled(nest)
    return "\n".join(line for line in [*lines, "  }"] if line)


def _tables(nest: Nest, calls: Sequence[Piece]) -> Iterator[str]:
    """What is handed to the pieces: places, numbers, and, of several, which comes when."""
    values = [v for call in calls for v in call.values]
    numbers = [v for call in calls for v in call.numbers]
    yield f"    static const int values[] = {{{_listed(values)}}};"
    yield f"    static const {nest.ctype} numbers[] = {{{_listed(_number(n, nest.ctype) for n in numbers)}}};"
    if len(calls) > 1:
        yield f"    static const step steps[] = {{{_listed(_steps(calls))}}};"


def _on_heap(nest: Nest, width: int) -> bool:
    return nest.buffers * width > 1 << 17


def _memory_of_a_thread(nest: Nest, width: int) -> Iterator[str]:
    size = max(nest.buffers * width, 64)
    if _on_heap(nest, width):
        yield f"      char *heap = malloc({size}L + 64), *t = (char *)(((uintptr_t)heap + 63) & ~(uintptr_t)63);"
    else:
        yield f"      char t[{size}] __attribute__((aligned(64)));"
    if nest.totals:
        yield f"      double *mine = totals + {'omp_get_thread_num()' if nest.parallel else '0'} * {nest.totals}L;"


def _task(nest: Nest, blocks: int) -> Iterator[str]:
    """Where the task begins, for every pointer."""
    if blocks > 1:
        yield f"const long row = task / {blocks}, first = task % {blocks} * {nest.block}L;"
        yield f"const long left = {nest.inner}L - first, n = left < {nest.block}L ? left : {nest.block}L, real = n;"
    else:
        count = SHORTEST_BLOCK if nest.padded else nest.inner
        yield f"const long row = task, first = 0, n = {count}L, real = {nest.inner}L;"
    yield f"const long at = row * {nest.inner}L + first;"
    rest = nest.outer
    for d, size in enumerate(nest.sizes[:-1]):
        rest //= size
        yield f"const long d{d} = row / {rest}L % {size}L;"
    pointers = [f"({outer.ctype} *){outer.base}{_offset(outer)}" for outer in nest.outers]
    for number in _widened(nest):
        outer = nest.outers[number]
        yield f"{outer.ctype} wide{number}[{SHORTEST_BLOCK}] = {{0}}, *const narrow{number} = {pointers[number]};"
        yield f"memcpy(wide{number}, narrow{number}, real * sizeof({outer.ctype}));"
        pointers[number] = f"wide{number}"
    yield f"void *const b[] = {{{', '.join([*pointers, '&bad'])}}};"


def _widened(nest: Nest) -> list[int]:
    """Pointers to so few elements that a whole vector would reach beyond: these are worked on in a copy."""
    return [number for number, outer in enumerate(nest.outers) if nest.padded and outer.strides[-1]]


def _taken_back(nest: Nest) -> Iterator[str]:
    """The copies that were written to, back to where they come from."""
    written = {number for numbers in nest.stored.values() for number in numbers}
    for number in _widened(nest):
        if number in written:
            yield f"memcpy(narrow{number}, wide{number}, real * sizeof({nest.outers[number].ctype}));"


def _offset(outer: Outer) -> str:
    moves = [f"d{d} * {stride}L" for d, stride in enumerate(outer.strides[:-1]) if stride]
    return "".join(f" + {part}" for part in [*moves, *["first"][: outer.strides[-1]]])


def _steps(calls: Sequence[Piece]) -> Iterator[str]:
    values = numbers = 0
    for call in calls:
        yield f"{{{call.name}, {values}, {numbers}}}"
        values, numbers = values + len(call.values), numbers + len(call.numbers)


def _totalled(nest: Nest) -> Iterator[str]:
    """The threads' totals added up, in their order, and divided where a mean is asked for."""
    if not nest.totals:
        return
    threads = "omp_get_max_threads()" if nest.parallel else "1"
    elements = nest.inner * nest.outer
    for first, node, bases in nest.sums:
        count = math.prod(node.outputs[0].spec.shape)
        divisor = {"mean": elements // count, "nll_loss": elements // nest.inner}.get(node.op.name, 1)
        yield f"    for (long j = 0; j < {count}L; j++) {{"
        yield "      double total = 0;"
        yield f"      for (int k = 0; k < {threads}; k++) total += totals[k * {nest.totals}L + {first}L + j];"
        for base in bases:
            yield f"      (({nest.ctype} *){base})[j] = total / {divisor};"
        yield "    }"
    yield "    free(totals);"


def _listed(parts: Iterable[object]) -> str:
    return ", ".join(map(str, parts)) or "0"


def _number(value: float, ctype: str) -> str:
    """A number as C, exactly as torch rounds it to the region's type."""
    rounded = float(np.float32(value)) if ctype == "float" else float(value)
    if not math.isfinite(rounded):
        return "NAN" if math.isnan(rounded) else f"{'-' if rounded < 0 else ''}INFINITY"
    return rounded.hex()
