"""Native lowering: the fused regions of a graph as C, compiled, loaded, and called from the generated Python.

    functions, source = native(graph)       # one function for each fused node's body, and the C text
    outputs = functions[body](x, y)         # as its kernels would give, within rounding

Where no compiler is found or it refuses, there are no functions and the graph runs on its kernels.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from engines.graph.control import CONTROL
from engines.graph.domain import domain
from engines.graph.formulations import OPS
from engines.graph.fused import FUSED, interpret
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower import blas, compiler, direct, direct_weight, few_rows, loops, pooling, winograd
from engines.graph.lower.call import bound_loop
from engines.graph.lower.piece import Pieces
from engines.graph.lower.prelude import PRELUDE
from engines.graph.lower.products import products
from engines.graph.lower.whole import fits, whole
from engines.graph.lower.written import OUTSIDE
from engines.op import kernels_only
from engines.value import EngineError, Spec

Function = Callable[..., tuple[torch.Tensor, ...]]
WORTH_TWO = 6000
"""Characters of C beside the prelude that take a compiler longer than to start and to link once more."""

WRITTEN_AGAIN = 200_000
"""Characters from which on writing them once more, to learn what each region takes, would cost what it saves: most are
tables then, which compile at once."""

APART = "\n// What follows is compiled by itself, at the same time.\n"
"""Stands between the parts of a source that do not know of each other."""

Writer = Callable[[str, Graph, Pieces], str]
Write = Callable[[Pieces], str]

CHOSEN: tuple[Writer, ...] = (winograd.region, direct.region, direct_weight.region, few_rows.region)
"""What writes regions that a choice of kernels has compiled before, each alone. Named by their text and compiled alone
again, they are found on disk."""


def native(graph: Graph) -> tuple[Mapping[Any, Function], str]:
    """What each body of a fused node is as a function of its inputs, and the C source that they come from."""
    loops_in_c = list(_whole_loops(graph))
    bodies = [
        node.attrs["body"] for node in _nodes_outside(graph, set(loops_in_c)) if node.op is FUSED and is_sound(node)
    ]
    writers = {body: write for body in bodies if (write := writer(body)) is not None}
    if not writers and not loops_in_c:
        return {}, ""
    names = {body: _name(number, body, write) for number, (body, write) in enumerate(writers.items())}
    named_loops = {f"loop_{number}": node for number, node in enumerate(loops_in_c)}
    alone: dict[str, Write] = {}
    rest: dict[str, Write] = {name: partial(_write_loop, name, node) for name, node in named_loops.items()}
    for body, name in names.items():
        (alone if writers[body] in CHOSEN else rest)[name] = partial(writers[body], name, body)
    groups = [*({name: write} for name, write in alone.items()), *apart(rest)]
    texts = [_part(group) for group in groups]
    source = APART.join(texts)
    libraries = compiler.load_all(texts)
    if libraries is None:
        return {}, source
    for library in libraries:
        blas.bind(library)
    found = {name: getattr(library, name) for group, library in zip(groups, libraries, strict=True) for name in group}
    functions: dict[Any, Function] = {body: bound(found[name], body, name) for body, name in names.items()}
    loops_bound = {node.attrs["body"]: bound_loop(found[name], node, name) for name, node in named_loops.items()}
    return functions | loops_bound, source


def regions_in_c(graph: Graph) -> Iterator[str]:
    """What each region of a graph would be in C, by itself."""
    for body in (node.attrs["body"] for node in graph.nodes if node.op is FUSED and is_sound(node)):
        if (write := writer(body)) is not None:
            pieces = Pieces()
            text = write("region", body, pieces)
            yield f"{pieces}{text}"


def _name(number: int, body: Graph, write: Writer) -> str:
    """What a region is called in C."""
    if write not in CHOSEN:
        return f"fused_{number}"
    text = write("region", body, Pieces())
    chosen = next(node.op.name for node in body.nodes if node.op in OPS)
    return f"{chosen}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _whole_loops(graph: Graph) -> Iterator[Node]:
    """The outermost loops that C can take whole."""
    for node in graph.nodes:
        if node.attrs.get("whole") and fits(node) and whole("loop", node) is not None:
            yield node
        elif node.op in CONTROL:
            for part in node.attrs["body"]:
                yield from _whole_loops(part)


def _nodes_outside(graph: Graph, loops_in_c: set[Node]) -> Iterator[Node]:
    """All nodes but those inside these loops."""
    for node in graph.nodes:
        yield node
        if node.op in CONTROL and node not in loops_in_c:
            for part in node.attrs["body"]:
                yield from _nodes_outside(part, loops_in_c)


def _write_loop(name: str, node: Node, _: Pieces) -> str:
    written = whole(name, node)
    assert written is not None
    return written


def is_sound(node: Node) -> bool:
    """Whether a node gives its body what that takes, and gets what that gives: C would not notice."""
    body: Graph = node.attrs["body"]
    outside = [*node.inputs, *node.outputs]
    inside = [*body.inputs.values(), *body.outputs.values()]
    return len(outside) == len(inside) and all(
        isinstance(o, Var) and o.spec == i.spec for o, i in zip(outside, inside, strict=True)
    )


def apart(bodies: Mapping[str, Write]) -> Sequence[Mapping[str, Write]]:
    """Which functions are compiled together: in two groups where that is worth starting a second compiler for."""
    if len(bodies) < 2 or not WORTH_TWO < len(_part(bodies)) - len(PRELUDE) < WRITTEN_AGAIN:
        return [bodies] if bodies else []
    lengths = {name: len(_part({name: write})) - len(PRELUDE) for name, write in bodies.items()}
    halves: tuple[dict[str, Write], ...] = ({}, {})
    for name in sorted(bodies, key=lambda name: -lengths[name]):
        smaller = min(halves, key=lambda half: sum(lengths[each] for each in half))
        smaller[name] = bodies[name]
    return halves


def _part(bodies: Mapping[str, Write]) -> str:
    pieces = Pieces()
    functions = [write(pieces) for write in bodies.values()]
    return "\n".join([PRELUDE, *products(functions), str(pieces), *functions, ""])


def writer(body: Graph) -> Writer | None:
    """What writes a region in C, if anything does: a stored file may hold any."""
    if pooling.fits(body):
        return pooling.region
    if winograd.fits(body):
        return winograd.region
    if direct.fits(body):
        return direct.region
    if direct_weight.fits(body):
        return direct_weight.region
    if few_rows.fits(body):
        return few_rows.region
    domains = {domain(node) for node in body.nodes}
    alike = len(domains) == 1 and None not in domains and not body.constants
    here = all(var.spec.device == "cpu" for var in (*body.inputs.values(), *body.outputs.values()))
    return loops.region if alike and here and loops.fits(body) else None


def bound(function: Callable[..., int], body: Graph, name: str) -> Function:
    """A C function as one of tensors; `out` has for each result the memory to write it into, or None for new memory."""
    given_count = len(body.inputs)
    updated = updated_inputs(body)
    # Small stand-ins spread to the results' shapes: a new tensor like one of them costs half of one by shape and dtype.
    results = [
        None if var in updated else torch.empty((), dtype=var.spec.dtype).expand(var.spec.shape)
        for var in body.outputs.values()
    ]
    in_place = bool(body.donated)
    # Of up to one number every layout is contiguous.
    strided = [place for place, var in enumerate(body.inputs.values()) if math.prod(var.spec.shape) > 1]
    aliases = [updated.get(var, 0) for var in body.outputs.values()]
    pack = struct.Struct(f"{given_count + len(results)}P").pack  # several times as fast as an array by ctypes
    address = torch.Tensor.data_ptr
    nowhere = (None,) * len(results)
    new_like = torch.empty_like

    expected = [var.spec for var in body.inputs.values()]
    checked = False

    def check(given: Sequence[torch.Tensor]) -> None:
        """C trusts the shapes that it was made for. They are the same at every call, so one look is enough."""
        nonlocal checked
        for tensor, spec in zip(given, expected, strict=True):
            if Spec.of(tensor) != spec:
                where = body.nodes[-1].where
                raise EngineError(f"{name}: a region takes {spec}, found {Spec.of(tensor)}; from {where}")
        checked = True

    def on_kernels(given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with kernels_only():
            return interpret(given, body=body)

    def call(*given: torch.Tensor, out: Sequence[torch.Tensor | None] = nowhere) -> tuple[torch.Tensor, ...]:
        if not checked:
            check(given)
        for place in strided:
            if not given[place].is_contiguous():
                if in_place:
                    return on_kernels(given)
                given = tuple(each.contiguous() for each in given)
                out = nowhere  # for an operand that C would take for contiguous may be among them
                break
        outputs = [
            place
            if place is not None
            else given[alias]
            if result is None
            else new_like(result, memory_format=torch.contiguous_format)
            for result, alias, place in zip(results, aliases, out, strict=True)
        ]
        status = function(pack(*map(address, (*given, *outputs))))
        if status == OUTSIDE:  # of which torch's kernel would not take notice
            first = body.nodes[0]
            raise EngineError(
                f"{first.op.name}: an index lies outside its plane; in a fused region, from {first.where}"
            )
        return on_kernels(given) if status else tuple(outputs)

    call.__name__ = name
    return call


def updated_inputs(body: Graph) -> dict[Var, int]:
    """Results that stand in the storage of an input: which one."""
    index: dict[object, int] = {var: number for number, var in enumerate(body.inputs.values())}
    return {
        node.outputs[position]: index[given]
        for node in body.nodes
        for position in node.op.donates
        if (given := node.inputs[position]) in index
    }
