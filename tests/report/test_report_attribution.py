"""The walk from the tape to the compiler on the page: every change is that of the stored rounds, and all add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from report.answers import attribution
from report.attribution import attributions
from report.charts import waterfall
from report.charts.palette import Palette
from report.charts.scene import Scene
from report.labels import Labels
from report.results import Results
from report.sections import sections
from report.units import MINUS

Json = dict[str, Any]
ROUNDS = 30
MEDIANS = {"tape": 10.0, "replay": 9.0, "straight line": 8.0, "zeta": 8.0, "alpha": 7.5, "native": 4.0}
LEFT_OUT = {"without straight line": 4.5, "without zeta": 4.0, "without alpha": 6.0, "without native": 7.5}
PUT_IN = {"with layout": 5.0}


def rows(make: Any, medians: dict[str, float]) -> list[Json]:
    """Rows whose rounds drift together by a third, so that only what is paired is exact."""
    drift = np.linspace(1.0, 1.3, ROUNDS)
    found = []
    for place, (engine, median) in enumerate(medians.items()):
        noise = 1 + 0.001 * np.random.default_rng(place).normal(size=ROUNDS)
        extra = make.extra("attribution", "cnn", engine, 1)
        found.append(make.row(extra, [float(it) for it in median * 1e-3 * drift * noise]))
    return found


@pytest.fixture
def taken_apart(make: Any, empty_run: Json, results_of: Callable[..., Results]) -> Results:
    return results_of(empty_run | {"benchmarks": rows(make, MEDIANS | LEFT_OUT | PUT_IN)})


def scene_of(results: Results) -> Scene:
    return Scene(results, Palette.of(results.engines), Labels.of(results.records))


def test_steps_stand_in_the_order_of_the_file_with_medians_of_paired_differences(taken_apart: Results) -> None:
    (found,) = attributions(taken_apart)
    assert [step.name for step in found.steps] == ["no recording", "no dispatch", "zeta", "alpha", "native code"]
    stored = {row.engine: np.asarray(row.seconds_per_call) for row in taken_apart.of("attribution")}
    walk = list(MEDIANS)
    for place, step in enumerate(found.steps):
        wanted = float(np.median(stored[walk[place + 1]] - stored[walk[place]]))
        assert step.seconds == pytest.approx(wanted, abs=1e-12)
        assert step.low <= step.seconds <= step.high
    assert [step.told for step in found.steps] == [True, True, False, True, True]


def test_steps_and_interaction_add_up_to_the_whole(taken_apart: Results) -> None:
    (found,) = attributions(taken_apart)
    added = sum(step.seconds for step in found.steps)
    assert added + found.interaction.seconds == pytest.approx(found.whole.seconds, abs=1e-12)
    assert found.interaction.low <= found.interaction.seconds <= found.interaction.high
    assert abs(found.interaction.seconds) < 0.01 * abs(found.whole.seconds)


def test_what_is_left_out_is_held_against_the_full_set_and_what_belongs_to_two_is_interaction(
    taken_apart: Results,
) -> None:
    (found,) = attributions(taken_apart)
    assert {change.name: round(1e3 * change.seconds / 1.15, 1) for change in found.alone} == {
        "no dispatch": -0.5,
        "zeta": 0.0,
        "alpha": -2.0,
        "native code": -3.5,
        "with layout": 1.0,
    }
    assert found.alone_interaction is not None
    left = (MEDIANS["native"] - MEDIANS["replay"]) - (-0.5 - 2.0 - 3.5)
    assert 1e3 * found.alone_interaction.seconds / 1.15 == pytest.approx(left, abs=0.1)


def test_a_change_within_what_a_row_shows_against_itself_is_not_told(
    make: Any, empty_run: Json, results_of: Callable[..., Results], second_run: Json
) -> None:
    stored = rows(make, MEDIANS)
    cell = {
        key: stored[0]["extra_info"][key] for key in second_run["control"]["rows"][0] if key in stored[0]["extra_info"]
    }
    control = second_run["control"]["rows"][0] | cell | {"engine": "tape", "value": 1.0, "low": 0.92, "high": 1.0}
    run = empty_run | {"benchmarks": stored, "control": second_run["control"] | {"rows": [control]}}
    (found,) = attributions(results_of(run))
    assert [step.told for step in found.steps] == [True, True, False, False, True]


@pytest.mark.parametrize("lost", ["tape", "zeta", "native"])
def test_a_walk_with_a_row_missing_is_not_drawn_and_the_row_is_named_with_its_reason(
    lost: str, make: Any, empty_run: Json, results_of: Callable[..., Results]
) -> None:
    stored = rows(make, MEDIANS)
    gap = make.gap(stored[list(MEDIANS).index(lost)]["extra_info"], "failed", "no room")
    measured = [row for row in stored if row["extra_info"]["engine"] != lost]
    results = results_of(empty_run | {"benchmarks": measured, "missing": [gap]})
    assert attribution(results, Labels.of(results.records)).word == "cannot tell"
    section = next(it for it in sections(scene_of(results)) if it.plan.question == "attribution")
    assert section.pictures == ()
    assert section.missing == (f"cnn: {lost}, batch\N{NO-BREAK SPACE}1: failed, no room",)


def test_the_page_says_the_largest_switch_and_the_picture_every_one(taken_apart: Results) -> None:
    answer = attribution(taken_apart, Labels.of(taken_apart.records))
    assert answer.word == "native code"
    assert f"native code {MINUS}4.03" in answer.sentence or f"native code {MINUS}4.02" in answer.sentence
    assert "zeta" in answer.details[0]
    walk, alone = waterfall.pictures(scene_of(taken_apart))
    for name in ("no recording", "zeta", "alpha", "interaction", "all switches on"):
        assert name in walk.svg
    assert "The steps add up to the whole within its interval" in walk.notes[0]
    assert "no recording" not in alone.svg
    assert "interaction" in alone.svg
    assert "with layout" in alone.svg
    assert "with layout" not in walk.svg


def test_switches_have_no_colour_or_legend_of_an_engine(taken_apart: Results) -> None:
    assert taken_apart.engines == ["tape", "graph"]


def test_rows_of_two_runs_share_no_round(make: Any, empty_run: Json, results_of: Callable[..., Results]) -> None:
    first, second = rows(make, MEDIANS), rows(make, {"native": 5.0})
    assert attributions(results_of(empty_run | {"benchmarks": first}, empty_run | {"benchmarks": second})) == []
