"""Group the rows that hold no time by status and reason, so that one cause is read once.

for gap in gaps(results, labels):
    gap.status, gap.reason, gap.rows
"""

from __future__ import annotations

from dataclasses import dataclass

from report.labels import Labels
from report.results import Results
from report.stored import GAPS, Status


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows that are missing for one and the same reason, named by engine, question and cell."""

    status: Status
    reason: str
    rows: tuple[str, ...]


def gaps(results: Results, labels: Labels) -> list[Gap]:
    """All groups, by status and then by size, the largest first."""
    groups: dict[tuple[Status, str], list[str]] = {}
    for row in results.records:
        if row.status != "measured":
            name = f"{row.engine}, {row.cell.question} {labels.cell(row.cell)}"
            groups.setdefault((row.status, row.reason or ""), []).append(name)
    found = [Gap(status, reason, tuple(rows)) for (status, reason), rows in groups.items()]
    return sorted(found, key=lambda gap: (GAPS.index(gap.status), -len(gap.rows), gap.reason))
