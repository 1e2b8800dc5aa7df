"""Max-pooling: the largest element is chosen first, and what need not be written is never written.

    relu_backward(max_pool2d_backward(g, i), y), (p, i) = max_pool2d(y)  -> max_pool2d_backward(relu_backward(g, p), i)
    p, i = max_pool2d(relu(x))                                           -> q, i = max_pool2d(x); p = relu(q)
    u = max_pool2d_backward(g, i); conv2d_weight(u, x), conv2d_input(u, w)     -> one region
    max_pool2d(x)                                                              -> a region of its own

Same outputs, bit for bit, as long as regions are run node by node. The gradient at a window's largest element is the
only one that is not 0, so a sign test on the small result does for the large input. relu and max exchange places only
where nobody else reads the large relu, and where gradients at the chosen elements pass such a test: windows in which
nothing is positive choose another element, whose gradient is 0 either way. A region of gradients need not lay out the
zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from engines.graph.fused import readers_of, region_node
from engines.graph.ir import Graph, Node, Var
from engines.graph.passes.everywhere import everywhere
from engines.graph.pooled import BACK, POOL, are_sparse_gradients, is_small

Readers = Mapping[Var, Sequence[Node | None]]
Makers = Mapping[Var, Node]


@everywhere
def pool(graph: Graph) -> Graph:
    """Apply each rule once, backward before forward."""
    for rule in (_signs_first, _largest_first, _regions):
        graph = rule(graph)
    return graph


def _makers(graph: Graph) -> Makers:
    return {var: node for node in graph.nodes for var in node.outputs}


def _made_by(operand: object, name: str, makers: Makers) -> Node | None:
    node = makers.get(operand) if isinstance(operand, Var) else None
    return node if node is not None and node.op.name == name else None


def _signs_first(graph: Graph) -> Graph:
    makers, readers = _makers(graph), readers_of(graph)
    changed: dict[Node, tuple[Node, ...]] = {}
    for node in graph.nodes:
        back = _made_by(node.inputs[0], BACK, makers) if node.op.name == "relu_backward" else None
        if back is None or readers[back.outputs[0]] != [node]:
            continue
        g, indices = back.inputs
        chosen = _made_by(indices, POOL, makers)
        if (
            chosen is None
            or chosen.inputs[0] is not node.inputs[1]
            or _made_by(chosen.inputs[0], "relu", makers) is None
        ):
            continue
        masked = Var(chosen.outputs[0].spec)
        changed[back] = ()
        changed[node] = (
            replace(node, inputs=(g, chosen.outputs[0]), outputs=(masked,)),
            replace(back, inputs=(masked, indices), outputs=node.outputs),
        )
    return _with(graph, changed)


def _largest_first(graph: Graph) -> Graph:
    makers, readers = _makers(graph), readers_of(graph)
    changed: dict[Node, tuple[Node, ...]] = {}
    for node in graph.nodes:
        relu = _made_by(node.inputs[0], "relu", makers) if node.op.name == POOL else None
        if relu is None or readers[relu.outputs[0]] != [node]:
            continue
        largest, indices = node.outputs
        if not all(_is_masked(reader, largest, makers) for reader in readers.get(indices, ())):
            continue
        before = Var(largest.spec)
        changed[relu] = ()
        changed[node] = (
            replace(node, inputs=relu.inputs, outputs=(before, indices)),
            replace(relu, inputs=(before,), outputs=(largest,)),
        )
    return _with(graph, changed)


def _is_masked(reader: Node | None, largest: Var, makers: Makers) -> bool:
    """Whether a reader of indices puts a gradient there that is 0 where the largest element is not positive."""
    if reader is None or reader.op.name != BACK:
        return False
    mask = _made_by(reader.inputs[0], "relu_backward", makers)
    return mask is not None and mask.inputs[1] is largest


def _regions(graph: Graph) -> Graph:
    readers = readers_of(graph)
    changed: dict[Node, tuple[Node, ...]] = {}
    defined: set[Var] = {*graph.inputs.values(), *graph.constants}
    for node in graph.nodes:
        if node.op.name == POOL and is_small(node.outputs[0]):
            changed[node] = (region_node([node], readers),)
        if node.op.name == BACK and is_small(node.outputs[0]):
            members = [node, *dict.fromkeys(r for r in readers.get(node.outputs[0], ()) if r is not None)]
            needed = {i for member in members for i in member.inputs if isinstance(i, Var)} - {node.outputs[0]}
            gradients = members[1:]
            if (
                are_sparse_gradients(node, gradients)
                and needed <= defined
                and None not in readers.get(node.outputs[0], [None])
            ):
                changed |= dict.fromkeys(gradients, ())
                changed[node] = (region_node(members, readers),)
        defined.update(node.outputs)
    return _with(graph, changed)


def _with(graph: Graph, changed: Mapping[Node, tuple[Node, ...]]) -> Graph:
    if not changed:
        return graph
    return graph.with_nodes(tuple(new for node in graph.nodes for new in changed.get(node, (node,))))
