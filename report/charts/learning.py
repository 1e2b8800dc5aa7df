"""Draw the loss over training steps, a panel for each run; equal curves lie nested in each other, the widest below."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from report import units
from report.charts.canvas import Picture, draw
from report.charts.scene import Scene, name_of
from report.results import cells
from report.statistics import windows
from report.stored import Cell, Learning, Record

MOST_POINTS = 200
WIDEST = 4.0  # points; each further curve is half as wide, so that equal curves all stay visible


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each cell in which at least one engine was trained."""
    found = []
    for cell, rows in cells(scene.results.of("learning")).items():
        trained = [(row, row.learning) for row in rows if row.learning and row.status == "measured"]
        if trained:
            found.append(_picture(scene, cell, rows, trained))
    return found


def _picture(scene: Scene, cell: Cell, rows: list[Record], trained: list[tuple[Record, Learning]]) -> Picture:
    def paint(axes: Axes) -> None:
        for index, (row, learning) in enumerate(trained):
            steps, losses = windows(learning.losses, MOST_POINTS)
            width = WIDEST / 2**index
            axes.plot(steps, losses, color=scene.palette.engine(row.engine).colour, linewidth=width)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))

    name = name_of("learning", cell)
    texts = [f"{row.engine}: last loss {units.significant(learning.losses[-1])}" for row, learning in trained]
    notes = ["Curves that lie on each other are nested, the widest below."]
    if any(len(learning.losses) > MOST_POINTS for _, learning in trained):
        notes.append(f"Each curve shows means of {MOST_POINTS} equal stretches of steps.")
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}: loss",
        svg=draw(name, "Loss by training step. " + "; ".join(texts), scene.palette, paint),
        notes=(" ".join(notes),),
        missing=scene.gaps(rows),
        keys=scene.keys([row for row, _ in trained]),
    )
