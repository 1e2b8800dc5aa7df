"""Kernels by measurement: of several formulations of a node, the one that is fastest on the real shapes, here.

    conv2d(x, w, b)                        -> conv2d_winograd(x, w, b)
    p, i = max_pool2d(conv2d(x, w, b))     -> p, i = max_pool2d(conv2d_winograd(x, w, b)), as one region
    conv2d(x, w, b), relu(conv2d(x, w, b)) -> the same by conv2d_direct, where Winograd's does not fit
    conv2d_weight(g, x)                    -> conv2d_weight_patches(g, x), a product of matrices; also with the bias
    conv2d_weight(relu_backward(g, y), x)  -> one region with the sums written out, where few channels are read
    linear(x, w, b), matmul(a, b)          -> the same by oneDNN instead of BLAS, or of few rows as C that reads once

Inside branches and loops too, but not where a loop becomes C as a whole (`enclose`). Same outputs within rounding. Each
formulation is compiled and run on random values when the graph is compiled, unless that was done before on this machine
(trial.py); one that is chosen stands in the graph, so an executable that is saved keeps it. Where
torch.use_deterministic_algorithms(True) was called nothing is chosen: what runs would depend on how fast something ran.
On a processor only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from engines.graph.control import CONTROL, map_bodies
from engines.graph.formulations import direct_of, few_rows_of, onednn_of, patches_of, weight_direct_of, winograd_of
from engines.graph.fused import FUSED, inline, readers_of, region_node
from engines.graph.ir import Graph, Node, Var
from engines.graph.pooled import POOL
from engines.graph.trial import fastest

Rule = Callable[[Node], Node | None]

RULES: Mapping[str, tuple[Rule, ...]] = {
    "conv2d": (winograd_of, direct_of),
    "conv2d_weight": (patches_of, weight_direct_of),
    "conv2d_weight_bias": (patches_of, weight_direct_of),
    "linear": (onednn_of, few_rows_of),
    "matmul": (onednn_of, few_rows_of),
}
"""Other formulations of an op, each a function that gives the other node, or None where it does not fit."""


@dataclass(frozen=True)
class Contest:
    """A site, what may stand in its place, and the graphs to try: the site as it is, then with each of the regions."""

    site: Sequence[Node]
    regions: Sequence[Node]
    graphs: Sequence[Graph]


def choose_kernels(graph: Graph) -> Graph:
    """Put the fastest formulation in the place of each node that has several."""
    if torch.are_deterministic_algorithms_enabled():
        return graph
    parts = list(_parts(graph))
    contests = [contest for part in parts for contest in _contests(part)]
    changed: dict[Node, tuple[Node, ...]] = {}
    for contest, number in zip(contests, fastest([contest.graphs for contest in contests]), strict=True):
        if number:
            changed |= dict.fromkeys(contest.site, ())
            changed[contest.site[-1]] = (contest.regions[number - 1],)

    def put(part: Graph) -> Graph:
        if changed.keys().isdisjoint(part.nodes):
            return part
        return part.with_nodes(tuple(new for node in part.nodes for new in changed.get(node, (node,))))

    return put(map_bodies(graph, put))


def _parts(graph: Graph) -> Iterator[Graph]:
    """The graph and the sub-graphs that Python will run."""
    yield graph
    for node in graph.nodes:
        if node.op in CONTROL and not node.attrs.get("whole"):
            for body in node.attrs["body"]:
                yield from _parts(body)


def _contests(graph: Graph) -> Iterator[Contest]:
    readers = readers_of(graph)
    for site in _sites(graph, readers):
        yield _contest(site, readers)


def _sites(graph: Graph, readers: Mapping[Var, Sequence[Node | None]]) -> Iterator[Sequence[Node]]:
    """Every place with several formulations whose results are read."""
    makers = {var: node for node in graph.nodes for var in node.outputs}
    for node in graph.nodes:
        if any(rule(node) for rule in RULES.get(node.op.name, ())) and node.outputs[0].spec.device == "cpu":
            site = _site(node, makers, readers)
            if region_node(site, readers).outputs:
                yield site


def _site(node: Node, makers: Mapping[Var, Node], readers: Mapping[Var, Sequence[Node | None]]) -> list[Node]:
    """A node with what another formulation can do at once, where nobody else sees what goes between the two.

    A convolution with the max-pool or relu that reads it, a weight's gradient with that of the relu that it comes from.
    """
    if node.op.name == "conv2d":
        taken_along = POOL if winograd_of(node) else "relu"
        alone = readers.get(node.outputs[0], ())
        reader = alone[0] if len(alone) == 1 else None
        return [node] if reader is None or _names(reader) != [taken_along] else [node, reader]
    if weight_direct_of(node) is not None and isinstance(g := node.inputs[0], Var):
        maker = makers.get(g)
        if maker is not None and maker.op.name == "relu_backward" and list(readers[g]) == [node]:
            return [maker, node]
    return [node]


def _names(node: Node) -> list[str]:
    return [part.op.name for part in (node.attrs["body"].nodes if node.op is FUSED else (node,))]


def _contest(site: Sequence[Node], readers: Mapping[Var, Sequence[Node | None]]) -> Contest:
    """A site with its other formulations."""
    whole = region_node(site, readers)
    body: Graph = whole.attrs["body"]
    flat = inline(body)
    node = next(each for each in flat.nodes if each.op.name in RULES)
    found = [other for rule in RULES[node.op.name] if (other := rule(node)) is not None]
    others = [flat.with_nodes(tuple(other if each is node else each for each in flat.nodes)) for other in found]
    regions = [replace(whole, attrs={"body": other}) for other in others]
    return Contest(site, regions, [body, *(body.with_nodes((region,), _outputs(body, region)) for region in regions)])


def _outputs(body: Graph, region: Node) -> Mapping[str, Var]:
    """What the body gives, by the node that gives it as one."""
    return dict(zip(body.outputs, region.outputs, strict=True))
