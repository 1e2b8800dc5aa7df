"""Where the values of a loop's trip stand: a buffer each in one arena, free again after its last reader.

arena.enter(graph, places)         # inputs stand at `places`
place = arena.buffer(value)        # room until its last reader has run
arena.release(number)              # of what nobody reads from node `number` on
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch

from engines.graph.fused import reads
from engines.graph.ir import Graph, Var
from engines.graph.lower.places import VIEWED, Place, strides_in_full

CTYPES = {torch.float32: "T", torch.float64: "T", torch.bool: "uint8_t", torch.int64: "int64_t"}
"""What C calls the dtypes that a loop may have; T is its float type."""

LINE_BYTES = 64


class UnfitError(Exception):
    """A loop that is not for C."""


class Arena:
    """Places of values. `kind` is "f" or "d" by the float type; `declared` names buffers in C, `bytes` is their sum."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.bytes = 0
        self.places: dict[Var, Place] = {}
        self.declared: list[str] = []
        self._names = itertools.count()
        self._last: Mapping[Var, float] = {}
        self._free: dict[int, list[int]] = {}  # places in the arena, by size
        self._used: list[tuple[float, int, int]] = []  # until which node, size, place

    def enter(self, graph: Graph, given: Mapping[int, Place]) -> None:
        """Begin with a graph whose inputs stand at `given`."""
        self.places.update({var: given[i] for i, var in enumerate(graph.inputs.values())})
        self._last = _last_reads(graph)

    def buffer(self, var: Var) -> Place:
        """Room of a value's own."""
        place = self.places[var] = self.room(var, self._last.get(var, math.inf))
        return place

    def room(self, var: Var, last: float = math.inf) -> Place:
        """Memory for a value until the node of number `last` has run."""
        ctype, size = CTYPES[var.spec.dtype], -(-count(var) * var.spec.dtype.itemsize // LINE_BYTES) * LINE_BYTES
        free = self._free.get(size)
        if free:
            at = free.pop()
        else:
            at, self.bytes = self.bytes, self.bytes + size
        self._used.append((last, size, at))
        name = f"b{next(self._names)}"
        self.declared.append(f"{ctype} *const {name} = ({ctype} *)(arena + {at}L);")
        return Place(name, strides_in_full(var.spec.shape), ctype)

    def release(self, now: float) -> None:
        """Give back the memory of values whose last reader has run before the node of number `now`."""
        for _, size, at in (used for used in self._used if used[0] < now):
            self._free.setdefault(size, []).append(at)
        self._used = [used for used in self._used if used[0] >= now]

    def leave(self) -> None:
        """End a graph: what is used no longer than by its nodes is never used again, what outlives them stays."""
        self._used = [used for used in self._used if used[0] == math.inf]


def count(var: Var) -> int:
    """The elements of a value."""
    return math.prod(var.spec.shape)


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
