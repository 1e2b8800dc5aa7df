"""Training one engine on handwritten digits: from one seed, whoever trains sees the same batches and the same masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from engines.engine import Engine, Placed, Style, Task
from engines.op import kernels_only
from engines.ops import KERNELS
from engines.ops.random import step_key
from engines.value import EngineError
from suites.harness.cell import Cell
from suites.harness.clock import seconds
from suites.workloads.digits import Digits, sklearn_digits

SEED = 0
CHUNK = 256


class Training:
    """One engine's parameters and how far it has got. Raises EngineError and DataError."""

    def __init__(self, cell: Cell, engine: Engine, digits: Digits | None = None) -> None:
        self.style: Style = engine.style
        self._cell = cell
        self._model = cell.model
        self._digits = sklearn_digits() if digits is None else digits
        self._program = engine.prepare(self._task())
        self._rng = np.random.default_rng([SEED, 2])
        self._step = 0

    def _task(self) -> Task:
        model, device = self._model, self._cell.device
        if model.predict is None:
            raise EngineError(f"learn: workload {model.name} does not classify images")
        return Task(
            loss=model.loss,
            parameters=model.init(np.random.default_rng([SEED, 0])),
            batch=self._digits.sample(np.random.default_rng(SEED), self._cell.batch_size),
            quantity="step",
            device=device,
            optimizer=model.optimizer,
            random=model.random,
        )

    def epoch(self) -> tuple[list[float], list[float]]:
        """Train on every digit once; the loss and the seconds of each step."""
        losses, taken = [], []
        for batch in self._digits.epoch(self._rng, self._cell.batch_size):
            loss, step_seconds = self._one_step(self._program.place(batch, step_key(SEED, self._step)))
            losses.append(loss)
            taken.append(step_seconds)
            self._step += 1
        return losses, taken

    def _one_step(self, placed: Placed) -> tuple[float, float]:
        found: list[torch.Tensor] = []
        taken = seconds(lambda: found.append(self._program.run(placed).loss), 1, self._cell.device)
        return float(found[0]), taken

    def accuracy(self) -> float:
        """Share of test digits classified right, dropout off, on the kernels that all engines share."""
        assert self._model.predict is not None
        digits, right = self._digits, 0
        with kernels_only():
            for at in range(0, len(digits.test_labels), CHUNK):
                image = torch.tensor(digits.test_images[at : at + CHUNK], device=self._cell.device)
                label = torch.tensor(digits.test_labels[at : at + CHUNK], device=self._cell.device)
                logits = self._model.predict(KERNELS, self._program.parameters, image, None)
                right += int((logits.argmax(dim=1) == label).sum())
        return right / len(digits.test_labels)

    @property
    def counters(self) -> Mapping[str, int]:
        """The program's exact counts."""
        return dict(self._program.counters)
