"""Read stored benchmark runs and write one self-contained HTML page about them.

    python -m report                          # the newest run under results/, to report.html
    python -m report a.json b.json            # several runs on one page; a later file wins for the same row

    from report import read_run
    run = read_run(Path("results/box/0001_run.json"))
    run.records[0].seconds_per_call           # all raw samples, in seconds

Nothing here measures and nothing here imports an engine: stored files are all that it reads.
"""

from __future__ import annotations

from report.fields import ReportError
from report.records import read_run
from report.results import NothingStoredError, Results, merge
from report.stored import Record, Run

__all__ = ["NothingStoredError", "Record", "ReportError", "Results", "Run", "merge", "read_run"]
