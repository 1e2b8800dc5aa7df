"""Draw host and device time side by side for rows on a GPU, and host time where the GPU is waited for only rarely."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.rows import row_height, strip
from report.charts.scene import FEW_SAMPLES, Point, Scene, described, name_of
from report.results import cells
from report.statistics import Series, level_of
from report.stored import Question, Record

QUESTIONS: tuple[Question, ...] = ("step", "forward", "backward")


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each cell of step, forward and backward in which a row has device time."""
    found = []
    for question in QUESTIONS:
        for cell, rows in cells(scene.results.measured(question)).items():
            timed = [row for row in rows if row.device_seconds]
            if timed:
                found.append(_picture(scene, f"{scene.labels.cell(cell)}: {question}", timed))
    return found


def _picture(scene: Scene, title: str, rows: list[Record]) -> Picture:
    lines = [line for row in rows for line in _lines(row)]
    labels, points = [label for label, _ in lines], [point for _, point in lines]

    def paint(axes: Axes) -> None:
        strip(axes, scene.palette, points, labels, units.TIME)

    cell = rows[0].cell
    name = name_of(f"device {cell.question}", cell)
    described_by = described("Median time per call on host and device", labels, points)
    return Picture(
        name=name,
        title=f"{title}, host and device",
        svg=draw(name, described_by, scene.palette, paint, row_height(len(points))),
        notes=(
            "Host: waiting for the GPU after every call, or only after every few. Device: what the GPU's events say of "
            "the same rounds.",
        ),
        keys=scene.keys(rows),
    )


def _lines(row: Record) -> Iterator[tuple[str, Point]]:
    yield f"{row.engine}, host", Point.of_time(row, 1)
    yield "device", _point(row, row.device_seconds)
    if row.every and row.every.seconds_per_call:
        yield f"host, every {units.plural(row.every.steps, 'step')}", _point(row, row.every.seconds_per_call)


def _point(row: Record, samples: tuple[float, ...]) -> Point:
    time = level_of(Series(samples, row.launches))
    return Point(row.engine, 1, time.value, time.low, time.high, samples if len(samples) <= FEW_SAMPLES else ())
