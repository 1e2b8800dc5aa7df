"""The functions that a region's loops call: each goes over one block of elements, or one row.

pieces = Pieces()
piece = Piece(nest, nodes, pieces)
piece.name, piece.values, piece.numbers     # what to call, with which places, with which numbers
str(pieces)                                 # their text, alike ones once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.graph.ir import Node, Var
from engines.graph.lower.formulas import FORMULAS, ROWS, UPDATES
from engines.graph.lower.nest import Nest, Place
from engines.graph.lower.walk import SUMS, given_shape, memory_type, value_type


@dataclass
class Pieces:
    """The functions of a file, each once."""

    names: dict[str, str] = field(default_factory=dict)
    included: dict[str, None] = field(default_factory=dict)

    def name(self, text: str) -> str:
        """The name of the function with this body."""
        return self.names.setdefault(text, f"piece_{len(self.names)}")

    def include(self, text: str) -> None:
        """Have this text stand once, before all functions."""
        self.included[text] = None

    def __str__(self) -> str:
        return "\n".join(
            [*self.included, *(f"static void {name}(PIECE) {{{text}\n}}" for text, name in self.names.items())]
        )


class Piece:
    """One function over a block: its name, and what is handed to it."""

    def __init__(self, nest: Nest, nodes: Sequence[Node], pieces: Pieces) -> None:
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
        self.name = pieces.name(self._text())

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
        load = f"const {'int64_t' if place.ctype == 'int64_t' else value_type(operand)} {name} = {pointer}"
        if place.moves:
            self._loop.append(f"{load}[i];")
        else:
            self._head.append(f"{load}[0];")
        if (operand, given_shape(node, index)) not in self._nest.loaded or given_shape(
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
        self._loop.append(f"const {value_type(out)} {name} = {FORMULAS[node.op.name](operands, node, kind)};")
        self._names[out] = name
        targets = [Place(number, memory_type(out), True) for number in self._nest.stored[out]]
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
