"""When the memory of each value is taken and given back, and how much is in use at each node.

    memory = Memory.of(graph)
    memory.peak_bytes, memory.levels[3]          # the most at once, and the bytes in use while node number 3 runs

A value is alive from the node that makes it to the last that reads it or a view of it, both included; what the caller
gets is alive to the end. Inputs, constants and what an update leaves in them count nothing, nor does what a kernel
takes for itself. Within these rules `peak_bytes` is the least that an order of nodes can do with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from engines.graph.fused import FUSED, reads
from engines.graph.ir import VIEWS, Graph, Node, Var

COPIES = frozenset({"cast", "sum_to"})
"""Of the ops whose result may be a view: those that make one only where shape and dtype stay."""


@dataclass(slots=True)
class Life:
    """From which node to which a storage is in use, by position; `len(graph.nodes)` is the caller."""

    first: int
    last: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The storages that a graph's nodes make, and the bytes in use at each node."""

    owners: Mapping[Var, Var]
    lives: Mapping[Var, Life]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph) -> Memory:
        """As the nodes stand; nothing is written over its own input unless the op itself, or the plan, does so."""
        owners = standing(graph)
        lives = lifetimes(graph, owners)
        return cls(owners, lives, levels(lives.values(), len(graph.nodes)))

    @property
    def peak_bytes(self) -> int:
        """The most in use at once."""
        return max(self.levels, default=0)


def standing(graph: Graph) -> dict[Var, Var]:
    """For each value that stands, or may stand, in the storage of another: in which one's."""
    owners: dict[Var, Var] = {}
    places = {} if graph.plan is None else graph.plan.places
    for node in graph.nodes:
        planned = ((var, places.get(var)) for var in node.outputs)
        for var, given in (*_shared(node), *planned):
            if isinstance(given, Var):
                owners[var] = owners.get(given, given)
    return owners


def _shared(node: Node) -> Iterator[tuple[Var, Var]]:
    if node.op is FUSED:
        body: Graph = node.attrs["body"]
        given = dict(zip(body.inputs.values(), node.inputs, strict=True))
        made = {part.outputs[i]: part.inputs[i] for part in body.nodes for i in part.op.donates}
        for out, inner in zip(node.outputs, body.outputs.values(), strict=True):
            source = made.get(inner)
            donor = given.get(source) if isinstance(source, Var) else None
            if isinstance(donor, Var):
                yield out, donor
        return
    for index in node.op.donates:
        donor = node.inputs[index]
        if isinstance(donor, Var):
            yield node.outputs[index], donor
    source = node.inputs[0] if node.op.name in VIEWS else None
    if isinstance(source, Var):
        copied = node.op.name in COPIES and source.spec != node.outputs[0].spec
        yield from () if copied else ((var, source) for var in node.outputs)


def lifetimes(graph: Graph, owners: Mapping[Var, Var]) -> dict[Var, Life]:
    """The life of each storage that a node makes."""
    lives: dict[Var, Life] = {}
    for position, node in enumerate(graph.nodes):
        for given in reads(node):
            life = lives.get(owners.get(given, given))
            if life is not None:
                life.last = position
        for var in node.outputs:
            if var not in owners:
                lives[var] = Life(position, position, bytes_of(var))
    for var in graph.outputs.values():
        life = lives.get(owners.get(var, var))
        if life is not None:
            life.last = len(graph.nodes)
    return lives


def bytes_of(var: Var) -> int:
    """The size of a value's elements."""
    return math.prod(var.spec.shape) * var.spec.dtype.itemsize


def levels(lives: Iterable[Life], count: int) -> tuple[int, ...]:
    """The bytes in use at each of `count` nodes."""
    changes = [0] * (count + 2)
    for life in lives:
        changes[life.first] += life.bytes
        changes[life.last + 1] -= life.bytes
    return tuple(accumulate(changes[:count]))


def is_opaque(node: Node) -> bool:
    """Whether a node runs a body of which it is not known in whose storage its results stand."""
    return "body" in node.attrs and node.op is not FUSED
