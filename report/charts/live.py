"""Draw the bytes of live tensors along one step, a curve an engine, with its peak and the least possible as lines."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from report import units
from report.charts.canvas import Picture, draw
from report.charts.palette import INK
from report.charts.scene import Scene, name_of
from report.results import cells
from report.stored import Cell, Memory, Question, Record
from report.wording import NOT_STORED

FIGURES: tuple[tuple[str, str], ...] = (
    ("record_bytes", "record or plan"),
    ("allocations", "allocations"),
    ("allocated_bytes", "allocated"),
    ("lower_bound_bytes", "lower bound"),
)


def pictures(scene: Scene, question: Question = "memory") -> list[Picture]:
    """One picture for each cell in which at least one engine has a curve."""
    found = []
    for cell, rows in cells(scene.results.of(question)).items():
        told = [(row, row.memory) for row in rows if row.memory]
        if any(memory.curve for _, memory in told):
            found.append(_picture(scene, cell, told))
    return found


def _picture(scene: Scene, cell: Cell, told: list[tuple[Record, Memory]]) -> Picture:
    drawn = [(row, memory) for row, memory in told if memory.curve]
    bounds = {row.engine: memory.lower_bound_bytes for row, memory in told if memory.lower_bound_bytes is not None}
    shared = len(set(bounds.values())) == 1

    def paint(axes: Axes) -> None:
        for row, memory in drawn:
            colour = scene.palette.engine(row.engine).colour
            last = memory.curve[-1][0] or 1
            positions, held = [at / last for at, _ in memory.curve], [size for _, size in memory.curve]
            axes.step(positions, held, where="post", color=colour, linewidth=1.3)
            if memory.peak_bytes is not None:
                axes.axhline(memory.peak_bytes, color=colour, linewidth=1, linestyle=(0, (1, 2)))
        for engine, bound in bounds.items():
            colour = INK if shared else scene.palette.engine(engine).colour
            axes.axhline(bound, color=colour, linewidth=1, linestyle=(0, (5, 3)))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, None)
        axes.set_xlabel("position in the step, from its start to its end")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}{units.FIXED}%"))
        unit, name = units.unit_of(axes.get_ylim()[1], units.BYTES)
        places = MaxNLocator(4).tick_values(0, axes.get_ylim()[1] / unit)
        axes.set_yticks([place * unit for place in places if place * unit <= axes.get_ylim()[1]])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}{units.FIXED}{name}"))

    name = name_of(f"{cell.question} live bytes", cell)
    texts = [f"{row.engine}: most {units.size(max(size for _, size in memory.curve))}" for row, memory in drawn]
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}: bytes of live tensors along a step",
        svg=draw(name, f"Live bytes along a step. {'; '.join(texts)}", scene.palette, paint),
        notes=("Dotted: the peak that the allocator saw. Dashed: the lower bound.", *map(_figures, told)),
        missing=tuple(
            f"{row.engine}: {memory.notes.get('curve', NOT_STORED)}" for row, memory in told if not memory.curve
        ),
        keys=scene.keys([row for row, _ in drawn]),
    )


def _figures(told: tuple[Record, Memory]) -> str:
    row, memory = told
    texts = []
    for field, words in FIGURES:
        value: int | None = getattr(memory, field)
        write = units.count if field == "allocations" else units.size
        shown = f"{units.DASH} ({memory.notes.get(field, NOT_STORED)})" if value is None else write(value)
        texts.append(f"{words} {shown}")
    each = memory.bytes_per_entry
    if each is not None and memory.record_entries:
        entries = "entries" if row.style == "dynamic" else "nodes"
        texts[0] += f" in {units.count(memory.record_entries)}{units.FIXED}{entries}, {units.size(each)} each (derived)"
    return f"{row.engine}: {', '.join(texts)}."
