"""Who takes part in a cell: an engine, how a worker process makes it, and under which interpreter.

Contender("tape")                                       # an engine of the registry
Contender("tape+gc", engine="tape", collector=True)     # the same, its garbage collector left on while it is timed
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from engines.engine import Engine
from engines.registry import ENGINES, load_engine
from suites.harness.cell import Cell
from suites.harness.formulated import Formulated

LOADER = "suites.harness.contender:by_name"
TWIN = "again"


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine in one process; contenders that are equal share it.

    `name` is what rows call it, `engine` what `loader` is asked for ("" for the same): a "module:function" that takes
    the cell and that name, imported in the worker. `twin` marks the second process of an A/A control. Contenders with
    the same `room` share one process, where each is made ready and timed as if it were alone: what differs from process
    to process then differs between none of them. `formulation`: in which of its ways this one runs the cell's workload,
    "" for the cell's own. A `yardstick` runs something of its own for the others to be held against, so that its
    results are checked against nothing.
    """

    name: str
    engine: str = ""
    loader: str = LOADER
    python: str = sys.executable
    collector: bool = False
    twin: bool = False
    room: str = ""
    formulation: str = ""
    yardstick: bool = False

    @property
    def module(self) -> str:
        """What must be imported to make the engine."""
        row = ENGINES.get(self.engine or self.name)
        return row.module if self.loader == LOADER and row is not None else self.loader.partition(":")[0]

    @property
    def label(self) -> str:
        """Its name, with a mark where it is the control."""
        return f"{self.name} {TWIN}" if self.twin else self.name

    def again(self) -> Contender:
        """The same engine in a second process: an A/A control."""
        return replace(self, twin=True)

    def load(self, cell: Cell) -> Engine:
        """Make the engine, here."""
        module, _, function = self.loader.partition(":")
        made: Engine = getattr(importlib.import_module(module), function)(cell, self.engine or self.name)
        return Formulated(made, cell.model, self.formulation) if self.formulation else made

    def data(self) -> dict[str, Any]:
        """As plain data, for a worker to read."""
        return asdict(self)


def by_name(cell: Cell, name: str) -> Engine:
    """The engine of this name, whatever the cell."""
    del cell
    return load_engine(name)


def everyone(device: str, *, slow: bool) -> tuple[str, ...]:
    """Every engine of this device by name, but no variants; without `slow`, only those that are quick to get ready."""
    return tuple(
        name
        for name, row in ENGINES.items()
        if not row.variant_of and (slow or not row.slow) and device.startswith(row.only_on)
    )


def variants(asked: Iterable[str], taking_part: Container[str]) -> tuple[str, ...]:
    """Of the engines asked for by name, the variants of those that take part."""
    return tuple(name for name in asked if name in ENGINES and ENGINES[name].variant_of in taking_part)


def is_slow(contender: Contender) -> bool:
    """Whether this contender takes many seconds to get ready, whatever the cell."""
    row = ENGINES.get(contender.engine or contender.name)
    return row is not None and row.slow
