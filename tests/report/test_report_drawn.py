"""What stands in a picture is what is stored: the drawn points, bars and lines are compared with the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from report.charts import (
    break_even,
    canvas,
    collector,
    construction,
    control,
    device,
    dispatch,
    learning,
    live,
    memory,
    preparing,
    ratios,
    split,
    times,
)
from report.charts.palette import INK, Palette
from report.charts.scene import Scene
from report.labels import Labels
from report.repayment import repayments
from report.results import Results, cells
from report.statistics import BreakEven, windows
from report.stored import Record

Json = dict[str, Any]


class Kept(Figure):
    """A figure that is kept for the test that caused it."""

    last: Axes

    def add_subplot(self, *arguments: Any, **options: Any) -> Any:
        Kept.last = super().add_subplot(*arguments, **options)
        return Kept.last


@pytest.fixture(autouse=True)
def _keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "Figure", Kept)


@pytest.fixture(scope="module")
def scene(whole_results: Results) -> Scene:
    phases = dict.fromkeys(name for row in whole_results.of("preparing") for name in row.phase_seconds)
    return Scene(whole_results, Palette.of(whole_results.engines, list(phases)), Labels.of(whole_results.records))


@pytest.fixture(scope="module")
def second(second_results: Results) -> Scene:
    return Scene(second_results, Palette.of(second_results.engines), Labels.of(second_results.records))


def medians(rows: list[Record], engine: str) -> list[float]:
    """The medians of one engine, in seconds."""
    return [float(np.median(row.seconds_per_call)) for row in rows if row.engine == engine and row.seconds_per_call]


def lines_of(scene: Scene, engine: str, *, marked: bool = True) -> list[Line2D]:
    """The lines in an engine's colour; those of estimates are marked, but not by the dots of samples."""
    own = [line for line in Kept.last.lines if line.get_color() == scene.palette.engine(engine).colour]
    return [line for line in own if (line.get_marker() == scene.palette.engine(engine).marker) is marked]


def estimates(scene: Scene, engine: str) -> Line2D:
    """The line through an engine's estimates: the one that is not made of samples."""
    return next(line for line in lines_of(scene, engine) if line.get_alpha() is None)


def xs(line: Line2D) -> list[float]:
    """Where a line's points stand along x, in data units."""
    return [float(it) for it in np.asarray(line.get_xdata(), dtype=float)]


def ys(line: Line2D) -> list[float]:
    """Where a line's points stand along y, in data units."""
    return [float(it) for it in np.asarray(line.get_ydata(), dtype=float)]


def bars() -> list[Rectangle]:
    """All bars of the last picture."""
    return [patch for patch in Kept.last.patches if isinstance(patch, Rectangle)]


def place_of(scene: Scene, question: Any, workload: str) -> tuple[Any, list[Record]]:
    """One place of a question with its rows."""
    return next(it for it in scene.places(question).items() if it[0].workload == workload)


def test_times_stand_at_their_batch_and_median(scene: Scene) -> None:
    place, rows = place_of(scene, "step", "mlp")
    times.picture(scene, place, rows)
    for engine in ("tape", "graph", "graph_replay", "torch_eager"):
        line = estimates(scene, engine)
        assert xs(line) == [1, 8, 64]
        assert ys(line) == medians(rows, engine)


def test_times_show_every_sample_and_interval(scene: Scene) -> None:
    place, rows = place_of(scene, "step", "mlp")
    times.picture(scene, place, rows)
    drawn = [line for line in Kept.last.lines if line.get_color() == scene.palette.engine("graph").colour]
    samples = [ys(line) for line in drawn if line.get_linestyle() == "None"]
    assert samples == [list(row.seconds_per_call) for row in rows if row.engine == "graph"]
    intervals = [ys(line) for line in drawn if line.get_linewidth() > 2 and len(xs(line)) == 2]
    assert len(intervals) == 3
    for (low, high), median in zip(intervals, medians(rows, "graph"), strict=True):
        assert low < median < high


def test_engines_stand_side_by_side(scene: Scene) -> None:
    place, rows = place_of(scene, "step", "mlp")
    times.picture(scene, place, rows)
    at = [estimates(scene, engine).get_transform().transform((8.0, 1e-3))[0] for engine in ("tape", "graph")]
    assert at[1] - at[0] > 3
    graph = [line for line in Kept.last.lines if line.get_color() == scene.palette.engine("graph").colour]
    interval = next(line for line in graph if line.get_linewidth() > 2)
    assert interval.get_transform().transform((8.0, 1e-3))[0] == pytest.approx(at[1])


