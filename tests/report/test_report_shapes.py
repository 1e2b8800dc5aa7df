"""Streams of changing shapes on the page: read, drawn by step and by number of shapes, and answered."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from report.charts import shapes
from report.charts.palette import Palette
from report.charts.scene import Scene
from report.fields import ReportError
from report.labels import Labels
from report.results import Results
from report.verdict import verdict

Json = dict[str, Any]
Read = Callable[..., Results]

STEPS = 5


def plain(text: str) -> str:
    for space in ("\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"):
        text = text.replace(space, " ")
    return text.replace("\N{MULTIPLICATION SIGN}", "x")


@pytest.fixture
def scene_of(empty_run: Json, results_of: Read) -> Callable[[list[Json]], Scene]:
    def scene(benchmarks: list[Json]) -> Scene:
        results = results_of(empty_run | {"benchmarks": benchmarks})
        return Scene(results, Palette.of(results.engines), Labels.of(results.records))

    return scene


def test_a_stream_is_read_whole(make: SimpleNamespace, scene_of: Callable[[list[Json]], Scene]) -> None:
    tape, graph = scene_of(make.streams()).results.of("shapes")
    assert tape.stream is not None
    assert (tape.stream.prepare_seconds, tape.stream.first_seconds) == (0.001, (0.01,) * STEPS)
    assert graph.stream is not None
    assert graph.stream.again_seconds == (0.008,) * STEPS


def test_one_stream_is_one_picture_with_its_counts(
    make: SimpleNamespace, scene_of: Callable[[list[Json]], Scene]
) -> None:
    (picture,) = shapes.pictures(scene_of(make.streams()))
    assert plain(picture.title).endswith("time spent after n steps")
    assert plain(picture.notes[0]) == (
        "graph_exact: 3 compilations, 12 hits, 1 evictions; padding 25.0 % of the useful elements (derived)."
    )
    assert "tape: 51.0 ms in all; graph_exact: 1.22 s in all" in plain(picture.svg)


def test_several_numbers_of_shapes_make_a_sweep_ahead_of_the_ways(
    make: SimpleNamespace, scene_of: Callable[[list[Json]], Scene]
) -> None:
    sweep, *ways = shapes.pictures(scene_of([*make.streams(3), *make.streams(1)]))
    assert sweep.title == "shape_stream: time for the whole stream"
    assert len(ways) == 2


def test_what_was_not_counted_is_said(make: SimpleNamespace, scene_of: Callable[[list[Json]], Scene]) -> None:
    benchmarks = make.streams()
    benchmarks[1]["extra_info"]["counters"] = {"hits": 4}
    (picture,) = shapes.pictures(scene_of(benchmarks))
    assert plain(picture.notes[0]) == (
        "graph_exact: compilations not stored, 4 hits, evictions not stored; padding not stored."
    )


def test_the_answer_compares_every_policy_and_says_what_a_first_time_costs(
    make: SimpleNamespace, scene_of: Callable[[list[Json]], Scene]
) -> None:
    scene = scene_of(make.streams())
    (answer,) = (it for it in verdict(scene.results, scene.labels) if it.anchor == "shapes")
    assert (answer.word, plain(answer.sentence)) == (
        "slower",
        "graph_exact takes more time than tape in the one cell compared.",
    )
    assert any(
        plain(it).endswith(
            "tape gets ready in 1.00 ms, then takes 50.0 ms for the stream, 50.0 ms for the same once more, "
            "1.000 x (derived)."
        )
        for it in answer.details
    )
    scene = scene_of(make.cell("step", "mlp", 8, {"tape": 1e-3}))
    (nothing,) = (it for it in verdict(scene.results, scene.labels) if it.anchor == "shapes")
    assert nothing.word == "cannot tell"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"again_seconds": [0.1]}, "again_seconds: .*expected a time for each of the 5 steps of first_seconds"),
        ({"first_seconds": [-1.0] * STEPS}, r"first_seconds\[0\]: found -1.0"),
        ({"prepare_seconds": None}, "prepare_seconds"),
    ],
)
def test_a_stream_that_is_none_is_refused(
    changes: Json, told: str, make: SimpleNamespace, scene_of: Callable[[list[Json]], Scene]
) -> None:
    with pytest.raises(ReportError, match=told):
        scene_of(make.streams(**changes))


def test_a_row_of_shapes_has_a_stream(make: SimpleNamespace, scene_of: Callable[[list[Json]], Scene]) -> None:
    benchmarks = make.streams()
    benchmarks[0]["extra_info"]["stream"] = None
    with pytest.raises(ReportError, match="expected an object with first_seconds, in a row of the question shapes"):
        scene_of(benchmarks)
