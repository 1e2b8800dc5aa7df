"""The command line: what it prints and how it ends."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report.__main__ import NOTHING, UNREADABLE, UNWRITABLE, WRITTEN, main

Json = dict[str, Any]
Store = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the report in a process of its own, from another folder."""
    line = [sys.executable, "-m", "report", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "MPLCONFIGDIR": str(cwd)}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def small(empty_run: Json, make: SimpleNamespace) -> Json:
    """A run that makes a page quickly."""
    return empty_run | {"benchmarks": make.cell("step", "mlp", 8, {"tape": 1e-3, "graph": 2e-3})}


def test_the_newest_run_becomes_a_page(small: Json, store: Store, tmp_path: Path) -> None:
    store(small | {"datetime": "2026-01-01T00:00:00"}, "results/box/0002_old.json")
    store(small, "results/box/0001_new.json")
    done = command(cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "report.html\n", "")
    assert "0001_new.json" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_broken_file_ends_with_one_line(small: Json, store: Store, tmp_path: Path) -> None:
    path = store(small, "broken.json")
    path.write_text(path.read_text()[:-40], encoding="utf-8")
    done = command(path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (14, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"python -m report: {path}: the whole file: found")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_named_files_are_merged(small: Json, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = store(small, "a.json"), store(small, "b.json")
    output = tmp_path / "ab.html"
    assert main([str(first), str(second), "--output", str(output)]) == WRITTEN
    assert capsys.readouterr().out == f"{output}\n"
    text = output.read_text(encoding="utf-8")
    assert str(first) in text
    assert str(second) in text


def fail(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the one line of error of a command that fails."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m report: ")
    assert err.count("\n") == 1
    return code, err


def test_no_results_is_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = fail(["--results", tmp_path], capsys)
    assert code == NOTHING
    assert "run the suites and store the run, or name a FILE" in text


def test_a_run_without_rows_is_nothing_to_report(
    empty_run: Json, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail([store(empty_run)], capsys)[0] == NOTHING


def test_a_missing_file_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = fail([tmp_path / "none.json"], capsys)
    assert code == UNREADABLE
    assert "No such file or directory" in text
    assert "measure again, or name other files" in text


def test_a_foreign_file_cannot_be_read(small: Json, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    small["benchmarks"][0]["extra_info"] = {"two\nlines": 1}
    code, text = fail([store(small)], capsys)
    assert code == UNREADABLE
    assert "benchmarks[0].extra_info: found a row that this suite did not write (two lines)" in text


@pytest.mark.parametrize("output", ["no/such/folder/page.html", ".", "/"])
def test_a_page_that_cannot_be_written(
    small: Json, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    code, text = fail([store(small), "--output", tmp_path / output], capsys)
    assert code == UNWRITABLE
    assert "name a writable file with --output" in text
    assert not list(tmp_path.glob("**/*.tmp"))


def test_bad_usage_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--colour"])
    assert caught.value.code == 2
    assert "usage: python -m report" in capsys.readouterr().err


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{NOTHING} nothing to report, {UNWRITABLE} page not writable, {UNREADABLE} file not readable" in text


def test_the_report_reads_files_only() -> None:
    imported = set()
    for path in (ROOT / "report").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    outside = imported - set(sys.stdlib_module_names)
    assert outside == {"report", "jinja2", "markupsafe", "matplotlib", "numpy", "scipy"}
