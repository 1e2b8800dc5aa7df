"""Name cells for people: `cnn, batch 64`, and `cnn, cuda, batch 64` only where rows differ in the device.

One look over all rows gives the names of every cell:

    labels = Labels.of(results.records)
    labels.place(cell)     # cnn
    labels.cell(cell)      # cnn, batch 64
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from report.stored import Cell, Record
from report.units import FIXED, amount, count

MAY_BE_CONSTANT = ("formulation", "device", "dtype")


@dataclass(frozen=True, slots=True)
class Labels:
    """Knows which of formulation, device and dtype differ between rows; the others go without saying."""

    varying: tuple[str, ...]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Labels:
        """Look through all rows of a page, so that one cell has one name on it."""
        cells = {record.cell for record in records}
        return cls(tuple(name for name in MAY_BE_CONSTANT if len({getattr(cell, name) for cell in cells}) > 1))

    def place(self, cell: Cell) -> str:
        """The workload, with what else tells two pictures apart."""
        return ", ".join([cell.workload, *(str(getattr(cell, name)) for name in self.varying)])

    def cell(self, cell: Cell) -> str:
        """The place with its size and batch size."""
        return ", ".join([self.place(cell), extent(cell)])


def extent(cell: Cell) -> str:
    """The swept knobs of a cell: `batch 64`, or `1 000 ops, 1 element` in a chain; and `cold` or `warm` if told."""
    parts = [knob(name, value) for name, value in reversed(cell.size)]
    if not parts or cell.batch_size > 1:
        parts.append(f"batch{FIXED}{count(cell.batch_size)}")
    return ", ".join([*parts, cell.start] if cell.start else parts)


def knob(name: str, value: float) -> str:
    """One knob with its value, such as `1 000 ops`."""
    return f"{amount(value)}{FIXED}{name.removesuffix('s') if value == 1 else name}"
