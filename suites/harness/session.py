"""One benchmark session: which rows are wanted, which cells have been measured, which rows have no number and why."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from suites.harness.cautions import Caution, Sampled
from suites.harness.cell import Cell
from suites.harness.conductor import Conductor
from suites.harness.contender import TWIN, Contender
from suites.harness.effort import Effort
from suites.harness.measure import Measure, Measuring
from suites.harness.overhead import BEGUN, ENDED, overhead
from suites.harness.progress import Progress
from suites.harness.row import Row
from suites.harness.statistics import FEWEST_LAUNCHES, control_facts
from suites.harness.store import Journal
from suites.harness.watch import Watch

BY_THE_USER = "by the user"


class Wanted(NamedTuple):
    """A row that was asked for: one test."""

    name: str
    fullname: str
    cell: Cell
    contender: Contender


@dataclass
class Session:
    """A cell is measured when its first row is asked for, for all its engines at once, and remembered, failed or not.

    `benchmarks`, `missing` and `controls` are what will be stored; every row goes into the journal at once.
    """

    effort: Effort
    progress: Progress
    conductor: Conductor
    journal: Journal | None = None
    watch: Watch | None = None
    wanted: list[Wanted] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    cautions: tuple[Caution, ...] = ()
    wrong: int = 0
    interrupted: str = BY_THE_USER  # by what, if at all
    _rows: dict[Cell, Mapping[str, Row]] = field(default_factory=dict)

    def row(self, cell: Cell, contender: Contender, how: Measure) -> Row:
        """The row of one contender in one cell."""
        if cell not in self._rows:
            contenders = [one.contender for one in self.wanted if one.cell == cell] or [contender]
            job = Measuring(self.conductor, cell, contenders, self.effort, self.progress.show)
            self.conductor.note(BEGUN, group_of(cell))
            try:
                self._rows[cell] = how(job)
            except Exception as error:  # of our own making, or the machine's: the other cells can still be measured
                self._rows[cell] = _all_failed(job, error)
            finally:
                self.conductor.end_workers()
            self.conductor.note(ENDED, group_of(cell))
            self._keep_control(cell, self._rows[cell])
            self.progress.finish_cell()
        return self._rows[cell][contender.name]

    def _keep_control(self, cell: Cell, rows: Mapping[str, Row]) -> None:
        twin = next((row for name, row in rows.items() if name.endswith(f" {TWIN}")), None)
        if twin is None or twin.control is None:
            return
        facts = {**cell.facts(), "name": cell.name, **twin.control}
        self.controls.append({**facts, "samples": [rows[twin.control["engine"]].samples, twin.samples]})
        self._note("control", self.controls[-1])

    def measured(self, benchmark: dict[str, Any]) -> None:
        """Keep a row that has a number, as pytest-benchmark stores it."""
        self.benchmarks.append(benchmark)
        self._note("benchmarks", benchmark)

    def miss(self, name: str, fullname: str, cell: Cell, info: dict[str, Any]) -> None:
        """Keep a row that has no number."""
        self.missing.append(_without_number(name, fullname, cell, info))
        self.wrong += info["status"] == "wrong"
        self._note("missing", self.missing[-1])

    def _note(self, kind: Any, record: Mapping[str, Any]) -> None:
        if self.journal is not None:
            self.journal.write(kind, record)

    def miss_the_rest(self, reason: str) -> None:
        """Name every wanted row that the run did not come to."""
        seen = {record["fullname"] for record in (*self.benchmarks, *self.missing)}
        for wanted in self.wanted:
            if wanted.fullname not in seen:
                self.miss(wanted.name, wanted.fullname, wanted.cell, _not_run(wanted, reason))

    def not_run(self, reason: str) -> list[dict[str, Any]]:
        """Every wanted row as it would be stored, had the run come to none."""
        return [_without_number(one.name, one.fullname, one.cell, _not_run(one, reason)) for one in self.wanted]

    def facts(self) -> dict[str, Any]:
        """What is stored beside the rows that have a number."""
        return {
            "missing": self.missing,
            "control": control_facts(self.controls),
            "cautions": [asdict(caution) for caution in self.cautions],
            "seconds_by_request": self.conductor.seconds_by_request(),
            "overhead": asdict(overhead(self.conductor.log)),
            "workers": self.conductor.settings(),
        }

    def sampled(self) -> list[Sampled]:
        """How wide the intervals are of each cell whose rounds ended with the budget."""
        by_cell = {record["group"]: record["extra_info"] for record in self.benchmarks}
        return [
            Sampled(name, _taken(info), info["stopped"]["width"], info["stopped"]["wanted"])
            for name, info in by_cell.items()
            if info["stopped"] is not None and info["stopped"]["why"] == "budget" and info["stopped"]["width"]
        ]


def _all_failed(job: Measuring, error: Exception) -> dict[str, Row]:
    """Rows of a cell whose measuring failed as a whole, each with the reason."""
    *_, place = traceback.extract_tb(error.__traceback__)
    said = str(error).strip().splitlines() or ["no message"]
    rows = {who.name: Row(who.name, formulation=who.formulation) for who in job.contenders}
    for row in rows.values():
        row.refuse("failed", f"{type(error).__name__}: {said[0]}, at {Path(place.filename).name}:{place.lineno}")
    return rows


def _not_run(wanted: Wanted, reason: str) -> dict[str, Any]:
    row = Row(wanted.contender.name, formulation=wanted.contender.formulation)
    row.refuse("not run", reason)
    return row.extra_info(wanted.cell)


def _without_number(name: str, fullname: str, cell: Cell, info: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "fullname": fullname, "group": group_of(cell), "extra_info": info}


def group_of(cell: Cell) -> str:
    """The group under which pytest-benchmark lists a cell's rows."""
    return f"{cell.question}: {cell.name}"


def _taken(info: Mapping[str, Any]) -> str:
    """Of what an interval is, and how many."""
    launches = len(info["launches"])
    return f"{launches} launches" if launches >= FEWEST_LAUNCHES else f"{info['stopped']['rounds']} rounds"
