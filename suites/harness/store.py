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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
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

    A disk that refuses stops nothing. `tell` hears of it at once, the first time. What it did not take comes with the
    next record that it takes, in its place: no line is ever broken but the last, by a run that is killed.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.path = folder / f".unfinished-{os.getpid()}.jsonl"
        self._tell = tell
        self._faults = 0
        self._last_fault = ""
        self._waiting = b""  # lines that are not on the disk
        self._whole_bytes = 0  # of the file, up to the end of the last line that is

    def write(self, kind: Kind, record: Mapping[str, Any]) -> None:
        """Append a record, and what could not be appended before."""
        self._waiting += (safe_dumps({kind: record}).replace("\n", " ") + "\n").encode()
        try:
            with self.path.open("ab", buffering=0) as file:
                if file.tell() > self._whole_bytes:
                    file.truncate(self._whole_bytes)  # what was left of lines that did not fit
                self._write_all(file)
        except OSError as error:
            self._refused(error)
        else:
            self._whole_bytes += len(self._waiting)
            self._waiting = b""

    def _write_all(self, file: FileIO) -> None:
        rest = memoryview(self._waiting)
        while rest:
            rest = rest[file.write(rest) or 0 :]  # a disk that is filling up takes a part, and then refuses

    def _refused(self, error: OSError) -> None:
        self._faults += 1
        self._last_fault = f"{self.path}: {error.strerror}"
        if self._faults == 1:
            self._tell(f"the journal cannot be written: {self._last_fault}; a run that is killed now loses its rows")

    @property
    def fault(self) -> str | None:
        """What the disk refused during the run, if anything, in a line."""
        if not self._faults:
            return None
        end = "to its end" if self._waiting else "then it was, with all rows"
        return f"the journal could not be written {self._faults} times, {end}: {self._last_fault}"

    def discard(self) -> None:
        """The run is stored: the journal is no longer needed."""
        self.path.unlink(missing_ok=True)


def read_journal(path: Path) -> Run:
    """A run from its journal; a last line that was cut off is left out. Raises JournalError.

    Its header has every row that was wanted as it is stored when the run does not come to it.
    """
    run: Run = {"benchmarks": [], "missing": [], "interrupted": f"the run was cut off; recovered from {path.name}"}
    controls: list[Any] = []
    wanted: dict[str, Run] = {}
    seen: set[str | None] = set()
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JournalError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            ((kind, record),) = json.loads(line).items()
            if kind == "header":
                wanted = {row["fullname"]: dict(row) for row in record.pop("wanted", [])}  # older journals have none
                run = {**record, **run}
            elif kind == "control":
                control_facts([record])  # which tells what is none
                controls.append(record)
            else:
                seen.add(record.get("fullname"))
                run[kind].append(record)
        except (ValueError, KeyError, AttributeError, TypeError):
            if number == len(lines):
                break
            raise JournalError(f"{path}:{number}: found {line[:60]!r}, expected one record of a journal") from None
    if "machine_info" not in run:
        raise JournalError(f"{path}: no header; expected a journal that a run of the suites left behind")
    run["missing"] += [row for name, row in wanted.items() if name not in seen]
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
