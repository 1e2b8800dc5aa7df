"""Put stored runs together and find rows in them: by question, by cell and engine, by paired ratio.

Runs of one machine make one `Results`:

    results = merge([read_run(path) for path in paths])      # a later run wins for the same row
    results.of("step")                                       # measured rows and gaps, in table order
    results.ratio(cell, "graph", to="tape")                  # as stored, from either side; None where unpaired

`newest(folder)` finds the run that a report is about when nobody names one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from report.fields import ReportError, load
from report.stored import Cell, Question, Ratio, Record, Run

STORED_NAME = "[0-9][0-9][0-9][0-9]_*.json"  # how pytest-benchmark names what it autosaves
ENGINE_ORDER = (
    "tape",
    "graph",
    "graph_replay",
    "torch_eager",
    "torch_compile",
    "torch_compile_reduce_overhead",
    "torch_module",
)

YARDSTICK = "sgemm"
"""The product of matrices that rates are held against: no engine, and checked against nothing."""

COLLECTED = "+gc"  # ends the name of an engine that was measured with the garbage collector on


class NothingStoredError(Exception):
    """There is no stored run, or no row in it; the text says what to do."""


@dataclass(frozen=True)
class Results:
    """The merged rows of one or more runs of one machine."""

    runs: tuple[Run, ...]
    records: tuple[Record, ...]

    def of(self, question: Question) -> list[Record]:
        """All rows of a question, gaps included."""
        return [record for record in self.records if record.cell.question == question]

    def measured(self, question: Question) -> list[Record]:
        """The rows of a question that have samples."""
        return [record for record in self.of(question) if record.status == "measured"]

    @property
    def checkable(self) -> list[Record]:
        """The measured rows whose results can be held against a reference."""
        return [record for record in self.records if record.status == "measured" and record.engine != YARDSTICK]

    def find(self, cell: Cell, engine: str) -> Record | None:
        """The row of one engine in one cell, or None."""
        return self._by_row.get((cell, engine))

    def ratio(self, cell: Cell, engine: str, *, to: str) -> Ratio | None:
        """The stored ratio of `engine` to `to` in one cell, taken from either row; None where neither stores it.

        Both rows are those of the page, measured and of one file: a later file may have replaced one of them, and then
        the ratio that the other still stores is of a row that is not shown.
        """
        first, second = self.find(cell, engine), self.find(cell, to)
        if first is None or second is None or not _paired(first, second):
            return None
        own = next((ratio for ratio in first.ratios if ratio.to == to), None)
        theirs = next((ratio for ratio in second.ratios if ratio.to == engine), None)
        return own or (theirs.inverse(to) if theirs else None)

    @property
    def engines(self) -> list[str]:
        """All engines that have a row, ours first; the switches between tape and graph are no engines of their own."""
        found = {record.engine for record in self.records if record.cell.question != "attribution"}
        between = {"tape", "graph"} if self.of("attribution") else set()
        return sorted(found | between, key=engine_rank)

    @cached_property
    def _by_row(self) -> dict[tuple[Cell, str], Record]:
        return {(record.cell, record.engine): record for record in self.records}


def engine_rank(engine: str) -> tuple[int, str]:
    """A key that sorts our engines first, in a fixed order, and outside systems by name behind them."""
    own = uncollected(engine)
    return (ENGINE_ORDER.index(own), engine) if own in ENGINE_ORDER else (len(ENGINE_ORDER), engine)


def uncollected(engine: str) -> str:
    """The engine behind the name of a row that was measured with the garbage collector on: `tape` for `tape+gc`."""
    return engine.removesuffix(COLLECTED)


def merge(runs: Sequence[Run]) -> Results:
    """Merge runs of one machine; the last run wins for a row that several have, but never one in which it was not run.

    Raises ReportError where the runs come from machines of different fingerprint, NothingStoredError where there is no
    row in any of them.
    """
    for run in runs:
        if run.fingerprint != runs[0].fingerprint:
            raise ReportError(
                Path(run.file),
                "machine_info.environment.fingerprint",
                f"machine {run.fingerprint}",
                f"machine {runs[0].fingerprint} as in {runs[0].file}: times of two machines share no page",
            )
    rows: dict[tuple[Cell, str], Record] = {}
    for record in (record for run in runs for record in run.records):
        if record.status != "not run" or (record.cell, record.engine) not in rows:
            rows[record.cell, record.engine] = record
    if not rows:
        names = ", ".join(run.file for run in runs) or "no file"
        raise NothingStoredError(f"no row in {names}: run the suites and store the run, then report again")
    return Results(tuple(runs), tuple(sorted(rows.values(), key=_table_order)))


def newest(folder: Path) -> Path:
    """The newest stored run under `folder`: by the `datetime` in the files, or by counter where a file has none.

    Raises NothingStoredError where there is no stored run, ReportError where one is not JSON (an older run shown in
    silence would be worse).
    """
    files = sorted(folder.rglob(STORED_NAME))
    if not files:
        raise NothingStoredError(f"no stored run under {folder}: run the suites and store the run, or name a FILE")
    times = [_moment(file) for file in files]
    known = [moment for moment in times if moment is not None]
    if len(known) < len(files):
        return max(files, key=lambda file: (file.name[:4], str(file)))
    return max(zip(known, files, strict=True), key=lambda pair: (pair[0], pair[1].name[:4]))[1]


def cells(records: Iterable[Record]) -> dict[Cell, list[Record]]:
    """Group rows by cell, in the order in which the cells first come."""
    groups: dict[Cell, list[Record]] = {}
    for record in records:
        groups.setdefault(record.cell, []).append(record)
    return groups


def _paired(*rows: Record) -> bool:
    return all(row.status == "measured" for row in rows) and len({row.file for row in rows}) == 1


def _moment(file: Path) -> datetime | None:
    stored = load(file).optional("datetime")
    try:
        moment = datetime.fromisoformat(str(stored.value)) if stored else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _table_order(record: Record) -> tuple[Cell, tuple[int, str]]:
    stored_order = record.cell.question == "attribution"  # of which the order of the rows is a part
    return record.cell, (0, "") if stored_order else engine_rank(record.engine)
