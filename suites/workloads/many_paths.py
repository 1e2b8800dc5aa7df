"""A random path through optional layers: with k of them there are 2^k different graphs.

Each layer is x + tanh(W x + b), taken or left out; the batch says which. Knobs: `layers`, 2 to 10; `entropy`, 0 to 1
bit for each layer's choice: at 0 all batches take one path, at 1 all paths are equally likely; `width`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import probability
from suites.workloads.workload import Arrays, Rng, Size, control_flow, dense_parameters

Values = Mapping[str, Any]
Choose = Callable[[Any, Callable[[Any], Any], Any], Any]
SIZE = {"layers": 10, "entropy": 1.0, "width": 256}
QUICK = {"layers": 6, "width": 64}


def init(size: Size, rng: Rng) -> Arrays:
    """`layerN.*`, and `out.*`, which no path leaves out."""
    parameters: dict[str, Any] = dense_parameters(rng, "out", size["width"], size["width"])
    for layer in range(size["layers"]):
        parameters |= dense_parameters(rng, f"layer{layer}", size["width"], size["width"])
    return parameters


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`x` and `target` (batch, width), and `path` (layers,), whether each layer is taken."""
    shape = (batch_size, size["width"])
    return {
        "x": rng.normal(size=shape).astype(np.float32),
        "target": rng.normal(size=shape).astype(np.float32),
        "path": np.array(rng.random(size["layers"]) >= probability(size["entropy"])),
    }


def layer(ops: Namespace, params: Values, index: int, x: Any) -> Any:
    """One layer that is taken."""
    return x + ops.tanh(ops.linear(x, params[f"layer{index}.weight"], params[f"layer{index}.bias"]))


def along(ops: Namespace, params: Values, batch: Values, path: Any, choose: Choose) -> Any:
    """Mean squared error after all layers; `choose` takes a layer or leaves it out."""
    x = batch["x"]
    for index in range(batch["path"].shape[0]):
        x = choose(path[index], partial(layer, ops, params, index), x)
    difference = ops.linear(x, params["out.weight"], params["out.bias"]) - batch["target"]
    return ops.mean(difference * difference)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's `if`."""
    return along(ops, params, batch, batch["path"].tolist(), lambda taken, step, x: step(x) if taken else x)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A branch in the graph for each layer."""
    return along(ops, params, batch, batch["path"], lambda taken, step, x: ops.cond(taken, step, lambda same: same, x))


def masked(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Every layer is computed, and then taken or not."""
    return along(ops, params, batch, batch["path"], lambda taken, step, x: ops.where(taken, step(x), x))


WORKLOAD = control_flow(
    "many_paths",
    init,
    batch,
    {"dynamic": dynamic, "static": static, "masked": masked},
    SIZE,
    quick=QUICK,
    structure=("path",),
)
