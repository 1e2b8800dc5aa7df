"""The yardstick of rates: a product of two large float32 matrices by torch, and how much work a task is beside it.

    program = load(cell, "sgemm").prepare(cell.task())
    program.counters     # {"order": 1024, "flops": 2147483648, "task_flops": 4580179968}

`flops` are floating-point operations of one call of the product, `task_flops` those of one call of the task, so the
share of the product's rate that an engine reaches is task_flops / flops times the product's time over the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from engines.engine import Array, Outputs, Placed, Style, Task, phase
from engines.ops.random import step_key
from engines.registry import load_engine
from suites.harness.cell import Cell

SGEMM = "sgemm"
ORDER = 1024
"""Rows and columns of each matrix: the product takes many times what a call costs."""


def flops(task: Task) -> int:
    """Floating-point operations of one call, as torch counts them over the kernels of the graph as it was traced.

    A multiplication and the addition after it count 2. A product of (m, k) and (k, n) is 2 m k n; a convolution 2 for
    each result, input channel and element of the window, and as much again for each of its gradients, however it is
    computed. Winograd's formulation does with fewer, and so do gradients behind a max-pool, most of which are 0; both
    are counted as the sums that they stand for, so that a share may be above 1. Elementwise ops, biases and pooling are
    not counted.
    """
    program = load_engine("graph_replay").prepare(task)
    placed = program.place(task.batch, step_key(0, 0))
    with FlopCounterMode(display=False) as counter:
        program.run(placed)
    return int(counter.get_total_flops())


class Product:
    """The product as a program; its only output stands for no loss."""

    def __init__(self, task: Task) -> None:
        self.phases: dict[str, float] = {}
        self.parameters: Mapping[str, torch.Tensor] = {}
        with phase(self.phases, "count"):
            work = flops(task)
        self.counters = {"order": ORDER, "flops": 2 * ORDER**3, "task_flops": work}
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.randn(ORDER, ORDER, generator=generator).to(task.device) for _ in range(2))
        self._operands = left, right
        self._result = torch.empty_like(left)

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`; the product takes nothing."""
        del batch, key
        return Placed({}, None)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`."""
        del placed
        return Outputs(torch.matmul(*self._operands, out=self._result), {})


class Sgemm:
    """The product as an engine."""

    name = SGEMM
    style: Style = "dynamic"

    def prepare(self, task: Task) -> Product:
        """See `Engine.prepare`."""
        return Product(task)


def load(cell: Cell, name: str) -> Sgemm:
    """The product beside this cell."""
    del cell, name
    return Sgemm()
