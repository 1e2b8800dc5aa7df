"""From a model to an executable, and the cache that keeps one per set of shapes and dtypes.

step = Compiled(model.loss, quantity="step", optimizer=Sgd(lr=0.01))
loss = step(parameters, batch, key)["loss"]       # compiles at the first call, and again for each new shape
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from engines.engine import LossFunction, Quantity, phase
from engines.graph.autodiff import differentiate, update
from engines.graph.executable import Executable
from engines.graph.ir import Graph
from engines.graph.passes import PIPELINE, Pass
from engines.graph.trace import Symbol, trace
from engines.op import Namespace
from engines.optim import Sgd
from engines.value import EngineError, Spec

Specs = Mapping[str, Spec]
Build = Callable[[Graph], Executable]


def compile_loss(
    loss: LossFunction,
    parameters: Specs,
    batch: Specs,
    key: Spec | None,
    *,
    quantity: Quantity = "loss_and_grad",
    optimizer: Sgd | None = None,
    passes: Sequence[Pass] = PIPELINE,
    phases: dict[str, float] | None = None,
    build: Build = Executable.build,
) -> Executable:
    """Trace, differentiate, optimise and lower `loss(ops, parameters, batch, key)`.

    Inputs are named as in `parameters` and `batch`, then `key`, then for a step `NAME.velocity`; outputs are `loss`
    and, by quantity, `grad.NAME` or the updated parameters. `phases` receives the seconds of each phase; `build`
    lowers the graph.
    """
    phases = {} if phases is None else phases
    with phase(phases, "trace"):
        graph = _trace_loss(loss, parameters, batch, key)
    if quantity != "forward":
        with phase(phases, "autodiff"):
            graph = differentiate(graph, "loss", list(parameters))
    if quantity == "step":
        if optimizer is None:
            raise EngineError("compile: quantity 'step' needs an optimizer, found None")
        with phase(phases, "update"):
            graph = update(graph, optimizer, list(parameters))
    graph = run_passes(graph, passes, phases)
    with phase(phases, "lower"):
        return build(graph)


def run_passes(graph: Graph, passes: Sequence[Pass], phases: dict[str, float]) -> Graph:
    """Apply passes in order, timing each."""
    for step in passes:
        with phase(phases, step.__name__):
            graph = step(graph)
    return graph


def _trace_loss(loss: LossFunction, parameters: Specs, batch: Specs, key: Spec | None) -> Graph:
    inputs = {**parameters, **batch, **({} if key is None else {"key": key})}
    if len(inputs) != len(parameters) + len(batch) + (key is not None):
        raise EngineError(f"compile: names of parameters {sorted(parameters)} and batch {sorted(batch)} clash")

    def model(ops: Namespace, symbols: dict[str, Symbol]) -> dict[str, Symbol]:
        ours = {name: symbols[name] for name in parameters}
        theirs = {name: symbols[name] for name in batch}
        return {"loss": loss(ops, ours, theirs, symbols.get("key") if key is not None else None)}

    return trace(model, inputs, name=getattr(loss, "__module__", "loss").rpartition(".")[2] or "loss")


class Compiled:
    """A loss function with an executable for each set of shapes and dtypes it has met.

    Called with torch tensors on one device; for a step, `parameters` also holds the velocities, and both are updated
    in place.
    """

    def __init__(
        self,
        loss: LossFunction,
        *,
        quantity: Quantity = "loss_and_grad",
        optimizer: Sgd | None = None,
        passes: Sequence[Pass] = PIPELINE,
    ) -> None:
        self._loss = loss
        self._options: dict[str, Any] = {"quantity": quantity, "optimizer": optimizer, "passes": passes}
        self.executables: dict[Any, Executable] = {}

    def __call__(
        self, parameters: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor], key: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """The outputs by name."""
        given = {**parameters, **batch, **({} if key is None else {"key": key})}
        signature = tuple((name, Spec.of(value)) for name, value in given.items())
        executable = self.executables.get(signature)
        if executable is None:
            weights = {name: Spec.of(v) for name, v in parameters.items() if not name.endswith(".velocity")}
            specs = {name: Spec.of(v) for name, v in batch.items()}
            executable = compile_loss(
                self._loss, weights, specs, None if key is None else Spec.of(key), **self._options
            )
            self.executables[signature] = executable
        return executable.run_named(given)
