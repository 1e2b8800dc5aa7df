"""Write a page about stored runs.

    python -m report                                   # the newest run under results/, to report.html
    python -m report a.json b.json --output ab.html    # merged; a later file wins for the same row

Exit codes: 0 written, 2 bad usage, 11 nothing to report, 12 the page cannot be written, 14 a file cannot be read, 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from report.fields import ReportError
from report.page import render, write
from report.records import read_run
from report.results import NothingStoredError, merge, newest
from report.sheets import stored_sheets

WRITTEN, NOTHING, UNWRITABLE, UNREADABLE, INTERRUPTED = 0, 11, 12, 14, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; prints the page's path, or one line of error on stderr."""
    options = _parser().parse_args(arguments)
    try:
        files = options.file or [newest(options.results)]
        page = render(merge([read_run(file) for file in files]), stored_sheets(options.results))
    except KeyboardInterrupt:
        exec("")  # noqa: S102 - clears CPython's mark of one unhandled, by which `python -m` would end instead of by the code
        return _fail(INTERRUPTED, "interrupted; no page is written")
    except NothingStoredError as error:
        return _fail(NOTHING, str(error))
    except ReportError as error:
        return _fail(UNREADABLE, f"{error}; measure again, or name other files")
    try:
        write(options.output, page)
    except OSError as error:
        return _fail(UNWRITABLE, f"{options.output}: {error.strerror or error}; name a writable file with --output")
    sys.stdout.write(f"{options.output}\n")
    return WRITTEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m report",
        description="Write one HTML page about stored benchmark runs.",
        epilog="exit codes: 0 written, 2 bad usage, 11 nothing to report, 12 page not writable, 14 file not readable",
    )
    parser.add_argument(
        "file", nargs="*", type=Path, metavar="FILE", help="stored runs; a later one wins for the same row"
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page to write (%(default)s)")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="where to look for the newest run, and for tables/*.json (%(default)s)",
    )
    return parser


def _fail(code: int, text: str) -> int:
    sys.stderr.write(f"python -m report: {' '.join(text.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
