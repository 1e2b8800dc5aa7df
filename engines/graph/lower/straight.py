"""A sub-graph as straight-line C: what a trip of a loop that is C as a whole consists of.

    body = Straight(double=False)
    body.write(graph, places)          # its inputs stand at `places`; may be called again for what comes after
    body.lines, body.arena, body.own

Neighbouring elementwise ops of one shape share a loop; views are pointers with strides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from engines.graph.domain import COMPARISONS, MAPS, ROWWISE, domain
from engines.graph.fused import readers_of, reads
from engines.graph.ir import Graph, Node, Operand, Var
from engines.graph.lower.arena import Arena, UnfitError, count
from engines.graph.lower.formulas import FORMULAS, TRUTHS
from engines.graph.lower.places import VIEWED, Place, loops, offset, spread, strides_in_full
from engines.graph.lower.walk import Shape
from engines.graph.lower.written import WRITTEN, copied

LARGEST_VALUE = 16 * 1024
"""Elements of the largest value that is made or read element by element: beyond, threads pay."""

UNBOUNDED = frozenset({*VIEWED, "embedding", "matmul", "linear"})
"""Ops that touch no elements, few of them, or have a limit of their own."""

INTEGERS = frozenset({"add", "sub", "mul", "logical_not", *TRUTHS, *COMPARISONS})
"""Ops that C has for whole numbers and truth values."""


class Straight:
    """The statements of a sub-graph, the memory that they use, and the buffers of what is carried on."""

    def __init__(self, double: bool) -> None:
        self.arena = Arena("d" if double else "f")
        self.lines: list[str] = []
        self.own: list[str] = []
        self._group: list[Node] = []
        self._readers: Mapping[Var, list[Node | None]] = {}

    def write(self, graph: Graph, given: Mapping[int, Place]) -> None:
        """The nodes of a graph whose inputs stand at `given`. Raises UnfitError."""
        if graph.constants:
            raise UnfitError
        self._readers = readers_of(graph)
        self.arena.enter(graph, given)
        for number, node in enumerate(graph.nodes):
            if not self._group:
                self.arena.release(number)
            sizes = [count(var) for var in (*reads(node), *node.outputs)]
            if 0 in sizes or (node.op.name not in UNBOUNDED and max(sizes, default=0) > LARGEST_VALUE):
                raise UnfitError
            self._node(node)
        self._flush()
        carried = [var for name, var in graph.outputs.items() if name.startswith("carry")]
        for var in carried:
            target = self.arena.room(var)
            self.lines += copied(self.arena, var, target.pointer)
            self.own.append(target.pointer)
        self.arena.leave()

    def _node(self, node: Node) -> None:
        name = node.op.name
        if name in VIEWED:
            self._view(node)
        elif self._is_elementwise(node):
            self._element(node)
        elif name in WRITTEN:
            self._flush()
            self.lines += WRITTEN[name](self.arena, node)
        else:
            raise UnfitError

    def _view(self, node: Node) -> None:
        given = node.inputs[0]
        assert isinstance(given, Var)
        found = VIEWED[node.op.name](node, self.arena.places[given], given.spec.shape)
        if found is None:  # a reshape of what is no longer contiguous
            self._flush()
            (out,) = node.outputs
            target = self.arena.buffer(out)
            self.lines += copied(self.arena, given, target.pointer)
            return
        self.arena.places.update(zip(node.outputs, found, strict=True))

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
            pointers = {self.arena.places[v].pointer for v in ours}
            turned = any(i not in ours and self.arena.places[i].pointer in pointers for i in reads(node))
            narrow = any(i in ours and i.spec.shape != out.spec.shape for i in reads(node))
            if turned or narrow or self._group[0].outputs[0].spec.shape != out.spec.shape:
                self._flush()
        self.arena.buffer(out)
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
        stores.sort(key=lambda v: int(self.arena.places[v].pointer[1:]))
        layouts = [spread(self.arena.places[v].strides, v.spec.shape, shape) for v in loads]
        layouts += [self.arena.places[v].strides for v in stores]
        layouts.append(strides_in_full(shape))

        def inside(index: Sequence[str], strides: Sequence[Shape]) -> list[str]:
            names = {var: f"v{n}" for n, var in enumerate([*loads, *(v for node in group for v in node.outputs)])}
            lines = [
                f"const {_local(v)} {names[v]} = {self.arena.places[v].pointer}[{offset(index, strides[n])}];"
                for n, v in enumerate(loads)
            ]
            for out, node in ((node.outputs[0], node) for node in group):
                lines += [f"const {_local(out)} {names[out]} = {self._formula(node, names)};"]
            for n, v in enumerate(stores, len(loads)):
                lines.append(f"{self.arena.places[v].pointer}[{offset(index, strides[n])}] = {names[v]};")
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
        return (TRUTHS if name in TRUTHS else FORMULAS)[name](operands, node, self.arena.kind)


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
