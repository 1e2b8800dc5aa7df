"""A layer applied to its own result until that no longer changes, with a gradient through every trip.

From z = U x + b on, z <- tanh(W z + U x + b), a layer of equilibrium networks (Bai, Kolter and Koltun, "Deep
equilibrium models", 2019). As in adaptive computation time (Graves, 2016), from 1 to 64 trips are made, 8 on average. W
is 0.9 times a rotation, so each trip takes the residual down by about that factor, and the batch's `epsilon` says when
it is small enough.

Knobs: `trips`, how many on average; `spread`, 0 (always so many) or up to 1 (a geometric distribution); `hidden`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow

Values = Mapping[str, Any]
SIZE = {"trips": 8, "spread": 1.0, "hidden": 64}
MOST_TRIPS = 64
CONTRACTION = 0.9
INPUT_SCALE = 0.05
LIMIT = 100_000


def init(size: Size, rng: Rng) -> Arrays:
    """`weight` a scaled rotation, `input` small, so that tanh is nearly linear; `bias`."""
    hidden = size["hidden"]
    rotation, _ = np.linalg.qr(rng.normal(size=(hidden, hidden)))
    return {
        "weight": (CONTRACTION * rotation).astype(np.float32),
        "input": (INPUT_SCALE * rng.normal(size=(hidden, hidden)) / np.sqrt(hidden)).astype(np.float32),
        "bias": np.zeros(hidden, np.float32),
    }


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`x` and `target` (batch, hidden); `epsilon`, the residual to come under; `most`, how many trips at most."""
    drawn = rng.geometric(1.0 / size["trips"])
    trips = min(round(size["trips"] + size["spread"] * (drawn - size["trips"])), MOST_TRIPS)
    hidden = size["hidden"]
    return {
        "x": rng.normal(size=(batch_size, hidden)).astype(np.float32),
        "target": (INPUT_SCALE * rng.normal(size=(batch_size, hidden))).astype(np.float32),
        "epsilon": np.array(INPUT_SCALE * CONTRACTION ** (trips - 0.5), np.float32),
        "most": np.array(MOST_TRIPS),
    }


def start(ops: Namespace, params: Values, batch: Values) -> dict[str, Any]:
    """Nothing done yet: the residual is as large as can be."""
    given = ops.linear(batch["x"], params["input"], params["bias"])
    return {
        "z": given,
        "input": given,
        "residual": ops.full_like(batch["epsilon"], value=1.0),
        "trips": zeros(ops, batch["most"]),
    }


def goes_on(ops: Namespace, batch: Values, carry: Values) -> Any:
    """Whether another trip is wanted."""
    return ops.logical_and(carry["residual"] > batch["epsilon"], carry["trips"] < batch["most"])


def trip(ops: Namespace, params: Values, carry: Values) -> dict[str, Any]:
    """One trip; the residual is the root mean square of what it changed, at first about INPUT_SCALE."""
    z = ops.tanh(ops.linear(carry["z"], params["weight"]) + carry["input"])
    change = ops.stop_gradient(z - carry["z"])
    residual = ops.sqrt(ops.mean(change * change))
    return {"z": z, "input": carry["input"], "residual": residual, "trips": carry["trips"] + 1}


def error(ops: Namespace, carry: Values, batch: Values) -> Any:
    """Mean squared error of the fixed point."""
    difference = carry["z"] - batch["target"]
    return ops.mean(difference * difference)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's `while`."""
    carry = start(ops, params, batch)
    while goes_on(ops, batch, carry):
        carry = trip(ops, params, carry)
    return error(ops, carry, batch)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A loop in the graph that keeps what its gradient needs."""
    return _looped(ops, params, batch, "store")


def recomputed(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A loop in the graph that runs its body again for the gradient."""
    return _looped(ops, params, batch, "recompute")


def _looped(ops: Namespace, params: Values, batch: Values, gradient: str) -> Any:
    carry = ops.while_loop(
        lambda carry: goes_on(ops, batch, carry),
        lambda carry: trip(ops, params, carry),
        start(ops, params, batch),
        limit=LIMIT,
        gradient=gradient,
    )
    return error(ops, carry, batch)


WORKLOAD = control_flow(
    "fixed_point",
    init,
    batch,
    {"dynamic": dynamic, "static": static, "recomputed": recomputed},
    SIZE,
    quick={},
)
