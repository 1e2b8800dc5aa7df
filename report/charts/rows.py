"""Make axes whose y direction is a list of named rows, with the value of each row written beside it.

    strip(axes, scene.palette, points, labels, units.TIME)     # samples as dots, estimate with interval

Bars use `label_rows` and `from_zero` on their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from report import units
from report.charts.canvas import FAINT, ROOM_OF_VALUES, ticks
from report.charts.palette import INK, Palette
from report.charts.scene import Point, reach

WIDE = 5.0  # from this ratio of largest to smallest on, an axis is logarithmic
LEAST_ROOM = 1.01  # left and right, where all values lie close together
FRAME, ROW = 0.75, 0.3  # inches for the axis below, and for each row


def row_height(rows: int) -> float:
    """The height of a picture with so many rows, in inches."""
    return FRAME + ROW * rows


def strip(axes: Axes, palette: Palette, points: Sequence[Point], labels: Sequence[str], scale: units.Units) -> None:
    """Draw one row for each point: its samples as dots, then the estimate with its interval; ratios get a line at 1."""
    for index, point in enumerate(points):
        paint = palette.engine(point.engine)
        axes.plot(
            point.samples,
            [index] * len(point.samples),
            linestyle="none",
            marker="o",
            markersize=3,
            color=paint.colour,
            alpha=FAINT,
            markeredgewidth=0,
        )
        if point.low is not None and point.high is not None:
            axes.plot([point.low, point.high], [index, index], color=paint.colour, linewidth=3, alpha=0.6)
        axes.plot([point.value], [index], marker=paint.marker, color=paint.colour, markeredgewidth=0)
    if scale is units.TIMES:
        around_one(axes, *reach(points))
    else:
        _widen(axes, *reach(points), scale)
    label_rows(axes, labels, [units.spread(point.value, point.low, point.high, scale) for point in points])


def label_rows(axes: Axes, labels: Sequence[str], values: Sequence[str]) -> None:
    """Name the rows on the left, write their values on the right, and count them from the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    for index, value in enumerate(values):
        axes.text(1.02, index, value, transform=axes.get_yaxis_transform(), va="center", ha="left")


def from_zero(axes: Axes, high: float, scale: units.Units) -> None:
    """Make x a linear axis from zero to a bit over `high`, with round ticks in the unit that suits `high`."""
    unit, name = units.unit_of(high, scale)
    axes.set_xlim(0, high * 1.05)
    places = [place * unit for place in MaxNLocator(4).tick_values(0, high / unit) if place * unit <= high * 1.05]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}{units.FIXED}{name}"))


def around_zero(axes: Axes, low: float, high: float, scale: units.Units) -> None:
    """Make x a linear axis from a bit under `low` to a bit over `high`, with zero in it."""
    unit, name = units.unit_of(max(-low, high), scale)
    room = 0.05 * ((high - low) or unit)
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(
        FixedLocator([place * unit for place in MaxNLocator(4).tick_values(low / unit, high / unit)])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}{units.FIXED}{name}"))
    axes.set_xlim(low - room, high + room)


def around_one(axes: Axes, low: float, high: float) -> None:
    """Make x an axis of ratios from a bit under `low` to a bit over `high`, with a line at 1."""
    axes.axvline(1, color=INK, linewidth=1, alpha=0.7, zorder=1)
    _widen(axes, min(low, 1.0), max(high, 1.0), units.TIMES)


def _widen(axes: Axes, low: float, high: float, scale: units.Units) -> None:
    if scale is not units.TIMES and high / low < WIDE:
        from_zero(axes, high, scale)
        return
    room = max((high / low) ** 0.08, LEAST_ROOM)
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    always = 1 if scale is units.TIMES else None
    ticks(axes.xaxis, *axes.get_xlim(), scale, always=always, room=ROOM_OF_VALUES)
