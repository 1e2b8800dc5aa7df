"""Branches, loops and recursion on the page: rows of one cell in different formulations, shares as sizes, answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from report.charts import ways
from report.charts.palette import Palette
from report.charts.scene import Scene
from report.fields import ReportError
from report.labels import Labels
from report.results import Results
from report.stored import BY_WAYS
from report.verdict import verdict

Json = dict[str, Any]
Read = Callable[..., Results]


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.fixture
def scene(run: Json, results_of: Read) -> Scene:
    results = results_of(run)
    return Scene(results, Palette.of(results.engines), Labels.of(results.records))


def test_every_way_of_a_cell_stands_in_one_picture(scene: Scene) -> None:
    (picture,) = ways.pictures(scene, "branches")
    assert plain(picture.title) == "early_exit, 0.5 exit_rate, batch 16: time per call"
    assert [key.text for key in picture.keys] == ["tape", "graph", "graph+masked"]
    assert picture.missing == ()


def test_getting_ready_is_drawn_over_the_number_of_trips(scene: Scene) -> None:
    ready, timed = ways.pictures(scene, "loops")
    assert "time per call" in timed.title
    assert "time to get ready" in ready.title
    assert "graph+unrolled, 32 steps, batch 4: 6" in plain(ready.svg)


def test_a_failed_way_is_named_with_its_reason(run: Json, results_of: Read) -> None:
    place = next(i for i, row in enumerate(run["benchmarks"]) if row["extra_info"]["engine"] == "graph+masked")
    row = run["benchmarks"].pop(place)
    row["extra_info"] |= {"status": "failed", "reason": "EngineError: no such op", "ratios": []}
    run["missing"].append({key: row[key] for key in ("name", "fullname", "group", "extra_info")})
    results = results_of(run)
    found = Scene(results, Palette.of(results.engines), Labels.of(results.records))
    (picture,) = ways.pictures(found, row["extra_info"]["question"])
    assert any("graph+masked" in gap and "no such op" in gap for gap in picture.missing)


def test_the_answer_compares_the_graph_s_own_branches_with_python_s(scene: Scene) -> None:
    (answer,) = [answer for answer in verdict(scene.results, scene.labels) if answer.anchor == "branches"]
    assert answer.word == "faster"
    assert all(question.capitalize() in answer.sentence for question in BY_WAYS)


def test_without_such_rows_nothing_is_claimed(run: Json, results_of: Read) -> None:
    rows = [row for row in run["benchmarks"] if row["extra_info"]["question"] not in BY_WAYS]
    results = results_of(run | {"benchmarks": rows})
    (answer,) = [one for one in verdict(results, Labels.of([])) if one.anchor == "branches"]
    assert answer.word == "cannot tell"


@pytest.mark.parametrize("value", [-0.5, "half", None])
def test_a_size_is_a_number_of_at_least_zero(run: Json, results_of: Read, value: object) -> None:
    run["benchmarks"][-1]["extra_info"]["size"] = {"steps": value}
    with pytest.raises(ReportError, match=r"size\.steps: found .*, expected a finite number of at least 0"):
        results_of(run)
