"""The walk back over a graph's nodes, from gradients of results to gradients of inputs.

Rules run in the reverse of the nodes' order and contributions are added in that order, as on a tape, so that with no
passes the sums agree to the last bit.

A branch or a loop is walked back by one more node of its kind. The sub-graph is differentiated where it stands, which
gives nodes behind its own; the two are then cut apart. What the latter read of the former is *kept*: the forward node
gets results more. Gradients of what is used from outside go in as they are so far and come out grown, since a tape adds
to them one by one as well. A loop is walked back by a scan in the other direction, over what was kept of each trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.graph.control import ABSENT, CONTROL, SCAN, WHILE
from engines.graph.dependence import depending, reaching
from engines.graph.ir import Graph, Node, Operand, Var
from engines.graph.parts import NOTHING, Taken, alike, close
from engines.graph.trace import OPS, Builder, Symbol, infer
from engines.graph.way import Way
from engines.op import Joint
from engines.value import DTYPE_NAMES, Spec

Gradients = dict[Var, Symbol]


def walk_back(builder: Builder, count: int, grads: Gradients, dependent: set[Var], wanted: set[Var]) -> None:
    """Run the rules of the first `count` nodes, adding to `grads`. Only the gradients of `wanted` outlive their use."""
    for position in range(count - 1, -1, -1):
        node = builder.nodes[position]
        g = tuple(grads.get(var) if var in wanted else grads.pop(var, None) for var in node.outputs)
        if all(part is None for part in g):
            continue
        with builder.on_behalf_of(node.where):
            if node.op is SCAN or node.op is WHILE:
                _push_loop(builder, position, g, dependent, grads)
            elif node.op in CONTROL:
                _push_branches(builder, position, g, dependent, grads)
            else:
                _push(builder, node, g[0] if node.op.outputs == 1 else g, dependent, grads)


def _push(builder: Builder, node: Node, g: Any, dependent: set[Var], grads: Gradients) -> None:
    """Run a node's rules for the inputs that need a gradient, and add up what they give."""
    op = node.op
    own = node.outputs if op.outputs is not None else ()
    values = [Symbol(v, builder) if isinstance(v, Var) else v for v in (*own, *node.inputs)]
    wanted = [i for i, v in enumerate(node.inputs) if v in dependent and op.rule(i) is not None]
    joint = op.joint(wanted)
    if joint is not None:
        parts = joint.rule(OPS, g, *_picked(node, joint, values), **node.attrs)
        for i, part in zip(joint.inputs, parts, strict=True):
            _accumulate(grads, node.inputs[i], part)
        wanted = [i for i in wanted if i not in joint.inputs]
    for i in wanted:
        rule, args = op.rule(i), _picked(node, i, values)
        assert rule is not None
        part = rule(OPS, g, *args, **node.attrs, index=i) if op.variadic else rule(OPS, g, *args, **node.attrs)
        _accumulate(grads, node.inputs[i], part)


def _picked(node: Node, which: int | Joint, values: Sequence[Any]) -> tuple[Any, ...]:
    pick = node.op.picker(which)
    assert pick is not None
    return pick(*values)


def _accumulate(grads: Gradients, target: Operand, part: Symbol) -> None:
    assert isinstance(target, Var)
    grads[target] = part if target not in grads else grads[target] + part


# One sub-graph, there and back


