"""What schema 2 stores comes back typed, words and all; what is not as it should be names file and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.comparing import compare
from report.fields import ReportError
from report.labels import Labels
from report.method import Caution, Clock, Stopped
from report.records import read_run
from report.results import STORED_NAME, Results
from report.statistics import estimate, time_of
from report.stored import Cell, Record

Json = dict[str, Any]
Store = Callable[..., Path]
MIB = 2**20
RESULTS = Path(__file__).resolve().parents[2] / "results"


def find(results: Results, question: str, engine: str, **facts: Any) -> Record:
    """The first row of a question and an engine whose cell has these facts."""
    return next(
        row
        for row in results.records
        if (row.cell.question, row.engine) == (question, engine)
        and all(getattr(row.cell, name) == value for name, value in facts.items())
    )


def test_how_a_row_was_measured_comes_back(second_results: Results) -> None:
    row = find(second_results, "step", "tape", workload="cnn", batch_size=8)
    median = sorted(row.seconds_per_call)[5:7]
    assert (row.schema, row.collector, row.first_call_seconds) == (2, False, 0.02)
    assert row.clock == Clock(5e-8, 2e-5)
    assert row.stopped == Stopped("budget", 12, 0.041, 0.02)
    assert row.launches == (5, 4, 3)
    assert {ratio.launches for ratio in row.ratios} == {3}
    other = find(second_results, "step", "tape", workload="mlp")
    assert other.launches == ()
    assert {ratio.launches for ratio in other.ratios} == {1}
    assert row.positions == (0, 1, 2, 1, 0, 2)
    assert row.warm_up is not None
    assert (len(row.warm_up.seconds_per_call), row.warm_up.stable) == (4, True)
    assert row.interval is not None
    assert row.interval.low < sum(median) / 2 < row.interval.high
    assert list(row.split_seconds) == ["forward", "backward", "update"]
    assert sum(row.split_seconds.values()) == pytest.approx(sum(median) / 2)
    assert row.split_check is not None
    assert row.split_check.closes
    assert (row.phases_check, row.device_seconds, row.every) == (None, (), None)


def test_a_stored_interval_is_shown_as_it_is(second_results: Results, whole_results: Results) -> None:
    row = find(second_results, "step", "tape")
    assert row.interval is not None
    time = time_of(row)
    assert (time.low, time.high) == (row.interval.low, row.interval.high)
    median = estimate(row.seconds_per_call).value
    assert (time.value, time.samples) == (row.interval.value, len(row.seconds_per_call))
    assert time.value == pytest.approx(1.002 * median)
    assert time_of(replace(row, interval=replace(row.interval, value=None))).value == median
    older = find(whole_results, "step", "tape")
    assert time_of(older) == estimate(older.seconds_per_call)


def test_memory_comes_back_with_its_reasons(second_results: Results) -> None:
    tape = find(second_results, "memory", "tape").memory
    graph = find(second_results, "memory", "graph").memory
    assert tape is not None
    assert graph is not None
    assert (tape.allocations, tape.record_bytes, tape.lower_bound_bytes) == (420, 18_000, 600 * MIB)
    assert tape.peaks_bytes == (900 * MIB, 901 * MIB)
    assert (len(tape.curve), tape.curve[0], tape.curve[-1][0]) == (41, (0, 0), 40)
    assert (graph.allocations, graph.notes) == (None, {"allocations": "the plan allocates once"})


def test_device_time_comes_back(second_results: Results) -> None:
    row = find(second_results, "step", "graph", device="cuda")
    assert row.device_seconds == pytest.approx([0.6 * sample for sample in row.seconds_per_call])
    assert row.every is not None
    assert row.every.steps == 10
    assert len(row.every.seconds_per_call) == len(row.seconds_per_call)


def test_cold_and_warm_are_two_rows(second_results: Results) -> None:
    cold, warm = (find(second_results, "preparing", "graph", start=start) for start in ("cold", "warm"))
    assert cold.cell == warm.cell._replace(start="cold")
    assert cold.phases_check is not None
    assert warm.phases_check is not None
    assert (cold.phases_check.closes, warm.phases_check.closes) == (False, True)
    assert {row.cell.start for row in second_results.records if row.cell.question != "preparing"} == {""}


def test_an_older_file_tells_no_cold_from_warm(whole_results: Results) -> None:
    assert {row.cell.start for row in whole_results.of("preparing")} == {""}
    row = whole_results.of("step")[0]
    assert (row.schema, row.clock, row.stopped, row.interval, row.split_seconds) == (1, None, None, None, {})
    assert [(run.control, run.cautions, run.interrupted) for run in whole_results.runs] == [(None, None, None)]


def test_the_stored_word_wins_over_the_interval(second_run: Json, results_of: Callable[..., Results]) -> None:
    rows = [row["extra_info"] for row in second_run["benchmarks"]]
    graph = next(it for it in rows if (it["question"], it["engine"]) == ("step", "graph"))
    ratio = next(it for it in graph["ratios"] if it["to"] == "tape")
    ratio["verdict"] = "cannot tell"
    tape = next(it for it in rows if it["engine"] == "tape" and it["batch_size"] == graph["batch_size"])
    assert tape["question"] == "step"
    results = results_of(second_run)
    cell = find(results, "step", "graph", workload=graph["workload"], batch_size=graph["batch_size"]).cell
    found = results.ratio(cell, "graph", to="tape")
    assert found is not None
    assert (found.verdict, found.high < 1) == ("cannot tell", True)
    comparison = compare(results, Labels.of(results.records), "step", "graph", "tape")
    assert (comparison.word, comparison.counts()["cannot tell"]) == ("depends", 1)
    assert "cannot be told apart in 1" in comparison.short()


def test_a_turned_ratio_turns_its_word(second_results: Results) -> None:
    cell = find(second_results, "step", "graph").cell
    own = second_results.ratio(cell, "graph", to="tape")
    assert own is not None
    assert (own.verdict, own.inverse("graph").verdict) == ("faster", "slower")
    assert own.launches == own.inverse("graph").launches == 3


def test_the_run_knows_its_control_and_its_cautions(second_results: Results) -> None:
    (run,) = second_results.runs
    assert run.control is not None
    assert (run.control.cells, run.control.false_alarms, run.control.smallest_effect) == (20, 1, 0.018)
    last = run.control.rows[-1]
    assert (last.engine, last.value, last.false_alarm, last.launches) == ("tape", 1.03, True, 1)
    assert run.control.rows[0].launches == 3
    assert last.cell == Cell("step", "mlp", "static", "cpu", "float32", "step", (), 20)
    assert run.cautions[0] == Caution("other load", "load 1.9 on 2 cores", "Stop other programs.")
    assert run.interrupted == "Ctrl-C after 310 s"


@pytest.mark.parametrize("status", ["crashed", "timed out", "out of memory", "not run"])
def test_a_row_may_be_missing_in_many_ways(second_run: Json, store: Store, status: str) -> None:
    second_run["missing"][0]["extra_info"] |= {"status": status, "phases": None, "counters": None}
    gaps = [row for row in read_run(store(second_run)).records if row.status != "measured"]
    assert (gaps[0].status, gaps[0].agreement.verdict) == (status, "unchecked")


BROKEN: dict[str, tuple[str, Any, str]] = {
    "why": ("benchmarks[0].extra_info.stopped.why", "bored", "expected one of precise, budget, fixed"),
    "rounds": ("benchmarks[0].extra_info.stopped.rounds", -1, "expected a whole number"),
    "warm-up": ("benchmarks[0].extra_info.warm_up.stable", None, "expected true or false"),
    "clock": ("benchmarks[0].extra_info.clock.share_of_sample", "small", "expected a finite number"),
    "interval": ("benchmarks[0].extra_info.interval.low", 99.0, "expected at most"),
    "launches": ("benchmarks[0].extra_info.ratios[0].launches", 0, "expected a whole number of at least 1"),
    "launch": ("benchmarks[0].extra_info.launches", [4, 0.5], "expected a whole number"),
    "rounds of launches": ("benchmarks[0].extra_info.launches", [4, 5], "expected as many rounds in all as there are"),
    "word": ("benchmarks[0].extra_info.ratios[0].verdict", "quicker", "expected one of faster, slower"),
    "split": ("benchmarks[0].extra_info.split", [0.1], "expected an object"),
    "check": ("benchmarks[0].extra_info.split_check.closes", 1, "expected true or false"),
    "collector": ("benchmarks[0].extra_info.collector", "on", "expected true or false"),
    "cold": ("benchmarks[0].extra_info.cold", 0, "expected true or false"),
    "positions": ("benchmarks[0].extra_info.positions[1]", 0.5, "expected a whole number"),
    "device": ("benchmarks[0].extra_info.device_seconds", [0.0], "expected a finite number above 0"),
    "alarms": ("control.false_alarms", 21, "expected at most control.cells, which is 20"),
    "control": ("control.rows[0].low", 9.0, "expected at most control.rows[0].high"),
    "overhead": ("overhead.own_round_seconds", -1, "expected a finite number"),
    "caution": ("cautions[0].advice", "", "expected text"),
    "interrupted": ("interrupted", True, "expected text"),
}


def put(target: Any, path: str, value: Any) -> None:
    """Put a value at a path such as `control.rows[0].low`."""
    *front, last = path.replace("[", ".").replace("]", "").split(".")
    for key in front:
        target = target[int(key)] if key.isdigit() else target[key]
    target[int(last) if last.isdigit() else last] = value


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_new_field_is_named(second_run: Json, store: Store, name: str) -> None:
    path, value, expected = BROKEN[name]
    put(second_run, path, value)
    stored = store(second_run)
    with pytest.raises(ReportError) as caught:
        read_run(stored)
    assert str(caught.value).startswith(f"{stored}: {path}")
    assert expected in str(caught.value)


BROKEN_MEMORY: dict[str, tuple[str, Any, str]] = {
    "peak without reason": ("peak_bytes", None, "found null, expected a whole number"),
    "point": ("curve[1]", [1], "expected a pair of position and bytes"),
    "order": ("curve[1][0]", 7.5, "expected positions in order"),
    "reason": ("notes", {"curve": 3}, "found 3, expected text"),
    "peaks": ("peak_bytes_by_call[0]", "many", "expected a whole number"),
}


@pytest.mark.parametrize("name", BROKEN_MEMORY)
def test_a_broken_memory_is_named(second_run: Json, store: Store, name: str) -> None:
    path, value, expected = BROKEN_MEMORY[name]
    rows = [row["extra_info"]["memory"] for row in second_run["benchmarks"]]
    memory = next(it for it in rows if it)
    put(memory, path, value)
    with pytest.raises(ReportError) as caught:
        read_run(store(second_run))
    assert f"benchmarks[{rows.index(memory)}].extra_info.memory.{path.partition('[')[0]}" in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("path", sorted(RESULTS.glob(f"*/{STORED_NAME}")), ids=lambda path: str(path.name[:4]))
def test_the_stored_runs_still_load(path: Path) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert len(read_run(path).records) == len(stored["benchmarks"]) + len(stored["missing"])
