"""Plain torch modules as contenders."""

from __future__ import annotations

from engines.engine import Engine
from suites.harness.cell import Cell
from suites.workloads.modules import TorchModule


def load_module(cell: Cell, name: str) -> Engine:
    """The cell's workload as a plain torch module."""
    del name
    return TorchModule(cell.workload)
