"""Time relative to one engine by batch size, as stored from paired rounds, with intervals and a line at 1."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.palette import INK
from report.charts.scene import Point, Scene, along, engines_of, name_of, series, up
from report.labels import extent
from report.stored import Cell, Question, Ratio, Record

ROOM = 1.02  # keeps the line at 1 off the edge where all ratios lie close to it


def pictures(scene: Scene, question: Question, to: str) -> list[Picture]:
    """One picture for each workload in which at least one engine was paired with the engine `to`."""
    found = []
    for place, rows in scene.places(question).items():
        others = [row for row in rows if row.engine != to]
        ratios = {row: ratio for row in others if (ratio := scene.results.ratio(row.cell, row.engine, to=to))}
        if ratios:
            found.append(_picture(scene, place, to, rows, ratios))
    return found


def _picture(scene: Scene, place: Cell, to: str, rows: list[Record], ratios: dict[Record, Ratio]) -> Picture:
    def paint(axes: Axes) -> None:
        axes.axhline(1, color=INK, linewidth=1, alpha=0.7, zorder=1)
        for index, engine in enumerate(engines_of(list(ratios))):
            own = {row.cell.batch_size: ratio for row, ratio in ratios.items() if row.engine == engine}
            series(axes, scene, engine, [Point(at, it.value, it.low, it.high) for at, it in own.items()], index)
        along(axes, [row.cell.batch_size for row in ratios], "batch size (samples)")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 1 / ROOM), max(high, ROOM))
        up(axes, units.ratio)

    name = name_of(f"{place.question} to {to}", place)
    texts = [f"{row.engine}, {extent(row.cell)}: {units.ratio(it.value, it.low, it.high)}" for row, it in ratios.items()]
    unpaired = [
        f"{row.engine}, {extent(row.cell)}: no stored ratio to {to}"
        for row in rows
        if row.engine != to and row.status == "measured" and row not in ratios
    ]
    return Picture(
        name=name,
        title=f"{scene.labels.place(place)}: time relative to {to}",
        svg=draw(name, f"Time relative to {to}, below 1 is faster. " + "; ".join(texts), scene.palette, paint),
        missing=scene.gaps(rows) + tuple(unpaired),
        keys=scene.keys(list(ratios)),
    )
