"""Tables that a command prints, and stores for the page to show beside what was timed.

    sheet = Sheet("Writing it", lead, ("workload", "lines"), rows, numbers=(1,))
    keep(Path("results/tables/writing.json"), "python -m suites.writing", [sheet])

A stored file says which command made it, when, and of which commit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_benchmark.utils import get_commit_info

from suites.harness import exits
from suites.texts import columns

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: a row has a text for each column, and the columns at `numbers` hold numbers."""

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[int] = ()

    def text(self) -> str:
        """The columns in line, under their names."""
        return columns([self.columns, *self.rows], self.numbers)


def keep(path: Path | None, command: str, sheets: Sequence[Sheet]) -> int:
    """Store the sheets where a path is given; gives the command's exit code, and says what is in the way."""
    try:
        if path is not None:
            store(path, command, sheets)
    except OSError as error:
        sys.stderr.write(f"error: {path}: {error.strerror or error}; name a writable file with --json\n")
        return exits.UNWRITABLE_RESULTS
    return 0


def store(path: Path, command: str, sheets: Sequence[Sheet]) -> None:
    """Write the sheets that a command made as one file of JSON. Raises OSError."""
    commit = get_commit_info()
    found = {
        "schema": SCHEMA,
        "command": command,
        "datetime": datetime.now(UTC).isoformat(),
        "commit_info": {"id": commit["id"], "dirty": commit["dirty"]},
        "tables": [
            {
                "title": sheet.title,
                "lead": sheet.lead,
                "columns": list(sheet.columns),
                "numbers": sorted(sheet.numbers),
                "rows": [list(row) for row in sheet.rows],
            }
            for sheet in sheets
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
