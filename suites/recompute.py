"""The tape with recompute: the same chain in marked parts, of which nothing inside is kept for the way back.

    load(cell, "tape+recompute").prepare(cell.task())

A chain of n ops is marked in about sqrt(n) parts of sqrt(n) ops each, which is where what is kept and what is made
again are in balance (Chen et al., "Training deep nets with sublinear memory cost", 2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engines.engine import Engine, LossFunction, Program, Style, Task
from engines.op import Namespace
from engines.registry import load_engine
from suites.harness.cell import Cell
from suites.workloads.chain import deep

BASE = "tape"
RECOMPUTING = f"{BASE}+recompute"


class Recomputing:
    """An engine whose texts are marked first."""

    def __init__(self, engine: Engine, loss: LossFunction) -> None:
        self.name = RECOMPUTING
        self.style: Style = engine.style
        self._engine = engine
        self._loss = loss

    def prepare(self, task: Task) -> Program:
        """See `Engine.prepare`."""
        return self._engine.prepare(replace(task, loss=self._loss))


def load(cell: Cell, name: str) -> Engine:
    """The tape, on the cell's text or on the same in marked parts."""
    engine = load_engine(BASE)
    return Recomputing(engine, marked(dict(cell.knobs)["ops"])) if name == RECOMPUTING else engine


def marked(count: int) -> LossFunction:
    """The loss of `chain` with `count` ops, in marked parts."""
    size = math.isqrt(count)

    def loss(ops: Namespace, params: Mapping[str, Any], _: Mapping[str, Any], __: Any) -> Any:
        x = params["x"]
        for first in range(0, count, size):
            x = ops.checkpoint(lambda x, first=first: deep(ops, x, min(size, count - first), first), x)
        return ops.sum(x)

    return loss
