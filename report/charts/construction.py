"""Draw seconds to build the record or the graph against the number of ops, one panel for each shape of chain."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.lines import sweep
from report.charts.scene import Point, Scene, measured_of, name_of
from report.labels import extent
from report.stored import Cell, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each shape of chain; all show the same span of times, so that shapes compare."""
    places = scene.places("construction").items()
    times = [second for row in scene.results.measured("construction") for second in row.seconds_per_call]
    return [_picture(scene, place, rows, (min(times), max(times))) for place, rows in places if measured_of(rows)]


def _picture(scene: Scene, place: Cell, rows: list[Record], span: tuple[float, float]) -> Picture:
    measured = measured_of(rows)
    points = [Point.of_time(row, row.ops) for row in measured]

    def paint(axes: Axes) -> None:
        sweep(axes, scene.palette, points, "ops in the chain", units.TIME, span=span)

    texts = [
        f"{row.engine}, {extent(row.cell)}: {units.seconds(it.value)}" for row, it in zip(measured, points, strict=True)
    ]
    name = name_of("construction", place)
    return Picture(
        name=name,
        title=f"{scene.labels.place(place)}: time to build",
        svg=draw(name, "Median time to build. " + "; ".join(texts), scene.palette, paint),
        missing=scene.gaps(rows),
        keys=scene.keys(measured),
    )
