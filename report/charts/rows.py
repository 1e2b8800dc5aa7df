"""Axes whose y direction is a list of named rows, with the value of each row written beside it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from report import units
from report.charts.canvas import ticks

WIDE = 5.0  # from this ratio of largest to smallest on, an axis is logarithmic
FRAME, ROW = 0.75, 0.3  # inches for the axis below, and for each row


def row_height(rows: int) -> float:
    """The height of a picture with so many rows, in inches."""
    return FRAME + ROW * rows


def label_rows(axes: Axes, labels: Sequence[str], values: Sequence[str]) -> None:
    """Name the rows on the left, write their values on the right, and count them from the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    for index, value in enumerate(values):
        axes.text(1.02, index, value, transform=axes.get_yaxis_transform(), va="center", ha="left")


def widen(axes: Axes, seconds: Sequence[float]) -> None:
    """Make x a time axis: logarithmic where values lie far apart, else from zero."""
    low, high = min(seconds), max(seconds)
    if high / low >= WIDE:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        ticks(axes.xaxis, *axes.get_xlim(), units.seconds)
        return
    from_zero(axes, high, units.TIME)


def from_zero(axes: Axes, high: float, scale: units.Units) -> None:
    """Make x a linear axis from zero to a bit over `high`, with round ticks in the unit that suits `high`."""
    unit, name = units.unit_of(high, scale)
    axes.set_xlim(0, high * 1.05)
    places = [place * unit for place in MaxNLocator(4).tick_values(0, high / unit) if place * unit <= high * 1.05]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}{units.FIXED}{name}"))
