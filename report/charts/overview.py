"""Draw what the graph's time is of the tape's and of PyTorch's, for every model under every question, at a glance.

A row is a model under a question, in the largest cell in which the graph was paired; a mark is the engine that it was
paired with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Key, Picture, draw
from report.charts.rows import around_one, label_rows, row_height
from report.charts.scene import Scene
from report.facts import source
from report.results import engine_rank
from report.stored import Cell, Question, Ratio

NAME = "overview"
WIDTH = 6.5  # inches; there is one such picture, as wide as two thirds of the page
STATIC = "graph"
OTHERS = ("tape", "torch_eager", "torch_compile", "torch_compile_reduce_overhead")
QUESTIONS: tuple[Question, ...] = (
    "step",
    "forward",
    "backward",
    "dispatch",
    "elementwise",
    "branches",
    "loops",
    "recursion",
)


class Line(NamedTuple):
    """A row of the picture: its cell, and the paired ratios of the graph to other engines, by their names."""

    cell: Cell
    ratios: dict[str, Ratio]


def picture(scene: Scene) -> Picture | None:
    """The picture, or None where the graph was paired with nobody."""
    drawn = [line for question in QUESTIONS for line in lines(scene, question)]
    if not drawn:
        return None
    engines = sorted({engine for line in drawn for engine in line.ratios}, key=engine_rank)
    names = [f"{line.cell.question}, {scene.labels.place(line.cell)}" for line in drawn]
    shown = [units.ratio(line.ratios[OTHERS[0]].value) if OTHERS[0] in line.ratios else "" for line in drawn]

    def paint(axes: Axes) -> None:
        for index, line in enumerate(drawn):
            for engine, ratio in line.ratios.items():
                made = scene.palette.engine(engine)
                axes.plot([ratio.low, ratio.high], [index, index], color=made.colour, linewidth=3, alpha=0.6)
                axes.plot([ratio.value], [index], marker=made.marker, color=made.colour, markeredgewidth=0)
        ends = [end for line in drawn for ratio in line.ratios.values() for end in (ratio.low, ratio.high)]
        around_one(axes, min(ends), max(ends))
        label_rows(axes, names, shown)

    told = [f"{name}: {_told(line)}" for name, line in zip(names, drawn, strict=True)]
    return Picture(
        name=NAME,
        title=f"The time of {STATIC} as a share of another engine's: left of 1 it is faster",
        svg=draw(NAME, f"Time of {STATIC}. {'; '.join(told)}", scene.palette, paint, row_height(len(drawn)), WIDTH),
        notes=(
            f"Each model in the largest cell measured; the figure on the right is the share of {OTHERS[0]}'s time.",
            source(scene.results, {line.cell.device for line in drawn}),
        ),
        keys=tuple(Key(made.variable, made.glyph, f"of {it}") for it in engines for made in [scene.palette.engine(it)]),
    )


def lines(scene: Scene, question: Question) -> Iterator[Line]:
    """One line for each place of the question at which the graph was paired."""
    for rows in scene.places(question).values():
        cells = sorted({row.cell for row in rows}, key=lambda cell: (cell.batch_size, cell.size), reverse=True)
        for cell in cells:
            paired = {it: scene.results.ratio(cell, STATIC, to=it) for it in OTHERS}
            ratios = {engine: ratio for engine, ratio in paired.items() if ratio is not None}
            if ratios:
                yield Line(cell, ratios)
                break


def _told(line: Line) -> str:
    return ", ".join(f"{units.ratio(it.value, it.low, it.high)} of {engine}" for engine, it in line.ratios.items())
