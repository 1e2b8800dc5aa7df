"""One cell of a table, and what columns look things up in.

Column = Callable[[Desk, Record], Entry | None]      # None: the row has no such figure
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from report.charts.palette import Palette
from report.results import Results
from report.stored import Record


@dataclass(frozen=True, slots=True)
class Entry:
    """One table cell: its text, what it sorts by (None sorts last), and the CSS variable and character of a mark."""

    text: str
    order: float | str | None = None
    number: bool = False
    mark: tuple[str, str] | None = None
    span: int = 1  # columns


@dataclass(frozen=True, slots=True)
class Desk:
    """What the columns look things up in."""

    results: Results
    palette: Palette

    def source(self, row: Record) -> int:
        """The 1-based place of the file that a row comes from; the last file of that name."""
        return max(place for place, run in enumerate(self.results.runs, 1) if run.file == row.file)


Column = Callable[[Desk, Record], Entry | None]


def number(value: float | None, text: str) -> Entry | None:
    """A figure with its text; None where there is no figure."""
    return None if value is None else Entry(text, value, number=True)


def words(text: str | None) -> Entry | None:
    """Text that sorts by itself; None where it is empty."""
    return Entry(text, text) if text else None