def _way(
    builder: Builder, body: Graph, seeds: Iterable[tuple[Var, Var]], so_far: Mapping[Var, Var], wanted: Sequence[Var]
) -> Way:
    """Differentiate a body. `seeds` pairs results with their gradients; `so_far` has gradients to be added to."""
    with builder.part() as part:
        part.nodes.extend(body.nodes)
        grads: Gradients = {var: Symbol(g, part) for var, g in so_far.items()}
        for result, g in seeds:
            _accumulate(grads, result, Symbol(g, part))
        any_seed = next(iter(grads.values()), None)
        walk_back(part, len(body.nodes), grads, depending(body.nodes, wanted), set(wanted))
        found = {}
        for var in wanted:
            zeros_like = any_seed if any_seed is not None and any_seed.dtype == var.spec.dtype else Symbol(var, part)
            got = grads.get(var)
            found[var] = (
                got.var if got is not None else OPS.full_like(zeros_like, shape=tuple(var.spec.shape), value=0.0).var
            )
        count = len(body.nodes)
        return Way(tuple(part.nodes[:count]), tuple(part.nodes[count:]), found)


def _closed(builder: Builder, name: str, nodes: Sequence[Node], taken: Taken, results: Sequence[Var]) -> Graph:
    with builder.part() as part:
        part.nodes.extend(nodes)
        return close(part, name, taken, results)


