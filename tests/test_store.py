"""What becomes of a run's rows when it is cut off, its disk is full, or another run stores at the same time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from report.__main__ import main as report
from suites import test_dispatch, test_forward
from suites.harness import exits
from suites.harness.effort import EFFORTS
from suites.harness.store import Journal, JournalError, leftovers, read_journal, save
from suites.recover import main as recover

ROOT = Path(__file__).parent.parent
ENGINES = ("tape", "torch_eager")
CELLS = [cell for suite in (test_dispatch, test_forward) for cell in suite.cells(EFFORTS["quick"], "cpu")]
ROWS = len(CELLS) * len(ENGINES)
"""Of a whole run as these tests start it."""
RUN = {"machine_info": {}, "benchmarks": [{"name": "a"}], "version": "5"}


def suites(folder: Path, *arguments: str) -> list[str]:
    engines = [word for name in ENGINES for word in ("--engine", name)]
    chosen = ("suites/test_dispatch.py", "suites/test_forward.py", *engines)
    return [sys.executable, "-m", "pytest", "-q", *chosen, "--benchmark-only", "--results", str(folder), *arguments]


INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Python that takes Ctrl-C as at a terminal, also where these tests run in the background and ignore it."""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    python, *rest = suites(folder, *arguments)
    command = [python, "-c", INTERRUPTIBLE, *rest]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_rows(folder: Path, count: int) -> Path:
    """The journal, once it holds so many rows."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for path in folder.glob(".unfinished-*.jsonl"):
            if path.read_text().count('{"benchmarks":') >= count:
                return path
        time.sleep(0.05)
    raise AssertionError(f"no {count} rows in {list(folder.iterdir())}")


def only_run(folder: Path) -> dict:
    (file,) = folder.rglob("[0-9]*.json")
    return json.loads(file.read_text())


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text()


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.parametrize(
    ("number", "interrupted", "reason"),
    [
        (signal.SIGINT, "by the user", "the run was interrupted"),
        (signal.SIGTERM, "by SIGTERM", "the run was interrupted by SIGTERM"),
    ],
)
def test_ctrl_c_keeps_what_was_measured_and_names_what_was_not(tmp_path, monkeypatch, number, interrupted, reason):
    """And so does SIGTERM, as of a batch system or a container that ends."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = start(tmp_path)
    wait_for_rows(tmp_path, 2)
    workers = children(process.pid)
    assert list(temporary.glob("tape-vs-graph-*"))
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    run = only_run(tmp_path)
    assert len(run["benchmarks"]) >= 2
    assert all(row["stats"]["data"] for row in run["benchmarks"])
    assert run["interrupted"] == interrupted
    assert {row["extra_info"]["status"] for row in run["missing"]} == {"not run"}
    assert {row["extra_info"]["reason"] for row in run["missing"]} == {reason}
    assert len(run["benchmarks"]) + len(run["missing"]) == ROWS
    assert "stored in" in said
    page = tmp_path / "page.html"
    assert report(["--results", str(tmp_path), "--output", str(page)]) == 0
    assert interrupted in page.read_text(encoding="utf8")
    assert not list(tmp_path.glob(".unfinished-*"))
    assert not list(temporary.glob("tape-vs-graph-*"))
    assert workers
    assert not any(alive(worker) for worker in workers)


HANDLED = """
import signal, sys, pytest
class Look:
    def pytest_collection_finish(self):
        print("within:", signal.getsignal(signal.SIGTERM) != signal.SIG_DFL)
pytest.main(sys.argv[3:], plugins=[Look()])
print("after:", signal.getsignal(signal.SIGTERM) != signal.SIG_DFL)
"""


def test_sigterm_is_handled_within_a_run_alone(tmp_path):
    python, *rest = suites(tmp_path, "--collect-only", "-s")
    command = [python, "-c", HANDLED, *rest]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "within: True" in done.stdout, done.stdout + done.stderr
    assert "after: False" in done.stdout


def test_a_run_that_is_interrupted_before_its_first_row_stores_nothing(tmp_path):
    process = start(tmp_path)
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".unfinished-*")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == exits.NOTHING_MEASURED, said
    assert "interrupted before a row was measured: nothing is stored" in said
    assert list(tmp_path.rglob("*")) == []


INTERRUPTS = """
import signal
def pytest_runtestloop(session):
    open("/proc/self/stat").fileno()  # and lost unclosed, as by a Ctrl-C while it is opened
    signal.raise_signal(signal.SIGINT)
"""


def test_what_ctrl_c_leaves_open_does_not_change_how_a_run_ends(tmp_path):
    (tmp_path / "interrupts.py").write_text(INTERRUPTS)
    python, *rest = suites(tmp_path / "results", "-p", "interrupts")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [python, "-c", INTERRUPTIBLE, *rest]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "interrupted before a row was measured: nothing is stored" in done.stdout
    assert done.returncode == exits.NOTHING_MEASURED, done.stderr
    assert "Traceback" not in done.stderr


