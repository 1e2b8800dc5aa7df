"""A binary Tree-LSTM (Tai, Socher and Manning, 2015) over a batch of trees, with a label and a loss at every node.

At a leaf gates i, o, u come from its word, at an inner node from both children, with a forget gate for each; 128 and
128 units, one tree at a time, as in dynet-benchmark (Neubig et al., 2017; its output gate is given the input gate's
bias, ours its own). Or many trees, whose nodes are computed level by level (Looks et al., "Deep learning with dynamic
computation graphs", ICLR 2017: 128 leaves, state 1024).

Trees come as arrays: nodes are numbered by their height above the leaves, so that a level is a range of numbers, and
`left` and `right` hold children's numbers.

Knobs: `leaves` of the largest tree; `spread`, 0 to 1, how much smaller others are; `chain`, 0 (each node splits its
leaves anywhere) to 1 (one by one: as deep as can be); `lanes`, how many nodes of a level the graph takes at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.engine import Array
from engines.op import Namespace
from suites.workloads.cells import count_up, lengths, row, zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow, dense_parameters, uniform_fan_in

Values = Mapping[str, Any]
State = tuple[Any, Any]
Node = tuple[int, int, int]  # height, left and right child
SHAPE = {"leaves": 32, "spread": 0.5, "chain": 0.0, "lanes": 64}
SIZE = {**SHAPE, "embedding": 128, "hidden": 128, "vocabulary": 10_000}
QUICK = {"leaves": 16, "lanes": 16, "embedding": 32, "hidden": 32, "vocabulary": 1000}
LABELS = 5


def init(size: Size, rng: Rng) -> Arrays:
    """`leaf.*` and `node.*` for the gates i, o, u, with one `bias`; `forget.*`; `out.*`."""
    inputs, hidden = size["embedding"], size["hidden"]
    return {
        "embedding": rng.normal(size=(size["vocabulary"], inputs)).astype(np.float32),
        "leaf.weight": uniform_fan_in(rng, (3 * hidden, inputs), inputs),
        "node.weight": uniform_fan_in(rng, (3 * hidden, 2 * hidden), 2 * hidden),
        "bias": uniform_fan_in(rng, (3 * hidden,), hidden),
        "forget.left": uniform_fan_in(rng, (hidden, hidden), hidden),
        "forget.right": uniform_fan_in(rng, (hidden, hidden), hidden),
        "forget.bias": uniform_fan_in(rng, (hidden,), hidden),
        **dense_parameters(rng, "out", hidden, LABELS),
    }


def grow(rng: Rng, leaves: int, chain: float, nodes: list[Node]) -> int:
    """Append the nodes of a random tree, children first; gives the place of its root."""
    if leaves == 1:
        nodes.append((0, 0, 0))
    else:
        split = 1 if rng.random() < chain else int(rng.integers(1, leaves))
        left, right = grow(rng, split, chain, nodes), grow(rng, leaves - split, chain, nodes)
        nodes.append((1 + max(nodes[left][0], nodes[right][0]), left, right))
    return len(nodes) - 1


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """Trees as arrays whose shapes depend on knobs alone; places behind the last node or trip hold zeros.

    For nodes: `left`, `right`, `label`; `word` for leaves, which come first; `root` (batch,). `bounds` (leaves + 1,):
    how many nodes are lower than each height. Trips of at most `lanes` nodes: `first` node and `count`, `trips` in all.
    """
    leaves, lanes = size["leaves"], size["lanes"]
    nodes: list[Node] = []
    counts = np.maximum(lengths(rng, batch_size, leaves, size["spread"]), 1)
    roots = [grow(rng, int(count), size["chain"], nodes) for count in counts]
    height, left, right = np.array(nodes).T
    order = np.argsort(height, kind="stable")
    number = np.argsort(order)
    bounds = np.searchsorted(height[order], np.arange(leaves + 1))
    first, count = _trips(bounds, lanes)
    places, most = batch_size * (2 * leaves - 1) + lanes, batch_size * (leaves - 1) // lanes + leaves
    return {
        "left": _filled(places, number[left[order]] * (height[order] > 0)),
        "right": _filled(places, number[right[order]] * (height[order] > 0)),
        "label": _filled(places, rng.integers(0, LABELS, len(nodes))),
        "word": _filled(batch_size * leaves, rng.integers(0, size["vocabulary"], bounds[1])),
        "root": number[roots],
        "bounds": bounds,
        "first": _filled(most, first),
        "count": _filled(most, count),
        "trips": np.array(len(first)),
    }


def _trips(bounds: Array, lanes: int) -> tuple[list[int], list[int]]:
    """Every level above the leaves in pieces: the first node of each, and how many it has."""
    levels = itertools.pairwise(bounds[1:].tolist())
    first = [(at, stop) for start, stop in levels for at in range(start, stop, lanes)]
    return [at for at, _ in first], [min(lanes, stop - at) for at, stop in first]


def _filled(places: int, values: Any) -> Array:
    """Integers with zeros behind them."""
    array = np.zeros(places, np.int64)
    array[: len(values)] = values
    return array


def leaf(ops: Namespace, params: Values, word: Any) -> State:
    """h and c of leaves with these embedded words (rows, embedding)."""
    return gated(ops, ops.linear(word, params["leaf.weight"], params["bias"]))


def join(ops: Namespace, params: Values, left: State, right: State) -> State:
    """h and c of nodes with these children."""
    gates = ops.linear(ops.concat([left[0], right[0]], dim=1), params["node.weight"], params["bias"])
    forget_left = ops.sigmoid(ops.linear(left[0], params["forget.left"], params["forget.bias"]))
    forget_right = ops.sigmoid(ops.linear(right[0], params["forget.right"], params["forget.bias"]))
    return gated(ops, gates, forget_left * left[1] + forget_right * right[1])


def gated(ops: Namespace, gates: Any, kept: Any = None) -> State:
    """h and c from the gates i, o, u (rows, 3 hidden) and what is kept of the children's c."""
    i, o, u = ops.split(gates, sizes=(gates.shape[1] // 3,) * 3, dim=1)
    new = ops.sigmoid(i) * ops.tanh(u)
    c = new if kept is None else new + kept
    return ops.sigmoid(o) * ops.tanh(c), c


def labelled(ops: Namespace, params: Values, h: Any) -> Any:
    """Log-probabilities (nodes, 5) of the labels."""
    return ops.log_softmax(ops.linear(h, params["out.weight"], params["out.bias"]), dim=1)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Node by node: a function that calls itself for the children."""
    left, right, bounds = (batch[name].tolist() for name in ("left", "right", "bounds"))
    words = ops.split(ops.embedding(params["embedding"], batch["word"][: bounds[1]]), sizes=(1,) * bounds[1])
    states: dict[int, State] = {}

    def visit(node: int) -> State:
        if node < bounds[1]:
            state = leaf(ops, params, words[node])
        else:
            state = join(ops, params, visit(left[node]), visit(right[node]))
        states[node] = state
        return state

    for root in batch["root"].tolist():
        visit(root)
    h = ops.concat([states[node][0] for node in range(bounds[-1])])
    return ops.nll_loss(labelled(ops, params, h), batch["label"][: bounds[-1]])


def levels(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Level by level: Python's loop over heights, each with as many nodes as there are."""
    left, right, bounds = batch["left"], batch["right"], batch["bounds"].tolist()
    h, c = leaf(ops, params, ops.embedding(params["embedding"], batch["word"][: bounds[1]]))
    for start, stop in itertools.pairwise(bounds[1:]):
        if start < stop:
            a, b = left[start:stop], right[start:stop]
            new = join(
                ops,
                params,
                (ops.embedding(h, a), ops.embedding(c, a)),
                (ops.embedding(h, b), ops.embedding(c, b)),
            )
            h, c = ops.concat([h, new[0]]), ops.concat([c, new[1]])
    return ops.nll_loss(labelled(ops, params, h), batch["label"][: bounds[-1]])


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Level by level in a loop in the graph: each trip takes some nodes of a level and adds them to a store of all."""
    left, right, label, word = (batch[name] for name in ("left", "right", "label", "word"))
    places, hidden = left.shape[0], params["forget.bias"].shape[0]
    lanes = places - (2 * word.shape[0] - batch["root"].shape[0])
    lane = ops.reshape(count_up(ops, left, lanes), shape=(lanes, 1))

    def stored(store: Any, first: Any, rows: Any, count: Any) -> Any:
        """Rows put into the store, those from `count` on as zeros."""
        lane = ops.reshape(count_up(ops, left, rows.shape[0]), shape=(-1, 1))
        where = ops.broadcast_to(first + lane, shape=tuple(rows.shape))
        return ops.scatter_add(store, where, ops.where(lane < count, rows, 0.0), dim=0)

    def body(carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        t, h, c = carry
        first, count = row(ops, batch["first"], t), row(ops, batch["count"], t)
        node = ops.reshape(first + lane, shape=(lanes,))
        a, b = ops.gather(left, node, dim=0), ops.gather(right, node, dim=0)
        new = join(ops, params, (ops.embedding(h, a), ops.embedding(c, a)), (ops.embedding(h, b), ops.embedding(c, b)))
        return t + 1, stored(h, first, new[0], count), stored(c, first, new[1], count)

    leaves = leaf(ops, params, ops.embedding(params["embedding"], word))
    empty, t = zeros(ops, params["bias"], places, hidden), zeros(ops, batch["trips"])
    h, c = (stored(empty, t, rows, batch["bounds"][1]) for rows in leaves)
    _, h, _ = ops.while_loop(lambda carry: carry[0] < batch["trips"], body, (t, h, c), limit=batch["first"].shape[0])
    found = ops.gather(labelled(ops, params, h), ops.reshape(label, shape=(places, 1)), dim=1)
    real = ops.reshape(count_up(ops, left, places), shape=(places, 1)) < batch["bounds"][-1]
    return -ops.sum(ops.where(real, found, 0.0)) / batch["bounds"][-1]


WORKLOAD = control_flow(
    "tree_lstm",
    init,
    batch,
    {"dynamic": dynamic, "levels": levels, "static": static},
    SIZE,
    quick=QUICK,
    structure=("left", "right", "bounds", "root"),
    reading=("dynamic", "levels"),
)
