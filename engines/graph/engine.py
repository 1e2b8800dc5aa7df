"""The compiled graph as an engine: everything is made ready once, and a run is one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from engines.engine import Array, Outputs, Placed, Style, Task, phase, place_arrays, place_batch
from engines.graph.compile import Build, compile_loss
from engines.graph.compiled import Compiled
from engines.graph.executable import Executable
from engines.graph.lower.cuda_graph import obstacle
from engines.graph.passes import CHANNELS_LAST, PIPELINE, Pass
from engines.graph.shapes import Exact, Policy
from engines.value import EngineError, Spec, canonical_device


class GraphProgram:
    """A task as one executable."""

    def __init__(self, task: Task, passes: Sequence[Pass], build: Build, capture: bool) -> None:
        self._task = task
        self.phases: dict[str, float] = {}
        with phase(self.phases, "place"):
            self.parameters = place_arrays(task.parameters, task.device)
            device = canonical_device(task.device)
            example = place_batch(task, task.batch, key=0)
            optimizer = task.optimizer if task.quantity == "step" else None
            self._state = list(optimizer.state(self.parameters).values()) if optimizer is not None else []
        self.executable = compile_loss(
            task.loss,
            {name: Spec.of(value) for name, value in self.parameters.items()},
            {name: Spec.of(value) for name, value in example.batch.items()},
            Spec((), torch.int64, device) if task.random else None,
            quantity=task.quantity,
            optimizer=task.optimizer,
            passes=passes,
            phases=self.phases,
            build=build,
        )
        self._batch_names = list(task.batch)
        self._captures = capture and device != "cpu"
        if self._captures and obstacle(self.executable.graph) is None:
            with phase(self.phases, "capture"):
                self.executable.as_cuda_graph(held=self.parameters).prepare(*self._inputs(example))

    @property
    def counters(self) -> dict[str, int]:
        """See `Program.counters`. Counted when asked for: getting ready does not need them."""
        graph, executable = self.executable.graph, self.executable
        facts = {"nodes": len(graph.nodes), "constants": len(graph.constants), **executable.counters()}
        return facts | ({"cuda_graphs": executable.cuda_graphs} if self._captures else {})

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return place_batch(self._task, batch, key)

    def _inputs(self, placed: Placed) -> list[torch.Tensor]:
        """The executable's inputs, in its order."""
        batch = [placed.batch[name] for name in self._batch_names]
        key = [] if placed.key is None else [placed.key]
        return [*self.parameters.values(), *batch, *key, *self._state]

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`."""
        loss, *rest = self.executable(*self._inputs(placed))
        if self._task.quantity == "loss_and_grad":
            return Outputs(loss, dict(zip(self.parameters, rest, strict=True)))
        return Outputs(loss, {})


class VaryingProgram:
    """A task whose batches change in size, as executables that a policy chooses and a bounded cache holds."""

    def __init__(self, task: Task, passes: Sequence[Pass], build: Build, policy: Policy) -> None:
        if task.quantity == "step" and task.optimizer is None:
            raise EngineError("compile: quantity 'step' needs an optimizer, found None")
        self._task = task
        self.phases: dict[str, float] = {}
        with phase(self.phases, "place"):
            self.parameters = place_arrays(task.parameters, task.device)
            example = place_batch(task, task.batch, key=0)
        self._compiled = Compiled(
            task.loss,
            quantity=task.quantity,
            optimizer=task.optimizer,
            passes=passes,
            build=build,
            policy=policy,
            varying=task.varying,
            phases=self.phases,
        )
        state = task.optimizer.state(self.parameters) if task.quantity == "step" and task.optimizer is not None else {}
        self._inputs = {**self.parameters, **{f"{name}.velocity": value for name, value in state.items()}}
        graph = self._compiled.prepare(self._inputs, example.batch, example.key)
        self._facts = {"nodes": len(graph.nodes), "constants": len(graph.constants)}

    @property
    def counters(self) -> dict[str, int]:
        """Of the first executable, its nodes and constants; of all, what `Compiled.counters` says."""
        return {**self._facts, **self._compiled.counters}

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return place_batch(self._task, batch, key)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`."""
        found = self._compiled(self._inputs, placed.batch, placed.key)
        if self._task.quantity != "loss_and_grad":
            return Outputs(found["loss"], {})
        return Outputs(found["loss"], {name: found[f"grad.{name}"] for name in self.parameters})


class GraphEngine:
    """Define-and-run. `passes` may be empty: then every node is replayed just as it was traced. `build` lowers.

    `policy` says how tasks are met whose batches change in size; `Exact` where none is given. With `capture`, the
    launches of a task on CUDA whose batches keep their size become one CUDA graph, unless a value decides what is
    launched next.
    """

    style: Style = "static"

    def __init__(
        self,
        name: str = "graph",
        passes: Sequence[Pass] = PIPELINE,
        build: Build = Executable.build,
        policy: Policy | None = None,
        capture: bool = True,
    ) -> None:
        self.name = name
        self._passes = passes
        self._build = build
        self._capture = capture
        self._policy: Policy = Exact() if policy is None else policy

    def prepare(self, task: Task) -> GraphProgram | VaryingProgram:
        """See `Engine.prepare`."""
        if task.varying:
            return VaryingProgram(task, self._passes, self._build, self._policy)
        return GraphProgram(task, self._passes, self._build, self._capture)


def channels_last() -> GraphEngine:
    """The engine with convolutions, and what lies between them, in channels-last order."""
    return GraphEngine("graph_channels_last", CHANNELS_LAST)
