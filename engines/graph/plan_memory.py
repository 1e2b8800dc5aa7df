"""Memory planned ahead: what is alive at the same time stands side by side in one arena, whatever else over it.

    y = f(x), elementwise, x dead after it         -> y in x's place
    y, made by C or by a kernel that can write
      into given memory, dead before the end       -> y at an offset of the arena
    y, given to the caller                         -> memory of its own: the arena is used again by the next call
    y, of any other kernel (convolutions)          -> memory of its own, which the kernel takes, and in which a
                                                      dead y is followed by a result of its shape, by the first rule

Same outputs, bit for bit; the kernels of a plan are the same, only told where to write. Parameters that an update
overwrites are donated: their results stand in their storage, with or without a plan.

An arena is there during the whole call, so where kernels take memory of their own at one moment and the arena is full
at another, the two add up. It is therefore kept so small that arena and other memory together need no more than the
values alive at once do, convolutions' scratch included, and a 64th: values that do not fit into it stay outside.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from engines.graph.domain import domain
from engines.graph.fused import FUSED, reads
from engines.graph.ir import Graph, Node, Plan, Var
from engines.graph.lifetimes import Life, bytes_of, is_opaque, levels, lifetimes, standing
from engines.graph.lower.formulas import ROWS
from engines.graph.lower.into import into
from engines.graph.nhwc import OPS as NHWC_OPS

ALIGNMENT = 64
"""Bytes: where a value may begin, as in torch's own allocator; a vector register's width."""

SHARES = (1.0, 0.75, 0.5, 0.25)
"""What part of the room under the peak to offer to the arena, one after the other until all fits."""

SLACK = 1 / 64
"""By how much of the peak an arena may raise it: room for the many small values that are alive at other times."""

PLAIN = frozenset({"conv2d", "conv2d_input", "conv2d_weight", "conv2d_weight_bias", "reshape"})
"""Ops beside those of `INTO` whose results are contiguous where their operands are."""


SCRATCH = {"conv2d": None, "conv2d_input": 0, "conv2d_weight": 0, "conv2d_weight_bias": 0}
"""What a kernel takes for itself, measured on large images: as much as its result (None) or an operand has. oneDNN
brings images that are contiguous into an order of its own, and back."""


def plan_memory(graph: Graph) -> Graph:
    """The same graph with a plan; without one where every result gets memory of its own."""
    if graph.plan is not None or not graph.nodes:
        return graph
    plain = _contiguous(graph)
    lives, inside = _over_operands(graph, plain)
    offsets, size, peak = _arena(lives, _placeable(graph, plain, lives), _scratch(graph, plain), len(graph.nodes))
    places: dict[Var, int | Var] = {**inside, **offsets}
    return replace(graph, plan=Plan(graph.nodes, graph.outputs, places, size, peak)) if places else graph


def demand(graph: Graph) -> tuple[int, ...]:
    """The bytes in use at each node when results stand where a plan lets them; an arena may add its slack."""
    plain = _contiguous(graph)
    lives, _ = _over_operands(graph, plain)
    return levels([*lives.values(), *_scratch(graph, plain)], len(graph.nodes))


# What may stand where


def _contiguous(graph: Graph) -> set[Var]:
    """Values that lie in memory in the order of their elements, where the graph's inputs do."""
    found = {*graph.inputs.values(), *(var for var, tensor in graph.constants.items() if tensor.is_contiguous())}
    for node in graph.nodes:
        given = into(node)
        always = node.op is FUSED or node.op in NHWC_OPS or (given is not None and not given.elementwise)
        if always or ((given is not None or node.op.name in PLAIN) and found.issuperset(reads(node))):
            found.update(node.outputs)
        found.update(var for var in node.outputs if math.prod(var.spec.shape) == 1)
    return found


def _placeable(graph: Graph, plain: set[Var], lives: Mapping[Var, Life]) -> list[Var]:
    """Storages that may stand in the arena, in the order in which they are made."""
    touched = {i for node in graph.nodes if is_opaque(node) for i in (*reads(node), *node.outputs)}
    owners = standing(graph)
    fixed = {owners.get(var, var) for var in (*touched, *graph.outputs.values())}
    found = []
    for node in graph.nodes:
        if node.op is FUSED or (into(node) is not None and plain.issuperset(node.outputs)):
            found += [v for v in node.outputs if v in lives and v not in fixed and _is_here(v) and lives[v].bytes]
    return [var for var in found if lives[var].last < len(graph.nodes)]


def _scratch(graph: Graph, plain: set[Var]) -> list[Life]:
    """What kernels take for themselves, as far as it is known."""
    found = []
    for position, node in enumerate(graph.nodes):
        if node.op.name in SCRATCH and plain.issuperset(node.outputs):
            index = SCRATCH[node.op.name]
            source = node.outputs[0] if index is None else node.inputs[index]
            if isinstance(source, Var) and _is_here(source):
                found.append(Life(position, position, bytes_of(source)))
    return found


def _is_here(var: Var) -> bool:
    return var.spec.device == "cpu"  # CUDA's allocator keeps what is freed, and costs little


