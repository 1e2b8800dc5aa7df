"""Layers of LSTM, one above the other, as Python loops over time and layers.

Ten layers of 256, sequences of 64, as in MagPy (Zhang et al., "MagPy: Compiling eager mode DNN programs by monitoring
execution states", ATC 2024). Nothing depends on data: what a style makes of a plain loop.

Knobs: `layers`, `steps`, `hidden`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.engine import Array
from engines.op import Namespace
from suites.workloads.cells import advance, driven, lstm, lstm_parameters, zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow

Values = Mapping[str, Any]
States = list[tuple[Any, Any]]
SIZE = {"layers": 10, "steps": 64, "hidden": 256}
QUICK = {"layers": 4, "steps": 16, "hidden": 64}


def init(size: Size, rng: Rng) -> Arrays:
    """`layerN.*`, each an LSTM cell."""
    hidden = size["hidden"]
    parameters: dict[str, Array] = {}
    for layer in range(size["layers"]):
        parameters |= lstm_parameters(rng, f"layer{layer}", hidden, hidden)
    return parameters


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`x` (steps, batch, hidden) and `target` (batch, hidden)."""
    steps, hidden = size["steps"], size["hidden"]
    return {
        "x": rng.normal(size=(steps, batch_size, hidden)).astype(np.float32),
        "target": rng.normal(size=(batch_size, hidden)).astype(np.float32),
    }


def start(ops: Namespace, params: Values, batch: Values) -> States:
    """h and c of every layer, zeros."""
    nothing = zeros(ops, batch["target"], *batch["target"].shape)
    return [(nothing, nothing) for name in params if name.endswith(".bias")]


def up(ops: Namespace, params: Values, states: States, x: Any) -> States:
    """One time step through all layers, each fed by the one below."""
    new = []
    for layer, (h, c) in enumerate(states):
        state = lstm(ops, params, f"layer{layer}", x, h, c)
        new.append(state)
        x = state[0]
    return new


def error(ops: Namespace, states: States, batch: Values) -> Any:
    """Mean squared error of the uppermost layer's last output."""
    difference = states[-1][0] - batch["target"]
    return ops.mean(difference * difference)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's loop over time. Nothing is read, so a graph traces every step."""
    states, x = start(ops, params, batch), batch["x"]
    for t in range(x.shape[0]):
        states = up(ops, params, states, x[t])
    return error(ops, states, batch)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A scan over time: all layers of one step are traced once."""
    states, _ = ops.scan(lambda states, x: (up(ops, params, states, x), None), start(ops, params, batch), batch["x"])
    return error(ops, states, batch)


def by_layer(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A scan for each layer, whose inputs are all known before it starts: one matrix product takes them in."""
    states, x = start(ops, params, batch), batch["x"]
    for layer, state in enumerate(states):
        name = f"layer{layer}"

        def body(carry: tuple[Any, Any], drive: Any, name: str = name) -> tuple[tuple[Any, Any], Any]:
            h, c = advance(ops, params, name, drive, *carry)
            return (h, c), h

        states[layer], x = ops.scan(body, state, driven(ops, params, name, x))
    return error(ops, states, batch)


WORKLOAD = control_flow(
    "lstm_stack",
    init,
    batch,
    {"dynamic": dynamic, "static": static, "by_layer": by_layer},
    SIZE,
    quick=QUICK,
    reading=(),
)
