"""Tables that commands store beside the runs: written by the suites, shown on the page, refused where broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report.__main__ import UNREADABLE, WRITTEN, main
from suites.sheets import Sheet, keep

Store = Callable[..., Path]
ROWS = [["moe", "9", "rewritten: cond <switch>"], ["l2hmc", "12", ""]]
SHEETS = [
    Sheet("Writing it", "What it takes.", ("workload", "lines", "how"), ROWS, numbers=(1,)),
    Sheet("What breaks", "", ("workload",), [["seq2seq"]]),
]


@pytest.fixture
def folder(empty_run: dict[str, Any], make: SimpleNamespace, store: Store, tmp_path: Path) -> Path:
    """A results folder with a run and a file of tables."""
    store(empty_run | {"benchmarks": make.cell("step", "mlp", 8, {"tape": 1e-3, "graph": 2e-3})}, "box/0001_run.json")
    assert keep(tmp_path / "tables" / "writing.json", "python -m suites.writing", SHEETS) == 0
    return tmp_path


def page(folder: Path) -> tuple[int, str]:
    code = main(["--results", str(folder), "--output", str(folder / "page.html")])
    return code, (folder / "page.html").read_text(encoding="utf8") if code == WRITTEN else ""


def test_stored_tables_stand_on_the_page_with_who_made_them(folder: Path) -> None:
    code, text = page(folder)
    assert code == WRITTEN
    part = text[text.index('<section id="writing"') :]
    part = part[: part.index("</section>")]
    assert "Writing it" in part
    assert "What it takes." in part
    assert 'class="number" data-order="12">12</td>' in part
    assert "rewritten: cond &lt;switch&gt;" in part
    assert part.index("<details>") < part.index("What breaks") < part.index("seq2seq")
    assert "Made by <code>python -m suites.writing</code>" in part


def test_a_folder_without_tables_has_no_such_section(folder: Path) -> None:
    (folder / "tables" / "writing.json").unlink()
    assert "Writing it" not in page(folder)[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["rows"][0].append("more"), "tables[0].rows[0]: found 4, expected 3 cells"),
        (lambda t: t["rows"][0].__setitem__(1, "many"), 'tables[0].rows[0][1]: found "many", expected a whole number'),
        (lambda t: t.pop("columns"), "tables[0].columns: found no such field"),
    ],
)
def test_a_broken_table_is_refused_by_file_and_field(
    folder: Path, change: Callable[[Any], Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "tables" / "writing.json"
    stored = json.loads(path.read_text(encoding="utf8"))
    change(stored["tables"][0])
    path.write_text(json.dumps(stored), encoding="utf8")
    assert page(folder)[0] == UNREADABLE
    assert f"{path}: {said}" in capsys.readouterr().err
