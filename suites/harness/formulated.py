"""An engine on one of a workload's formulations: rows of one cell may differ in how the model is written.

    Contender("tape_static", engine="tape", formulation="static")

A graph cannot read values while it is traced. On a formulation that does (`Workload.reading`) it is made for the
structure of one batch: loops unrolled, branches taken, right for batches of the same structure only.
"""

from __future__ import annotations

from dataclasses import replace

from engines.engine import Engine, Program, Style, Task
from suites.workloads.workload import Workload, with_entries


class Formulated:
    """`engine`, whose tasks have the loss of `workload` in this formulation. Raises ValueError for an unknown one."""

    def __init__(self, engine: Engine, workload: Workload, formulation: str) -> None:
        self.name = engine.name
        self.style: Style = engine.style
        self._engine = engine
        self._loss = workload.formulated(formulation)
        self._structure = workload.structure if engine.style == "static" and formulation in workload.reading else ()

    def prepare(self, task: Task) -> Program:
        """See `Engine.prepare`."""
        known = {name: task.batch[name] for name in self._structure}
        rest = {name: array for name, array in task.batch.items() if name not in known}
        return self._engine.prepare(replace(task, loss=with_entries(self._loss, known), batch=rest))
