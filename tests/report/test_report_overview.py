"""The picture at the top: one line for each model under each question, from stored ratios alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from report.charts import overview
from report.charts.palette import Palette
from report.charts.scene import Scene
from report.facts import facts, source
from report.labels import Labels
from report.records import read_run
from report.results import Results, merge
from report.stored import Record

Json = dict[str, Any]
Read = Callable[..., Results]


def plain(text: str) -> str:
    """Text with ordinary spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def scene_of(results: Results) -> Scene:
    """What the page gives its charts."""
    return Scene(results, Palette.of(results.engines), Labels.of(results.records))


def largest(results: Results, question: str, workload: str) -> Record:
    """The graph's row in the cell with most samples a batch."""
    rows = [row for row in results.measured("step") if (row.cell.workload, row.engine) == (workload, "graph")]
    assert len(rows) > 1
    assert question == rows[0].cell.question
    return max(rows, key=lambda row: row.cell.batch_size)


def test_a_line_is_a_model_in_its_largest_cell_with_all_that_it_is_paired_with(whole_results: Results) -> None:
    scene = scene_of(whole_results)
    picture = overview.picture(scene)
    assert picture is not None
    row = largest(whole_results, "step", "cnn")
    ratio = whole_results.ratio(row.cell, "graph", to="tape")
    assert ratio is not None
    assert row.cell in [line.cell for line in overview.lines(scene, "step")]
    assert f"step, cnn: {ratio.value:.3f}" in picture.svg
    assert picture.svg.count("step, cnn") == 2, "once in the description, once beside the line"
    assert next(key.text for key in picture.keys) == "of tape"


def test_a_cell_without_a_ratio_leaves_its_place_to_the_next_largest(run: Json, results_of: Read) -> None:
    whole = results_of(run)
    row = largest(whole, "step", "cnn")
    for stored in run["benchmarks"]:
        facts = stored["extra_info"]
        if (facts["question"], facts["workload"], facts.get("batch_size")) == ("step", "cnn", row.cell.batch_size):
            facts |= {"ratio": None, "ratios": []}
    (line,) = [one for one in overview.lines(scene_of(results_of(run)), "step") if one.cell.workload == "cnn"]
    assert 0 < line.cell.batch_size < row.cell.batch_size


def test_the_picture_says_of_which_run_it_is(run: Json, results_of: Read) -> None:
    """It is shown without its page, too."""
    picture = overview.picture(scene_of(results_of(run)))
    assert picture is not None
    assert plain(picture.notes[-1]) == (
        "Stored run 0001 of commit 0123456789ab, effort quick, on Example CPU, 2 threads."
    )
    second = copy.deepcopy(run)
    second["commit_info"]["dirty"] = True
    second["machine_info"]["environment"] |= {"gpu": "Example GPU", "effort": None}
    assert "GPU" not in source(results_of(second), {"cpu"})
    for row in second["benchmarks"]:
        row["extra_info"]["device"] = "cuda"
    picture = overview.picture(scene_of(results_of(run, second)))
    assert picture is not None
    assert plain(picture.notes[-1]) == (
        "Stored runs 0001 of commit 0123456789ab, effort quick; 0002 of commit 0123456789ab, uncommitted changes, "
        "effort not stored, on Example GPU, Example CPU, 2 threads."
    )


def test_the_page_names_its_runs_by_number(run: Json, results_of: Read, store: Callable[..., Path]) -> None:
    assert dict(facts(results_of(run, run)))["run"] == "0001; 0002"
    assert dict(facts(merge([read_run(store(run, "mine.json"))])))["run"] == "mine"


def test_without_pairs_there_is_no_picture(empty_run: Json, results_of: Read, make: SimpleNamespace) -> None:
    assert overview.picture(scene_of(results_of(empty_run | {"benchmarks": make.limits()[:1]}))) is None
