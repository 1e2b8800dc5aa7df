"""Draw steps stacked by their parts (forward, backward, update), one panel a workload."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from report import units
from report.charts.canvas import Key, Picture, draw
from report.charts.palette import PAPER
from report.charts.rows import label_rows, row_height
from report.charts.scene import Scene, label_of, measured_of, name_of
from report.stored import Cell, Record
from report.wording import check_text


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each workload in which at least one engine's step can be split."""
    found = (_picture(scene, place, measured_of(rows)) for place, rows in scene.places("step").items())
    return [picture for picture in found if picture]


def _picture(scene: Scene, place: Cell, rows: list[Record]) -> Picture | None:
    drawn = [row for row in rows if row.split_seconds]
    if not drawn:
        return None
    several = len({row.cell for row in drawn}) > 1
    labels = [label_of(row, several=several) for row in drawn]
    totals = {row: sum(row.split_seconds.values()) for row in drawn}
    longest = {row.cell: max(totals[it] for it in drawn if it.cell == row.cell) or 1.0 for row in drawn}

    def paint(axes: Axes) -> None:
        for index, row in enumerate(drawn):
            left = 0.0
            for part, seconds in row.split_seconds.items():
                width, colour = seconds / longest[row.cell], scene.palette.part(part).colour
                axes.barh(index, width, left=left, height=0.62, color=colour, edgecolor=PAPER, linewidth=0.5)
                left += width
        axes.set_xlim(0, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}{units.FIXED}%"))
        axes.set_xlabel("of the longest step of the cell" if several else "of the longest step")
        label_rows(axes, labels, [units.seconds(totals[row]) for row in drawn])

    name = name_of("split", place)
    told = [f"{label}: {_parts(row)}" for label, row in zip(labels, drawn, strict=True)]
    return Picture(
        name=name,
        title=f"{scene.labels.place(place) if several else scene.labels.cell(drawn[0].cell)}: parts of a step",
        svg=draw(name, f"Parts of a step. {'; '.join(told)}", scene.palette, paint, row_height(len(drawn))),
        notes=_checks(labels, drawn),
        missing=_whole(rows),
        keys=_keys(scene, drawn),
    )


def _parts(row: Record) -> str:
    return ", ".join(f"{part} {units.seconds(seconds)}" for part, seconds in row.split_seconds.items())


def _checks(labels: list[str], rows: list[Record]) -> tuple[str, ...]:
    checked = [row.split_check for row in rows if row.split_check]
    closed = sum(check.closes for check in checked)
    tally = f"The parts add up to the whole step (within 5 %) in {closed} of {units.plural(len(rows), 'row')}."
    open_ones = [
        f"{label}: {check_text(row.split_check)}."
        for label, row in zip(labels, rows, strict=True)
        if row.split_check and not row.split_check.closes
    ]
    unchecked = len(rows) - len(checked)
    untold = [f"{units.DASH} for {units.plural(unchecked, 'row')} no closing check is stored."] if unchecked else []
    return (" ".join([tally, *open_ones, *untold]),)


def _whole(rows: list[Record]) -> tuple[str, ...]:
    engines = dict.fromkeys(row.engine for row in rows if not row.split_seconds)
    counts = {engine: sum(row.engine == engine and not row.split_seconds for row in rows) for engine in engines}
    return tuple(f"{engine}: no split is stored for {units.plural(count, 'row')}" for engine, count in counts.items())


def _keys(scene: Scene, rows: list[Record]) -> tuple[Key, ...]:
    names = dict.fromkeys(part for row in rows for part in row.split_seconds)
    paints = [(name, scene.palette.part(name)) for name in names]
    return tuple(Key(paint.variable, paint.glyph, name) for name, paint in paints)
