"""Parts that several control-flow workloads share: LSTM cells, counting, and what a loop reads at its own position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import brentq

from engines.engine import Array
from engines.op import Namespace
from suites.workloads.workload import Rng, uniform_fan_in


def lstm_parameters(rng: Rng, name: str, inputs: int, hidden: int) -> dict[str, Array]:
    """`NAME.weight_ih` (4 hidden, inputs), `NAME.weight_hh` (4 hidden, hidden), `NAME.bias` (4 hidden,)."""
    return {
        f"{name}.weight_ih": uniform_fan_in(rng, (4 * hidden, inputs), hidden),
        f"{name}.weight_hh": uniform_fan_in(rng, (4 * hidden, hidden), hidden),
        f"{name}.bias": uniform_fan_in(rng, (4 * hidden,), hidden),
    }


def lstm(ops: Namespace, params: Mapping[str, Any], name: str, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """One step of an LSTM (Hochreiter and Schmidhuber, 1997), gates in torch's order: new h and c, (rows, hidden)."""
    return advance(ops, params, name, driven(ops, params, name, x), h, c)


def driven(ops: Namespace, params: Mapping[str, Any], name: str, x: Any) -> Any:
    """What an LSTM's gates get from x (..., inputs), (..., 4 hidden): as it needs no h, all steps can come at once."""
    return ops.linear(x, params[f"{name}.weight_ih"], params[f"{name}.bias"])


def advance(ops: Namespace, params: Mapping[str, Any], name: str, drive: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The rest of a step of an LSTM, from what `driven` gives."""
    gates = drive + ops.linear(h, params[f"{name}.weight_hh"])
    i, f, g, o = ops.split(gates, sizes=(h.shape[1],) * 4, dim=1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def zeros(ops: Namespace, like: Any, *shape: int) -> Any:
    """Zeros of `like`'s dtype."""
    return ops.full_like(like, shape=shape, value=0)


def count_up(ops: Namespace, like: Any, count: int) -> Any:
    """0, 1, ... as (count,), in the integer dtype of `like`."""
    return ops.cumsum(ops.full_like(like, shape=(count,), value=1), dim=0) - 1


def row(ops: Namespace, x: Any, t: Any) -> Any:
    """x[t], where t may also be a scalar value."""
    if isinstance(t, int):
        return x[t]
    flat = ops.reshape(x, shape=(x.shape[0], -1))
    return ops.reshape(ops.embedding(flat, t), shape=tuple(x.shape[1:]))


def lengths(rng: Rng, count: int, longest: int, spread: float) -> Array:
    """`count` lengths (int64), uniform from `longest * (1 - spread)` to `longest`."""
    shortest = round(longest * (1.0 - spread))
    return rng.integers(shortest, longest, count, endpoint=True)


def probability(entropy: float) -> float:
    """How often the rarer of two outcomes comes if their entropy is this many bits, 0 to 1."""
    if not 0.0 <= entropy <= 1.0:
        raise ValueError(f"entropy: one branch has from 0 to 1 bit, found {entropy}")
    found: float = brentq(lambda p: _entropy(p) - entropy, 0.0, 0.5)
    return found


def _entropy(p: float) -> float:
    return -sum(q * math.log2(q) for q in (p, 1.0 - p) if q > 0.0)


def share(rng: Rng, count: int, rate: float) -> Array:
    """`count` truth values of which `rate` are true, in random order; what is left of a row, by chance."""
    whole = math.floor(rate * count + rng.random())
    return rng.permutation(np.arange(count) < whole)
