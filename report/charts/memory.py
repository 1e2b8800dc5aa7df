"""Draw the peak bytes of each engine: what one step needs on top of what a fresh process held before it."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.palette import INK
from report.charts.rows import from_zero, label_rows, row_height
from report.charts.scene import Scene, label_of, name_of
from report.stored import Cell, Memory, Question, Record

HEIGHT = 0.6  # of a bar, in rows
BOUND = ("The line across a bar is the lower bound: the largest sum of values that are alive at once.",)


@dataclass(frozen=True, slots=True)
class Bar:
    """A row with what stands beside its bar; no bar where the peak could not be had, but the reason."""

    row: Record
    memory: Memory
    peak: int
    text: str

    @classmethod
    def of(cls, row: Record, memory: Memory) -> Bar:
        """The bar of a row, with its peak or with a dash and why there is none."""
        if memory.peak_bytes is None:
            return cls(row, memory, 0, f"{units.DASH} {memory.notes['peak_bytes']}")
        return cls(row, memory, memory.peak_bytes, units.size(memory.peak_bytes))

    @property
    def reach(self) -> int:
        """How far the picture has to go for this row, in bytes."""
        return max(self.peak, self.memory.lower_bound_bytes or 0)


def pictures(scene: Scene, question: Question = "memory") -> list[Picture]:
    """One picture for each workload, with a bar for each engine and batch size."""
    found = []
    for place, rows in scene.places(question).items():
        bars = [Bar.of(row, row.memory) for row in rows if row.memory]
        if bars:
            found.append(_picture(scene, place, rows, bars))
    return found


def _picture(scene: Scene, place: Cell, rows: list[Record], bars: list[Bar]) -> Picture:
    several = len({bar.row.cell for bar in bars}) > 1
    labels = [label_of(bar.row, several=several) for bar in bars]
    values = [bar.text for bar in bars]
    bounded = any(bar.memory.lower_bound_bytes is not None for bar in bars)

    def paint(axes: Axes) -> None:
        for index, bar in enumerate(bars):
            axes.barh(index, bar.peak, height=HEIGHT, color=scene.palette.engine(bar.row.engine).colour)
            bound = bar.memory.lower_bound_bytes
            if bound is not None:
                axes.plot([bound, bound], [index - HEIGHT / 2, index + HEIGHT / 2], color=INK, linewidth=2)
        from_zero(axes, max(1, *(bar.reach for bar in bars)), units.BYTES)
        axes.set_xlabel("peak bytes of a step, on top of what was held")
        label_rows(axes, labels, values)

    name = name_of("memory" if place.question == "memory" else f"{place.question} memory", place)
    told = "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
    return Picture(
        name=name,
        title=f"{scene.labels.place(place) if several else scene.labels.cell(bars[0].row.cell)}: peak memory",
        svg=draw(name, f"Peak memory. {told}", scene.palette, paint, row_height(len(bars))),
        notes=(
            *(BOUND if bounded else ()),
            *_held(bars),
            *_noted(labels, bars),
            f"Method: {', '.join(sorted({bar.memory.method for bar in bars}))}.",
        ),
        missing=scene.gaps(rows),
    )


def _held(bars: list[Bar]) -> tuple[str, ...]:
    held = [bar.memory.live_bytes_before for bar in bars]
    texts = dict.fromkeys(units.size(size) for size in held if size is not None)
    repeated = max(len(bar.memory.peaks_bytes) for bar in bars)
    taken = "One figure a row" if repeated <= 1 else f"The table has the peaks of all {repeated} calls"
    return (f"{taken}, so no interval. Held before the step: {' or '.join(texts) or 'not stored'}.",)


def _noted(labels: list[str], bars: list[Bar]) -> tuple[str, ...]:
    """What rows say of peaks that they have."""
    told = zip(labels, bars, strict=True)
    found = [(label, bar.memory.notes.get("peak_bytes")) for label, bar in told if bar.memory.peak_bytes is not None]
    return tuple(f"{label}: {note}." for label, note in found if note)
