"""Draw what the garbage collector costs: each engine with it on, relative to the same engine with it off."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.rows import row_height, strip
from report.charts.scene import Point, Scene, label_of, measured_of, name_of
from report.results import COLLECTED, uncollected
from report.stored import Cell, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each workload in which an engine was paired with itself."""
    found = (_picture(scene, place, rows) for place, rows in scene.places("collector").items())
    return [picture for picture in found if picture]


def _picture(scene: Scene, place: Cell, rows: list[Record]) -> Picture | None:
    collected = [row for row in measured_of(rows) if row.engine.endswith(COLLECTED)]
    paired = {row: scene.results.ratio(row.cell, row.engine, to=uncollected(row.engine)) for row in collected}
    ratios = {row: ratio for row, ratio in paired.items() if ratio}
    if not ratios:
        return None
    several = len({row.cell for row in ratios}) > 1
    labels = [label_of(row, several=several) for row in ratios]
    points = [Point.of_ratio(row.engine, ratio, 1) for row, ratio in ratios.items()]

    def paint(axes: Axes) -> None:
        strip(axes, scene.palette, points, labels, units.TIMES)

    name = name_of("collector", place)
    texts = [f"{label}: {units.ratio(it.value, it.low, it.high)}" for label, it in zip(labels, points, strict=True)]
    first = next(iter(ratios)).cell
    return Picture(
        name=name,
        title=f"{scene.labels.place(place) if several else scene.labels.cell(first)}: collector on, relative to off",
        svg=draw(name, f"Collector on over off. {'; '.join(texts)}", scene.palette, paint, row_height(len(points))),
        missing=tuple(
            f"{label_of(row, several=several)}: no stored ratio to {uncollected(row.engine)}"
            for row, ratio in paired.items()
            if ratio is None
        )
        + scene.gaps(rows),
        keys=scene.keys(list(ratios)),
    )
