"""Give every chart its rows, colours and names, and say which points are missing and why.

A chart goes through the places of its question:

    for place, rows in scene.places("step").items():     # one picture for each
        scene.gaps(rows)                                 # "tape, batch 256: out of memory"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from report import units
from report.charts.canvas import Key
from report.charts.palette import Palette
from report.labels import Labels, extent
from report.results import Results, engine_rank
from report.statistics import Estimate, time_of
from report.stored import Cell, Question, Ratio, Record

FEW_SAMPLES = 30  # up to here a picture shows every sample as a dot
NO_ROW = "no row in the stored results"


@dataclass(frozen=True, slots=True)
class Point:
    """One estimate in a picture, with its interval where it has one, and the samples behind it where they are few."""

    engine: str
    at: float
    value: float
    low: float | None
    high: float | None
    samples: tuple[float, ...] = ()

    @classmethod
    def of_time(cls, row: Record, at: float, parts: int = 1) -> Point:
        """The median of a measured row in seconds, or of one of `parts` equal parts of it."""
        time: Estimate = time_of(row).per(parts)
        few = len(row.seconds_per_call) <= FEW_SAMPLES
        samples = tuple(second / parts for second in row.seconds_per_call) if few else ()
        return cls(row.engine, at, time.value, time.low, time.high, samples)

    @classmethod
    def of_ratio(cls, engine: str, ratio: Ratio, at: float) -> Point:
        """A stored ratio of `engine` to another one."""
        return cls(engine, at, ratio.value, ratio.low, ratio.high)


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
        found = []
        for cell in dict.fromkeys(row.cell for row in rows):
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


def reach(points: Sequence[Point]) -> tuple[float, float]:
    """The least and the most that a picture of some points has to show."""
    values = [value for it in points for value in (it.value, it.low, it.high, *it.samples) if value is not None]
    return min(values), max(values)


def described(subject: str, labels: Sequence[str], points: Sequence[Point]) -> str:
    """What a picture of times says to those who do not see it."""
    texts = [f"{label}: {units.seconds(point.value)}" for label, point in zip(labels, points, strict=True)]
    return f"{subject}. {'; '.join(texts)}"


def measured_of(rows: Sequence[Record]) -> list[Record]:
    """The rows that have samples."""
    return [row for row in rows if row.status == "measured"]


def label_of(row: Record, *, several: bool) -> str:
    """How a picture names a row: its engine, and the cell's knobs where it shows several cells."""
    return f"{row.engine}, {extent(row.cell)}" if several else row.engine


def engines_of(rows: Sequence[Record]) -> list[str]:
    """The engines of some rows, ours first."""
    return sorted({row.engine for row in rows}, key=engine_rank)


def slug(*parts: object) -> str:
    """A name that can be an id in HTML."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(str(part) for part in parts).lower()).strip("-")


def name_of(kind: str, cell: Cell) -> str:
    """The id of a picture: its kind and all that tells its cell from others."""
    size = [f"{knob}{value}" for knob, value in cell.size]
    return slug(
        kind, cell.workload, cell.formulation, cell.device, cell.dtype, *size, cell.batch_size or "", cell.start
    )
