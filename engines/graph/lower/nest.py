"""A nest of loops over one shape, before it is written: its pointers, its pieces, and where each value stands.

nest = Nest(nodes, shape, "float", pointers, results)
nest.sizes, nest.block, nest.cut, nest.places
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engines.graph.ir import Node, Var
from engines.graph.lower.formulas import ROWS, UPDATES
from engines.graph.lower.walk import SUMS, Shape, given_shape, joined, kept_shape, memory_type, strides_in, width_of

PIECE_LENGTH, PIECE_COST = 32, 20
"""Nodes of the longest piece, and what they may cost together: a processor overlaps turns of a short loop only."""

CACHE_BYTES = 128 * 1024
"""What the buffers of one block may take of the nearer caches."""

SHORTEST_BLOCK, LONGEST_BLOCK = 16, 1024

PARALLEL_WORK = 1 << 16
"""Elements times cost from which on threads share a region."""

COSTS: Mapping[str, int] = {"tanh": 8, "exp": 8, "sigmoid": 8, "dropout_mask": 8, "div": 2, "sqrt": 2}
"""Ops that cost more than one simple instruction an element."""


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


class Nest:
    """The loops over one shape: everything that must be known to write them."""

    def __init__(
        self,
        nodes: Sequence[Node],
        shape: Shape,
        ctype: str,
        pointers: Mapping[Var, str],
        results: Mapping[Var, Sequence[str]],
    ) -> None:
        self.nodes = nodes
        self.ctype = ctype
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
                    given = given_shape(node, index)
                    if (operand, given) not in self.loaded:
                        self.loaded[operand, given] = self._add(pointers[operand], operand, strides_in(shape, given))
            if node.op.name in SUMS:
                kept = kept_shape(node, shape)
                self.sums.append((self.totals, node, results.get(node.outputs[0], ())))
                self.stored[node.outputs[0]] = [self._add(f"mine + {self.totals}", "double", strides_in(shape, kept))]
                self.totals += math.prod(kept)
            elif node.op.name not in UPDATES:
                whole = strides_in(shape, shape)
                for var in node.outputs:
                    self.stored[var] = [self._add(base, var, whole) for base in results.get(var, ())]

    def _add(self, base: str, element: Var | str, strides: Shape) -> int:
        self.outers.append(Outer(base, element if isinstance(element, str) else memory_type(element), strides))
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
                    places[var] = Place(self.stored[var][0], memory_type(var), True)
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
        number = self.loaded.get((operand, given_shape(node, index)))
        if number is None:
            return self.places[operand]
        outer = self.outers[number]
        return Place(number, outer.ctype, outer.strides[-1] == 1)


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


def _block(buffers: int, ctype: str) -> int:
    """Elements of a block, as many as let the buffers stay in the nearest cache."""
    fitting = CACHE_BYTES // (max(buffers, 1) * width_of(ctype)) // SHORTEST_BLOCK * SHORTEST_BLOCK
    return min(max(fitting, SHORTEST_BLOCK), LONGEST_BLOCK)


def rounded(count: int) -> int:
    """Elements of a buffer that whole vectors may be read from and written to."""
    return -(-count // SHORTEST_BLOCK) * SHORTEST_BLOCK
