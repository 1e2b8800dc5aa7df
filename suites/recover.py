"""Make a stored run of what a run that was cut off had measured.

python -m suites.recover results/.unfinished-4711.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_benchmark.utils import get_tag

from suites.harness import exits
from suites.harness.store import JournalError, read_journal, save


@exits.interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives an exit code."""
    parser = argparse.ArgumentParser(prog="python -m suites.recover", description="Store what a cut-off run measured.")
    parser.add_argument("journal", type=Path, help="the file that the run left behind")
    journal = parser.parse_args(arguments).journal
    try:
        run = read_journal(journal)
        stored = save(run, journal.parent, get_tag())
    except JournalError as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.UNREADABLE_RESULTS
    except OSError as error:
        print(f"error: {journal.parent}: {error.strerror}", file=sys.stderr)
        return exits.UNWRITABLE_RESULTS
    journal.unlink()
    print(f"{len(run['benchmarks'])} rows measured, {len(run['missing'])} without a number: stored in {stored}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
