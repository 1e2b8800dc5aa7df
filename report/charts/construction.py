"""Seconds to build the record or the graph against the number of ops, one panel for each shape of chain."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.scene import Scene, along, engines_of, name_of, series, up
from report.charts.times import point
from report.labels import extent
from report.statistics import estimate
from report.stored import Cell, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each shape of chain; all share their axes, so that shapes compare."""
    places = scene.places("construction")
    everything = [row for rows in places.values() for row in rows if row.status == "measured"]
    found = []
    for place, rows in places.items():
        measured = [row for row in rows if row.status == "measured"]
        if measured:
            found.append(_picture(scene, place, rows, measured, everything))
    return found


def _picture(scene: Scene, place: Cell, rows: list[Record], measured: list[Record], shared: list[Record]) -> Picture:
    times = [second for row in shared for second in row.seconds_per_call]

    def paint(axes: Axes) -> None:
        for index, engine in enumerate(engines_of(measured)):
            own = sorted((row for row in measured if row.engine == engine), key=lambda row: row.ops)
            series(axes, scene, engine, [point(row, row.ops) for row in own], index)
        along(axes, [row.ops for row in shared], "ops in the chain")
        axes.set_ylim(min(times) / 1.5, max(times) * 1.5)
        up(axes, units.seconds)

    name = name_of("construction", place)
    texts = [f"{row.engine}, {extent(row.cell)}: {units.seconds(estimate(row.seconds_per_call).value)}" for row in measured]
    return Picture(
        name=name,
        title=f"{scene.labels.place(place)}: time to build",
        svg=draw(name, "Median time to build. " + "; ".join(texts), scene.palette, paint),
        missing=scene.gaps(rows),
        keys=scene.keys(measured),
    )
