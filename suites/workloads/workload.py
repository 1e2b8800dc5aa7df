"""A workload: a model, its first parameters and its batches, written once for every engine.

A model is a pure function of an op namespace, parameters, a batch and a key. The key draws the dropout masks of one
training step; None means evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engines.engine import Array, LossFunction, Quantity, Task
from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.digits import sklearn_digits

Arrays = Mapping[str, Array]
Rng = np.random.Generator
Predict = Callable[[Namespace, Mapping[str, Any], Any, Any], Any]


@dataclass(frozen=True)
class Workload:
    """One model and what it is fed with.

    `init(rng)` gives parameters, float32; `batch(rng, batch_size)` gives a batch; `loss(ops, params, batch, key)` gives
    a scalar; `predict(ops, params, image, key)` gives logits where the workload classifies. `size` holds the knobs that
    a suite sweeps.
    """

    name: str
    init: Callable[[Rng], Arrays]
    batch: Callable[[Rng, int], Arrays]
    loss: LossFunction
    optimizer: Sgd
    predict: Predict | None = None
    random: bool = False
    size: Mapping[str, int] = field(default_factory=dict)
    resize: Callable[[Mapping[str, int]], Workload] | None = None

    def sized(self, size: Mapping[str, int]) -> Workload:
        """The same workload with other knobs. Raises ValueError for knobs it does not have."""
        if not size:
            return self
        if self.resize is None or set(size) != set(self.size):
            raise ValueError(f"workload {self.name}: knobs are {sorted(self.size) or 'none'}, found {sorted(size)}")
        return replace(self.resize(size), name=self.name)

    def task(
        self, quantity: Quantity, batch_size: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0
    ) -> Task:
        """What an engine is asked to make ready. The same seed gives the same parameters and the same batch."""
        if batch_size < 1:
            raise ValueError(f"workload {self.name}: batch_size must be at least 1, found {batch_size}")
        parameters = self.init(np.random.default_rng([seed, 0]))
        batch = self.batch(np.random.default_rng([seed, 1]), batch_size)
        return Task(
            loss=self.loss,
            parameters=cast_floats(parameters, dtype),
            batch=cast_floats(batch, dtype),
            quantity=quantity,
            device=device,
            optimizer=self.optimizer,
            random=self.random,
        )


def cast_floats(arrays: Arrays, dtype: str) -> dict[str, Array]:
    """Float arrays in another float width; integers as they are."""
    return {
        name: array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in arrays.items()
    }


def digit_batch(rng: Rng, batch_size: int) -> Arrays:
    """`image` (batch_size, 1, 28, 28) float32 and `label` (batch_size,) int64, from scikit-learn's digits."""
    return sklearn_digits().sample(rng, batch_size)


def uniform_fan_in(rng: Rng, shape: tuple[int, ...], fan_in: int) -> Array:
    """Float32 weights or biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as torch.nn.Linear and Conv2d start."""
    bound = 1.0 / np.sqrt(fan_in)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def conv_parameters(rng: Rng, name: str, inputs: int, outputs: int, kernel: int) -> dict[str, Array]:
    """`NAME.weight` (outputs, inputs, kernel, kernel) and `NAME.bias` (outputs,)."""
    fan_in = inputs * kernel * kernel
    return {
        f"{name}.weight": uniform_fan_in(rng, (outputs, inputs, kernel, kernel), fan_in),
        f"{name}.bias": uniform_fan_in(rng, (outputs,), fan_in),
    }


def dense_parameters(rng: Rng, name: str, inputs: int, outputs: int) -> dict[str, Array]:
    """`NAME.weight` (outputs, inputs) and `NAME.bias` (outputs,)."""
    return {
        f"{name}.weight": uniform_fan_in(rng, (outputs, inputs), inputs),
        f"{name}.bias": uniform_fan_in(rng, (outputs,), inputs),
    }
