"""Choose the pictures of a section where it takes more than one chart: which stand side by side, in which order.

timed("step")(scene)     # times and ratios of each workload
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from report.answers import COMPILED, DYNAMIC, OUTSIDE, PLAIN
from report.charts import break_even, live, memory, preparing, ratios, times
from report.charts.canvas import Picture
from report.charts.scene import Scene
from report.repayment import Repayment, repayments
from report.results import cells
from report.stored import Cell, Question, Record

COMPILED_IN: tuple[Question, ...] = ("step", "backward", "forward", "dispatch")
"""The questions whose rows are held against PyTorch's compiler, where that has rows."""


def timed(question: Question) -> Callable[[Scene], list[Picture]]:
    """Put times and ratios of each workload side by side."""

    def draw(scene: Scene) -> list[Picture]:
        found = []
        for place, rows in scene.places(question).items():
            found += [times.picture(scene, place, rows), ratios.picture(scene, place, rows, DYNAMIC)]
        return [picture for picture in found if picture]

    return draw


def each_timed(question: Question) -> Callable[[Scene], list[Picture]]:
    """Put the times of each cell before its ratios to PyTorch, eager and compiled: cells that differ in other sizes."""

    def draw(scene: Scene) -> list[Picture]:
        found = []
        for cell, rows in cells(scene.results.of(question)).items():
            found.append(times.picture(scene, cell, rows))
            found += [ratios.picture(scene, cell, rows, to) for to in (OUTSIDE, *COMPILED)]
        return [picture for picture in found if picture]

    return draw


def ready(scene: Scene) -> list[Picture]:
    """Put break-even and phases of a cell side by side; where starts differ, cold and warm break-even of a cell."""
    crossings: dict[Cell, list[Repayment]] = {}
    for repayment in repayments(scene.results):
        crossings.setdefault(repayment.prepare.cell, []).append(repayment)
    places: dict[Cell, list[Record]] = {}
    for row in scene.results.of("preparing"):
        places.setdefault(row.cell._replace(start=""), []).append(row)
    phases = {place: preparing.picture(scene, place, rows) for place, rows in places.items()}
    crossed = {cell: break_even.picture(scene, crossings[cell]) for cell in sorted(crossings)}
    if any(cell.start for cell in crossed):
        found = [*crossed.values(), *phases.values()]
    else:
        found = [picture for place in places for picture in (crossed.get(place), phases[place])]
    return [picture for picture in found if picture]


def held(scene: Scene) -> list[Picture]:
    """Put peaks first, then what is alive along a step."""
    return [*memory.pictures(scene), *live.pictures(scene)]


def recomputed(scene: Scene) -> list[Picture]:
    """Put the time that recomputing takes before the bytes that it saves."""
    found = [ratios.picture(scene, place, rows, DYNAMIC) for place, rows in scene.places("recompute").items()]
    drawn = [picture for picture in found if picture]
    return [*drawn, *memory.pictures(scene, "recompute"), *live.pictures(scene, "recompute")]


def against_outside(scene: Scene) -> list[Picture]:
    """Put times relative to PyTorch eager first, then to its compiler, then what our interface costs."""
    found = [ratios.picture(scene, place, rows, OUTSIDE) for place, rows in scene.places("step").items()]
    for question, compiled in product(COMPILED_IN, COMPILED):
        there = {row.cell for row in scene.results.measured(question) if row.engine == compiled}
        for place, rows in scene.places(question).items():
            found.append(ratios.picture(scene, place, [row for row in rows if row.cell in there], compiled))
    found += [ratios.picture(scene, place, rows, PLAIN) for place, rows in scene.places("interface").items()]
    return [picture for picture in found if picture]
