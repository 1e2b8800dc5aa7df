"""Draw the A/A control: each cell's ratio of an engine to itself with its interval, in order, against 1."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from report import units
from report.charts.canvas import Picture, draw, ticks
from report.charts.palette import INK
from report.charts.scene import Scene, slug
from report.stored import Control

HEIGHT = 2.2  # inches
LEAST_ROOM = 1.005
BAND = 0.12  # opacity


def picture(scene: Scene, control: Control, place: int) -> Picture | None:
    """The control of the run at a 1-based `place` on the page; None where no row of it is stored."""
    rows = sorted(control.rows, key=lambda row: row.value)
    if not rows:
        return None
    reach = control.smallest_effect
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    if reach is not None:
        low, high = min(low, 1 / (1 + reach)), max(high, 1 + reach)

    def paint(axes: Axes) -> None:
        if reach is not None:
            axes.axhspan(1 / (1 + reach), 1 + reach, color=INK, alpha=BAND, linewidth=0)
        axes.axhline(1, color=INK, linewidth=1, alpha=0.7)
        for index, row in enumerate(rows):
            colour = scene.palette.engine(row.engine).colour
            axes.plot([index, index], [row.low, row.high], color=colour, linewidth=1.8, alpha=0.6)
            marker, size = ("X", 7) if row.false_alarm else ("o", 3.5)
            axes.plot([index], [row.value], marker=marker, markersize=size, color=colour, markeredgewidth=0)
        room = max((high / low) ** 0.08, LEAST_ROOM)
        axes.set_yscale("log")
        axes.set_ylim(low / room, high * room)
        axes.set_xlim(-0.7, len(rows) - 0.3)
        ticks(axes.yaxis, *axes.get_ylim(), units.TIMES, always=1, room=0.12)
        axes.xaxis.set_major_locator(NullLocator())
        axes.set_xlabel(f"{units.plural(len(rows), 'control cell')}, by ratio")

    name = slug("control", place)
    told = f"{units.plural(control.false_alarms, 'false alarm')} in {units.plural(control.cells, 'cell')}"
    notes = ["A dot is the ratio of an engine to itself, a bar its interval; a cross is a false alarm."]
    if reach is not None:
        notes.append(f"Grey: within {units.percent(reach)} of 1, as 95 % of the intervals are.")
    return Picture(
        name=name,
        title="The same engine against itself",
        svg=draw(name, f"Ratios of an engine to itself. {told}", scene.palette, paint, HEIGHT),
        notes=(" ".join(notes),),
    )
