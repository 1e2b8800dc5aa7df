"""Draw what each way of writing a model takes where its course depends on data, and to get a graph of it ready."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.rows import row_height, strip
from report.charts.scene import Point, Scene, described, measured_of, name_of
from report.charts.swept import Sweep, by_size, grown
from report.results import cells
from report.stored import Cell, Question, Record

TRIPS = Sweep("time to get ready", "trips of the loop", by_size("steps"))


def pictures(scene: Scene, question: Question) -> list[Picture]:
    """One picture for each cell that was timed; where getting ready was, one over the number of trips."""
    found: list[Picture | None] = []
    for place, rows in scene.places(question).items():
        if place.quantity == "construct":
            several = len({row.cell for row in measured_of(rows)}) > 1
            found.append(grown(scene, f"{question} ready", place, rows, TRIPS) if several else None)
        else:
            found += [_ways(scene, cell, ours) for cell, ours in cells(rows).items()]
    return [picture for picture in found if picture]


def _ways(scene: Scene, cell: Cell, rows: list[Record]) -> Picture | None:
    measured = measured_of(rows)
    if not measured:
        return None
    points, labels = [Point.of_time(row, 1) for row in measured], [row.engine for row in measured]

    def paint(axes: Axes) -> None:
        strip(axes, scene.palette, points, labels, units.TIME)

    name = name_of(f"{cell.question} ways", cell)
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}: time per call",
        svg=draw(
            name, described("Median time per call", labels, points), scene.palette, paint, row_height(len(points))
        ),
        missing=scene.gaps([row for row in rows if row.status != "measured"]),
        keys=scene.keys(measured),
    )