@pytest.mark.parametrize("to", ["tape", "torch_eager"])
def test_ratios_are_those_stored_with_a_line_at_one(scene: Scene, to: str) -> None:
    place, rows = place_of(scene, "step", "cnn")
    ratios.picture(scene, place, rows, to)
    stored = [ratio.value for row in rows if row.engine == "graph" for ratio in row.ratios if ratio.to == to]
    assert ys(estimates(scene, "graph")) == stored
    assert [1.0, 1.0] in [ys(line) for line in Kept.last.lines if line.get_color() == INK]
    assert to not in {name for name in scene.palette.engines if lines_of(scene, name)}


def test_construction_stands_at_its_ops(scene: Scene) -> None:
    construction.pictures(scene)  # the last one is of chain_wide
    _, rows = place_of(scene, "construction", "chain_wide")
    for engine in ("tape", "graph"):
        assert xs(estimates(scene, engine)) == [10, 100, 1000]
        assert ys(estimates(scene, engine)) == medians(rows, engine)


def test_dispatch_is_the_median_per_op(scene: Scene) -> None:
    dispatch.pictures(scene)
    _, rows = place_of(scene, "dispatch", "chain")
    for place, engine in enumerate(("tape", "graph", "torch_eager")):
        line = estimates(scene, engine)
        assert xs(line) == pytest.approx([it / 1000 for it in medians(rows, engine)])
        assert ys(line) == [place]


def test_memory_is_the_peak(scene: Scene) -> None:
    memory.pictures(scene)
    assert [bar.get_width() for bar in bars()] == [900 * 2**20, 700 * 2**20]
    assert [to_hex(bar.get_facecolor()) for bar in bars()] == [
        scene.palette.engine(engine).colour for engine in ("tape", "graph")
    ]


def test_phases_stand_one_after_the_other(scene: Scene) -> None:
    cell, rows = next(iter(cells(scene.results.of("preparing")).items()))
    preparing.picture(scene, cell, rows)
    graph = [bar for bar in bars() if bar.get_y() > 0.5]
    assert [bar.get_width() for bar in graph] == pytest.approx([0.05, 0.03, 0.01, 0.02, 0.25, 0.14])
    ends = [bar.get_x() + bar.get_width() for bar in graph]
    assert [bar.get_x() for bar in graph] == pytest.approx([0.0, *ends[:-1]])
    assert ends[-1] == pytest.approx(0.5)


def test_break_even_lines_cross_at_the_mark(scene: Scene) -> None:
    found = [repayment for repayment in repayments(scene.results) if repayment.cell.workload == "mlp"]
    break_even.picture(scene, found)
    drawn = {}
    for engine in ("tape", "graph"):
        (line,) = lines_of(scene, engine, marked=False)
        (first, last), (start, end) = xs(line), ys(line)
        assert first == 1  # getting ready holds the first step
        drawn[engine] = (start, (end - start) / (last - 1))
    graph, tape = (np.asarray(row.seconds_per_call) for row in (found[0].step, found[0].other_step))
    assert drawn["tape"] == pytest.approx((0.02, float(np.median(tape))))
    assert drawn["graph"] == pytest.approx((0.5, float(np.median(tape) * np.median(graph / tape))))
    mark = next(line for line in Kept.last.lines if line.get_color() == INK and line.get_marker() == "o")
    ((at,), (height,)) = xs(mark), ys(mark)
    for start, step in drawn.values():
        assert start + (at - 1) * step == pytest.approx(height)


def test_no_crossing_is_marked_where_none_can_be_told(scene: Scene) -> None:
    found = [repayment for repayment in repayments(scene.results) if repayment.cell.workload == "mlp"]
    at_once = BreakEven(1.0, 1.0, 1.4)
    break_even.picture(scene, [replace(it, result=at_once) for it in found])
    assert not [line for line in Kept.last.lines if line.get_color() == INK]
    unsure = BreakEven(322_201.0, 780.0, math.inf)
    picture = break_even.picture(scene, [replace(it, result=unsure) for it in found])
    assert not [line for line in Kept.last.lines if line.get_color() == INK]
    assert xs(lines_of(scene, "graph", marked=False)[0])[1] < 1000  # nor does it stretch the axis
    assert "cannot tell [780," in picture.notes[0]


def test_the_loss_is_drawn_to_its_end(scene: Scene) -> None:
    learning.pictures(scene)
    (row,) = [row for row in scene.results.of("learning") if row.engine == "graph"]
    assert row.learning is not None
    (line,) = lines_of(scene, "graph", marked=False)
    assert [xs(line), ys(line)] == list(windows(row.learning.losses, 200))


def test_one_batch_size_becomes_a_list_of_rows(empty_run: Json, make: Any, results_of: Callable[..., Results]) -> None:
    results = results_of(empty_run | {"benchmarks": make.cell("step", "mlp", 8, {"tape": 1e-3, "graph": 2e-3})})
    alone = Scene(results, Palette.of(results.engines), Labels.of(results.records))
    (place, rows), *_ = alone.places("step").items()
    times.picture(alone, place, rows)
    assert [label.get_text() for label in Kept.last.get_yticklabels()] == ["tape", "graph"]
    assert xs(estimates(alone, "graph")) == medians(rows, "graph")
    ratios.picture(alone, place, rows, "tape")
    assert xs(estimates(alone, "graph")) == pytest.approx([2.0])


