"""Make the full tables: every stored row, gaps included, with a dash and the reason where there is no figure.

A template needs no more than this:

    for table in tables(results, palette, titles):
        table.caption, table.columns, table.rows

What is the same in all rows of a table stands once, in its caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from report import units
from report.charts.palette import Palette
from report.columns import CONSTANT, FIGURES, IDENTITY
from report.entry import Column, Desk, Entry
from report.results import Results
from report.stored import QUESTIONS, Question, Record


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of one question; a row has an entry for each column, or a last one that spans the columns of figures."""

    anchor: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]

    @property
    def numeric(self) -> set[str]:
        """The columns that hold numbers, so that their heads stand over them."""
        return {
            name
            for place, name in enumerate(self.columns)
            if any(place < len(row) and row[place].number for row in self.rows)
        }


def tables(results: Results, palette: Palette, titles: Mapping[Question, str]) -> list[Table]:
    """One table for each question that has rows, titled by `titles`."""
    desk = Desk(results, palette)
    return [_table(desk, question, titles[question]) for question in QUESTIONS if results.of(question)]


def _table(desk: Desk, question: Question, title: str) -> Table:
    rows = desk.results.of(question)
    facts = [(name, read, {_text(read(desk, row)) for row in rows}) for name, read in CONSTANT]
    same = [f"{name} {next(iter(texts))}" for name, _, texts in facts if len(texts) == 1]
    identity = _kept(desk, rows, [*IDENTITY, *((name, read) for name, read, texts in facts if len(texts) > 1)])
    figures = _kept(desk, [row for row in rows if row.status == "measured"], FIGURES)
    return Table(
        anchor=f"rows-{question}",
        title=title,
        caption=f"{units.plural(len(rows), 'row')}. In all of them: {', '.join(same)}." if same else "",
        columns=tuple(name for name, _ in (*identity, *figures)) + (() if figures else ("reason",)),
        rows=tuple(_row(desk, row, identity, figures) for row in rows),
    )


def _kept(desk: Desk, rows: Sequence[Record], columns: Sequence[tuple[str, Column]]) -> list[tuple[str, Column]]:
    return [(name, read) for name, read in columns if any(read(desk, row) for row in rows)]


def _row(
    desk: Desk, row: Record, identity: Sequence[tuple[str, Column]], figures: Sequence[tuple[str, Column]]
) -> tuple[Entry, ...]:
    entries = [read(desk, row) or Entry(units.DASH) for _, read in identity]
    if row.status == "measured":
        return (*entries, *(read(desk, row) or Entry(units.DASH) for _, read in figures))
    return (*entries, Entry(f"{units.DASH} {row.status}: {row.reason}", span=max(1, len(figures))))


def _text(entry: Entry | None) -> str:
    return entry.text if entry else units.DASH
