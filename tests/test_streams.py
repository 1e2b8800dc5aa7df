"""How streams are measured: who is asked what, what a wrong or a failing row costs, what is kept of each round."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engines.graph.lower import compiler
from suites.harness.caches import OURS, empty_caches
from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import EFFORTS
from suites.harness.measure import Measuring
from suites.harness.protocol import WorkerError
from suites.harness.stream import pass_twice
from suites.streams import contender, measure_cell

CELL = Cell("shapes", "shape_stream", "stream", knobs=(("distinct", 2), ("steps", 3)), rounds=3)
LOSSES = [2.0, 1.5, 1.25]


class Stand:
    """A conductor and all its workers: notes what it is asked, and gives what `answers` has for a contender."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, str, Any]] = []
        self.judge = self

    def worker(self, _: Contender) -> Stand:
        return self

    def begin(self) -> None:
        pass

    def note(self, *_: str) -> None:
        pass

    def ask(self, do: str, limit_seconds: float, *, cell: Any, contender: Any) -> Any:
        assert limit_seconds > 60.0
        name = contender["name"]
        self.asked.append((do, name, (cell["dtype"], dict(cell["knobs"])["steps"])))
        found = self._answers.get(name, {})
        if isinstance(found, WorkerError):
            raise found
        turn = len([one for one in self.asked if one[:2] == (do, name)])
        base = {"style": "static", "prepare_seconds": 0.5, "first_seconds": [1.0 * turn, 0.25, 0.25]}
        rest = {"again_seconds": [0.25] * 3, "losses": LOSSES, "phases": {"trace": turn}, "counters": {"hits": turn}}
        return {**base, **rest, **found}


def measured(answers: Mapping[str, Any]) -> tuple[Stand, Mapping[str, Any]]:
    stand = Stand(answers)
    contenders = [contender(name) for name in ("tape", "graph_exact", "graph_symbolic")]
    job = Measuring(stand, CELL, contenders, EFFORTS["quick"], lambda _: None)  # type: ignore[arg-type]
    return stand, measure_cell(job)


def test_everyone_goes_through_the_stream_once_a_round_after_one_short_way_that_does_not_count() -> None:
    stand, rows = measured({})
    assert stand.asked[0] == ("stream", "torch_eager", ("float64", 3))
    assert [one[1:] for one in stand.asked[1:4]] == [(name, ("float32", 1)) for name in rows]
    rounds = [{name for _, name, _ in stand.asked[at : at + 3]} for at in (4, 7, 10)]
    assert rounds == [set(rows)] * 3
    assert len(stand.asked) == 13
    for row in rows.values():
        assert row.samples == [0.5 + turn + 0.5 for turn in (2, 3, 4)]  # the first turn is the short way
        assert row.stream == {"prepare_seconds": 0.5, "first_seconds": [3.0, 0.25, 0.25], "again_seconds": [0.25] * 3}
        assert (row.phases, row.counters) == ({"trace": 3}, {"hits": 3})
        assert (row.agreement.verdict, row.agreement.error) == ("agrees", 0.0)
        assert {ratio["to"] for ratio in row.ratios} == set(rows) - {row.engine}


def test_a_wrong_loss_costs_its_row_and_no_other() -> None:
    _, rows = measured({"graph_exact": {"losses": [2.0, 1.5, 1.26]}})
    wrong = rows["graph_exact"]
    assert (wrong.status, wrong.samples, wrong.stream) == ("wrong", [], None)
    assert wrong.reason == "a loss is off by 8.00e-03 relative, 1.00e-04 is allowed"
    assert [rows[name].status for name in ("tape", "graph_symbolic")] == ["measured", "measured"]


def test_a_failing_worker_costs_its_row_and_no_other() -> None:
    _, rows = measured({"graph_symbolic": WorkerError("failed", "EngineError: symbolic: no")})
    assert (rows["graph_symbolic"].status, rows["graph_symbolic"].reason) == ("failed", "EngineError: symbolic: no")
    assert len(rows["tape"].samples) == 3


def test_a_judge_that_fails_costs_every_row_with_its_reason() -> None:
    stand, rows = measured({"torch_eager": WorkerError("timed out", "no answer to 'stream' within 70 s")})
    assert len(stand.asked) == 1
    for row in rows.values():
        assert (row.status, row.samples) == ("timed out", [])
        assert row.reason == "no reference to hold it against: no answer to 'stream' within 70 s"


def test_policies_share_the_graph_s_process() -> None:
    assert {contender(name).room for name in ("graph_exact", "graph_pad")} == {"graph"}
    assert contender("tape").room == ""


def test_a_workload_without_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="workload cnn has no stream of batches"):
        pass_twice(Cell("shapes", "cnn", "stream"), None)  # type: ignore[arg-type]


def test_caches_lie_where_the_system_says_and_are_empty_for_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    assert compiler.cache_folder() == tmp_path / ".cache" / "tape-vs-graph"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    usual = compiler.cache_folder()
    assert usual == tmp_path / "elsewhere" / "tape-vs-graph"
    (usual / "kept").touch()
    with empty_caches():
        inside = compiler.cache_folder()
        assert inside != usual
        assert all(os.environ[name] != str(tmp_path / "elsewhere") for name in OURS)
        assert list(inside.iterdir()) == []
    assert not inside.exists()
    assert compiler.cache_folder() == usual
    assert "TRITON_CACHE_DIR" not in os.environ
