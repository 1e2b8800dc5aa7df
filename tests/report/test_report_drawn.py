"""What stands in a picture is what is stored: the drawn points, bars and lines are compared with the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from report.charts import break_even, canvas, construction, dispatch, learning, memory, preparing, ratios, times
from report.charts.palette import INK, Palette
from report.charts.scene import Scene
from report.labels import Labels
from report.repayment import repayments
from report.results import Results, cells
from report.statistics import windows
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
        (_, last), (start, end) = xs(line), ys(line)
        drawn[engine] = (start, (end - start) / last)
    assert drawn["tape"] == pytest.approx((0.02, float(np.median(found[0].other_step.seconds_per_call))))
    assert drawn["graph"] == pytest.approx((0.5, float(np.median(found[0].step.seconds_per_call))))
    mark = next(line for line in Kept.last.lines if line.get_color() == INK and line.get_marker() == "o")
    ((at,), (height,)) = xs(mark), ys(mark)
    for start, step in drawn.values():
        assert start + at * step == pytest.approx(height)


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
