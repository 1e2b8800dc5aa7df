"""From a model to an executable.

executable = compile_loss(model.loss, parameter_specs, batch_specs, key_spec, quantity="step", optimizer=Sgd(lr=0.01))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    graph = graph_of_loss(loss, parameters, batch, key, quantity=quantity, optimizer=optimizer, phases=phases)
    graph = run_passes(graph, passes, phases)
    with phase(phases, "lower"):
        return build(graph)


def graph_of_loss(
    loss: LossFunction,
    parameters: Specs,
    batch: Specs,
    key: Spec | None,
    *,
    quantity: Quantity,
    optimizer: Sgd | None,
    phases: dict[str, float],
) -> Graph:
    """Trace and differentiate, as `compile_loss` does before any pass."""
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
    return graph


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
