"""Draw seconds to build the record or the graph against the number of ops, swept, and by shape of chain at one size."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.rows import row_height, strip
from report.charts.scene import Point, Scene, described, measured_of, name_of
from report.charts.swept import Sweep, by_size, grown
from report.labels import extent


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each shape of chain that was swept, and one for each size at which other shapes were built."""
    places = scene.places("construction").items()
    measured = {place: measured_of(rows) for place, rows in places}
    times = [second for rows in measured.values() for row in rows for second in row.seconds_per_call]
    swept = [place for place, rows in measured.items() if len({row.cell for row in rows}) > 1]
    lone = {row.cell.size for place, rows in measured.items() if place not in swept for row in rows}
    what = Sweep("time to build", "ops in the chain", by_size("ops"), (min(times), max(times)) if times else None)
    found = [grown(scene, "construction", place, rows, what) for place, rows in places if place in swept]
    return found + [_shapes(scene, size) for size in sorted(lone)]


def _shapes(scene: Scene, size: tuple[tuple[str, float], ...]) -> Picture:
    rows = [row for row in scene.results.of("construction") if row.cell.size == size]
    measured = measured_of(rows)
    points = [Point.of_time(row, row.ops) for row in measured]
    labels = [f"{row.engine}, {scene.labels.place(row.cell)}" for row in measured]

    def paint(axes: Axes) -> None:
        strip(axes, scene.palette, points, labels, units.TIME)

    name = name_of("shapes", measured[0].cell)
    return Picture(
        name=name,
        title=f"{extent(measured[0].cell)}: time to build by shape",
        svg=draw(
            name, described("Median time to build", labels, points), scene.palette, paint, row_height(len(points))
        ),
        missing=tuple(f"{scene.labels.place(rows[0].cell)}: {gap}" for gap in scene.gaps(rows)),
        keys=scene.keys(measured),
    )
