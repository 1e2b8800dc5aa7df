"""Read tables that commands stored beside the runs: what is told of the engines and has no time.

for sheets in stored_sheets(Path("results")):      # those of results/tables/*.json
    sheets.title, sheets.lead, sheets.tables
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from report.entry import Entry
from report.fields import Field, load
from report.tables import Table

FOLDER = "tables"


@dataclass(frozen=True, slots=True)
class Sheets:
    """The tables of one file, who made them and of what; title and lead are those of the first."""

    anchor: str
    title: str
    lead: str
    command: str
    commit: str
    dirty: bool
    made_at: str
    tables: tuple[Table, ...]


def stored_sheets(folder: Path) -> list[Sheets]:
    """All that lies in the results folder, by file name; raises ReportError where a file is not what it should be."""
    return [_sheets(load(file), file.stem) for file in sorted((folder / FOLDER).glob("*.json"))]


def _sheets(root: Field, name: str) -> Sheets:
    found = root["tables"].items()
    if not found:
        root["tables"].fail("at least one table")
    commit = root["commit_info"]
    return Sheets(
        anchor=name,
        title=found[0]["title"].text(),
        lead=_cell(found[0]["lead"]),
        command=root["command"].text(),
        commit=commit["id"].text(),
        dirty=commit["dirty"].flag(),
        made_at=root["datetime"].text(),
        tables=tuple(_table(field, f"{name}-{place}") for place, field in enumerate(found, 1)),
    )


def _table(field: Field, anchor: str) -> Table:
    columns = tuple(column.text() for column in field["columns"].items())
    numbers = {place.whole() for place in field["numbers"].items()}
    rows = [row.items() for row in field["rows"].items()]
    for row, cells in zip(field["rows"].items(), rows, strict=True):
        if len(cells) != len(columns):
            row.fail(f"{len(columns)} cells", f"{len(cells)}")
    return Table(
        anchor=anchor,
        title=field["title"].text(),
        caption=_cell(field["lead"]),
        columns=columns,
        rows=tuple(tuple(_entry(cell, place, numbers) for place, cell in enumerate(cells)) for cells in rows),
    )


def _entry(field: Field, place: int, numbers: Collection[int]) -> Entry:
    text = _cell(field)
    if place not in numbers:
        return Entry(text, text)
    if not text.isdecimal():
        field.fail("a whole number as text")
    return Entry(text, int(text), number=True)


def _cell(field: Field) -> str:
    return "" if field.value == "" else field.text()
