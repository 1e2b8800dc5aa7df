"""Draw seconds from nothing to ready to run, stacked by phase, one panel for each workload and batch size."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Key, Picture, draw
from report.charts.palette import OUTSIDE, PAPER
from report.charts.rows import from_zero, label_rows, row_height
from report.charts.scene import Scene, measured_of, name_of
from report.results import engine_rank
from report.statistics import time_of
from report.stored import Cell, Record
from report.wording import check_text, listed

OTHERS = "further phases"


def picture(scene: Scene, cell: Cell, rows: list[Record]) -> Picture | None:
    """The phases of getting ready in one cell, cold and warm in rows of their own; None where nothing was measured."""
    measured = sorted(measured_of(rows), key=lambda row: (engine_rank(row.engine), row.cell.start))
    if not measured:
        return None
    stacks = [stack(row) for row in measured]
    totals = [time_of(row) for row in measured]
    texts = [units.spread(total.value, total.low, total.high, units.TIME) for total in totals]
    labels = [", ".join(filter(None, (row.engine, row.cell.start))) for row in measured]

    def paint(axes: Axes) -> None:
        for index, phases in enumerate(stacks):
            left = 0.0
            for phase, seconds in phases.items():
                colour = scene.palette.phase(phase).colour
                axes.barh(index, seconds, left=left, height=0.62, color=colour, edgecolor=PAPER, linewidth=0.5)
                left += seconds
        from_zero(axes, max(sum(phases.values()) for phases in stacks), units.TIME)
        axes.set_xlabel("time to get ready, first call included")
        label_rows(axes, labels, texts)

    name = name_of("preparing", cell)
    described = "; ".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True))
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}: getting ready",
        svg=draw(name, f"Time to get ready. {described}", scene.palette, paint, row_height(len(measured))),
        notes=(
            "Phases are those stored with the row; the figure beside them is the median of all samples.",
            *_checks(labels, measured),
        ),
        missing=scene.gaps(rows),
        keys=_keys(scene, stacks),
    )


def stack(row: Record) -> Mapping[str, float]:
    """The phases of a row in seconds and in order, and last what the median total has beyond them."""
    total = time_of(row).value
    rest = total - sum(row.phase_seconds.values())
    return {**row.phase_seconds, OUTSIDE: rest} if rest > 0 else row.phase_seconds


def _checks(labels: list[str], rows: list[Record]) -> tuple[str, ...]:
    named = list(zip(labels, rows, strict=True))
    texts = [f"{label}: {check_text(row.phases_check)}" for label, row in named if row.phases_check]
    untold = [label for label, row in named if row.phase_seconds and not row.phases_check]
    if untold:
        texts.append(f"{units.DASH} no closing check is stored for {listed(untold)}")
    return (f"Phases against their total: {'; '.join(texts)}.",) if texts else ()


def _keys(scene: Scene, stacks: list[Mapping[str, float]]) -> tuple[Key, ...]:
    names = sorted(dict.fromkeys(name for phases in stacks for name in phases), key=scene.palette.phase_rank)
    paints = [(name if name in scene.palette.phases else OTHERS, scene.palette.phase(name)) for name in names]
    return tuple(dict.fromkeys(Key(paint.variable, paint.glyph, name) for name, paint in paints))
