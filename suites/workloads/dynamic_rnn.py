"""A recurrent network over rows of different length: a row that has ended keeps its state.

The loop of TensorFlow's `dynamic_rnn` as AutoGraph writes it (Moldovan et al., "AutoGraph: Imperative-style coding with
graph-based performance", MLSys 2019): hidden 256, sequences of 64 and 128, batches of 32 to 128.

Knobs: `steps`, the greatest length; `spread`, 0 to 1, how far lengths lie apart; `hidden`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import count_up, lengths, row, zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow, uniform_fan_in

Values = Mapping[str, Any]
SIZE = {"steps": 64, "hidden": 256, "spread": 0.5}
QUICK = {"steps": 32, "hidden": 64}


def init(size: Size, rng: Rng) -> Arrays:
    """An Elman cell."""
    hidden = size["hidden"]
    return {
        "weight_ih": uniform_fan_in(rng, (hidden, hidden), hidden),
        "weight_hh": uniform_fan_in(rng, (hidden, hidden), hidden),
        "bias": uniform_fan_in(rng, (hidden,), hidden),
    }


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`x` (steps, batch, hidden), `length` (batch, 1), `target` (batch, hidden)."""
    steps, hidden = size["steps"], size["hidden"]
    return {
        "x": rng.normal(size=(steps, batch_size, hidden)).astype(np.float32),
        "length": lengths(rng, batch_size, steps, size["spread"])[:, None],
        "target": rng.normal(size=(batch_size, hidden)).astype(np.float32),
    }


def step(ops: Namespace, params: Values, state: Any, x: Any, goes_on: Any) -> Any:
    """The next state (batch, hidden): a new one for the rows that go on."""
    new = ops.linear(x, params["weight_ih"], params["bias"]) + ops.linear(state, params["weight_hh"])
    return ops.where(goes_on, ops.tanh(new), state)


def start(ops: Namespace, batch: Values) -> Any:
    """The first state, zeros."""
    return zeros(ops, batch["target"], *batch["target"].shape)


def error(ops: Namespace, state: Any, batch: Values) -> Any:
    """Mean squared error of the last states."""
    difference = state - batch["target"]
    return ops.mean(difference * difference)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python counts to the length of the longest row."""
    state, x, length = start(ops, batch), batch["x"], batch["length"]
    longest = max(n for (n,) in length.tolist())
    for t in range(longest):
        state = step(ops, params, state, x[t], length > t)
    return error(ops, state, batch)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A loop in the graph, to the length of the longest row."""
    x, length = batch["x"], batch["length"]
    longest = ops.max(length)

    def body(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        t, state = carry
        return t + 1, step(ops, params, state, row(ops, x, t), length > t)

    first = (zeros(ops, length), start(ops, batch))
    _, state = ops.while_loop(lambda carry: carry[0] < longest, body, first, limit=x.shape[0])
    return error(ops, state, batch)


def scan(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """As many steps as any row may have; the body is traced once."""
    x, length = batch["x"], batch["length"]

    def body(state: Any, now: tuple[Any, Any]) -> tuple[Any, None]:
        x_now, t = now
        return step(ops, params, state, x_now, length > t), None

    state, _ = ops.scan(body, start(ops, batch), (x, count_up(ops, length, x.shape[0])))
    return error(ops, state, batch)


def unrolled(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """As many steps as any row may have, one after the other in the graph."""
    state, x, length = start(ops, batch), batch["x"], batch["length"]
    for t in range(x.shape[0]):
        state = step(ops, params, state, x[t], length > t)
    return error(ops, state, batch)


WORKLOAD = control_flow(
    "dynamic_rnn",
    init,
    batch,
    {"dynamic": dynamic, "static": static, "scan": scan, "unrolled": unrolled},
    SIZE,
    quick=QUICK,
    structure=("length",),
)
