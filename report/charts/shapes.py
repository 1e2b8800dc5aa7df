"""Draw the time spent along a stream of changing shapes, and the whole stream against the number of distinct shapes."""

from __future__ import annotations

import math
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from report import units
from report.charts.canvas import Picture, draw, ticks
from report.charts.scene import Scene, measured_of, name_of
from report.charts.swept import Sweep, by_size, grown
from report.results import cells
from report.stored import Cell, Record, Stream
from report.wording import NOT_STORED

ROOM = 1.1  # above and below the curves
DISTINCT = Sweep("time for the whole stream", "distinct shapes in the stream", by_size("distinct"))
COUNTED = ("compilations", "hits", "evictions")


def pictures(scene: Scene) -> list[Picture]:
    """For each law the sweep over distinct shapes, if there is one; then for each stream the way through it."""
    found = []
    for place, rows in scene.places("shapes").items():
        measured = measured_of(rows)
        if len({row.cell for row in measured}) > 1:
            found.append(grown(scene, "streams", place, rows, DISTINCT))
        for cell, ours in cells(rows).items():
            told = [(row, row.stream) for row in ours if row.stream]
            if told:
                found.append(_way(scene, cell, ours, told))
    return found


def _way(scene: Scene, cell: Cell, rows: list[Record], told: list[tuple[Record, Stream]]) -> Picture:
    spent = {row.engine: list(accumulate(stream.first_seconds, initial=stream.prepare_seconds)) for row, stream in told}

    def paint(axes: Axes) -> None:
        for engine, course in spent.items():
            axes.plot(range(len(course)), course, color=scene.palette.engine(engine).colour, linewidth=1.5)
        axes.set_yscale("log")
        axes.set_xlim(0, max(map(len, spent.values())) - 1)
        shown = [second for course in spent.values() for second in course if second > 0]
        axes.set_ylim(min(shown) / ROOM, max(shown) * ROOM)
        ticks(axes.yaxis, *axes.get_ylim(), units.TIME)
        axes.set_xlabel("steps")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))

    name = name_of("stream", cell)
    texts = [f"{engine}: {units.seconds(course[-1])} in all" for engine, course in spent.items()]
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}: time spent after n steps",
        svg=draw(name, "Cumulative time over a stream. " + "; ".join(texts), scene.palette, paint),
        notes=tuple(f"{row.engine}: {counted(row)}." for row, _ in told if row.style == "static"),
        missing=scene.gaps([row for row in rows if row.status != "measured"]),
        keys=scene.keys([row for row, _ in told]),
    )


def counted(row: Record) -> str:
    """What a policy did, in words: executables made, found and dropped, and padded elements over useful ones."""
    listed = [
        f"{units.count(row.counters[name])}{units.FIXED}{name}" if name in row.counters else f"{name} {NOT_STORED}"
        for name in COUNTED
    ]
    useful, padded = (row.counters.get(f"{kind}_elements", math.nan) for kind in ("useful", "padded"))
    waste = padded / useful if useful else math.nan
    shown = NOT_STORED if math.isnan(waste) else f"{units.percent(waste)} of the useful elements (derived)"
    return f"{', '.join(listed)}; padding {shown}"
