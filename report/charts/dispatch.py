"""Draw microseconds per op in a chain of tiny ops: samples where they are few, then the median with its interval."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.rows import row_height, strip
from report.charts.scene import Point, Scene, described, measured_of, name_of
from report.labels import extent
from report.stored import Cell, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each kind of chain that was measured, with a line for each engine and size."""
    places = scene.places("dispatch").items()
    return [_picture(scene, place, rows) for place, rows in places if measured_of(rows)]


def _picture(scene: Scene, place: Cell, rows: list[Record]) -> Picture:
    measured = measured_of(rows)
    several = len({row.cell for row in measured}) > 1
    labels = [f"{row.engine}, {extent(row.cell)}" if several else row.engine for row in measured]
    points = [Point.of_time(row, row.ops, parts=row.ops) for row in measured]

    def paint(axes: Axes) -> None:
        strip(axes, scene.palette, points, labels, units.TIME)
        axes.set_xlabel("time per op, forward and backward together")

    name = name_of("dispatch", place)
    return Picture(
        name=name,
        title=f"{scene.labels.place(place) if several else scene.labels.cell(measured[0].cell)}: time per op",
        svg=draw(
            name, described("Median time per op", labels, points), scene.palette, paint, row_height(len(measured))
        ),
        notes=("Time per op is derived: time per call over the number of ops.",),
        missing=scene.gaps(rows),
    )
