"""Draw what share of the machine's rate of matrix products each engine reaches, with its interval."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import units
from report.charts.canvas import Picture, draw
from report.charts.rows import row_height, strip
from report.charts.scene import Point, Scene, name_of
from report.limits import Share, product_of, shares
from report.results import YARDSTICK, cells
from report.statistics import time_of
from report.stored import Cell, Record


def pictures(scene: Scene) -> list[Picture]:
    """One picture for each cell in which an engine was paired with the product."""
    rows = cells(scene.results.of("rate"))
    return [_picture(scene, cell, rows[cell], found) for cell, found in shares(scene.results).items() if found]


def _picture(scene: Scene, cell: Cell, rows: list[Record], found: list[Share]) -> Picture:
    points = [Point(share.engine, 1, share.value, share.low, share.high) for share in found]
    labels = [f"{share.engine}, {units.rate(share.flops_per_second)}" for share in found]

    def paint(axes: Axes) -> None:
        strip(axes, scene.palette, points, labels, units.SHARE)
        axes.set_xlabel("rate relative to that of the product")

    name = name_of(f"rate {cell.quantity}", cell)
    texts = [
        f"{label}: {units.spread(it.value, it.low, it.high, units.SHARE)}"
        for label, it in zip(labels, found, strict=True)
    ]
    unpaired = [row.engine for row in rows if row.status == "measured" and row.engine != YARDSTICK]
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}, {cell.quantity}: share of the rate of matrix products",
        svg=draw(name, f"Share of the rate. {'; '.join(texts)}", scene.palette, paint, row_height(len(points))),
        notes=_notes(rows),
        missing=tuple(
            f"{engine}: no stored ratio to {YARDSTICK}"
            for engine in unpaired
            if engine not in {share.engine for share in found}
        )
        + scene.gaps([row for row in rows if row.status != "measured"]),
        keys=scene.keys([row for row in rows if row.engine in {share.engine for share in found}]),
    )


def _notes(rows: list[Record]) -> tuple[str, ...]:
    product = product_of(rows)
    assert product is not None  # without it there is no share to draw
    facts, time = product.counters, time_of(product)
    order = f" of {units.count(facts['order'])} rows and columns" if "order" in facts else ""
    return (
        f"The product{order}: {units.rate(facts['flops'] / time.value)}, in the same rounds.",
        f"One call is {units.count(facts['task_flops'])} floating-point operations: 2 for each multiplication of a "
        "matrix product, or of a convolution as a sum over its window. Nothing else counts. What needs fewer for the "
        "same counts as the sum that it stands for, so that a share may be above 1.",
    )
