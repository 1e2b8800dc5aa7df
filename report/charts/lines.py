"""Draw points along a swept knob, on two logarithmic axes: samples beside, estimates with intervals, a line through.

One call fills the axes:

    sweep(axes, scene.palette, points, "batch size (samples)", units.TIME)
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import FAINT, at_values, ticks
from report.charts.palette import INK, Palette
from report.charts.scene import Point

DODGE = 1.09  # engines at one value stand side by side
BESIDE = 1.035  # the samples stand this much left of their estimate
MARGIN = 1.4  # room left and right of the first and last value
ROOM = 1.02  # keeps the line at 1 off the edge where all ratios lie close to it


def sweep(axes: Axes, palette: Palette, points: Sequence[Point], knob: str, scale: units.Units) -> None:
    """Draw one line for each engine, in the order of `points`; ratios get a line at 1."""
    engines = list(dict.fromkeys(point.engine for point in points))
    for index, engine in enumerate(engines):
        own = sorted((point for point in points if point.engine == engine), key=lambda point: point.at)
        _line(axes, palette, own, DODGE ** (index - (len(engines) - 1) / 2))
    values = [point.at for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(values) / MARGIN, max(values) * MARGIN)
    at_values(axes.xaxis, values, units.count)
    axes.set_xlabel(knob)
    axes.set_yscale("log")
    if scale is units.TIMES:
        _line_at_one(axes)
    ticks(axes.yaxis, *axes.get_ylim(), scale, always=1 if scale is units.TIMES else None)


def _line(axes: Axes, palette: Palette, points: Sequence[Point], shift: float) -> None:
    paint = palette.engine(points[0].engine)
    for point in points:
        at = point.at * shift
        axes.plot(
            [at / BESIDE] * len(point.samples),
            point.samples,
            linestyle="none",
            marker="o",
            markersize=2.0,
            color=paint.colour,
            alpha=FAINT,
            markeredgewidth=0,
        )
        if point.low is not None and point.high is not None:
            axes.plot([at, at], [point.low, point.high], color=paint.colour, linewidth=2.4, alpha=0.6)
    axes.plot(
        [point.at * shift for point in points],
        [point.value for point in points],
        marker=paint.marker,
        markersize=4,
        markeredgewidth=0,
        color=paint.colour,
        linewidth=1.0,
    )


def _line_at_one(axes: Axes) -> None:
    axes.axhline(1, color=INK, linewidth=1, alpha=0.7, zorder=1)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1 / ROOM), max(high, ROOM))
