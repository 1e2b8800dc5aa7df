"""The compiled graph as an engine: everything is made ready once, and a run is one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from engines.engine import Array, Outputs, Placed, Style, Task, phase, place_arrays, place_batch
from engines.graph.compile import Build, compile_loss
from engines.graph.executable import Executable
from engines.graph.passes import PIPELINE, Pass
from engines.value import Spec, canonical_device


class GraphProgram:
    """A task as one executable."""

    def __init__(self, task: Task, passes: Sequence[Pass], build: Build) -> None:
        self._task = task
        self.phases: dict[str, float] = {}
        with phase(self.phases, "place"):
            self.parameters = place_arrays(task.parameters, task.device)
            device = canonical_device(task.device)
            example = place_batch(task, task.batch, key=0)
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
        self.counters = {"nodes": len(self.executable.graph.nodes), "constants": len(self.executable.graph.constants)}
        state = task.optimizer.state(self.parameters) if task.quantity == "step" and task.optimizer is not None else {}
        self._state = list(state.values())
        self._batch_names = list(task.batch)

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return place_batch(self._task, batch, key)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`."""
        batch = [placed.batch[name] for name in self._batch_names]
        key = [] if placed.key is None else [placed.key]
        loss, *rest = self.executable(*self.parameters.values(), *batch, *key, *self._state)
        if self._task.quantity == "loss_and_grad":
            return Outputs(loss, dict(zip(self.parameters, rest, strict=True)))
        return Outputs(loss, {})


class GraphEngine:
    """Define-and-run. `passes` may be empty: then every node is replayed just as it was traced. `build` lowers."""

    style: Style = "static"

    def __init__(self, name: str = "graph", passes: Sequence[Pass] = PIPELINE, build: Build = Executable.build) -> None:
        self.name = name
        self._passes = passes
        self._build = build

    def prepare(self, task: Task) -> GraphProgram:
        """See `Engine.prepare`."""
        return GraphProgram(task, self._passes, self._build)
