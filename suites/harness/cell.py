"""A cell: everything that is held equal while engines are compared. Its rows differ by engine alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from engines.engine import Quantity, Task
from suites.workloads import load_workload
from suites.workloads.workload import STATIC, Workload

Measured = Literal["forward", "loss_and_grad", "step", "construct", "prepare", "train", "stream"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison.

    `knobs` are the workload's sizes, as sorted pairs; `rounds` fixes the number of samples. Where engines draw dropout
    masks of their own (`own_masks`), they are compared with dropout off and timed with it on. `cold`: each sample in a
    fresh process with empty caches. `formulation`: in which of its ways the workload is written.
    """

    question: str
    workload: str
    quantity: Measured
    batch_size: int = 1
    knobs: tuple[tuple[str, Any], ...] = ()
    device: str = "cpu"
    dtype: str = "float32"
    rounds: int | None = None
    own_masks: bool = False
    cold: bool = False
    formulation: str = STATIC

    @property
    def name(self) -> str:
        """A short name, unique within a question."""
        knobs = "".join(f"-{key}{value}" for key, value in self.knobs)
        batch = f"-b{self.batch_size}" if self.model.predict is not None or self.model.formulations else ""
        quantity = "" if self.quantity in (self.question, "train", "stream") else f"-{self.quantity}"
        cold = "-cold" if self.cold else ""
        formulation = f"-{self.formulation}" if self.formulation != STATIC else ""
        return f"{self.workload}{formulation}{batch}{knobs}{quantity}{cold}-{self.device}"

    @property
    def prepares(self) -> bool:
        """Whether what is timed is getting something ready."""
        return self.quantity in {"prepare", "construct"}

    @property
    def model(self) -> Workload:
        """The workload at these knobs."""
        return load_workload(self.workload).sized(dict(self.knobs))

    def task(self) -> Task:
        """What an engine is asked to make ready."""
        return self._task(self.dtype, random=True)

    def checked_task(self, dtype: str | None = None) -> Task:
        """What an engine must get right; another dtype gives the reference."""
        return self._task(dtype or self.dtype, random=not self.own_masks)

    def _task(self, dtype: str, *, random: bool) -> Task:
        whole: dict[str, Quantity] = {
            "construct": "loss_and_grad",
            "prepare": "step",
            "train": "step",
            "stream": "step",
        }
        quantity: Any = whole.get(self.quantity, self.quantity)
        model = self.model
        task = model.task(quantity, self.batch_size, device=self.device, dtype=dtype, formulation=self.formulation)
        return replace(task, random=model.random and random)

    def facts(self) -> dict[str, Any]:
        """What a stored row says about its cell."""
        return {
            "question": self.question,
            "workload": self.workload,
            "formulation": self.formulation,
            "device": self.device,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "size": dict(self.knobs),
            "quantity": self.quantity,
            "cold": self.cold,
        }


def cell_from(data: Mapping[str, Any]) -> Cell:
    """A cell from its fields as JSON keeps them."""
    return Cell(**{**data, "knobs": tuple((key, value) for key, value in data["knobs"])})
