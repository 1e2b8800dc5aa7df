"""One benchmark session: which rows are wanted, which cells have been measured, which rows have no number and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from suites.harness.cell import Cell
from suites.harness.effort import Effort
from suites.harness.measure import Load, Row, Show
from suites.harness.progress import Progress

Measure = Callable[[Cell, list[str], Effort, Show, Load], dict[str, Row]]


@dataclass
class Session:
    """A cell is measured when its first row is asked for, for all its engines at once, and remembered."""

    effort: Effort
    progress: Progress
    wanted: dict[Cell, list[str]] = field(default_factory=lambda: defaultdict(list))
    missing: list[dict[str, Any]] = field(default_factory=list)
    wrong: int = 0
    measured: int = 0
    _rows: dict[Cell, dict[str, Row]] = field(default_factory=dict)

    def row(self, cell: Cell, engine: str, how: Measure, load: Load) -> Row:
        """The row of one engine in one cell."""
        if cell not in self._rows:
            engines = self.wanted[cell] or [engine]
            self._rows[cell] = how(cell, engines, self.effort, self.progress.show, load)
            self.progress.finish_cell()
        return self._rows[cell][engine]

    def miss(self, name: str, fullname: str, group: str, info: dict[str, Any]) -> None:
        """Keep a row that has no number."""
        self.missing.append({"name": name, "fullname": fullname, "group": group, "extra_info": info})
        self.wrong += info["status"] == "wrong"
