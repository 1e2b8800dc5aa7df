"""Whole loops in C: a scan, or a while loop that keeps nothing, whose body is of small and plain ops.

Every value has a buffer of its own, free again after its last reader; views are pointers with strides. Neighbouring
elementwise ops of one shape share a loop. Shapes are constants of the text, so that the compiler may unroll all of it.
Bodies with larger products or values are left to the kernels, which have threads and better blocking.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from engines.graph.control import SCAN, WHILE
from engines.graph.domain import MAPS, ROWWISE, domain
from engines.graph.fused import inline, readers_of, reads
from engines.graph.ir import Graph, Node, Operand, Var
from engines.graph.lower.formulas import FORMULAS
from engines.graph.lower.loops import comment
from engines.graph.lower.places import VIEWED, Place, indexed, loops, offset, spread, strides_in_full
from engines.graph.lower.walk import Shape, kept_shape, strides_in

LARGEST_PRODUCT = 64 * 1024
"""Multiplications of the largest matrix product: beyond, BLAS is faster than a plain loop."""

LARGEST_VALUE = 16 * 1024
"""Elements of the largest value: beyond, threads pay."""


INTEGERS = frozenset({"add", "sub", "mul", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})
CTYPES = {torch.float32: "T", torch.float64: "T", torch.bool: "uint8_t", torch.int64: "int64_t"}


class UnfitError(Exception):
    """A loop that is not for C."""


def whole(name: str, node: Node) -> str | None:
    """A C function `int name(void **p)` for a loop; p points to inputs, then to outputs. None where C does not fit.

    It gives 0, or 1 where a while loop would pass its limit.
    """
    try:
        return _Loop(name, node).text()
    except UnfitError:
        return None


def fits(node: Node) -> bool:
    """Whether the loop is of a kind that `whole` may write."""
    if node.op is WHILE:
        return len(node.outputs) == int(node.attrs["carried"])
    return node.op is SCAN and node.attrs["length"] is not None


class _Loop:
    """The text of one loop."""

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self.node = node
        self.parts = [inline(part) for part in node.attrs["body"]]
        dtypes = {v.spec.dtype for part in self.parts for n in part.nodes for v in (*reads(n), *n.outputs)}
        dtypes |= {v.spec.dtype for v in (*node.inputs, *node.outputs) if isinstance(v, Var)}
        floats = {dtype for dtype in dtypes if dtype.is_floating_point}
        devices = {v.spec.device for v in (*node.inputs, *node.outputs) if isinstance(v, Var)}
        if len(floats) != 1 or not dtypes <= set(CTYPES) or devices != {"cpu"}:
            raise UnfitError
        self.double = floats == {torch.float64}

    def text(self) -> str:
        """The function."""
        node, carried = self.node, self.node.attrs["carried"]
        end, count = carried + node.attrs.get("scanned", 0), len(node.inputs)
        head, places = [], {}
        for i, operand in enumerate(node.inputs):
            assert isinstance(operand, Var)
            ctype = CTYPES[operand.spec.dtype]
            at = count + i if i < carried else i
            head.append(f"{ctype} *const in{i} = p[{at}];")
            if i < carried:
                head.append(f"memcpy(in{i}, p[{i}], {_size(operand)} * sizeof({ctype}));")
        trip = []
        for i, operand in enumerate(node.inputs):
            assert isinstance(operand, Var)
            ctype = CTYPES[operand.spec.dtype]
            shape = operand.spec.shape[1:] if carried <= i < end else operand.spec.shape
            if carried <= i < end:
                trip.append(f"{ctype} *const row{i} = in{i} + t * {math.prod(shape)}L;")
            places[i] = Place(f"row{i}" if carried <= i < end else f"in{i}", strides_in_full(shape), ctype)
        body = _Body(self.double)
        if node.op is WHILE:
            condition = self.parts[0]
            body.write(condition, places)
            (holds,) = condition.outputs.values()
            body.lines += [f"if (!{body.places[holds].pointer}[0]) break;"]
            body.lines += [f"if (t == {node.attrs['limit']}L) {{ status = 1; break; }}"]
        body.write(self.parts[-1], places)
        body.lines += self._kept(body, carried, count)
        order = "length - 1 - s" if node.attrs.get("reverse") else "s"
        length = "INT64_MAX" if node.op is WHILE else f"{node.attrs['length']}L"
        return "\n".join(
            [
                f"// from {comment(str(node.where))}",
                f"int {self.name}(void **p) {{",
                f"  typedef {'double' if self.double else 'float'} T;",
                f"  char *const heap = malloc({body.bytes}L + 64);",
                "  if (heap == NULL) return 2;",
                "  char *const arena = (char *)(((uintptr_t)heap + 63) & ~(uintptr_t)63);",
                "  int status = 0;",
                f"  const int64_t length = {length};",
                *(f"  {line}" for line in head),
                "  for (int64_t s = 0; s < length; s++) {",
                f"    const int64_t t = {order};",
                *(f"    {line}" for line in [*trip, *body.lines]),
                "  }",
                "  free(heap);",
                "  return status;",
                "}",
            ]
        )

    def _kept(self, body: _Body, carried: int, count: int) -> Iterator[str]:
        """The rows of ys, then the next carry."""
        results = list(self.parts[-1].outputs.values())
        for i, var in enumerate(results[carried:], carried):
            target = f"(({CTYPES[var.spec.dtype]} *)p[{count + i}] + t * {_size(var)}L)"
            yield from body.copied(var, target)
        for i, var in enumerate(results[:carried]):
            yield f"memcpy(in{i}, {body.own[i]}, {_size(var)} * sizeof({CTYPES[var.spec.dtype]}));"


def _last_reads(graph: Graph) -> dict[Var, float]:
    """The number of the last node that reads each value or a view of it; results are read by what comes after all."""
    owners: dict[Var, Var] = {}
    last: dict[Var, float] = {}
    for number, node in enumerate(graph.nodes):
        for var in reads(node):
            last[owners.get(var, var)] = number
            if node.op.name in VIEWED:
                owners.update(dict.fromkeys(node.outputs, owners.get(var, var)))
    last.update(dict.fromkeys((owners.get(var, var) for var in graph.outputs.values()), math.inf))
    return last


def _size(var: Var) -> int:
    return math.prod(var.spec.shape)


class _Body:
    """Straight-line C of a sub-graph."""

    def __init__(self, double: bool) -> None:
        self.kind = "d" if double else "f"
        self.lines: list[str] = []
        self.bytes = 0
        self.places: dict[Var, Place] = {}
        self.own: list[str] = []  # the buffers of what is carried on
        self._group: list[Node] = []
        self._readers: Mapping[Var, list[Node | None]] = {}
        self._names = itertools.count()
        self._last: dict[Var, float] = {}
        self._free: dict[int, list[int]] = {}  # places in the arena, by size
        self._used: list[tuple[float, int, int]] = []  # until which node, size, place

    def write(self, graph: Graph, given: Mapping[int, Place]) -> None:
        """The nodes of a graph whose inputs stand at `given`."""
        if graph.constants:
            raise UnfitError
        self.places.update({var: given[i] for i, var in enumerate(graph.inputs.values())})
        self._readers = readers_of(graph)
        self._last = _last_reads(graph)
        for number, node in enumerate(graph.nodes):
            if not self._group:
                self._release(number)
            if any(_size(var) > LARGEST_VALUE or _size(var) == 0 for var in (*reads(node), *node.outputs)):
                raise UnfitError
            self._node(node)
        self._flush()
        carried = [var for name, var in graph.outputs.items() if name.startswith("carry")]
        for var in carried:
            target = self._room(var, math.inf)
            self.lines += self.copied(var, target.pointer)
            self.own.append(target.pointer)
        self._used = [used for used in self._used if used[0] == math.inf]

    def _node(self, node: Node) -> None:
        name = node.op.name
        if name in VIEWED:
            self._view(node)
        elif self._is_elementwise(node):
            self._element(node)
        elif name in WRITTEN:
            self._flush()
            self.lines += WRITTEN[name](self, node)
        else:
            raise UnfitError

    def _buffer(self, var: Var) -> Place:
        """Room of a value's own."""
        place = self.places[var] = self._room(var, self._last.get(var, math.inf))
        return place

    def _room(self, var: Var, last: float) -> Place:
        """Memory for a value until the node of number `last` has run."""
        ctype, size = CTYPES[var.spec.dtype], -(-_size(var) * var.spec.dtype.itemsize // 64) * 64
        free = self._free.get(size)
        if free:
            at = free.pop()
        else:
            at, self.bytes = self.bytes, self.bytes + size
        self._used.append((last, size, at))
        name = f"b{next(self._names)}"
        self.lines.append(f"{ctype} *const {name} = ({ctype} *)(arena + {at}L);")
        return Place(name, strides_in_full(var.spec.shape), ctype)

    def _release(self, now: int) -> None:
        """Give back the memory of values whose last reader has run."""
        for _, size, at in (used for used in self._used if used[0] < now):
            self._free.setdefault(size, []).append(at)
        self._used = [used for used in self._used if used[0] >= now]

    # Views

    def _view(self, node: Node) -> None:
        given = node.inputs[0]
        assert isinstance(given, Var)
        found = VIEWED[node.op.name](node, self.places[given], given.spec.shape)
        if found is None:  # a reshape of what is no longer contiguous
            self._flush()
            (out,) = node.outputs
            target = self._buffer(out)
            self.lines += self.copied(given, target.pointer)
            return
        self.places.update(zip(node.outputs, found, strict=True))

    def copied(self, var: Var, target: str) -> Iterator[str]:
        """Statements that write a value to `target`, contiguously."""
        shape = var.spec.shape
        yield from loops(
            shape,
            [self.places[var].strides, strides_in_full(shape)],
            lambda i, s: [f"{target}[{offset(i, s[1])}] = {self.places[var].pointer}[{offset(i, s[0])}];"],
        )

    # Elementwise

    def _is_elementwise(self, node: Node) -> bool:
        name = node.op.name
        if name == "copy":
            return True
        if name == "cast":
            return node.outputs[0].spec.dtype.is_floating_point
        values = (*reads(node), *node.outputs)
        if name in INTEGERS and not any(v.spec.dtype.is_floating_point for v in values):
            return all(isinstance(i, int) for i in node.inputs if not isinstance(i, Var))
        known = name in MAPS and name not in ROWWISE and name in FORMULAS and name != "dropout_mask"
        return known and domain(node) is not None

    def _element(self, node: Node) -> None:
        (out,) = node.outputs
        if self._group:
            ours = {v for other in self._group for v in other.outputs}
            pointers = {self.places[v].pointer for v in ours}
            turned = any(i not in ours and self.places[i].pointer in pointers for i in reads(node))
            narrow = any(i in ours and i.spec.shape != out.spec.shape for i in reads(node))
            if turned or narrow or self._group[0].outputs[0].spec.shape != out.spec.shape:
                self._flush()
        self._buffer(out)
        self._group.append(node)

    def _flush(self) -> None:
        """One loop over the elements of the ops that wait."""
        group, self._group = self._group, []
        if not group:
            return
        shape = group[0].outputs[0].spec.shape
        made = {v for node in group for v in node.outputs}
        loads = list(dict.fromkeys(i for node in group for i in reads(node) if i not in made))
        stores = [v for v in made if any(r not in group for r in self._readers.get(v, ()))]
        stores.sort(key=lambda v: int(self.places[v].pointer[1:]))
        layouts = [spread(self.places[v].strides, v.spec.shape, shape) for v in loads]
        layouts += [self.places[v].strides for v in stores]
        layouts.append(strides_in_full(shape))

        def inside(index: Sequence[str], strides: Sequence[Shape]) -> list[str]:
            names = {var: f"v{n}" for n, var in enumerate([*loads, *(v for node in group for v in node.outputs)])}
            lines = [
                f"const {_local(v)} {names[v]} = {self.places[v].pointer}[{offset(index, strides[n])}];"
                for n, v in enumerate(loads)
            ]
            for out, node in ((node.outputs[0], node) for node in group):
                lines += [f"const {_local(out)} {names[out]} = {self._formula(node, names)};"]
            for n, v in enumerate(stores, len(loads)):
                lines.append(f"{self.places[v].pointer}[{offset(index, strides[n])}] = {names[v]};")
            return lines

        self.lines += loops(shape, layouts, inside)

    def _formula(self, node: Node, names: Mapping[Var, str]) -> str:
        name = node.op.name
        whole_numbers = not any(v.spec.dtype.is_floating_point for v in (*reads(node), *node.outputs))
        operands = [_operand(i, names, whole_numbers) for i in node.inputs]
        if name == "full_like":
            operands = [_operand(node.attrs["value"], names, whole_numbers)]
        if name in ("copy", "cast"):
            return operands[0]
        return FORMULAS[name](operands, node, self.kind)

    # Everything else

    def reduced(self, node: Node) -> Iterator[str]:
        """A sum or a mean, in double precision."""
        given, (out,) = node.inputs[0], node.outputs
        assert isinstance(given, Var)
        shape, source = given.spec.shape, self.places[given]
        if not out.spec.dtype.is_floating_point or not given.spec.dtype.is_floating_point:
            raise UnfitError
        kept = kept_shape(node, shape)
        target = self._buffer(out)
        count = _size(out)
        divisor = _size(given) // count if node.op.name == "mean" else 1
        yield f"{{ double sums[{count}] = {{0}};"
        yield from loops(
            shape,
            [source.strides, strides_in(shape, kept)],
            lambda i, s: [f"sums[{offset(i, s[1])}] += {source.pointer}[{offset(i, s[0])}];"],
            simd=False,
        )
        yield f"for (long j = 0; j < {count}L; j++) {target.pointer}[j] = (T)(sums[j] / {divisor}); }}"

    def product(self, node: Node) -> Iterator[str]:
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
        left, right = self.places[a], self.places[b]
        along, across = (right.strides[1], right.strides[0]) if turned else right.strides
        target = self._buffer(node.outputs[0])
        start, step = "NULL", 0
        if bias and isinstance(bias[0], Var):
            start, step = self.places[bias[0]].pointer, self.places[bias[0]].strides[0]
        yield "{"
        packed = right.pointer
        if across != 1 or along != m:
            packed = "packed"
            yield f"T packed[{k * m}];"
            yield f"for (long l = 0; l < {k}L; l++) for (long j = 0; j < {m}L; j++)"
            yield f"  packed[l * {m}L + j] = {right.pointer}[l * {along}L + j * {across}L];"
        yield (
            f"product_{self.kind}({left.pointer}, {left.strides[0]}L, {left.strides[1]}L, {packed}, {start}, {step}L, "
            f"{target.pointer}, {n}L, {m}L, {k}L); }}"
        )

    def joined(self, node: Node) -> Iterator[str]:
        """Values one after another along a dimension."""
        (out,) = node.outputs
        target, dim = self._buffer(out), node.attrs["dim"] % len(out.spec.shape)
        at = 0
        for var in reads(node):
            place = self.places[var]
            first = at * target.strides[dim] if out.spec.shape[dim] > 1 else 0
            yield from loops(
                var.spec.shape,
                [place.strides, target.strides],
                lambda i, s, place=place, first=first: [  # type: ignore[misc]
                    f"{target.pointer}[{first}L + {offset(i, s[1])}] = {place.pointer}[{offset(i, s[0])}];"
                ],
            )
            at += var.spec.shape[dim]

    def put_back(self, node: Node) -> Iterator[str]:
        """Zeros, and a value where it was taken from."""
        given, (out,) = node.inputs[0], node.outputs
        assert isinstance(given, Var)
        source, target = self.places[given], self._buffer(out)
        found = indexed(target, out.spec.shape, node.attrs["key"])
        yield f"memset({target.pointer}, 0, {_size(out)} * sizeof({target.ctype}));"
        yield from loops(
            given.spec.shape,
            [source.strides, found.strides],
            lambda i, s: [f"({found.pointer})[{offset(i, s[1])}] = {source.pointer}[{offset(i, s[0])}];"],
        )


WRITTEN: Mapping[str, Callable[[_Body, Node], Iterator[str]]] = {
    "sum": _Body.reduced,
    "mean": _Body.reduced,
    "sum_to": _Body.reduced,
    "matmul": _Body.product,
    "linear": _Body.product,
    "concat": _Body.joined,
    "getitem_backward": _Body.put_back,
}
"""Ops with loops of their own."""


def _local(var: Var) -> str:
    return {torch.bool: "int", torch.int64: "int64_t"}.get(var.spec.dtype, "T")


def _operand(operand: Operand, names: Mapping[Var, str], whole_numbers: bool) -> str:
    if isinstance(operand, Var):
        return names[operand]
    if operand is None:
        raise UnfitError
    if whole_numbers:
        return f"INT64_C({int(operand)})"
    number = float(operand)
    if math.isnan(number) or math.isinf(number):
        return "(T)NAN" if math.isnan(number) else "(T)INFINITY" if number > 0 else "(-(T)INFINITY)"
    return f"((T){number.hex()})"
