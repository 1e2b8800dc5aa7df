"""Draw the time of every row of a place against one of its knobs: what growing costs.

grown(scene, "construction", place, rows, Sweep("time to build", "ops in the chain", lambda row: row.ops))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.lines import sweep
from report.charts.scene import Point, Scene, described, measured_of, name_of
from report.labels import extent
from report.stored import Cell, Record


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the times are of, the knob in words, and its value in a row."""

    subject: str
    knob: str
    at: Callable[[Record], float]
    span: tuple[float, float] | None = None


def by_size(name: str) -> Callable[[Record], float]:
    """The value of a cell's knob of this name."""
    return lambda row: dict(row.cell.size).get(name, 1)


def grown(scene: Scene, kind: str, place: Cell, rows: list[Record], what: Sweep) -> Picture:
    """One picture; `kind` makes its id."""
    measured = measured_of(rows)
    points = [Point.of_time(row, what.at(row)) for row in measured]

    def paint(axes: Axes) -> None:
        sweep(axes, scene.palette, points, what.knob, units.TIME, span=what.span)

    name = name_of(kind, place)
    labels = [f"{row.engine}, {extent(row.cell)}" for row in measured]
    return Picture(
        name=name,
        title=f"{scene.labels.place(place)}: {what.subject}",
        svg=draw(name, described(f"Median {what.subject}", labels, points), scene.palette, paint),
        missing=scene.gaps(rows),
        keys=scene.keys(measured),
    )
