"""Draw seconds per call by batch size, a panel a workload: samples where they are few, then medians with intervals."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import HEIGHT, Picture, draw
from report.charts.lines import sweep
from report.charts.rows import row_height, strip
from report.charts.scene import Point, Scene, described, measured_of, name_of
from report.labels import extent
from report.stored import Cell, Record


def picture(scene: Scene, place: Cell, rows: list[Record]) -> Picture | None:
    """The times of one place of a question, or None where nothing was measured."""
    measured = measured_of(rows)
    if not measured:
        return None
    points = [Point.of_time(row, row.cell.batch_size) for row in measured]
    swept = len({row.cell for row in measured}) > 1

    def paint(axes: Axes) -> None:
        if swept:
            sweep(axes, scene.palette, points, "batch size (samples)", units.TIME)
        else:
            strip(axes, scene.palette, points, [row.engine for row in measured], units.TIME)

    labels = [f"{row.engine}, {extent(row.cell)}" for row in measured]
    name, height = name_of(place.question, place), HEIGHT if swept else row_height(len(measured))
    return Picture(
        name=name,
        title=f"{scene.labels.place(place) if swept else scene.labels.cell(measured[0].cell)}: time per call",
        svg=draw(name, described("Median time per call", labels, points), scene.palette, paint, height),
        missing=scene.gaps(rows),
        keys=scene.keys(measured),
    )