def _over_operands(graph: Graph, plain: set[Var]) -> tuple[dict[Var, Life], dict[Var, Var]]:
    """The first rule: the lives of storages, and what is written over which operand."""
    owners = standing(graph)
    lives = lifetimes(graph, owners)
    fixed = {owners.get(i, i) for node in graph.nodes if is_opaque(node) for i in (*reads(node), *node.outputs)}
    inside: dict[Var, Var] = {}
    home: dict[Var, Var] = {}  # of a storage that was given up, the one that took it in

    def root(var: Var) -> Var:
        owner = owners.get(var, var)
        return home.get(owner, owner)

    for position, node in enumerate(graph.nodes):
        dying = {i for i in reads(node) if (life := lives.get(root(i))) is not None and life.last == position}
        bases: dict[Var, set[Var]] = {}  # by storage, the operands that stand in it
        for given in reads(node) if dying else ():
            bases.setdefault(root(given), set()).add(given)
        for out, operand in _pairs(node, plain) if dying else ():
            if operand not in dying or out not in lives:
                continue
            base = root(operand)
            alone, whole = len(bases[base]) == 1, bytes_of(operand) == lives[base].bytes
            if alone and whole and not {base, out} & fixed and lives[base].last == position:
                inside[out], home[out] = operand, base
                lives[base].last = lives.pop(out).last
                dying.discard(operand)
    for life in lives.values():
        life.bytes = -(-life.bytes // ALIGNMENT) * ALIGNMENT
    return lives, inside


def _pairs(node: Node, plain: set[Var]) -> Iterable[tuple[Var, Var]]:
    """Results and the operands over which they may be written, if these are dead after the node."""
    if not all(_is_here(var) for var in node.outputs):
        return
    if node.op is FUSED:
        yield from _region_pairs(node)
        return
    given = into(node)
    if given is None or not given.elementwise:
        return
    (out,) = node.outputs
    operands = reads(node)
    if len(operands) == 1 or plain.issuperset(operands):
        yield from ((out, operand) for operand in operands if operand.spec == out.spec)


def _region_pairs(node: Node) -> Iterable[tuple[Var, Var]]:
    """A region in C goes element by element: what nobody in it reads after a result is made may give its place."""
    body: Graph = node.attrs["body"]
    if body.donated or any(part.op.name in ROWS or domain(part) is None for part in body.nodes):
        return
    made = {part.outputs[0]: position for position, part in enumerate(body.nodes)}
    last_read = {given: position for position, part in enumerate(body.nodes) for given in reads(part)}
    shape = domain(body.nodes[0])
    for out, inner in zip(node.outputs, body.outputs.values(), strict=True):
        for operand, given in zip(node.inputs, body.inputs.values(), strict=True):
            if not isinstance(operand, Var) or given.spec != inner.spec or shape is None:
                continue
            if given.spec.shape == shape.shape and last_read.get(given, -1) <= made.get(inner, -1):
                yield out, operand


# The arena


def _arena(
    lives: Mapping[Var, Life], placeable: Sequence[Var], scratch: Sequence[Life], count: int
) -> tuple[dict[Var, int], int, int]:
    """Offsets, the arena's size, and the peak of all memory, which is no higher than it would be without an arena."""

    def outside(inside: Container[Var]) -> int:
        return max(levels([*scratch, *(life for var, life in lives.items() if var not in inside)], count))

    least = outside(())
    allowed = int(least * (1 + SLACK))
    room = allowed - outside(set(placeable))
    for share in SHARES:
        offsets, size = _swept(lives, placeable, int(room * share))
        peak = size + outside(offsets)
        if peak <= allowed:
            return offsets, size, peak
    return {}, 0, least


def _swept(lives: Mapping[Var, Life], placeable: Sequence[Var], limit: int) -> tuple[dict[Var, int], int]:
    """Each value, in the order of time, into the smallest gap that holds it; else behind the others up to `limit`."""
    offsets: dict[Var, int] = {}
    gaps: list[tuple[int, int]] = []  # offset and size, in order, no two of them adjoining
    ending: list[tuple[int, int, int]] = []  # position, offset and size, the earliest last
    size = 0
    for var in placeable:
        life = lives[var]
        while ending and -ending[-1][0] < life.first:
            _, offset, freed = ending.pop()
            _give_back(gaps, offset, freed)
        fitting = [gap for gap in gaps if gap[1] >= life.bytes]
        if fitting:
            gap = min(fitting, key=lambda each: each[1])
            gaps.remove(gap)
            offset = gap[0]
            if gap[1] > life.bytes:
                insort(gaps, (offset + life.bytes, gap[1] - life.bytes))
        else:
            offset = gaps[-1][0] if gaps and sum(gaps[-1]) == size else size
            if offset + life.bytes > limit:
                continue
            if offset < size:
                gaps.pop()
            size = offset + life.bytes
        offsets[var] = offset
        insort(ending, (-life.last, offset, life.bytes))
    return offsets, size


def _give_back(gaps: list[tuple[int, int]], offset: int, size: int) -> None:
    """A block to the gaps, joined with those that adjoin it."""
    for gap in [each for each in gaps if sum(each) == offset or each[0] == offset + size]:
        gaps.remove(gap)
        offset, size = min(offset, gap[0]), size + gap[1]
    insort(gaps, (offset, size))
