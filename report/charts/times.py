"""Seconds per call by batch size, one panel a workload: every sample where they are few, then medians with intervals."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.scene import FEW_SAMPLES, Point, Scene, along, engines_of, name_of, series, up
from report.labels import extent
from report.statistics import estimate
from report.stored import Cell, Question, Record


def pictures(scene: Scene, question: Question) -> list[Picture]:
    """One picture for each workload that has at least one measured row of the question."""
    found = []
    for place, rows in scene.places(question).items():
        measured = [row for row in rows if row.status == "measured"]
        if measured:
            found.append(_picture(scene, question, place, rows, measured))
    return found


def point(row: Record, at: float) -> Point:
    """A row's median as a point at `at`, with its interval, in seconds."""
    time = estimate(row.seconds_per_call)
    samples = row.seconds_per_call if len(row.seconds_per_call) <= FEW_SAMPLES else ()
    return Point(at, time.value, time.low, time.high, samples)


def _picture(scene: Scene, question: Question, place: Cell, rows: list[Record], measured: list[Record]) -> Picture:
    def paint(axes: Axes) -> None:
        for index, engine in enumerate(engines_of(measured)):
            own = [row for row in measured if row.engine == engine]
            series(axes, scene, engine, [point(row, row.cell.batch_size) for row in own], index)
        along(axes, [row.cell.batch_size for row in measured], "batch size (samples)")
        up(axes, units.seconds)

    name = name_of(question, place)
    return Picture(
        name=name,
        title=f"{scene.labels.place(place)}: time per call",
        svg=draw(name, _description(measured), scene.palette, paint),
        missing=scene.gaps(rows),
        keys=scene.keys(measured),
    )


def _description(rows: list[Record]) -> str:
    medians = [f"{row.engine}, {extent(row.cell)}: {units.seconds(estimate(row.seconds_per_call).value)}" for row in rows]
    return f"Median time per call of {rows[0].cell.workload} by batch size. " + "; ".join(medians)
