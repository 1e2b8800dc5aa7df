"""Draw the peak bytes of each engine in a fresh process, with the part that was alive before the first step set off."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.palette import PAPER
from report.charts.rows import from_zero, label_rows, row_height
from report.charts.scene import Scene, name_of
from report.labels import extent
from report.stored import Cell, Memory, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each workload, with a bar for each engine and batch size."""
    found = []
    for place, rows in scene.places("memory").items():
        bars = [(row, row.memory) for row in rows if row.memory and row.status == "measured"]
        if bars:
            found.append(_picture(scene, place, rows, bars))
    return found


def _picture(scene: Scene, place: Cell, rows: list[Record], bars: list[tuple[Record, Memory]]) -> Picture:
    several = len({row.cell for row, _ in bars}) > 1
    labels = [f"{row.engine}, {extent(row.cell)}" if several else row.engine for row, _ in bars]
    values = [units.size(memory.peak_bytes) for _, memory in bars]

    def paint(axes: Axes) -> None:
        for index, (row, memory) in enumerate(bars):
            colour = scene.palette.engine(row.engine).colour
            before = min(memory.live_bytes_before, memory.peak_bytes)
            axes.barh(index, memory.peak_bytes - before, left=before, height=0.6, color=colour)
            axes.barh(index, before, height=0.6, color=colour, alpha=0.45)
            axes.plot([before, before], [index - 0.3, index + 0.3], color=PAPER, linewidth=1)
        from_zero(axes, max(memory.peak_bytes for _, memory in bars), units.BYTES)
        axes.set_xlabel("peak bytes")
        label_rows(axes, labels, values)

    name = name_of("memory", place)
    methods = sorted({memory.method for _, memory in bars})
    described = "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
    title = f"{scene.labels.place(place)}: peak memory" + ("" if several else f", {extent(bars[0][0].cell)}")
    return Picture(
        name=name,
        title=title,
        svg=draw(name, f"Peak memory. {described}", scene.palette, paint, row_height(len(bars))),
        notes=(f"Pale: alive before the first step. One figure a row, so no interval. Method: {', '.join(methods)}.",),
        missing=scene.gaps(rows),
    )
