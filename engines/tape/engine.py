"""The tape as an engine: nothing to make ready, everything to do at each run."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engines.engine import Array, Mark, Outputs, Placed, Style, Task, phase, place_arrays, place_batch, unmarked
from engines.ops import KERNELS
from engines.ops.finite import Finite
from engines.tape.tape import Freed, Tape
from engines.tape.tensor import Tensor
from engines.value import EngineError, Location, canonical_device

THROWN_AWAY = Freed(Location(__file__, 0))
"""Stands where an entry of a run's record was: nobody comes back to it, so nobody asks which line freed it."""


class TapeProgram:
    """A task on a tape: each run makes a new record and throws it away."""

    def __init__(self, task: Task, check_finite: Finite = False) -> None:
        if task.quantity == "step" and task.optimizer is None:
            raise EngineError("tape: quantity 'step' needs an optimizer, found None")
        self._task = task
        self._check_finite: Finite = check_finite
        self.phases: dict[str, float] = {}
        with phase(self.phases, "place"):
            self.parameters = place_arrays(task.parameters, task.device)  # refuses a device that is not there
            self._device = canonical_device(task.device)
            for value in self.parameters.values():  # here once, not at every run
                Tape(self._device).parameter(value)
            optimizer = task.optimizer if task.quantity == "step" else None
            self._state = optimizer.state(self.parameters) if optimizer is not None else {}
        self.counters: dict[str, int] = {}

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return place_batch(self._task, batch, key)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`."""
        return self.run_marked(placed, unmarked)

    def run_marked(self, placed: Placed, mark: Mark) -> Outputs:
        """See `DynamicProgram.run_marked`."""
        task = self._task
        with Tape(self._device, check_finite=self._check_finite) as tape:
            tape.recording = task.quantity != "forward"
            ours, loss = self._forward(tape, placed)
            mark("forward")
            if task.quantity == "forward":
                return Outputs(loss.data, {})
            self.counters["entries"] = len(tape.entries)
            gradients = dict(zip(ours, tape.plain_gradients(loss, list(ours.values()), THROWN_AWAY), strict=True))
            mark("backward")
            if task.quantity == "step":
                self._update(gradients)
                mark("update")
                return Outputs(loss.data, {})
            return Outputs(loss.data, gradients)

    def record(self, placed: Placed) -> Tape:
        """See `DynamicProgram.record`."""
        with Tape(self._device, check_finite=self._check_finite) as tape:
            self._forward(tape, placed)
        return tape

    def _forward(self, tape: Tape, placed: Placed) -> tuple[dict[str, Tensor], Tensor]:
        ours = dict(zip(self.parameters, tape.leaves(list(self.parameters.values())), strict=True))
        theirs = {name: tape.constant(value) for name, value in placed.batch.items()}
        key = None if placed.key is None else tape.constant(placed.key)
        return ours, self._task.loss(tape.ops, ours, theirs, key)

    def _update(self, gradients: Mapping[str, torch.Tensor]) -> None:
        assert self._task.optimizer is not None
        self._task.optimizer.update(KERNELS, self.parameters, self._state, gradients)


class TapeEngine:
    """Define-by-run."""

    name = "tape"
    style: Style = "dynamic"

    def __init__(self, *, check_finite: Finite = False) -> None:
        self._check_finite: Finite = check_finite

    def prepare(self, task: Task) -> TapeProgram:
        """See `Engine.prepare`."""
        return TapeProgram(task, self._check_finite)
