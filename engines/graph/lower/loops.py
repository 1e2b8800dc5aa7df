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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.formulas import FORMULAS, ROWS, UPDATES
from engines.ops.reduction import reduced_dims

PIECE_LENGTH, PIECE_COST = 32, 20
"""Nodes of the longest piece, and what they may cost together: a processor overlaps turns of a short loop only."""

CACHE_BYTES = 128 * 1024
"""What the buffers of one block may take of the nearer caches."""

SHORTEST_BLOCK, LONGEST_BLOCK = 16, 1024

PARALLEL_WORK = 1 << 16
"""Elements times cost from which on threads share a region."""

COSTS: Mapping[str, int] = {"tanh": 8, "exp": 8, "sigmoid": 8, "dropout_mask": 8, "div": 2, "sqrt": 2}
"""Ops that cost more than one simple instruction an element."""

CTYPES = {torch.float32: "float", torch.float64: "double"}
SUMS = frozenset({"sum", "mean", "sum_to", "nll_loss"})

Shape = tuple[int, ...]


class Place(NamedTuple):
    """Where a value stands while a block is worked on: an outer pointer (`number` >= 0) or a thread's buffer (< 0)."""

    number: int
    ctype: str
    moves: bool  # on from element to element


@dataclass
class Outer:
    """A pointer from outside: where it comes from, its element type, and its strides over the joined dimensions."""

    base: str
    ctype: str
    strides: Shape


@dataclass
class Pieces:
    """The functions of a file, each once."""

    names: dict[str, str] = field(default_factory=dict)

    def name(self, text: str) -> str:
        """The name of the function with this body."""
        return self.names.setdefault(text, f"piece_{len(self.names)}")

    def __str__(self) -> str:
        return "\n".join(f"static void {name}(PIECE) {{{text}\n}}" for text, name in self.names.items())


# Shapes and strides


def strides_in(shape: Shape, given: Shape) -> Shape:
    """The strides, in elements, of a contiguous operand of shape `given` that is broadcast to `shape`."""
    strides, step = [], 1
    padded = (1,) * (len(shape) - len(given)) + tuple(given)
    for size in reversed(padded):
        strides.append(0 if size == 1 else step)
        step *= size
    return tuple(reversed(strides))


def joined(shape: Shape, layouts: Sequence[Shape], *, keep_rows: bool) -> tuple[Shape, list[Shape]]:
    """The same walk with as few dimensions as possible, and each layout's strides in these; at least one dimension."""
    sizes: list[int] = []
    columns: list[list[int]] = []
    for d, size in reversed(list(enumerate(shape))):
        steps = [layout[d] for layout in layouts]
        whole = size == 1 and not (keep_rows and d == len(shape) - 1)
        fits = sizes and not (keep_rows and len(sizes) == 1)
        if whole:
            continue
        if fits and all(step == inner * sizes[-1] for step, inner in zip(steps, columns[-1], strict=True)):
            sizes[-1] *= size
        else:
            sizes.append(size)
            columns.append(steps)
    if not sizes:
        sizes, columns = [1], [[0] * len(layouts)]
    return tuple(reversed(sizes)), [tuple(reversed(strides)) for strides in zip(*columns, strict=True)]


def _kept(node: Node, shape: Shape) -> Shape:
    """The shape of a reduction's result as if reduced dimensions had been kept with size 1."""
    if node.op.name == "sum_to":
        return tuple(node.attrs["shape"])
    if node.op.name == "nll_loss":
        return ()
    gone = reduced_dims(shape, node.attrs["dim"])
    return tuple(1 if d in gone else size for d, size in enumerate(shape))


def _given_shape(node: Node, index: int) -> Shape:
    """The shape of an operand, as it is broadcast to the region's: a label goes with a row."""
    operand = node.inputs[index]
    assert isinstance(operand, Var)
    shape = operand.spec.shape
    return (*shape, 1) if node.op.name in {"nll_loss", "nll_loss_backward"} and index == 1 else shape


# One region


def fits(body: Graph) -> bool:
    """Whether every value is there when it is read, and as large as C takes it to be, which would not notice."""
    defined = set(body.inputs.values())
    for node in body.nodes:
        shape, _ = _goes_over(node)
        ours = [(index, var) for index, var in enumerate(node.inputs) if isinstance(var, Var)]
        if any(var not in defined for _, var in ours) or not defined.isdisjoint(node.outputs):
            return False
        whole = node.op.name in UPDATES or (node.op.name in ROWS and "nll_loss" not in node.op.name)
        if not all(_reaches(_given_shape(node, index), shape, whole=whole) for index, _ in ours):
            return False
        if node.op.name in SUMS and math.prod(node.outputs[0].spec.shape) != math.prod(_kept(node, shape)):
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
        groups.setdefault(_goes_over(node), []).append(node)
    nests = [
        str(Nest(nodes, shape, CTYPES[dtype], pointers, results, pieces)) for (shape, dtype), nodes in groups.items()
    ]
    lines = ", ".join(dict.fromkeys(comment(str(node.where)) for node in body.nodes))
    return "\n".join([f"// {lines}", f"int {name}(void **p) {{", "  int bad = 0;", *nests, "  return bad;", "}"])


