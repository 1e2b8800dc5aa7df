"""A random path through optional layers: with k of them there are 2^k different graphs.

Each layer is x + tanh(W x + b), taken or left out; the batch says which. Knobs: `layers`, 2 to 10; `entropy`, 0 to 1
bit for each layer's choice: at 0 all batches take one path, at 1 all paths are equally likely; `width`; `alternatives`,
0 or 1: with one, another layer is taken instead of none: all paths are equally long, and entropy changes no work.
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
Step = Callable[[Any], Any]
Choose = Callable[[Any, Step, Step, Any], Any]
SIZE = {"layers": 10, "entropy": 1.0, "width": 256, "alternatives": 0}
QUICK = {"layers": 6, "width": 64}


def init(size: Size, rng: Rng) -> Arrays:
    """`layerN.*`, where there are alternatives `otherN.*`, and `out.*`, which no path leaves out."""
    parameters: dict[str, Any] = dense_parameters(rng, "out", size["width"], size["width"])
    for name in ("layer", "other")[: 1 + size["alternatives"]]:
        for index in range(size["layers"]):
            parameters |= dense_parameters(rng, f"{name}{index}", size["width"], size["width"])
    return parameters


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`x` and `target` (batch, width), and `path` (layers,), whether each layer is taken."""
    shape = (batch_size, size["width"])
    return {
        "x": rng.normal(size=shape).astype(np.float32),
        "target": rng.normal(size=shape).astype(np.float32),
        "path": np.array(rng.random(size["layers"]) >= probability(size["entropy"])),
    }


def layer(ops: Namespace, params: Values, name: str, x: Any) -> Any:
    """One layer that is taken; none, where it has no parameters."""
    if f"{name}.weight" not in params:
        return x
    return x + ops.tanh(ops.linear(x, params[f"{name}.weight"], params[f"{name}.bias"]))


def along(ops: Namespace, params: Values, batch: Values, path: Any, choose: Choose) -> Any:
    """Mean squared error after all layers; `choose` takes a layer or its alternative."""
    x = batch["x"]
    for index in range(batch["path"].shape[0]):
        step, other = (partial(layer, ops, params, f"{name}{index}") for name in ("layer", "other"))
        x = choose(path[index], step, other, x)
    difference = ops.linear(x, params["out.weight"], params["out.bias"]) - batch["target"]
    return ops.mean(difference * difference)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's `if`."""
    path = batch["path"].tolist()
    return along(ops, params, batch, path, lambda taken, step, other, x: step(x) if taken else other(x))


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A branch in the graph for each layer."""
    return along(ops, params, batch, batch["path"], ops.cond)


def masked(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Every layer is computed, and then taken or not."""
    return along(ops, params, batch, batch["path"], lambda taken, step, other, x: ops.where(taken, step(x), other(x)))


WORKLOAD = control_flow(
    "many_paths",
    init,
    batch,
    {"dynamic": dynamic, "static": static, "masked": masked},
    SIZE,
    quick=QUICK,
    structure=("path",),
)