BREAKS = """
import pytest
FIRST = []
def pytest_collection_modifyitems(items):
    def broken(job):
        FIRST.append(job.cell)
        raise OSError(24, "Too many open files")
    items[0].module.measure_cell = broken
def pytest_runtest_logreport(report):
    if "PLUGIN" and report.failed:
        raise ValueError("a plugin's mistake")
def pytest_sessionfinish():
    print("measured", len(FIRST), "cells")
"""


@pytest.mark.parametrize(
    ("arguments", "plugin", "code", "interrupted"),
    [
        ([], "", exits.NOTHING_MEASURED, None),
        (["-x"], "", exits.NOTHING_MEASURED, "by pytest: stopping after 1 failures"),
        ([], "met", 3, "by an internal error of pytest"),
    ],
)
def test_a_run_that_ends_early_names_every_row_that_it_did_not_come_to(tmp_path, arguments, plugin, code, interrupted):
    """And a cell whose measuring fails as a whole costs its rows, with the reason, and is not tried again for each."""
    (tmp_path / "breaks.py").write_text(BREAKS.replace("PLUGIN", plugin))
    folder = tmp_path / "results"
    command = suites(folder, "-s", "-p", "breaks", "-k", "(chain_tree or chain_wide) and dispatch", *arguments)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    run = only_run(folder)
    early = interrupted is not None
    assert run["interrupted"] == interrupted
    assert len(run["missing"]) == 4
    found = [(row["extra_info"]["status"], row["extra_info"]["reason"]) for row in run["missing"]]
    (failed, *rest), cells = found, 1 if early else 2
    assert failed[0] == "failed"
    assert failed[1].startswith("OSError: [Errno 24] Too many open files, at breaks.py:")
    assert rest == [("not run", f"the run was interrupted {interrupted}") if early else failed] * 3
    assert f"measured {cells} cells" in done.stdout


def test_a_row_whose_test_ends_before_it_is_missing_with_a_reason(tmp_path):
    (tmp_path / "breaks.py").write_text("def pytest_runtest_call(item):\n    raise ValueError('before its test')\n")
    folder = tmp_path / "results"
    command = suites(folder, "-p", "breaks", "-k", "chain_tree and dispatch and not eager")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == exits.NOTHING_MEASURED, done.stdout + done.stderr
    run = only_run(folder)
    (row,) = run["missing"]
    assert (row["extra_info"]["status"], row["extra_info"]["reason"]) == ("not run", "its test ended without a row")
    assert run["interrupted"] is None


def test_a_run_that_is_killed_leaves_a_journal_from_which_it_is_recovered(tmp_path, capsys):
    process = start(tmp_path)
    journal = wait_for_rows(tmp_path, 2)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)
    assert list(leftovers(tmp_path)) == [journal]
    assert recover([str(journal)]) == 0
    assert "rows measured" in capsys.readouterr().out
    run = only_run(tmp_path)
    assert len(run["benchmarks"]) >= 2
    assert len(run["benchmarks"]) + len(run["missing"]) == ROWS
    assert {row["extra_info"]["status"] for row in run["missing"]} == {"not run"}
    assert {row["extra_info"]["reason"] for row in run["missing"]} == {"the run was cut off"}
    assert {row["group"].partition(":")[0] for row in run["missing"]} <= {"dispatch", "forward"}
    assert not {"wanted", "cautions"} & run.keys()
    assert run["machine_info"]["environment"]["fingerprint"]
    assert "recovered from" in run["interrupted"]
    assert run["control"]["cells"] == len(run["control"]["rows"])
    assert not journal.exists()
    stored = next(tmp_path.glob("*/0001_*.json"))
    assert report([str(stored), "--output", str(tmp_path / "page.html")]) == 0


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a disk that can be filled needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_run_elsewhere_and_says_where(small_disk, tmp_path):
    (small_disk / "filler").write_bytes(b"x" * (52 << 10))
    spare = tmp_path / "spare"
    spare.mkdir()
    command = suites(small_disk, "-k", "chain_tree or chain_wide")
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(spare)}
    )
    assert done.returncode == exits.UNWRITABLE_RESULTS, done.stdout
    assert "cannot be written: No space left on device; the run is kept in" in done.stdout
    (journal,) = (
        line for line in done.stdout.splitlines() if line.startswith("warning: the journal cannot be written")
    )
    assert journal.endswith("No space left on device; a run that is killed now loses its rows")
    (again,) = (line for line in done.stdout.splitlines() if line.startswith("caution: the journal"))
    assert "to its end" in again
    assert done.stdout.index(journal) < done.stdout.index("tape vs graph") < done.stdout.index(again)
    assert "Traceback" not in done.stdout + done.stderr
    run = only_run(spare)
    assert len(run["benchmarks"]) == 4
    assert not list(small_disk.rglob("[0-9]*.json"))


