"""Draw points along a swept knob, on two logarithmic axes: samples beside, estimates with intervals, a line through.

One call fills the axes:

    sweep(axes, scene.palette, points, "batch size (samples)", units.TIME)
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.transforms import Transform, offset_copy

from report import units
from report.charts.canvas import FAINT, at_knobs, ticks
from report.charts.palette import INK, Palette
from report.charts.scene import Point, reach

DODGE = 5.5  # points; engines at one value stand side by side
BESIDE = 3.0  # points; the samples stand this much left of their estimate
MARGIN = 0.09  # of the span, left and right of the first and last value
LEAST_MARGIN = 1.2  # where all values lie close together
LEAST_ROOM = 1.01  # above and below, where all values lie close together


def sweep(
    axes: Axes,
    palette: Palette,
    points: Sequence[Point],
    knob: str,
    scale: units.Units,
    *,
    span: tuple[float, float] | None = None,
) -> None:
    """Draw one line for each engine, in the order of `points`; ratios get a line at 1.

    `span` is the least and the most that y has to show; without it, what the points need.
    """
    at = [point.at for point in points]
    low, high = span or reach(points)
    if scale is units.TIMES:
        low, high = min(low, 1.0), max(high, 1.0)
        axes.axhline(1, color=INK, linewidth=1, alpha=0.7, zorder=1)
    room = max((high / low) ** 0.06, LEAST_ROOM)
    axes.set_xscale("log")
    axes.set_yscale("log")
    margin = max((max(at) / min(at)) ** MARGIN, LEAST_MARGIN)
    axes.set_xlim(min(at) / margin, max(at) * margin)
    axes.set_ylim(low / room, high * room)
    axes.set_xlabel(knob)
    at_knobs(axes.xaxis, at, *axes.get_xlim())
    ticks(axes.yaxis, *axes.get_ylim(), scale, always=1 if scale is units.TIMES else None)
    engines = list(dict.fromkeys(point.engine for point in points))
    for index, engine in enumerate(engines):
        own = sorted((point for point in points if point.engine == engine), key=lambda point: point.at)
        _line(axes, palette, own, DODGE * (index - (len(engines) - 1) / 2))


def _line(axes: Axes, palette: Palette, points: Sequence[Point], shift: float) -> None:
    paint = palette.engine(points[0].engine)
    here, beside = _moved(axes, shift), _moved(axes, shift - BESIDE)
    for point in points:
        axes.plot(
            [point.at] * len(point.samples),
            point.samples,
            transform=beside,
            linestyle="none",
            marker="o",
            markersize=2.0,
            color=paint.colour,
            alpha=FAINT,
            markeredgewidth=0,
        )
        if point.low is not None and point.high is not None:
            ends = [point.low, point.high]
            axes.plot([point.at] * 2, ends, transform=here, color=paint.colour, linewidth=2.4, alpha=0.6)
    axes.plot(
        [point.at for point in points],
        [point.value for point in points],
        transform=here,
        marker=paint.marker,
        markersize=4,
        markeredgewidth=0,
        color=paint.colour,
        linewidth=1.0,
    )


def _moved(axes: Axes, points: float) -> Transform:
    return offset_copy(axes.transData, axes.get_figure(root=True), x=points, units="points")
