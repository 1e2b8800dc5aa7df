"""Pictures: the same input gives the same bytes, colours follow the page, and what is missing is named, not drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.axes import Axes

from report.charts import construction, dispatch, learning, memory, preparing, ratios, times
from report.charts.canvas import draw, tick_places
from report.charts.lines import sweep
from report.charts.palette import INK, OUTSIDE, PARTS, PHASES, Palette
from report.charts.rows import strip
from report.charts.scene import Point, Scene
from report.labels import Labels
from report.results import Results, cells, uncollected
from report.sections import PLANS, Section, sections
from report.stored import BY_WAYS
from report.units import TIME, TIMES

Json = dict[str, Any]
Read = Callable[..., Results]
SVG = "{http://www.w3.org/2000/svg}"


def scene_of(results: Results) -> Scene:
    """What the page gives its charts."""
    phases = dict.fromkeys(name for row in results.of("preparing") for name in row.phase_seconds)
    return Scene(results, Palette.of(results.engines, list(phases)), Labels.of(results.records))


@pytest.fixture(scope="module")
def scene(whole_results: Results) -> Scene:
    return scene_of(whole_results)


@pytest.fixture(scope="module")
def drawn(second_results: Results) -> list[Section]:
    """All sections of the page of a run that stores all there is, which take seconds to draw."""
    return sections(scene_of(second_results))


def test_every_section_has_pictures_that_hold_the_rules(drawn: list[Section]) -> None:
    assert [section.plan.anchor for section in drawn] == [plan.anchor for plan in PLANS]
    assert all(section.pictures for section in drawn)
    pictures = [picture for section in drawn for picture in section.pictures]
    for picture in pictures:
        root = ElementTree.fromstring(picture.svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 20
        assert not re.search(r"#[0-9a-fA-F]{6}\b", picture.svg), "a colour that no theme can change"
        assert "DejaVu" not in picture.svg, "a typeface that the page does not have"
        assert not [element.tag for element in root.iter() if element.tag in (f"{SVG}style", f"{SVG}metadata")]
        assert "nan" not in picture.svg.lower()
    names = [picture.name for picture in pictures]
    assert len(names) == len(set(names))


def test_the_same_rows_give_the_same_bytes(run: Json, results_of: Read) -> None:
    def some() -> list[str | None]:
        estimate_free = scene_of(results_of(run))
        place, rows = next(iter(estimate_free.places("step").items()))
        found = [times.picture(estimate_free, place, rows), ratios.picture(estimate_free, place, rows, "tape")]
        return [picture.svg if picture else None for picture in found]

    first = some()
    assert None not in first
    assert some() == first


def test_drawing_leaves_no_trace_in_matplotlib() -> None:
    before = dict(matplotlib.rcParams)
    draw("a", "a", Palette.of(["tape"]), lambda axes: None)
    assert dict(matplotlib.rcParams) == before


def test_a_colour_outside_the_palette_is_refused() -> None:
    def paint(axes: Axes) -> None:
        axes.plot([1, 2], color="#123456")

    with pytest.raises(ValueError, match="picture bad: found colour #123456, expected one of the palette"):
        draw("bad", "bad", Palette.of(["tape"]), paint)


def test_ids_of_two_pictures_do_not_clash() -> None:
    def paint(axes: Axes) -> None:
        axes.plot([1, 2], marker="o", color=INK)

    one, two = (set(re.findall(r'id="([^"]+)"', draw(name, name, Palette.of([]), paint))) for name in ("one", "two"))
    assert one
    assert two
    assert not one & two


def test_one_engine_has_one_colour(second_results: Results, drawn: list[Section]) -> None:
    palette = scene_of(second_results).palette
    for section in drawn:
        for key in section.keys:
            if uncollected(key.text) in palette.engines:
                assert key.variable == palette.engine(key.text).variable


def test_the_collector_does_not_change_the_colour() -> None:
    palette = Palette.of(["tape", "tape+gc", "jax+gc", "jax"])
    assert list(palette.engines) == ["tape", "jax"]
    assert palette.engine("tape+gc") == palette.engine("tape") != palette.engine("jax+gc")


def test_paints_tell_all_engines_apart() -> None:
    names = ["tape", "graph", "graph_replay", "torch_eager", "torch_module", "jax", "tensorflow", "tinygrad"]
    paints = Palette.of(names).engines.values()
    for fact in ("variable", "colour", "dark", "marker", "glyph"):
        assert len({getattr(paint, fact) for paint in paints}) == len(names), fact


def test_no_two_things_share_a_colour() -> None:
    names = ["tape", "graph", "graph_replay", "torch_eager", "torch_module", "a", "b", "c", "d", "e"]
    palette = Palette.of(names, [f"phase {place}" for place in range(len(PHASES))])
    for dark in (False, True):
        colours = [colour for _, colour in palette.variables(dark=dark)]
        assert len(colours) == len(set(colours)) == len(names) + len(PHASES) + len(PARTS) + 2
    assert len(palette.css_colours()) == len(colours) + 2


def luminance(colour: str) -> float:
    """Relative luminance of a colour (WCAG 2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("dark", "paper"), [(False, "#fdfdfb"), (True, "#16171a")])