def test_two_runs_at_once_in_one_folder_are_both_stored_whole(tmp_path):
    first, second = (start(tmp_path, "-k", "chain_tree or chain_wide") for _ in range(2))
    for process in (first, second):
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    files = sorted(tmp_path.rglob("[0-9]*.json"))
    assert [file.name[:4] for file in files] == ["0001", "0002"]
    runs = [json.loads(file.read_text()) for file in files]
    assert all(len(run["benchmarks"]) == 4 for run in runs)
    kinds = [{caution["kind"] for caution in run["cautions"]} for run in runs]
    assert "another run" in kinds[0] | kinds[1]


def test_runs_stored_at_the_same_moment_get_numbers_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda n: save({**RUN, "n": n}, tmp_path, f"tag{n}"), range(24)))
    assert sorted(path.name[:4] for path in paths) == [f"{n:04}" for n in range(1, 25)]
    assert sorted(json.loads(path.read_text())["n"] for path in paths) == list(range(24))
    assert not list(tmp_path.rglob(".unfinished*"))


def test_a_journal_whose_last_line_was_cut_off_gives_the_rows_before_it(tmp_path):
    journal = Journal(tmp_path, pytest.fail)
    journal.write("header", {"machine_info": {"node": "x"}, "version": "5", "benchmarks": []})
    journal.write("benchmarks", {"name": "a"})
    journal.write("missing", {"name": "b"})
    row = {"name": "c", "value": 1.0, "low": 0.98, "high": 1.04, "confidence": 0.95, "rounds": 30, "launches": 1}
    journal.write("control", row)
    with journal.path.open("a") as file:
        file.write('{"benchmarks": {"na')
    run = read_journal(journal.path)
    assert run["machine_info"] == {"node": "x"}
    assert run["benchmarks"] == [{"name": "a"}]
    assert run["missing"] == [{"name": "b"}]
    assert run["control"] == {"cells": 1, "false_alarms": 0, "smallest_effect": pytest.approx(0.04), "rows": [row]}


def test_wanted_rows_that_a_journal_has_nothing_of_are_missing(tmp_path):
    journal = Journal(tmp_path, pytest.fail)
    wanted = [{"name": name, "fullname": f"suites/{name}", "extra_info": {"status": "not run"}} for name in "abc"]
    journal.write("header", {"machine_info": {}, "wanted": wanted})
    failed = {**wanted[1], "extra_info": {"status": "failed"}}
    journal.write("missing", failed)
    journal.write("benchmarks", {"name": "a", "fullname": "suites/a"})
    run = read_journal(journal.path)
    assert [row["name"] for row in run["benchmarks"]] == ["a"]
    assert run["missing"] == [failed, wanted[2]]
    assert "wanted" not in run


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"header": {}}\nnonsense\n{"missing": {}}\n', "journal.jsonl:2: found 'nonsense', expected one record"),
        ('{"rows": {}}\n{"missing": {}}\n', "journal.jsonl:1: found"),
        ('{"header": {}}\n{"control": {}}\n{"missing": {}}\n', "journal.jsonl:2: found"),
        ('{"header": {"wanted": ["a"]}}\n{"missing": {}}\n', "journal.jsonl:1: found"),
        ('{"header": {}}\n{"missing": ["a"]}\n{"missing": {}}\n', "journal.jsonl:2: found"),
        ("", "journal.jsonl: no header"),
    ],
)
def test_what_is_no_journal_is_refused_with_its_line(tmp_path, text, told, capsys):
    path = tmp_path / "journal.jsonl"
    path.write_text(text)
    with pytest.raises(JournalError, match=told.replace("'", ".")):
        read_journal(path)
    assert recover([str(path)]) == exits.UNREADABLE_RESULTS
    assert told in capsys.readouterr().err
    assert path.exists()


def test_a_journal_that_cannot_be_written_is_told_once_and_has_all_rows_when_it_can_be(tmp_path):
    told: list[str] = []
    journal = Journal(tmp_path / "later", told.append)
    journal.write("header", {"machine_info": {}})
    journal.write("missing", {"name": "a"})
    refused = f"{journal.path}: No such file or directory"
    assert told == [f"the journal cannot be written: {refused}; a run that is killed now loses its rows"]
    assert journal.fault == f"the journal could not be written 2 times, to its end: {refused}"
    journal.path.parent.mkdir()
    journal.write("missing", {"name": "b"})
    assert journal.fault == f"the journal could not be written 2 times, then it was, with all rows: {refused}"
    assert len(told) == 1
    assert read_journal(journal.path)["missing"] == [{"name": "a"}, {"name": "b"}]


def test_a_disk_that_takes_half_a_line_and_later_the_rest_has_whole_lines_alone(small_disk):
    told: list[str] = []
    journal = Journal(small_disk, told.append)
    journal.write("header", {"machine_info": {}})
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (56 << 10))
    journal.write("missing", {"name": "a", "text": "y" * (16 << 10)})
    assert 0 < len(journal.path.read_bytes().splitlines()[-1]) < 16 << 10
    filler.unlink()
    journal.write("missing", {"name": "b"})
    assert [row["name"] for row in read_journal(journal.path)["missing"]] == ["a", "b"]
    assert len(told) == 1
