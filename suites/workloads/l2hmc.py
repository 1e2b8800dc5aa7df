"""A sampler that learns: Hamiltonian Monte Carlo whose leapfrog steps are bent by small networks.

L2HMC (Levy, Hoffman and Sohl-Dickstein, "Generalizing Hamiltonian Monte Carlo with neural networks", ICLR 2018) on the
paper's strongly correlated Gaussian, variances 100 and 0.1, turned by 45 degrees; hidden 10, dimension 2, 10 leapfrog
steps, 10 to 200 samples, as in TensorFlow Eager (Agrawal et al., MLSys 2019). The loss is the paper's, of the expected
squared jump distance. Half of the chains run backward in time; they share the networks' calls with the others.

Knobs: `steps`, `hidden`. Samples are the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.engine import Array
from engines.op import Namespace
from suites.workloads.cells import zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow, dense_parameters

Values = Mapping[str, Any]
State = tuple[Any, Any, Any]  # position, momentum, log-determinant of the step's Jacobian
SIZE = {"steps": 10, "hidden": 10}
DIMENSION = 2
VARIANCES = (100.0, 0.1)
FIRST_STEP_SIZE = 0.1
SCALE = 0.1
SMALLEST_JUMP = 1e-4


def _network(rng: Rng, name: str, hidden: int) -> dict[str, Array]:
    return {
        **dense_parameters(rng, f"{name}.first", DIMENSION, hidden),
        **dense_parameters(rng, f"{name}.second", DIMENSION, hidden),
        **dense_parameters(rng, f"{name}.time", 2, hidden),
        **dense_parameters(rng, f"{name}.hidden", hidden, hidden),
        **dense_parameters(rng, f"{name}.scale", hidden, DIMENSION),
        **dense_parameters(rng, f"{name}.shift", hidden, DIMENSION),
        **dense_parameters(rng, f"{name}.bend", hidden, DIMENSION),
        f"{name}.scale_by": np.zeros(DIMENSION, np.float32),
        f"{name}.bend_by": np.zeros(DIMENSION, np.float32),
    }


def init(size: Size, rng: Rng) -> Arrays:
    """Networks `position.*` and `momentum.*`, and `log_step`, the logarithm of the step size."""
    networks = {**_network(rng, "position", size["hidden"]), **_network(rng, "momentum", size["hidden"])}
    return {**networks, "log_step": np.log(np.array([FIRST_STEP_SIZE], np.float32))}


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`x`, `v` (samples, 2); `forward` (samples, 1); `inverse` covariance (2, 2).

    For each step of each chain, in the chain's own order: `mask` (steps, samples, 2), which coordinate moves second,
    and `time` (steps, samples, 2) on the unit circle.
    """
    steps = size["steps"]
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2.0)
    forward = rng.permutation(np.arange(batch_size) % 2 == 0)[:, None]
    mask = rng.permuted(np.tile([1.0, 0.0], (steps, 1)), axis=1)[:, None, :]
    angle = 2.0 * np.pi * np.arange(steps) / steps
    time = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None, :]
    return {
        "x": rng.normal(size=(batch_size, DIMENSION)).astype(np.float32),
        "v": rng.normal(size=(batch_size, DIMENSION)).astype(np.float32),
        "forward": forward,
        "inverse": (turn @ np.diag(1.0 / np.array(VARIANCES)) @ turn.T).astype(np.float32),
        "mask": np.where(forward, mask, 1.0 - mask[::-1]).astype(np.float32),
        "time": np.where(forward, time, time[::-1]).astype(np.float32),
    }


def bent(ops: Namespace, params: Values, name: str, first: Any, second: Any, time: Any) -> tuple[Any, Any, Any]:
    """A network's scale, shift and bend, (samples, 2) each."""

    def dense(part: str, x: Any) -> Any:
        return ops.linear(x, params[f"{name}.{part}.weight"], params[f"{name}.{part}.bias"])

    h = ops.relu(dense("first", first) + dense("second", second) + dense("time", time))
    h = ops.relu(dense("hidden", h))
    scale = ops.tanh(dense("scale", h)) * ops.exp(params[f"{name}.scale_by"])
    bend = ops.tanh(dense("bend", h)) * ops.exp(params[f"{name}.bend_by"])
    return scale, dense("shift", h), bend