def _replace(builder: Builder, position: int, inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> tuple[Var, ...]:
    """Exchange a node for one that gives more; what it gave before stays what it was. Gives what is new."""
    node = builder.nodes[position]
    specs = infer(node.op, inputs, attrs)[len(node.outputs) :]
    more = tuple(Var(spec) for spec in specs)
    builder.nodes[position] = Node(node.op, tuple(inputs), attrs, (*node.outputs, *more), node.where)
    return more


def _zeros(builder: Builder, operand: Operand) -> Var:
    assert isinstance(operand, Var)
    zeros: Symbol = OPS.full_like(Symbol(operand, builder), value=0.0)
    return zeros.var


def _wanted(
    node: Node, first: int, reached: Sequence[tuple[Graph, set[Var]]], dependent: set[Var]
) -> list[tuple[int, Var]]:
    """Which operands of a control node, from `first` on, get a gradient: their places among its inputs, and they."""
    found = []
    own = len(node.inputs) - len(reached[0][0].inputs)
    for i, operand in enumerate(node.inputs[first:], first):
        used = any(list(body.inputs.values())[i - own] in values for body, values in reached)
        if used and isinstance(operand, Var) and operand in dependent and operand.spec.dtype.is_floating_point:
            found.append((i, operand))
    return found


# Branches


def _push_branches(
    builder: Builder, position: int, g: Sequence[Symbol | None], dependent: set[Var], grads: Gradients
) -> None:
    node = builder.nodes[position]
    bodies: tuple[Graph, ...] = node.attrs["body"]
    given = {j: part.var for j, part in enumerate(g) if part is not None}
    reached = [(body, reaching(body.nodes, [list(body.outputs.values())[j] for j in given])) for body in bodies]
    wanted = _wanted(node, 1, reached, dependent)
    if not wanted:
        return
    first = {operand: i for i, operand in reversed(wanted)}
    so_far = {i: grads[operand].var for operand, i in first.items() if operand in grads}
    operands: dict[Var, Operand] = {}  # what a body's value is outside
    ways = []
    for body in bodies:
        inputs, results = list(body.inputs.values()), list(body.outputs.values())
        operands.update(zip(inputs, node.inputs[1:], strict=True))
        seeds = {j: Var(var.spec) for j, var in given.items()}
        grown = {i: Var(var.spec) for i, var in so_far.items()}
        operands |= {seed: given[j] for j, seed in seeds.items()} | {var: so_far[i] for i, var in grown.items()}
        way = _way(
            builder,
            body,
            [(results[j], seed) for j, seed in seeds.items()],
            {inputs[i - 1]: var for i, var in grown.items()},
            [inputs[i - 1] for i, _ in wanted],
        )
        ways.append(way.with_moves(inputs))
    operands |= _keep_in_branches(builder, position, ways, operands)
    closed = [
        _closed(builder, body.name, way.back, NOTHING, list(way.found.values()))
        for body, way in zip(bodies, ways, strict=True)
    ]
    outside, back = alike(closed, NOTHING, operands)
    made = builder.add(node.op, (node.inputs[0], *outside), {"body": back})
    for (i, operand), var in zip(wanted, made, strict=True):
        if first[operand] == i:
            grads[operand] = Symbol(var, builder)
        else:
            _accumulate(grads, operand, Symbol(var, builder))


def _keep_in_branches(
    builder: Builder, position: int, ways: Sequence[Way], operands: Mapping[Var, Operand]
) -> dict[Var, Operand]:
    """Let the forward branches give what their ways back read; a place is shared by values of one spec."""
    node = builder.nodes[position]
    places: list[Spec] = []
    filled: list[dict[int, Var]] = []
    for way in ways:
        ours: dict[int, Var] = {}
        for var in way.kept():
            free = (i for i, spec in enumerate(places) if spec == var.spec and i not in ours)
            place = next(free, len(places))
            if place == len(places):
                places.append(var.spec)
            ours[place] = var
        filled.append(ours)
    if not places:
        return {}
    graphs = []
    for body, way, ours in zip(node.attrs["body"], ways, filled, strict=True):
        with builder.part() as part:
            part.nodes.extend(way.there)
            kept = [ours[i] if i in ours else _absent(part, spec) for i, spec in enumerate(places)]
            graphs.append(close(part, body.name, NOTHING, [*body.outputs.values(), *kept]))
    outside, bodies = alike(graphs, NOTHING, operands)
    more = _replace(builder, position, (node.inputs[0], *outside), {**node.attrs, "body": bodies})
    return {var: more[place] for ours in filled for place, var in ours.items()}


def _absent(builder: Builder, spec: Spec) -> Var:
    attrs = {"shape": tuple(spec.shape), "dtype": DTYPE_NAMES[spec.dtype], "device": spec.device}
    return builder.add(ABSENT, (), attrs)[0]


# Loops


@dataclass(frozen=True)
class Loop:
    """A node of a loop, and the parts of its inputs and results."""

    node: Node
    body: Graph
    carried: int
    end: int  # of the rows among its inputs

    @classmethod
    def of(cls, node: Node) -> Loop:
        """The parts of a loop."""
        carried = node.attrs["carried"]
        return cls(node, node.attrs["body"][-1], carried, carried + node.attrs.get("scanned", 0))

    @property
    def taken(self) -> Taken:
        """What the body takes of its own."""
        inputs = list(self.body.inputs.values())
        return Taken(inputs[: self.carried], inputs[self.carried : self.end])

    def flowing(self, given: Iterable[int], dependent: set[Var]) -> tuple[list[int], set[Var]]:
        """Which carries have a gradient on the way back, and all values of the body that have one."""
        inputs, results = list(self.body.inputs.values()), list(self.body.outputs.values())
        sources = {v for v, operand in zip(inputs, self.node.inputs, strict=True) if operand in dependent}
        while True:  # a carry depends on what the one before depends on
            inside = depending(self.body.nodes, sources)
            more = {inputs[k] for k in range(self.carried) if results[k] in inside} - sources
            if not more:
                break
            sources |= more
        carries = {k for k in given if k < self.carried and results[k] in inside}
        rows = [results[j] for j in given if j >= self.carried and results[j] in inside]
        while True:  # and has a gradient if the one after has one that reaches it
            reached = reaching(self.body.nodes, [*(results[k] for k in carries), *rows])
            grown = {k for k in range(self.carried) if inputs[k] in reached & sources} | carries
            if grown == carries:
                return sorted(carries), reached & depending(self.body.nodes, sources)
            carries = grown


def _push_loop(
    builder: Builder, position: int, g: Sequence[Symbol | None], dependent: set[Var], grads: Gradients
) -> None:
    loop = Loop.of(builder.nodes[position])
    node, inputs, results = loop.node, list(loop.body.inputs.values()), list(loop.body.outputs.values())
    given = {j: part.var for j, part in enumerate(g) if part is not None}
    carries, flowing = loop.flowing(given, dependent)
    seeds = {
        j: Var(results[j].spec) for j in (*carries, *(j for j in given if j >= loop.carried)) if results[j] in flowing
    }
    wanted = _wanted(node, loop.carried, [(loop.body, flowing)], dependent)
    rows = [i for i, _ in wanted if i < loop.end]
    outer = {i: operand for i, operand in wanted if i >= loop.end}
    grown = {i: Var(operand.spec) for i, operand in outer.items()}
    if not carries and not wanted:
        return
    way = _way(
        builder,
        loop.body,
        [(results[j], seed) for j, seed in seeds.items()],
        {inputs[i]: var for i, var in grown.items()},
        [inputs[i] for i in (*carries, *rows, *grown)],
    )
    way = way.all_again() if node.attrs["gradient"] == "recompute" else way.with_moves(inputs)
    back_rows = _keep_in_loop(builder, position, loop, way)
    back_rows |= {seeds[j]: given[j] for j in seeds if j >= loop.carried}
    taken = Taken([*(seeds[k] for k in carries), *grown.values()], list(back_rows))
    found = [way.found[inputs[i]] for i in (*carries, *grown, *rows)]
    body = _closed(builder, "body", way.back, taken, found)
    outside, bodies = alike([body], taken, dict(zip(inputs, node.inputs, strict=True)))
    starts = [given[k] if k in given else _zeros(builder, node.outputs[k]) for k in carries]
    fresh = {
        i
        for i, operand in outer.items()
        if operand not in grads or operand in list(outer.values())[: list(outer).index(i)]
    }
    starts += [_zeros(builder, operand) if i in fresh else grads[operand].var for i, operand in outer.items()]
    attrs = {
        "body": bodies,
        "carried": len(taken.carry),
        "scanned": len(taken.rows),
        "length": node.attrs.get("length"),
        "reverse": not node.attrs.get("reverse", False),
        "gradient": node.attrs["gradient"],
        "whole": False,
    }
    made = [Symbol(v, builder) for v in builder.add(SCAN, (*starts, *back_rows.values(), *outside), attrs)]
    parts = dict(zip((*carries, *grown, *rows), made, strict=True))
    for i in grown:  # first, since they hold what there was
        if i in fresh:
            _accumulate(grads, outer[i], parts[i])
        else:
            grads[outer[i]] = parts[i]
    for i in (*carries, *rows):
        if node.inputs[i] in dependent:
            _accumulate(grads, node.inputs[i], parts[i])


def _keep_in_loop(builder: Builder, position: int, loop: Loop, way: Way) -> dict[Var, Var]:
    """Let the forward loop give what its way back reads: that, and where it stands outside, with one value a trip."""
    read, taken, node = way.read(), loop.taken, loop.node
    results = list(loop.body.outputs.values())
    kept = [*way.kept(), *(var for var in taken.carry if var in read)]
    if node.op is WHILE and not kept:
        kept = [taken.carry[0]]  # for nothing but to say how many trips there were
    known = dict(zip(results[loop.carried :], node.outputs[loop.carried :], strict=True))
    xs = zip(taken.rows, node.inputs[loop.carried : loop.end], strict=True)
    known |= {row: x for row, x in xs if row in read and isinstance(x, Var)}
    new = [var for var in kept if var not in known]
    if new:
        body = _closed(builder, "body", way.there, taken, [*results, *new])
        parts: tuple[Graph, ...] = node.attrs["body"]
        operands = {v: i for part in parts for v, i in zip(part.inputs.values(), node.inputs, strict=True)}
        outside, bodies = alike([*node.attrs["body"][:-1], body], taken, operands)
        inputs = (*node.inputs[: loop.end], *outside)
        known |= zip(new, _replace(builder, position, inputs, {**node.attrs, "body": bodies}), strict=True)
    return {var: known[var] for var in (*kept, *(v for v in taken.rows if v in read))}
