"""Merging runs, finding rows and ratios in them, and choosing the newest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report.fields import ReportError
from report.labels import Labels
from report.page import render
from report.records import read_run
from report.results import NothingStoredError, Results, engine_rank, merge, newest
from report.trust import interruptions
from report.verdict import headline

Json = dict[str, Any]
Store = Callable[..., Path]


def test_a_later_file_wins_for_the_same_row_only(empty_run: Json, store: Store, make: SimpleNamespace) -> None:
    first = empty_run | {
        "benchmarks": [make.row(make.extra("step", "mlp", name, 8), [1.0]) for name in ("tape", "graph")]
    }
    second = empty_run | {"benchmarks": [make.row(make.extra("step", "mlp", "graph", 8), [2.0])]}
    results = merge([read_run(store(first, "1.json")), read_run(store(second, "2.json"))])
    assert [(row.engine, row.seconds_per_call, Path(row.file).name) for row in results.records] == [
        ("tape", (1.0,), "1.json"),
        ("graph", (2.0,), "2.json"),
    ]


def test_a_gap_gives_way_to_a_later_measured_row(empty_run: Json, store: Store, make: SimpleNamespace) -> None:
    extra = make.extra("step", "mlp", "graph", 8)
    first = empty_run | {"missing": [make.gap(extra, "failed", "crash")]}
    second = empty_run | {"benchmarks": [make.row(extra, [2.0])]}
    results = merge([read_run(store(first, "1.json")), read_run(store(second, "2.json"))])
    assert [row.status for row in results.records] == ["measured"]


@pytest.mark.parametrize("late", [False, True])
def test_a_run_in_which_a_row_never_ran_takes_none_away(
    late: bool, empty_run: Json, store: Store, make: SimpleNamespace
) -> None:
    tried = [make.extra("step", "mlp", name, 8) for name in ("tape", "graph")]
    never = [
        make.gap(extra, "not run", "the run was interrupted")
        for extra in (*tried, make.extra("step", "cnn", "tape", 8))
    ]
    runs = [
        empty_run | {"benchmarks": [make.row(tried[0], [1.0])], "missing": [make.gap(tried[1], "failed", "crash")]},
        empty_run | {"missing": never, "interrupted": "by the user"},
    ]
    results = merge([read_run(store(run, f"{n}.json")) for n, run in enumerate(runs if late else runs[::-1])])
    assert {(row.cell.workload, row.engine, row.status) for row in results.records} == {
        ("mlp", "tape", "measured"),
        ("mlp", "graph", "failed"),
        ("cnn", "tape", "not run"),
    }
    (text,) = interruptions(results)
    assert text.endswith("by the user. 3\xa0rows never ran, 2 of them did in another run of this page.")


def test_two_machines_share_no_page(run: Json, store: Store) -> None:
    first = read_run(store(run, "1.json"))
    run["machine_info"]["environment"]["fingerprint"] = "other"
    with pytest.raises(ReportError, match=r"2\.json: machine_info\.environment\.fingerprint: found machine other"):
        merge([first, read_run(store(run, "2.json"))])


def test_no_row_is_nothing_to_report(empty_run: Json, store: Store) -> None:
    with pytest.raises(NothingStoredError, match=r"no row in .*run the suites"):
        merge([read_run(store(empty_run))])


def test_a_ratio_is_found_from_either_side(
    empty_run: Json, make: SimpleNamespace, results_of: Callable[..., Results]
) -> None:
    ratios = [make.ratio("tape", 0.5, 0.4, 0.8)]
    rows = [make.row(make.extra("step", "mlp", "graph", 8, ratios=ratios), [1.0])]
    rows.append(make.row(make.extra("step", "mlp", "tape", 8), [2.0]))
    results = results_of(empty_run | {"benchmarks": rows})
    cell = results.records[0].cell
    own = results.ratio(cell, "graph", to="tape")
    turned = results.ratio(cell, "tape", to="graph")
    assert own is not None
    assert turned is not None
    assert (own.value, own.low, own.high) == (0.5, 0.4, 0.8)
    assert (turned.to, turned.value, turned.low, turned.high) == ("graph", 2.0, 1.25, 2.5)
    assert results.ratio(cell, "graph", to="torch_eager") is None


def paired_rows(make: SimpleNamespace) -> list[Json]:
    """The tape and a graph that takes half its time."""
    rows: list[Json] = make.cell("step", "mlp", 8, {"tape": 2.0, "graph": 1.0})
    return rows


def test_a_row_that_a_later_file_calls_wrong_has_no_ratio(
    empty_run: Json, make: SimpleNamespace, results_of: Callable[..., Results]
) -> None:
    rows = paired_rows(make)
    wrong = {"missing": [make.gap(make.extra("step", "mlp", "graph", 8), "wrong", "w1 is off by 1e-1")]}
    results = results_of(empty_run | {"benchmarks": rows}, empty_run | wrong)
    assert results.ratio(results.records[0].cell, "graph", to="tape") is None
    assert headline(results, Labels.of(results.records)).startswith("These results cannot tell")
    assert "0.500" not in render(results)


def test_a_row_measured_again_alone_has_not_the_ratio_of_its_predecessor(
    empty_run: Json, make: SimpleNamespace, results_of: Callable[..., Results]
) -> None:
    again = make.row(make.extra("step", "mlp", "graph", 8), [3.0] * 12)
    results = results_of(empty_run | {"benchmarks": paired_rows(make)}, empty_run | {"benchmarks": [again]})
    cell = results.records[0].cell
    assert results.ratio(cell, "graph", to="tape") is None
    assert results.ratio(cell, "tape", to="graph") is None
    both = results_of(empty_run | {"benchmarks": [again]}, empty_run | {"benchmarks": paired_rows(make)})
    assert both.ratio(cell, "graph", to="tape") is not None


def test_engines_come_in_one_order() -> None:
    assert sorted(["jax", "torch_eager", "graph", "tape", "abc"], key=engine_rank) == [
        "tape", "graph", "torch_eager", "abc", "jax",
    ]  # fmt: skip


def test_the_newest_run_is_chosen_by_time(run: Json, store: Store) -> None:
    path = store(run | {"datetime": "2026-11-24T00:00:00+02:00"}, "results/a/0009_x.json")
    late = store(run | {"datetime": "2026-11-23T23:30:00+00:00"}, "results/b/0001_x.json")
    store(run | {"datetime": "2027-01-01T00:00:00+00:00"}, "results/b/expected.json")  # not a stored run
    assert newest(path.parents[1]) == late


@pytest.mark.parametrize("datetime", [None, "yesterday", 5])
def test_the_newest_run_is_chosen_by_counter_without_time(run: Json, store: Store, datetime: object) -> None:
    store(run, "results/a/0001_x.json")
    path = store(run | {"datetime": datetime}, "results/a/0002_x.json")
    store(run | {"datetime": "2026-01-01T00:00:00"}, "results/a/0000_x.json")
    assert newest(path.parents[1]) == path


def test_a_corrupt_run_is_not_passed_over_in_silence(run: Json, store: Store) -> None:
    store(run, "results/a/0001_x.json")
    broken = store(run, "results/a/0002_x.json")
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ReportError, match=r"0002_x\.json"):
        newest(broken.parents[1])


def test_no_run_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(NothingStoredError, match="no stored run under"):
        newest(tmp_path / "results")