def moved(ops: Namespace, old: Any, log_scale: Any, shift: Any, forward: Any) -> tuple[Any, Any]:
    """old * exp(log_scale) + shift, or where not forward its inverse; and the logarithm of the scale used."""
    used = ops.where(forward, log_scale, -log_scale)
    scale = ops.exp(used)
    return ops.where(forward, old * scale + shift, (old - shift) * scale), used


def kick(ops: Namespace, params: Values, batch: Values, state: State, time: Any) -> State:
    """Half a step of the momentum."""
    x, v, log_det = state
    half = ops.exp(params["log_step"]) * 0.5
    slope = ops.matmul(x, batch["inverse"])
    scale, shift, bend = bent(ops, params, "momentum", x, slope, time)
    v, used = moved(ops, v, half * scale, -half * (slope * ops.exp(half * 2.0 * bend) + shift), batch["forward"])
    return x, v, log_det + ops.sum(used, dim=1, keepdim=True)


def drift(ops: Namespace, params: Values, batch: Values, state: State, time: Any, mask: Any) -> State:
    """A step of the coordinates of the position that `mask` does not keep."""
    x, v, log_det = state
    step = ops.exp(params["log_step"])
    scale, shift, bend = bent(ops, params, "position", v, mask * x, time)
    new, used = moved(ops, x, step * scale, step * (v * ops.exp(step * bend) + shift), batch["forward"])
    moving = 1.0 - mask
    return mask * x + moving * new, v, log_det + ops.sum(moving * used, dim=1, keepdim=True)


def leapfrog(ops: Namespace, params: Values, batch: Values, state: State, mask: Any, time: Any) -> State:
    """One step of every chain."""
    state = kick(ops, params, batch, state, time)
    state = drift(ops, params, batch, state, time, mask)
    state = drift(ops, params, batch, state, time, 1.0 - mask)
    return kick(ops, params, batch, state, time)


def energy(ops: Namespace, batch: Values, x: Any, v: Any) -> Any:
    """Potential and kinetic, (samples, 1)."""
    return ops.sum(ops.matmul(x, batch["inverse"]) * x + v * v, dim=1, keepdim=True) * 0.5


def start(ops: Namespace, batch: Values) -> State:
    """The state before the first step."""
    return batch["x"], batch["v"], zeros(ops, batch["x"], batch["x"].shape[0], 1)


def jump(ops: Namespace, batch: Values, state: State) -> Any:
    """Short expected jumps cost much, long ones gain a little: mean of s^2 / d - d / s^2."""
    x, v, log_det = state
    gain = energy(ops, batch, batch["x"], batch["v"]) - energy(ops, batch, x, v) + log_det
    accepted = ops.exp(ops.where(gain < 0.0, gain, 0.0))
    distance = (x - batch["x"]) * (x - batch["x"])
    expected = ops.sum(distance, dim=1, keepdim=True) * accepted + SMALLEST_JUMP
    return ops.mean(SCALE**2 / expected - expected * SCALE**-2)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's loop over steps. Nothing is read, so a graph traces every step."""
    state = start(ops, batch)
    for t in range(batch["mask"].shape[0]):
        state = leapfrog(ops, params, batch, state, batch["mask"][t], batch["time"][t])
    return jump(ops, batch, state)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A scan over steps."""
    state, _ = ops.scan(
        lambda state, now: (leapfrog(ops, params, batch, state, *now), None),
        start(ops, batch),
        (batch["mask"], batch["time"]),
    )
    return jump(ops, batch, state)


WORKLOAD = control_flow("l2hmc", init, batch, {"dynamic": dynamic, "static": static}, SIZE, quick={}, reading=())
