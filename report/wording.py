"""Write facts about measuring in words, the same in tables, pictures and remarks.

check_text(row.phases_check)                  # 490 ms of 500 ms, closes
width_text(stopped.width, stopped.wanted)     # 4.1 % wide of 2.0 % wanted
"""

from __future__ import annotations

from collections.abc import Sequence

from report import units
from report.method import Check

NOT_STORED = "not stored"


def check_text(check: Check) -> str:
    """A closing check: the sum, the total, and whether they agree."""
    word = "closes" if check.closes else "does not close"
    return f"{units.seconds(check.sum_seconds)} of {units.seconds(check.total_seconds)}, {word}"


def width_text(width: float | None, wanted: float | None) -> str:
    """How wide the widest ratio interval is, and how narrow it should have become."""
    found = f"width {NOT_STORED}" if width is None else f"{units.percent(width)} wide"
    return found if wanted is None else f"{found} of {units.percent(wanted)} wanted"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b` or `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