def test_the_control_is_drawn_in_order_against_one(second: Scene) -> None:
    stored = second.results.runs[0].control
    assert stored is not None
    picture = control.picture(second, stored, 1)
    assert picture is not None
    dots = [line for line in Kept.last.lines if len(xs(line)) == 1]
    assert [ys(line)[0] for line in dots] == sorted(row.value for row in stored.rows)
    assert [line.get_marker() for line in dots] == ["o"] * 19 + ["X"]
    intervals = [ys(line) for line in Kept.last.lines if xs(line) == [19.0, 19.0]]
    assert intervals == [[stored.rows[-1].low, stored.rows[-1].high]]
    assert [1.0, 1.0] in [ys(line) for line in Kept.last.lines if line.get_color() == INK]
    (band,) = bars()
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((1 / 1.018, 1.018))


def test_a_control_without_rows_is_not_drawn(second: Scene) -> None:
    stored = second.results.runs[0].control
    assert stored is not None
    assert control.picture(second, replace(stored, rows=(), smallest_effect=None), 1) is None


def test_parts_of_a_step_share_the_length_of_the_longest(second: Scene) -> None:
    found = split.pictures(second)
    assert [len(picture.keys) for picture in found] == [3, 3, 3]
    widths = [bar.get_width() for bar in bars()]  # the last picture: tape, graph, torch_eager on cuda at batch 64
    rows = [row for row in second.results.of("step") if row.cell.device == "cuda" and row.split_seconds]
    longest = max(sum(row.split_seconds.values()) for row in rows)
    assert widths == pytest.approx([part / longest for row in rows for part in row.split_seconds.values()])
    assert "graph_replay: no split is stored" in found[0].missing[0]
    assert "8 of 9" in found[0].notes[0].replace("\N{NO-BREAK SPACE}", " ")
    assert "does not close" in found[0].notes[0]


def test_a_short_step_is_as_long_as_a_long_one_in_its_own_cell(second: Scene) -> None:
    split.pictures(replace(second, results=_only_cpu(second.results)))
    full = {round(bar.get_y() + 0.31) for bar in bars() if bar.get_x() + bar.get_width() == pytest.approx(1.0)}
    assert full == {2, 5, 8}  # torch_eager at batch 1, 8 and 64


def _only_cpu(results: Results) -> Results:
    return replace(results, records=tuple(row for row in results.records if row.cell.device == "cpu"))


def test_live_bytes_are_the_stored_curve_with_peak_and_bound(second: Scene) -> None:
    live.pictures(second)
    rows = {row.engine: row.memory for row in second.results.measured("memory") if row.cell.workload == "mlp"}
    for engine in ("tape", "graph"):
        found = rows[engine]
        assert found is not None
        curve, peak = lines_of(second, engine, marked=False)
        assert ys(curve) == [size for _, size in found.curve]
        assert (xs(curve)[0], xs(curve)[-1]) == (0.0, 1.0)
        assert ys(peak) == [found.peak_bytes] * 2
    bounds = [ys(line) for line in Kept.last.lines if line.get_color() == INK]
    assert [600 * 2**20] * 2 in bounds


def test_host_and_device_stand_side_by_side(second: Scene) -> None:
    device.pictures(second)
    row = next(row for row in second.results.of("step") if row.device_seconds and row.engine == "graph")
    host, own, rare = (xs(line)[0] for line in lines_of(second, "graph") if line.get_alpha() is None)
    assert host == np.median(row.seconds_per_call)
    assert (own, rare) == pytest.approx((0.6 * host, 0.7 * host))


def test_the_collector_is_drawn_against_the_same_engine(second: Scene) -> None:
    collector.pictures(second)
    assert [label.get_text() for label in Kept.last.get_yticklabels()] == ["tape+gc", "graph+gc"]
    assert xs(estimates(second, "graph")) == [1.05]


def test_cold_and_warm_are_two_bars(second: Scene) -> None:
    rows = [row for row in second.results.of("preparing") if row.cell.workload == "mlp"]
    picture = preparing.picture(second, rows[0].cell._replace(start=""), rows)
    assert picture is not None
    labels = [label.get_text() for label in Kept.last.get_yticklabels()]
    assert labels == ["tape, cold", "tape, warm", "graph, cold", "graph, warm"]
    ends = [max(bar.get_x() + bar.get_width() for bar in bars() if round(bar.get_y() + 0.31) == at) for at in range(4)]
    assert ends == pytest.approx([0.08, 0.02, 2.0, 0.5])
    assert "does not close" in picture.notes[1]
