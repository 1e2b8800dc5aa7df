"""What every chart is given, and what every chart does alike: panels, dodged points, raw dots, and the list of gaps.

    for place, rows in scene.places("step").items():     # one picture for each
        scene.gaps(rows)                                 # "tape, batch 256: out of memory"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import FAINT, Key, at_values, ticks
from report.charts.palette import Palette
from report.labels import Labels, extent
from report.results import Results, engine_rank
from report.stored import Cell, Question, Record

FEW_SAMPLES = 30  # up to here a picture shows every sample as a dot
DODGE = 1.05  # engines at one batch size stand side by side on a logarithmic axis
MARGIN = 1.3  # room left and right of the first and last value of a logarithmic axis
NO_ROW = "no row in the stored results"


@dataclass(frozen=True, slots=True)
class Point:
    """One estimate in a picture, with its interval where it has one, and the samples behind it where they are few."""

    at: float
    value: float
    low: float | None
    high: float | None
    samples: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """The rows of a page with the colours and the names that they go by."""

    results: Results
    palette: Palette
    labels: Labels

    def places(self, question: Question) -> dict[Cell, list[Record]]:
        """The rows of a question, gaps included, by what one panel shows: all sizes and batch sizes of a place."""
        groups: dict[Cell, list[Record]] = {}
        for record in self.results.of(question):
            groups.setdefault(record.cell._replace(size=(), batch_size=0), []).append(record)
        return groups

    def gaps(self, rows: Sequence[Record]) -> tuple[str, ...]:
        """Every engine and cell of a panel that has no samples, with the reason."""
        cells = dict.fromkeys(row.cell for row in rows)
        found = []
        for cell in cells:
            for engine in engines_of(rows):
                row = self.results.find(cell, engine)
                if row is None:
                    found.append(f"{engine}, {extent(cell)}: {NO_ROW}")
                elif row.status != "measured":
                    found.append(f"{engine}, {extent(cell)}: {row.status}, {row.reason}")
        return tuple(found)

    def keys(self, rows: Sequence[Record]) -> tuple[Key, ...]:
        """The legend of a panel."""
        paints = [(engine, self.palette.engine(engine)) for engine in engines_of(rows)]
        return tuple(Key(paint.variable, paint.glyph, engine) for engine, paint in paints)


def engines_of(rows: Sequence[Record]) -> list[str]:
    """The engines of some rows, ours first."""
    return sorted({row.engine for row in rows}, key=engine_rank)


def slug(*parts: object) -> str:
    """A name that can be an id in HTML."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(str(part) for part in parts).lower()).strip("-")


def name_of(kind: str, cell: Cell) -> str:
    """The id of a picture: its kind and all that tells its cell from others."""
    size = [f"{knob}{value}" for knob, value in cell.size]
    return slug(kind, cell.workload, cell.formulation, cell.device, cell.dtype, *size, cell.batch_size or "")


def series(axes: Axes, scene: Scene, engine: str, points: Sequence[Point], place: int) -> None:
    """Draw one engine's points along a logarithmic x axis: samples as dots behind, estimates with intervals before."""
    paint = scene.palette.engine(engine)
    at = [point.at * DODGE**place for point in points]
    for x, point in zip(at, points, strict=True):
        axes.plot(
            [x] * len(point.samples), point.samples, linestyle="none", marker="o", markersize=2.2,
            color=paint.colour, alpha=FAINT, markeredgewidth=0, zorder=2,
        )  # fmt: skip
        if point.low is not None and point.high is not None:
            axes.plot([x, x], [point.low, point.high], color=paint.colour, linewidth=2.6, alpha=0.6, zorder=3)
    axes.plot(
        at, [point.value for point in points], marker=paint.marker, color=paint.colour, linewidth=1.1,
        markeredgewidth=0, zorder=4,
    )  # fmt: skip


def along(axes: Axes, values: Sequence[float], name: str) -> None:
    """Make x a logarithmic axis with a tick at each of `values`."""
    axes.set_xscale("log")
    axes.set_xlim(min(values) / MARGIN, max(values) * MARGIN)
    at_values(axes.xaxis, values, units.count)
    axes.set_xlabel(name)


def up(axes: Axes, text: Callable[[float], str]) -> None:
    """Make y a logarithmic axis with round ticks; called after everything is drawn."""
    axes.set_yscale("log")
    ticks(axes.yaxis, *axes.get_ylim(), text)
