"""Draw time relative to one engine by batch size, as stored from paired rounds, with intervals and a line at 1."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import HEIGHT, Picture, draw
from report.charts.lines import sweep
from report.charts.rows import row_height, strip
from report.charts.scene import Point, Scene, name_of
from report.labels import extent
from report.stored import Cell, Ratio, Record


def picture(scene: Scene, place: Cell, rows: list[Record], to: str) -> Picture | None:
    """The ratios to the engine `to` of one place of a question, or None where nobody was paired with it."""
    others = [row for row in rows if row.engine != to]
    ratios = {row: ratio for row in others if (ratio := scene.results.ratio(row.cell, row.engine, to=to))}
    if not ratios:
        return None
    points = [Point.of_ratio(row.engine, ratio, row.cell.batch_size) for row, ratio in ratios.items()]
    paired = list(ratios)
    swept = len({row.cell for row in paired}) > 1

    def paint(axes: Axes) -> None:
        if swept:
            sweep(axes, scene.palette, points, "batch size (samples)", units.TIMES)
        else:
            strip(axes, scene.palette, points, [row.engine for row in paired], units.TIMES)

    name, height = name_of(f"{place.question} to {to}", place), HEIGHT if swept else row_height(len(paired))
    texts = [
        f"{row.engine}, {extent(row.cell)}: {units.ratio(it.value, it.low, it.high)}" for row, it in ratios.items()
    ]
    return Picture(
        name=name,
        title=f"{scene.labels.place(place) if swept else scene.labels.cell(paired[0].cell)}: time relative to {to}",
        svg=draw(name, f"Time relative to {to}, below 1 is faster. " + "; ".join(texts), scene.palette, paint, height),
        missing=scene.gaps(rows) + _unpaired(rows, to, ratios),
        keys=scene.keys(paired),
    )


def _unpaired(rows: list[Record], to: str, ratios: dict[Record, Ratio]) -> tuple[str, ...]:
    return tuple(
        f"{row.engine}, {extent(row.cell)}: no stored ratio to {to}"
        for row in rows
        if row.engine != to and row.status == "measured" and row not in ratios
    )
