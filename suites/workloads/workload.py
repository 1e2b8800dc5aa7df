"""A workload: a model, its first parameters and its batches, written once for every engine.

A model is a pure function of an op namespace, parameters, a batch and a key. The key draws the dropout masks of one
training step; None means evaluation.

Where control flow depends on data, the same loss comes in several *formulations*. The `dynamic` one is what one writes
when every op runs at once: Python's `if`, `for`, `while` and recursion, on what `float()`, `bool()`, `.item()` or
`.tolist()` read of a value. A graph's symbols have no elements to read, and refuse. The `static` one decides in the
graph (`ops.cond`, `ops.while_loop`, `ops.scan`, masks), and every engine can run it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any

import numpy as np

from engines.engine import Array, LossFunction, Quantity, Task, Varying
from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.digits import sklearn_digits

Arrays = Mapping[str, Array]
Rng = np.random.Generator
Size = Mapping[str, Any]
STATIC = "static"
Predict = Callable[[Namespace, Mapping[str, Any], Any, Any], Any]


@dataclass(frozen=True)
class Workload:
    """One model and what it is fed with.

    `init(rng)` gives parameters, float32; `batch(rng, batch_size)` gives a batch; `loss(ops, params, batch, key)` gives
    a scalar; `predict(ops, params, image, key)` gives logits where the workload classifies. `size` holds the knobs that
    a suite sweeps, `quick` smaller values of some for a quick look.

    `formulations` has every way of writing the loss by name, if there are several; `loss` is the static one.
    Those that read values are `reading`. `structure` names the entries of a batch that alone decide what they read:
    while they stay the same, so does the course of the computation. It is empty where computed values decide.

    Where batches change in size, `varying` says which sizes do, and `stream(rng)` gives batch by batch.
    """

    name: str
    init: Callable[[Rng], Arrays]
    batch: Callable[[Rng, int], Arrays]
    loss: LossFunction
    optimizer: Sgd
    predict: Predict | None = None
    random: bool = False
    size: Size = field(default_factory=dict)
    resize: Callable[[Size], Workload] | None = None
    quick: Size = field(default_factory=dict)
    formulations: Mapping[str, LossFunction] = field(default_factory=dict)
    structure: tuple[str, ...] = ()
    reading: tuple[str, ...] = ("dynamic",)
    varying: tuple[Varying, ...] = ()
    stream: Callable[[Rng], Iterator[Arrays]] | None = None

    def sized(self, size: Size) -> Workload:
        """The same workload with these knobs turned. Raises ValueError for knobs it does not have."""
        if not size:
            return self
        if self.resize is None or set(size) - set(self.size):
            raise ValueError(f"workload {self.name}: knobs are {sorted(self.size) or 'none'}, found {sorted(size)}")
        return replace(self.resize({**self.size, **size}), name=self.name)

    def formulated(self, name: str) -> LossFunction:
        """The loss in this formulation. Raises ValueError where there is none of this name."""
        known = self.formulations or {STATIC: self.loss}
        if name not in known:
            raise ValueError(f"workload {self.name}: formulations are {', '.join(known)}; found {name!r}")
        return known[name]

    def task(
        self,
        quantity: Quantity,
        batch_size: int,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        formulation: str = STATIC,
        structure_known: bool = False,
    ) -> Task:
        """What an engine is asked to make ready. The same seed gives the same parameters and the same batch.

        With `structure_known` the loss already holds this batch's `structure`, as NumPy arrays, and reads those: what
        is made ready is right for batches of the same structure only, and a graph can be traced of it.
        """
        if batch_size < 1:
            raise ValueError(f"workload {self.name}: batch_size must be at least 1, found {batch_size}")
        parameters = self.init(np.random.default_rng([seed, 0]))
        batch = self.batch(np.random.default_rng([seed, 1]), batch_size)
        loss = self.formulated(formulation)
        if structure_known:
            known = {name: batch[name] for name in self.structure}
            loss = with_entries(loss, known)
            batch = {name: array for name, array in batch.items() if name not in known}
        return Task(
            loss=loss,
            parameters=cast_floats(parameters, dtype),
            batch=cast_floats(batch, dtype),
            quantity=quantity,
            device=device,
            optimizer=self.optimizer,
            random=self.random,
            varying=self.varying,
        )


def with_entries(loss: LossFunction, known: Arrays) -> LossFunction:
    """The same loss of a batch without these entries."""

    @wraps(loss)
    def completed(ops: Namespace, params: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
        return loss(ops, params, {**batch, **known}, key)

    return completed


def control_flow(
    name: str,
    init: Callable[[Size, Rng], Arrays],
    batch: Callable[[Size, Rng, int], Arrays],
    formulations: Mapping[str, LossFunction],
    size: Size,
    *,
    quick: Size,
    structure: tuple[str, ...] = (),
    reading: tuple[str, ...] = ("dynamic",),
    learning_rate: float = 0.01,
) -> Workload:
    """A workload with several formulations, whose `init` and `batch` take its knobs first."""

    def resize(chosen: Size) -> Workload:
        return Workload(
            name,
            partial(init, chosen),
            partial(batch, chosen),
            formulations[STATIC],
            Sgd(lr=learning_rate),
            size=chosen,
            resize=resize,
            quick=quick,
            formulations=formulations,
            structure=structure,
            reading=reading,
        )

    return resize(size)


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
