"""Draw the peak bytes of each engine: what one step needs on top of what a fresh process held before it."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.rows import from_zero, label_rows, row_height
from report.charts.scene import Scene, name_of
from report.labels import extent
from report.stored import Cell, Memory, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each workload, with a bar for each engine and batch size."""
    found = []
    for place, rows in scene.places("memory").items():
        bars = [(row, row.memory) for row in rows if row.memory]
        if bars:
            found.append(_picture(scene, place, rows, bars))
    return found


def _picture(scene: Scene, place: Cell, rows: list[Record], bars: list[tuple[Record, Memory]]) -> Picture:
    several = len({row.cell for row, _ in bars}) > 1
    labels = [f"{row.engine}, {extent(row.cell)}" if several else row.engine for row, _ in bars]
    values = [units.size(memory.peak_bytes) for _, memory in bars]

    def paint(axes: Axes) -> None:
        for index, (row, memory) in enumerate(bars):
            axes.barh(index, memory.peak_bytes, height=0.6, color=scene.palette.engine(row.engine).colour)
        from_zero(axes, max(1, *(memory.peak_bytes for _, memory in bars)), units.BYTES)
        axes.set_xlabel("peak bytes of a step, on top of what was held")
        label_rows(axes, labels, values)

    name = name_of("memory", place)
    told = "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
    return Picture(
        name=name,
        title=f"{scene.labels.place(place) if several else scene.labels.cell(bars[0][0].cell)}: peak memory",
        svg=draw(name, f"Peak memory. {told}", scene.palette, paint, row_height(len(bars))),
        notes=(_held(bars), f"Method: {', '.join(sorted({memory.method for _, memory in bars}))}."),
        missing=scene.gaps(rows),
    )


def _held(bars: list[tuple[Record, Memory]]) -> str:
    held = dict.fromkeys(units.size(memory.live_bytes_before) for _, memory in bars)
    return f"One figure a row, so no interval. Held before the step: {' or '.join(held)}."
