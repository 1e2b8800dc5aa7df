"""What is stored comes back typed; what is not as it should be is refused with the file and the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report.fields import ReportError
from report.records import read_run
from report.stored import QUESTIONS

Json = dict[str, Any]
Store = Callable[..., Path]


def at(run: Json, question: str, engine: str = "graph") -> tuple[int, Json]:
    """The place and the content of the first stored row of a question and an engine."""
    for place, row in enumerate(run["benchmarks"]):
        if row["extra_info"]["question"] == question and row["extra_info"]["engine"] == engine:
            return place, row
    raise LookupError(question)


def test_every_stored_row_comes_back(run: Json, store: Store) -> None:
    records = read_run(store(run)).records
    assert len(records) == len(run["benchmarks"]) + len(run["missing"])
    assert {record.cell.question for record in records} == set(QUESTIONS) - {"collector", "attribution", "recompute"}
    for row, record in zip(run["benchmarks"], records, strict=False):
        extra = row["extra_info"]
        assert list(record.seconds_per_call) == row["stats"]["data"]
        assert (record.engine, record.style, record.status, record.name) == (
            extra["engine"], extra["style"], "measured", row["name"],
        )  # fmt: skip
        assert (record.cell.workload, record.cell.batch_size) == (extra["workload"], extra["batch_size"])
        assert dict(record.cell.size) == extra["size"]
        assert list(record.phase_seconds.items()) == list(extra["phases"].items())
        assert dict(record.counters) == extra["counters"]


def test_nested_facts_come_back(run: Json, store: Store) -> None:
    records = {(it.cell.question, it.cell.workload, it.engine): it for it in read_run(store(run)).records}
    memory = records["memory", "mlp", "graph"].memory
    assert memory is not None
    assert (memory.peak_bytes, memory.live_bytes_before) == (700 * 2**20, 30 * 2**20)
    learning = records["learning", "mlp", "graph"].learning
    assert learning is not None
    assert (learning.equal_bits_to, learning.test_accuracy, len(learning.losses)) == ("tape", 0.94, 240)
    interface = records["interface", "mlp", "torch_eager"]
    (ratio,) = interface.ratios
    assert (ratio.to, ratio.confidence, ratio.rounds) == ("torch_module", 0.95, 12)
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([1.03, 1.0094, 1.0506])
    assert interface.agreement.error == 1e-7


def test_the_run_knows_where_it_comes_from(run: Json, store: Store) -> None:
    found = read_run(store(run))
    assert (found.commit, found.branch, found.dirty, found.effort) == ("0123456789abcdef0123", "main", False, "quick")
    assert found.machine["processor"] == "Example CPU"
    assert found.environment["memory_bytes"] == 8 * 2**30
    assert found.taken_at == "2026-11-23T12:00:00+00:00"


@pytest.mark.parametrize("place", ["commit_info", "machine_info.environment"])
def test_either_side_may_say_dirty(run: Json, store: Store, place: str) -> None:
    target: Json = run
    for key in place.split("."):
        target = target[key]
    target["dirty"] = True
    assert read_run(store(run)).dirty


def test_gaps_keep_status_and_reason(run: Json, store: Store) -> None:
    gaps = [record for record in read_run(store(run)).records if record.status != "measured"]
    assert [(gap.status, gap.reason) for gap in gaps] == [
        ("failed", "out of memory: wanted 9 GiB"),
        ("skipped", "needs a plan that this machine cannot hold"),
    ]
    assert all(gap.seconds_per_call == () for gap in gaps)


def test_a_gap_may_hold_what_no_measured_row_may(empty_run: Json, store: Store, make: SimpleNamespace) -> None:
    agreement = {"verdict": "wrong", "worst": "w", "error": float("inf"), "allowed": 1e-5, "reference": None}
    extra = make.extra("learning", "mlp", "graph", 8, agreement=agreement, learning={"losses": [float("nan")]})
    empty_run["missing"] = [make.gap(extra, "wrong", "w has the wrong shape")]
    (record,) = read_run(store(empty_run)).records
    assert record.agreement.error == float("inf")
    assert record.learning is None


def test_the_single_ratio_counts_once(empty_run: Json, store: Store, make: SimpleNamespace) -> None:
    ratio = make.ratio("torch_eager", 0.9)
    extra = make.extra("step", "mlp", "tape", 8, ratio=ratio, ratios=[ratio, make.ratio("graph", 1.1)])
    empty_run["benchmarks"] = [make.row(extra, [1.0])]
    (record,) = read_run(store(empty_run)).records
    assert [it.to for it in record.ratios] == ["torch_eager", "graph"]


TEXTS: dict[str, tuple[Callable[[str], str], str]] = {
    "cut off": (lambda text: text[: len(text) // 2], "the whole file: found"),
    "not JSON": (lambda _: "hello", "the whole file: found Expecting value at line 1 column 1, expected a stored run"),
    "empty": (lambda _: "", "the whole file: found"),
    "a list": (lambda _: "[]", "the whole file: found [], expected an object"),
    "endless nesting": (lambda _: "[" * 100_000, "the whole file: found RecursionError"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_run_is_refused(run: Json, store: Store, name: str) -> None:
    change, expected = TEXTS[name]
    path = store(run)
    path.write_text(change(path.read_text()), encoding="utf-8")
    with pytest.raises(ReportError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


def test_bytes_that_are_no_text_are_refused(store: Store, run: Json) -> None:
    path = store(run)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match="UnicodeDecodeError"):
        read_run(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"nowhere\.json: the whole file: found No such file or directory, expected"):
        read_run(tmp_path / "nowhere.json")


NAN, INFINITE = float("nan"), float("inf")
BROKEN: dict[str, tuple[str, str, Any, str]] = {  # question, path in the row, new value, what is expected
    "engine": ("step", "extra_info.engine", 7, "expected text"),
    "empty engine": ("step", "extra_info.engine", "", "expected text"),
    "question": ("step", "extra_info.question", "speed", "expected one of step, forward"),
    "style": ("step", "extra_info.style", "both", "expected one of dynamic, static"),
    "no style": ("step", "extra_info.style", None, "expected one of dynamic, static"),
    "quantity": ("step", "extra_info.quantity", None, "expected one of forward"),
    "status": ("step", "extra_info.status", "failed", "expected one of measured"),
    "batch": ("step", "extra_info.batch_size", "8", "expected a whole number of at least 1"),
    "batch of zero": ("step", "extra_info.batch_size", 0, "expected a whole number of at least 1"),
    "true is no number": ("step", "extra_info.calls_per_sample", True, "expected a whole number"),
    "size": ("step", "extra_info.size", [], "expected an object"),
    "ops": ("dispatch", "extra_info.size.ops", 0, "expected a whole number of at least 1"),
    "phase": ("preparing", "extra_info.phases.trace", -1.0, "expected a finite number of at least 0"),
    "counter": ("preparing", "extra_info.counters.nodes", 1.5, "expected a whole number"),
    "memory": ("memory", "extra_info.memory", None, "expected an object with peak_bytes"),
    "peak": ("memory", "extra_info.memory.peak_bytes", -1, "expected a whole number"),
    "verdict": ("step", "extra_info.agreement.verdict", "wrong", "a wrong row gets no time"),
    "error": ("step", "extra_info.agreement.error", NAN, "expected a finite number"),
    "ratio": ("step", "extra_info.ratios[0].value", 0, "expected a finite number above 0"),
    "bounds": ("step", "extra_info.ratios[0].low", 99.0, "expected at most"),
    "confidence": ("step", "extra_info.ratios[0].confidence", 95, "expected a share between 0 and 1"),
    "rounds": ("step", "extra_info.ratios[0].rounds", 0, "expected a whole number of at least 1"),
    "learning": ("learning", "extra_info.learning", None, "expected an object with losses"),
    "losses": ("learning", "extra_info.learning.losses", [], "expected at least one loss"),
    "loss": ("learning", "extra_info.learning.losses[4]", NAN, "expected a finite number"),
    "accuracy": ("learning", "extra_info.learning.test_accuracy", 94.0, "expected a share between 0 and 1"),
    "schema": ("step", "extra_info.schema", 3, "expected schema 1 or 2, which is all that this version reads"),
    "no samples": ("step", "stats.data", [], "expected at least one sample (store runs with --benchmark-save-data)"),
    "negative sample": ("step", "stats.data[2]", -0.1, "expected a finite number above 0"),
    "zero sample": ("step", "stats.data[2]", 0.0, "expected a finite number above 0"),
    "NaN sample": ("step", "stats.data[2]", NAN, "expected a finite number above 0"),
    "infinite sample": ("step", "stats.data[2]", INFINITE, "expected a finite number above 0"),
    "text sample": ("step", "stats.data[2]", "0.1", "expected a finite number above 0"),
    "huge sample": ("step", "stats.data[2]", 10**400, "expected a finite number above 0"),
}  # fmt: skip


def put(target: Any, path: str, value: Any) -> None:
    """Put a value at a path such as `stats.data[2]`."""
    *front, last = path.replace("[", ".").replace("]", "").split(".")
    for key in front:
        target = target[int(key)] if key.isdigit() else target[key]
    target[int(last) if last.isdigit() else last] = value


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_field_is_named(run: Json, store: Store, name: str) -> None:
    question, path, value, expected = BROKEN[name]
    place, row = at(run, question)
    put(row, path, value)
    stored = store(run)
    with pytest.raises(ReportError) as caught:
        read_run(stored)
    text = str(caught.value)
    assert text.startswith(f"{stored}: benchmarks[{place}].{path}: found {json.dumps(value)[:40]}")
    assert expected in text
    assert "\n" not in text


LACKING = {
    "benchmarks": "benchmarks",
    "machine_info": "machine_info",
    "machine_info.environment": "machine_info.environment",
    "machine_info.environment.fingerprint": "machine_info.environment.fingerprint",
    "commit_info": "commit_info",
    "commit_info.id": "commit_info.id",
    "benchmarks[0].extra_info": "benchmarks[0].extra_info",
    "benchmarks[0].extra_info.engine": "benchmarks[0].extra_info.engine",
    "benchmarks[0].extra_info.ratios": "benchmarks[0].extra_info.ratios",
    "benchmarks[0].stats.data": "benchmarks[0].stats.data",
    "missing[1].extra_info.reason": "missing[1].extra_info.reason",
}


@pytest.mark.parametrize("path", LACKING)
def test_a_lacking_field_is_named(run: Json, store: Store, path: str) -> None:
    *front, last = path.replace("[", ".").replace("]", "").split(".")
    target: Any = run
    for key in front:
        target = target[int(key)] if key.isdigit() else target[key]
    del target[last]
    stored = store(run)
    with pytest.raises(ReportError) as caught:
        read_run(stored)
    assert str(caught.value) == f"{stored}: {LACKING[path]}: found no such field, expected a value"


def test_a_gap_without_reason_is_refused(run: Json, store: Store) -> None:
    run["missing"][0]["extra_info"]["reason"] = None
    with pytest.raises(ReportError, match=r"missing\[0\]\.extra_info\.reason: found null, expected text"):
        read_run(store(run))


def test_a_measured_row_among_the_gaps_is_refused(run: Json, store: Store) -> None:
    run["missing"][0]["extra_info"]["status"] = "measured"
    with pytest.raises(
        ReportError, match=r"missing\[0\]\.extra_info\.status: found \"measured\", expected one of skip"
    ):
        read_run(store(run))


def test_a_file_of_another_suite_is_named_as_such(run: Json, store: Store) -> None:
    run["benchmarks"][0]["extra_info"] = {"fast": True}
    with pytest.raises(ReportError) as caught:
        read_run(store(run))
    assert "benchmarks[0].extra_info: found a row that this suite did not write (fast)" in str(caught.value)
    assert "expected the fields of schema 1 or 2" in str(caught.value)


def test_the_same_row_twice_in_a_file_is_refused(run: Json, store: Store) -> None:
    run["benchmarks"].append(run["benchmarks"][3])
    last = len(run["benchmarks"]) - 1
    with pytest.raises(ReportError, match=rf"benchmarks\[{last}\]: found the same cell and engine as benchmarks\[3\]"):
        read_run(store(run))


def test_a_file_without_the_list_of_gaps_is_read(run: Json, store: Store) -> None:
    del run["missing"]
    assert len(read_run(store(run)).records) == len(run["benchmarks"])