def comment(text: str) -> str:
    """Text that cannot end its comment, or continue it."""
    return "".join(char if char.isprintable() and char != "\\" else "?" for char in text)


def _goes_over(node: Node) -> tuple[Shape, torch.dtype]:
    values = [i for i in (*node.inputs, *node.outputs) if isinstance(i, Var)]
    dtype = next(var.spec.dtype for var in values if var.spec.dtype.is_floating_point)
    over = node.inputs[0] if node.op.name in SUMS else node.outputs[0]
    assert isinstance(over, Var)
    return over.spec.shape, dtype


class Nest:
    """The loops over one shape. `str` of it is C."""

    def __init__(
        self,
        nodes: Sequence[Node],
        shape: Shape,
        ctype: str,
        pointers: Mapping[Var, str],
        results: Mapping[Var, Sequence[str]],
        pieces: Pieces,
    ) -> None:
        self.nodes = nodes
        self.ctype = ctype
        self.pieces = pieces
        self.by_rows = any(node.op.name in ROWS for node in nodes)
        self.outers: list[Outer] = []
        self.loaded: dict[tuple[Var, Shape], int] = {}
        self.stored: dict[Var, list[int]] = {}
        self.sums: list[tuple[int, Node, Sequence[str]]] = []  # the first of its totals, the node, where they go
        self.totals = 0
        self._collect(shape, pointers, results)
        self.sizes, strides = joined(shape, [outer.strides for outer in self.outers], keep_rows=self.by_rows)
        for outer, found in zip(self.outers, strides, strict=True):
            outer.strides = found
        self.cut = list(_cut(nodes))
        self.places, self.buffers = self._places()
        self.inner, self.outer = self.sizes[-1], math.prod(self.sizes[:-1])
        self.block = self.inner if self.by_rows else min(_block(self.buffers, ctype), self.inner)
        cost = sum(map(_cost, nodes))
        self.parallel = self.inner * self.outer * cost >= PARALLEL_WORK
        alone = any(node.op.name in UPDATES for node in nodes)
        self.padded = 1 < self.inner < SHORTEST_BLOCK and not self.by_rows and not alone

    def _collect(self, shape: Shape, pointers: Mapping[Var, str], results: Mapping[Var, Sequence[str]]) -> None:
        """Every pointer from outside, with its strides over the shape."""
        for node in self.nodes:
            for index, operand in enumerate(node.inputs):
                if isinstance(operand, Var) and operand in pointers and node.op.name != "full_like":
                    given = _given_shape(node, index)
                    if (operand, given) not in self.loaded:
                        self.loaded[operand, given] = self._add(pointers[operand], operand, strides_in(shape, given))
            if node.op.name in SUMS:
                kept = _kept(node, shape)
                self.sums.append((self.totals, node, results.get(node.outputs[0], ())))
                self.stored[node.outputs[0]] = [self._add(f"mine + {self.totals}", "double", strides_in(shape, kept))]
                self.totals += math.prod(kept)
            elif node.op.name not in UPDATES:
                whole = strides_in(shape, shape)
                for var in node.outputs:
                    self.stored[var] = [self._add(base, var, whole) for base in results.get(var, ())]

    def _add(self, base: str, element: Var | str, strides: Shape) -> int:
        self.outers.append(Outer(base, element if isinstance(element, str) else _memory(element), strides))
        return len(self.outers) - 1

    def _places(self) -> tuple[dict[Var, Place], int]:
        """Where values stand that one piece makes and another reads: a result's own memory, or a buffer; how many."""
        last = {i: number for number, piece in enumerate(self.cut) for node in piece for i in node.inputs}
        places: dict[Var, Place] = {}
        free: list[int] = []
        ending: dict[int, list[int]] = {}
        count = 0
        for number, piece in enumerate(self.cut):
            made = [
                v for node in piece if node.op.name not in SUMS and node.op.name not in UPDATES for v in node.outputs
            ]
            for var in made:
                if self.stored[var]:
                    places[var] = Place(self.stored[var][0], _memory(var), True)
                elif last.get(var, -1) > number or piece[0].op.name in ROWS:
                    if not free:
                        free.append(count)
                        count += 1
                    slot = free.pop()
                    places[var] = Place(~slot, self.ctype, True)
                    ending.setdefault(max(last.get(var, number), number), []).append(slot)
            free += ending.pop(number, [])
        return places, count

    def place(self, node: Node, index: int) -> Place:
        """Where an operand stands that the piece at hand does not make."""
        operand = node.inputs[index]
        assert isinstance(operand, Var)
        number = self.loaded.get((operand, _given_shape(node, index)))
        if number is None:
            return self.places[operand]
        outer = self.outers[number]
        return Place(number, outer.ctype, outer.strides[-1] == 1)

    def __str__(self) -> str:
        calls = [Piece(self, nodes) for nodes in self.cut]
        values = [v for call in calls for v in call.values]
        numbers = [v for call in calls for v in call.numbers]
        width = _rounded(self.block) * _width(self.ctype)
        blocks = -(-self.inner // self.block)
        lines = ["  {", f"    static const int values[] = {{{_listed(values)}}};"]
        lines.append(
            f"    static const {self.ctype} numbers[] = {{{_listed(_number(n, self.ctype) for n in numbers)}}};"
        )
        if len(calls) > 1:
            lines.append(f"    static const step steps[] = {{{_listed(self._steps(calls))}}};")
        if self.totals:
            threads = "omp_get_max_threads()" if self.parallel else "1"
            lines.append(f"    double *totals = calloc({threads} * {self.totals}L, sizeof(double));")
            lines.append("    if (totals == NULL) return 2;")
        lines += ["    #pragma omp parallel" if self.parallel else "", "    {"]
        lines += self._memory_of_a_thread(width)
        lines.append("      #pragma omp for schedule(static)" if self.parallel else "")
        lines.append(f"      for (long task = 0; task < {self.outer * blocks}L; task++) {{")
        lines += [f"        {line}" for line in self._task(blocks)]
        if len(calls) == 1:
            lines.append(f"        {calls[0].name}(b, t, values, numbers, n, real, at, {width}L);")
        else:
            lines.append(f"        for (long j = 0; j < {len(calls)}L; j++)")
            lines.append("          steps[j].run(b, t, values + steps[j].values, numbers + steps[j].numbers, n, real,")
            lines.append(f"                       at, {width}L);")
        lines += [f"        {line}" for line in self._taken_back()]
        lines += ["      }", "      free(heap);" if self._on_heap(width) else "", "    }"]
        lines += self._totalled()
        return "\n".join(line for line in [*lines, "  }"] if line)

    def _on_heap(self, width: int) -> bool:
        return self.buffers * width > 1 << 17

    def _memory_of_a_thread(self, width: int) -> Iterator[str]:
        size = max(self.buffers * width, 64)
        if self._on_heap(width):
            yield f"      char *heap = malloc({size}L + 64), *t = (char *)(((uintptr_t)heap + 63) & ~(uintptr_t)63);"
        else:
            yield f"      char t[{size}] __attribute__((aligned(64)));"
        if self.totals:
            yield f"      double *mine = totals + {'omp_get_thread_num()' if self.parallel else '0'} * {self.totals}L;"

    def _task(self, blocks: int) -> Iterator[str]:
        """Where the task begins, for every pointer."""
        if blocks > 1:
            yield f"const long row = task / {blocks}, first = task % {blocks} * {self.block}L;"
            yield f"const long left = {self.inner}L - first, n = left < {self.block}L ? left : {self.block}L, real = n;"
        else:
            count = SHORTEST_BLOCK if self.padded else self.inner
            yield f"const long row = task, first = 0, n = {count}L, real = {self.inner}L;"
        yield f"const long at = row * {self.inner}L + first;"
        rest = self.outer
        for d, size in enumerate(self.sizes[:-1]):
            rest //= size
            yield f"const long d{d} = row / {rest}L % {size}L;"
        pointers = [f"({outer.ctype} *){outer.base}{self._offset(outer)}" for outer in self.outers]
        for number in self._widened():
            outer = self.outers[number]
            yield f"{outer.ctype} wide{number}[{SHORTEST_BLOCK}] = {{0}}, *const narrow{number} = {pointers[number]};"
            yield f"memcpy(wide{number}, narrow{number}, real * sizeof({outer.ctype}));"
            pointers[number] = f"wide{number}"
        yield f"void *const b[] = {{{', '.join([*pointers, '&bad'])}}};"

    def _widened(self) -> list[int]:
        """Pointers to so few elements that a whole vector would reach beyond: these are worked on in a copy."""
        return [number for number, outer in enumerate(self.outers) if self.padded and outer.strides[-1]]

    def _taken_back(self) -> Iterator[str]:
        """The copies that were written to, back to where they come from."""
        written = {number for numbers in self.stored.values() for number in numbers}
        for number in self._widened():
            if number in written:
                yield f"memcpy(narrow{number}, wide{number}, real * sizeof({self.outers[number].ctype}));"

    def _offset(self, outer: Outer) -> str:
        moves = [f"d{d} * {stride}L" for d, stride in enumerate(outer.strides[:-1]) if stride]
        return "".join(f" + {part}" for part in [*moves, *["first"][: outer.strides[-1]]])

    def _steps(self, calls: Sequence[Piece]) -> Iterator[str]:
        values = numbers = 0
        for call in calls:
            yield f"{{{call.name}, {values}, {numbers}}}"
            values, numbers = values + len(call.values), numbers + len(call.numbers)

    def _totalled(self) -> Iterator[str]:
        """The threads' totals added up, in their order, and divided where a mean is asked for."""
        if not self.totals:
            return
        threads = "omp_get_max_threads()" if self.parallel else "1"
        elements = self.inner * self.outer
        for first, node, bases in self.sums:
            count = math.prod(node.outputs[0].spec.shape)
            divisor = {"mean": elements // count, "nll_loss": elements // self.inner}.get(node.op.name, 1)
            yield f"    for (long j = 0; j < {count}L; j++) {{"
            yield "      double total = 0;"
            yield f"      for (int k = 0; k < {threads}; k++) total += totals[k * {self.totals}L + {first}L + j];"
            for base in bases:
                yield f"      (({self.ctype} *){base})[j] = total / {divisor};"
            yield "    }"
        yield "    free(totals);"


def _memory(var: Var) -> str:
    """The C type of a value's elements outside the region."""
    return {torch.bool: "uint8_t", torch.int64: "int64_t"}.get(var.spec.dtype) or CTYPES[var.spec.dtype]


def _cost(node: Node) -> int:
    return COSTS.get(node.op.name, 1)


def _cut(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Pieces: an op on rows stands alone."""
    piece: list[Node] = []
    for node in nodes:
        full = len(piece) == PIECE_LENGTH or sum(map(_cost, piece)) + _cost(node) > PIECE_COST
        if piece and (full or node.op.name in ROWS):
            yield piece
            piece = []
        if node.op.name in ROWS:
            yield [node]
        else:
            piece.append(node)
    if piece:
        yield piece


def _width(ctype: str) -> int:
    return 4 if ctype == "float" else 8


def _block(buffers: int, ctype: str) -> int:
    """Elements of a block, as many as let the buffers stay in the nearest cache."""
    fitting = CACHE_BYTES // (max(buffers, 1) * _width(ctype)) // SHORTEST_BLOCK * SHORTEST_BLOCK
    return min(max(fitting, SHORTEST_BLOCK), LONGEST_BLOCK)


def _rounded(count: int) -> int:
    return -(-count // SHORTEST_BLOCK) * SHORTEST_BLOCK


def _listed(parts: Iterable[object]) -> str:
    return ", ".join(map(str, parts)) or "0"


def _number(value: float, ctype: str) -> str:
    """A number as C, exactly as torch rounds it to the region's type."""
    rounded = float(np.float32(value)) if ctype == "float" else float(value)
    if not math.isfinite(rounded):
        return "NAN" if math.isnan(rounded) else f"{'-' if rounded < 0 else ''}INFINITY"
    return rounded.hex()


class Piece:
    """One function over a block: its name, and what is handed to it."""

    def __init__(self, nest: Nest, nodes: Sequence[Node]) -> None:
        self._nest = nest
        self.values: list[int] = []
        self.numbers: list[float] = []
        self._head: list[str] = []
        self._loop: list[str] = []
        self._tail: list[str] = []
        self._names: dict[Var, str] = {}
        self._pointers: dict[tuple[int, str], str] = {}
        self._reduced: list[str] = []
        if nodes[0].op.name in ROWS:
            self._row(nodes[0])
        else:
            for node in nodes:
                self._element(node)
        self.name = nest.pieces.name(self._text())

    def _text(self) -> str:
        lines = [f"typedef {self._nest.ctype} T;", *self._head]
        if self._loop:
            sums = f" reduction(+:{', '.join(self._reduced)})" if self._reduced else ""
            lines += [f"#pragma omp simd{sums}", "for (long i = 0; i < n; i++) {", *(f"  {s}" for s in self._loop), "}"]
        return "".join(f"\n  {line}" for line in [*lines, *self._tail])

    def _pointer(self, place: Place) -> str:
        """The name of a pointer to where a value stands."""
        key = (place.number, place.ctype)
        if key not in self._pointers:
            name = self._pointers[key] = f"a{len(self.values)}"
            ctype = place.ctype if place.number >= 0 else self._nest.ctype
            self._head.append(f"{ctype} *const {name} = PLACE({ctype}, {len(self.values)});")
            self.values.append(place.number)
        return self._pointers[key]

    def _literal(self, value: float) -> str:
        name = f"k{len(self.numbers)}"
        self._head.append(f"const T {name} = ((const T *)numbers)[{len(self.numbers)}];")
        self.numbers.append(value)
        return name

    def _operand(self, node: Node, index: int) -> str:
        operand = node.inputs[index]
        if not isinstance(operand, Var):
            assert operand is not None
            return self._literal(operand)
        if operand in self._names:
            return self._names[operand]
        place = self._nest.place(node, index)
        pointer = self._pointer(place)
        name = f"v{len(self._names)}"
        load = f"const {'int64_t' if place.ctype == 'int64_t' else _value(operand)} {name} = {pointer}"
        if place.moves:
            self._loop.append(f"{load}[i];")
        else:
            self._head.append(f"{load}[0];")
        if (operand, _given_shape(node, index)) not in self._nest.loaded or _given_shape(
            node, index
        ) == operand.spec.shape:
            self._names[operand] = name
        else:
            self._names[Var(operand.spec)] = name  # as a label: read in another way by another op
        return name

    def _element(self, node: Node) -> None:
        if node.op.name in UPDATES:
            self._update(node)
            return
        if node.op.name in SUMS:
            self._sum(node)
            return
        if node.op.name == "full_like":
            operands = [self._literal(node.attrs["value"])]
        else:
            operands = [self._operand(node, index) for index in range(len(node.inputs))]
        (out,) = node.outputs
        kind = "f" if self._nest.ctype == "float" else "d"
        name = f"v{len(self._names)}"
        self._loop.append(f"const {_value(out)} {name} = {FORMULAS[node.op.name](operands, node, kind)};")
        self._names[out] = name
        targets = [Place(number, _memory(out), True) for number in self._nest.stored[out]]
        if out in self._nest.places and self._nest.places[out].number < 0:
            targets.append(self._nest.places[out])
        self._loop += [f"{self._pointer(target)}[i] = {name};" for target in targets]

    def _sum(self, node: Node) -> None:
        value = self._operand(node, 0)
        (number,) = self._nest.stored[node.outputs[0]]
        moves = self._nest.outers[number].strides[-1] == 1
        totals = self._pointer(Place(number, "double", moves))
        if moves:
            self._loop.append(f"{totals}[i] += {value};")
            return
        sum_name = f"s{len(self._reduced)}"
        self._reduced.append(sum_name)
        self._head.append(f"T {sum_name} = 0;")
        self._loop.append(f"{sum_name} += i < real ? {value} : 0;")
        self._tail.append(f"{totals}[0] += {sum_name};")

    def _update(self, node: Node) -> None:
        places = [self._pointer(self._nest.place(node, index)) for index in range(len(node.inputs))]
        numbers = {name: self._literal(value) for name, value in node.attrs.items()}
        self._loop.append(UPDATES[node.op.name].format(*(f"{place}[i]" for place in places), **numbers))

    def _row(self, node: Node) -> None:
        kind = "f" if self._nest.ctype == "float" else "d"
        for index, operand in enumerate(node.inputs):
            assert isinstance(operand, Var)
            place = self._nest.place(node, index)
            pointer = self._pointer(place)
            ctype = place.ctype if place.number >= 0 else "T"
            self._head.append(f"const {ctype} *const x{index} = {pointer};")
        (out,) = node.outputs
        target = self._nest.places.get(out) or Place(self._nest.stored[out][0], "double", False)
        self._head.append(f"{'double' if node.op.name in SUMS else 'T'} *const out = {self._pointer(target)};")
        if "*bad" in ROWS[node.op.name]:
            self._head.append(f"int *const bad = {self._pointer(Place(len(self._nest.outers), 'int', False))};")
        if "scale" in ROWS[node.op.name]:
            self._head.append(f"const T scale = {self._literal(-1.0 / node.attrs['shape'][0])};")
        self._tail.append(ROWS[node.op.name].strip().replace("_K(", f"_{kind}("))


def _value(var: Var) -> str:
    """The C type of a value inside a piece."""
    return "int" if var.spec.dtype == torch.bool else "T"
