"""Make the full tables: every stored row, gaps included, with a dash and the reason where there is no figure.

A template needs no more than this:

    for table in tables(results, palette, titles):
        table.caption, table.columns, table.rows

What is the same in all rows of a table stands once, in its caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from report import units
from report.charts.palette import Palette
from report.columns import CONSTANT, FIGURES, IDENTITY, Desk, Entry
from report.results import Results
from report.stored import QUESTIONS, Question

DASH = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of one question; every row has one entry a column."""

    anchor: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]

    @property
    def numeric(self) -> set[str]:
        """The columns that hold numbers, so that their heads stand over them."""
        return {name for place, name in enumerate(self.columns) if any(row[place].number for row in self.rows)}


def tables(results: Results, palette: Palette, titles: Mapping[Question, str]) -> list[Table]:
    """One table for each question that has rows, titled by `titles`."""
    desk = Desk(results, palette)
    return [_table(desk, question, titles[question]) for question in QUESTIONS if results.of(question)]


def _table(desk: Desk, question: Question, title: str) -> Table:
    rows = desk.results.of(question)
    facts = [(name, read, {_text(read(desk, row)) for row in rows}) for name, read in CONSTANT]
    same = [f"{name} {next(iter(texts))}" for name, _, texts in facts if len(texts) == 1]
    columns = [*IDENTITY, *((name, read) for name, read, texts in facts if len(texts) > 1), *FIGURES]
    entries = {name: [read(desk, row) for row in rows] for name, read in columns}
    kept = [name for name, _ in columns if any(entries[name])]
    return Table(
        anchor=f"rows-{question}",
        title=title,
        caption=f"{units.plural(len(rows), 'row')}. In all of them: {', '.join(same)}." if same else "",
        columns=tuple(kept),
        rows=tuple(tuple(entries[name][place] or _gap(entries[name]) for name in kept) for place in range(len(rows))),
    )


def _gap(column: list[Entry | None]) -> Entry:
    return Entry(DASH, number=any(entry.number for entry in column if entry))


def _text(entry: Entry | None) -> str:
    return entry.text if entry else DASH