def test_engines_stand_out_from_the_page(dark: bool, paper: str) -> None:
    for paint in Palette.of(
        ["tape", "graph", "graph_replay", "torch_eager", "torch_module", "a", "b", "c", "d", "e"]
    ).engines.values():
        low, high = sorted([luminance(paint.dark if dark else paint.colour), luminance(paper)])
        assert (high + 0.05) / (low + 0.05) >= 3, paint


def test_phases_beyond_the_last_colour_share_one() -> None:
    names = [f"phase {place}" for place in range(len(PHASES) + 2)]
    palette = Palette.of([], names)
    assert palette.phase(names[-1]) == palette.phase(names[-2]) == palette.rest
    assert palette.phase(names[0]) != palette.rest
    assert sorted([OUTSIDE, names[-1], names[0]], key=palette.phase_rank) == [names[0], names[-1], OUTSIDE]


def test_a_gap_is_named_and_not_drawn(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    rows = [row for batch in (1, 8) for row in make.cell("step", "mlp", batch, {"tape": 1e-3, "graph": 2e-3})]
    whole = scene_of(results_of(empty_run | {"benchmarks": rows}))
    lost = rows.pop()["extra_info"]
    gap = make.gap(lost, "failed", "out of memory")
    holed = scene_of(results_of(empty_run | {"benchmarks": rows, "missing": [gap]}))
    absent = scene_of(results_of(empty_run | {"benchmarks": rows}))
    drawn = {}
    for name, scene in (("whole", whole), ("holed", holed), ("absent", absent)):
        (place, place_rows), *_ = scene.places("step").items()
        drawn[name] = times.picture(scene, place, place_rows)
    whole_picture, holed_picture, absent_picture = drawn.values()
    assert whole_picture is not None
    assert holed_picture is not None
    assert absent_picture is not None
    assert whole_picture.missing == ()
    assert [it.replace("\N{NO-BREAK SPACE}", " ") for it in holed_picture.missing] == [
        "graph, batch 8: failed, out of memory"
    ]
    assert "no row in the stored results" in absent_picture.missing[0]
    assert holed_picture.svg.count("<use") < whole_picture.svg.count("<use")


def test_a_row_without_ratio_is_named(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    rows = make.cell("step", "mlp", 8, {"tape": 1e-3, "graph": 2e-3})
    rows.append(make.row(make.extra("step", "mlp", "graph_replay", 8), [1e-3]))
    scene = scene_of(results_of(empty_run | {"benchmarks": rows}))
    (place, place_rows), *_ = scene.places("step").items()
    picture = ratios.picture(scene, place, place_rows, "tape")
    assert picture is not None
    assert picture.missing[0].endswith("no stored ratio to tape")


MEASURED = (
    *("step", "construction", "dispatch", "preparing", "memory", "learning", "attribution", "shapes", "recompute"),
    *("call", "elementwise", "rate"),
    *BY_WAYS,
)


def test_nothing_measured_gives_no_picture(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    gaps = [
        make.gap(make.extra(question, "mlp", "tape", 8, size={"ops": 3}), "failed", "crash") for question in MEASURED
    ]
    scene = scene_of(results_of(empty_run | {"missing": gaps}))
    found = sections(scene)
    assert [section.pictures for section in found if section.pictures] == []
    for section in found:
        if section.plan.own_gaps and section.plan.question in MEASURED:
            assert all(gap.endswith("failed, crash") for gap in section.missing)
            assert section.missing


def test_shapes_of_one_size_share_a_picture(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    rows = []
    for workload, ops in (("chain", 10), ("chain", 100), ("chain_wide", 100), ("chain_tree", 100)):
        rows += make.cell("construction", workload, 1, {"tape": 1e-5 * ops, "graph": 1e-4 * ops}, size={"ops": ops})
    scene = scene_of(results_of(empty_run | {"benchmarks": rows}))
    titles = [picture.title.replace("\N{NO-BREAK SPACE}", " ") for picture in construction.pictures(scene)]
    assert titles == ["chain: time to build", "100 ops: time to build by shape"]
    shapes = construction.pictures(scene)[1].svg
    assert all(f"tape, {name}" in shapes for name in ("chain", "chain_wide", "chain_tree"))


def test_dispatch_shows_time_per_op(scene: Scene) -> None:
    (picture,) = dispatch.pictures(scene)
    assert re.search("graph: 59[0-9]\N{NO-BREAK SPACE}ns", picture.svg)
    assert "derived" in picture.notes[0]


def test_memory_shows_peaks(scene: Scene) -> None:
    cnn, mlp = memory.pictures(scene)
    assert "900\N{NO-BREAK SPACE}MiB" in mlp.svg
    assert "skipped, needs a plan" in cnn.missing[0]


def test_preparing_stacks_phases(scene: Scene) -> None:
    cell, rows = next(iter(cells(scene.results.of("preparing")).items()))
    picture = preparing.picture(scene, cell, rows)
    assert picture is not None
    assert [key.text for key in picture.keys] == ["trace", "autodiff", "simplify", "fuse", "lower", OUTSIDE]
    graph = next(row for row in rows if row.engine == "graph")
    stacked = preparing.stack(graph)
    assert sum(stacked.values()) == pytest.approx(0.5)
    longer = replace(graph, phase_seconds={"trace": 0.7})
    assert preparing.stack(longer) == {"trace": 0.7}, "phases longer than the median leave nothing over"


def test_learning_says_when_it_averages(scene: Scene) -> None:
    (picture,) = learning.pictures(scene)
    assert "means of 200 equal stretches" in picture.notes[0]


@pytest.mark.parametrize(
    ("low", "high"), [(1e-6, 3.0), (0.07, 0.086), (0.9, 1.1), (0.995, 1.004), (20.0, 21.0), (3.0, 900.0)]
)
def test_every_axis_has_ticks(low: float, high: float) -> None:
    places = tick_places(low, high)
    assert 2 <= len(places) <= 12
    assert all(low <= place <= high for place in places)


@pytest.mark.parametrize("value", [1e-9, 0.999, 1.0, 1.001, 5000.0])
def test_points_anywhere_can_be_drawn(value: float) -> None:
    palette = Palette.of(["tape", "graph"])
    alike = [Point(engine, at, value, value, value, (value,)) for engine in palette.engines for at in (1, 2)]
    for scale in (TIME, TIMES):
        paints = (
            partial(sweep, palette=palette, points=alike, knob="batch", scale=scale),
            partial(sweep, palette=palette, points=alike[:1], knob="batch", scale=scale),
            partial(strip, palette=palette, points=alike[:2], labels=["x", "y"], scale=scale),
        )
        for paint in paints:
            assert "<svg" in draw("a", "a", palette, paint)
