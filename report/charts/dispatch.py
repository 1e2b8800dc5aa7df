"""Microseconds per op in a chain of tiny ops: every sample where they are few, then the median with its interval."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import FAINT, Picture, draw
from report.charts.rows import label_rows, row_height, widen
from report.charts.scene import FEW_SAMPLES, Scene, name_of
from report.labels import extent
from report.statistics import estimate
from report.stored import Cell, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each kind of chain that was measured, with a line for each engine and size."""
    found = []
    for place, rows in scene.places("dispatch").items():
        measured = [row for row in rows if row.status == "measured"]
        if measured:
            found.append(_picture(scene, place, rows, measured))
    return found


def _picture(scene: Scene, place: Cell, rows: list[Record], measured: list[Record]) -> Picture:
    several = len({row.cell for row in measured}) > 1
    labels = [f"{row.engine}, {extent(row.cell)}" if several else row.engine for row in measured]
    values = [estimate(row.seconds_per_call).per(row.ops) for row in measured]
    texts = [units.spread(value.value, value.low, value.high, units.TIME) for value in values]

    def paint(axes: Axes) -> None:
        for index, (row, value) in enumerate(zip(measured, values, strict=True)):
            look = scene.palette.engine(row.engine)
            if len(row.seconds_per_call) <= FEW_SAMPLES:
                dots = [second / row.ops for second in row.seconds_per_call]
                axes.plot(
                    dots, [index] * len(dots), linestyle="none", marker="o", markersize=3, color=look.colour,
                    alpha=FAINT, markeredgewidth=0,
                )  # fmt: skip
            if value.low is not None and value.high is not None:
                axes.plot([value.low, value.high], [index, index], color=look.colour, linewidth=3, alpha=0.6)
            axes.plot([value.value], [index], marker=look.marker, color=look.colour, markeredgewidth=0)
        widen(axes, [second / row.ops for row in measured for second in row.seconds_per_call])
        axes.set_xlabel("time per op, forward and backward together")
        label_rows(axes, labels, texts)

    name = name_of("dispatch", place)
    described = "; ".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True))
    title = f"{scene.labels.place(place)}: time per op" + ("" if several else f", {extent(measured[0].cell)}")
    return Picture(
        name=name,
        title=title,
        svg=draw(name, f"Median time per op. {described}", scene.palette, paint, row_height(len(measured))),
        notes=("Time per op is derived: time per call over the number of ops.",),
        missing=scene.gaps(rows),
    )
