"""Where runs are kept: a journal while one goes on, and pytest-benchmark's own JSON when it ends.

A row is written to the journal as soon as it is there, so that a run which is killed loses only what it was
measuring; `python -m suites.recover JOURNAL` makes a stored run of it. A stored run appears under its name whole or not
at all, and never in the place of another.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
from pytest_benchmark.utils import get_machine_id, safe_dumps

from suites.harness.statistics import control_facts

Kind = Literal["header", "benchmarks", "missing", "control"]
Run = dict[str, Any]


class JournalError(Exception):
    """A journal that cannot be read: says which file, what was found and what was expected."""


class Journal:
    """The rows of a run that has not ended, one JSON object a line.

    A disk that refuses is told once, in `fault`; the rows are still in memory, and the run goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f".unfinished-{os.getpid()}.jsonl"
        self.fault: str | None = None

    def write(self, kind: Kind, record: Mapping[str, Any]) -> None:
        """Append a record."""
        if self.fault is not None:
            return
        line = safe_dumps({kind: record}).replace("\n", " ") + "\n"
        try:
            with self.path.open("a", encoding="utf8") as file:
                file.write(line)
        except OSError as error:
            self.fault = f"{self.path}: {error.strerror}"

    def discard(self) -> None:
        """The run is stored: the journal is no longer needed."""
        self.path.unlink(missing_ok=True)


def read_journal(path: Path) -> Run:
    """A run from its journal; a last line that was cut off is left out. Raises JournalError."""
    run: Run = {"benchmarks": [], "missing": [], "interrupted": f"the run was cut off; recovered from {path.name}"}
    controls: list[Any] = []
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JournalError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            ((kind, record),) = json.loads(line).items()
            if kind == "header":
                run = {**record, **run}
            elif kind == "control":
                control_facts([record])  # which tells what is none
                controls.append(record)
            else:
                run[kind].append(record)
        except (ValueError, KeyError, AttributeError, TypeError):
            if number == len(lines):
                break
            raise JournalError(f"{path}:{number}: found {line[:60]!r}, expected one record of a journal") from None
    if "machine_info" not in run:
        raise JournalError(f"{path}: no header; expected a journal that a run of the suites left behind")
    return {**run, "control": control_facts(controls)}


def leftovers(folder: Path) -> Iterator[Path]:
    """Journals of runs that ended without storing what they measured."""
    for path in sorted(folder.glob(".unfinished-*.jsonl")):
        number = path.stem.rpartition("-")[2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            yield path


def save(run: Run, folder: Path, tag: str) -> Path:
    """Store a run as the next number in this machine's folder; gives its file. Raises OSError."""
    place = folder / get_machine_id()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".unfinished-") as unfinished, _alone_in(place):
        whole = Path(unfinished) / "run.json"
        whole.write_bytes(safe_dumps(run, ensure_ascii=True, indent=1).encode())
        number = max((int(path.name[:4]) for path in place.glob("[0-9][0-9][0-9][0-9]_*.json")), default=0) + 1
        return whole.rename(place / f"{number:04}_{tag}.json")


@contextmanager
def _alone_in(place: Path) -> Iterator[None]:
    """Within, no other process that asks the same of this folder is let in."""
    folder = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def rescue(run: Run, tag: str) -> Path:
    """Store a run that its own folder would not take among the system's temporary files. Raises OSError."""
    return save(run, Path(tempfile.mkdtemp(prefix="tape-vs-graph-rescued-")), tag)
