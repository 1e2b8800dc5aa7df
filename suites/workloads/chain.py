"""Many small elementwise ops: what a style costs per op, once the work of each op is next to nothing.

    chain        x -> tanh -> scale -> tanh -> scale ...      each op needs the one before
    chain_wide   tanh(c1 x) + tanh(c2 x) + ...                each branch stands alone
    chain_tree   pairs added, pairs of pairs added, ...       depth log2 of the number of leaves

Knobs: `ops`, the number of elementwise ops (the closing sum not counted), and `elements` in x. Every scale is a number
of its own, so that no optimiser can find two ops that are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.workload import Arrays, Rng, Workload

Body = Callable[[Namespace, Any, int], Any]


def _scale(index: int) -> float:
    """A number near 1, different for each index: the chain neither dies out nor blows up."""
    return 1.0 + 1.0 / (index + 64)


def deep(ops: Namespace, x: Any, count: int, first: int = 0) -> Any:
    """`count` ops, each on the result of the one before; those of a longer chain from the `first` on."""
    for i in range(first, first + count):
        x = x * _scale(i) if i % 2 else ops.tanh(x)
    return x


def wide(ops: Namespace, x: Any, count: int) -> Any:
    """About `count` ops: scale, tanh and add for each branch from x."""
    total = x
    for i in range(max(1, count // 3)):
        total = total + ops.tanh(x * _scale(i))
    return total


def tree(ops: Namespace, x: Any, count: int) -> Any:
    """About `count` ops: scaled leaves, added in pairs until one is left."""
    level = [x * _scale(i) for i in range(max(1, (count + 1) // 2))]
    while len(level) > 1:
        pairs = [level[i] + level[i + 1] for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0]


def _workload(name: str, body: Body, size: Mapping[str, int]) -> Workload:
    def init(rng: Rng) -> Arrays:
        return {"x": rng.normal(size=size["elements"]).astype(np.float32)}

    def batch(_: Rng, __: int) -> Arrays:
        return {}

    def loss(ops: Namespace, params: Mapping[str, Any], _: Mapping[str, Any], __: Any) -> Any:
        return ops.sum(body(ops, params["x"], size["ops"]))

    return Workload(name, init, batch, loss, Sgd(lr=0.01), size=size, resize=lambda s: _workload(name, body, s))


DEFAULT_SIZE = {"ops": 100, "elements": 1}

WORKLOADS = tuple(
    _workload(name, body, DEFAULT_SIZE) for name, body in (("chain", deep), ("chain_wide", wide), ("chain_tree", tree))
)
