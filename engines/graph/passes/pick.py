"""Products with picked matrices: they are read where they lie in their table, not copied together first.

    matmul(x, reshape(embedding(t, i)))                       -> matmul_picked(x, t, i)
    matmul(x, permute(reshape(embedding(t, i))))              -> the same with matrices turned
    embedding_backward(reshape(matmul(permute(x), g)), i)     -> matmul_picked_weight(x, g, i)

A mixture of experts picks the expert's matrices for every block of samples. On a processor only, where what an index
holds is known without waiting for it. Same outputs within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from engines.graph.fused import overwritten_values, readers_of, reads
from engines.graph.ir import Graph, Node, Operand, Var, storage
from engines.graph.passes.everywhere import everywhere
from engines.graph.picked import PICKED, PICKED_WEIGHT

FEWEST = 1 << 13
"""Elements of a matrix from which on a product of its own takes no longer than a copy: there the two are even."""

Makers = Mapping[Operand, Node]


@everywhere
def pick(graph: Graph) -> Graph:
    """Take picked matrices, and the gradients by them, without copies."""
    makers: Makers = {var: node for node in graph.nodes for var in node.outputs}
    readers, owners = readers_of(graph), storage(graph)
    overwritten: set[Var] = set()  # a copy outlives the update of a table, the table itself does not
    nodes: list[Node] = []
    for node in graph.nodes:
        new = _product(node, makers) or _sum(node, makers, readers)
        late = new is not None and any(owners.get(var, var) in overwritten for var in reads(new))
        nodes.append(node if new is None or late else new)
        overwritten.update(owners.get(var, var) for var in overwritten_values(node))
    same = all(new is old for new, old in zip(nodes, graph.nodes, strict=True))
    return graph if same else graph.with_nodes(tuple(nodes))


def _product(node: Node, makers: Makers) -> Node | None:
    """A product whose right operand is picked from a table."""
    if node.op.name != "matmul":
        return None
    x, right = node.inputs
    turn = _made_by("permute", right, makers)
    turned = turn is not None and _swaps(turn)
    if turn is not None and turned:
        right = turn.inputs[0]
    flat = _made_by("reshape", right, makers)
    chosen = _made_by("embedding", flat.inputs[0], makers) if flat is not None else None
    if flat is None or chosen is None or not _is_batch(x):
        return None
    table, index = chosen.inputs
    shape = flat.outputs[0].spec.shape[1:]
    if not isinstance(table, Var) or not isinstance(index, Var) or len(shape) != 2:
        return None
    one_each = index.spec.shape == x.spec.shape[:1] and table.spec.shape[1] == math.prod(shape)
    if not one_each or math.prod(shape) < FEWEST:
        return None
    attrs = {"shape": tuple(shape), "turned": turned}
    return Node(PICKED, (x, table, index), attrs, node.outputs, node.where)


def _sum(node: Node, makers: Makers, readers: Mapping[Var, Sequence[Node | None]]) -> Node | None:
    """The gradient by a table, of products with matrices picked from it that nobody else reads."""
    if node.op.name != "embedding_backward":
        return None
    g, index = node.inputs
    flat = _made_by("reshape", g, makers)
    product = _made_by("matmul", flat.inputs[0], makers) if flat is not None else None
    if flat is None or product is None or readers[product.outputs[0]] != [flat] or readers[flat.outputs[0]] != [node]:
        return None
    left, right = product.inputs
    turn = _made_by("permute", left, makers)
    x = turn.inputs[0] if turn is not None and _swaps(turn) else None
    if not _is_batch(x) or not _is_batch(right) or not isinstance(index, Var):
        return None
    samples = x.spec.shape[:1] == right.spec.shape[:1] == index.spec.shape
    if not samples or flat.outputs[0].spec.shape[1:] != (math.prod(product.outputs[0].spec.shape[1:]),):
        return None
    if flat.outputs[0].spec.shape[1] < FEWEST:
        return None
    return Node(PICKED_WEIGHT, (x, right, index), {"rows": node.attrs["rows"]}, node.outputs, node.where)


def _made_by(name: str, operand: Operand, makers: Makers) -> Node | None:
    maker = makers.get(operand)
    return maker if maker is not None and maker.op.name == name else None


def _swaps(permute: Node) -> bool:
    """Whether it exchanges the rows and columns of each matrix of a batch."""
    return tuple(d % len(permute.attrs["dims"]) for d in permute.attrs["dims"]) == (0, 2, 1)


def _is_batch(operand: Operand) -> TypeGuard[Var]:
    """Whether these are matrices on the CPU, one below the other, none of them empty."""
    if not isinstance(operand, Var) or len(operand.spec.shape) != 3:
        return False
    return operand.spec.device == "cpu" and 0 not in operand.spec.shape
