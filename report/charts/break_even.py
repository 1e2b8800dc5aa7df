"""Draw seconds spent after n steps, getting ready included: where the lines cross, preparing has paid for itself."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from report import units
from report.charts.canvas import Picture, draw
from report.charts.palette import INK
from report.charts.scene import Scene, engines_of, name_of
from report.repayment import Repayment, steps_text, whole_steps
from report.statistics import time_of
from report.stored import Record

BEYOND = 1.9  # the picture ends at so many times the last crossing
FEWEST_STEPS = 10


def picture(scene: Scene, found: list[Repayment]) -> Picture:
    """The cumulative times of one cell: of each static engine in `found`, and of the tape."""
    cell = found[0].cell
    lines = {found[0].other_step.engine: (found[0].other_prepare, found[0].other_step)}
    lines |= {repayment.engine: (repayment.prepare, repayment.step) for repayment in found}
    last = _last_step(found)

    def paint(axes: Axes) -> None:
        for engine, (prepare, step) in lines.items():
            _line(axes, scene.palette.engine(engine).colour, prepare, step, last)
        for repayment in found:
            _crossing(axes, repayment)
        axes.set_xlim(0, last)
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
        unit, name = units.unit_of(axes.get_ylim()[1], units.TIME)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}{units.FIXED}{name}"))
        axes.set_xlabel("steps")

    name = name_of("break even", cell)
    texts = [f"{repayment.engine}: {steps_text(repayment.result)}" for repayment in found]
    rows = [row for pair in lines.values() for row in pair]
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}: time spent after n steps",
        svg=draw(name, "Cumulative time over steps. " + "; ".join(texts), scene.palette, paint),
        notes=("; ".join(texts) + ". Derived: preparing plus n times the median step.",),
        keys=tuple(key for key in scene.keys(rows) if key.text in engines_of(rows)),
    )


def _last_step(found: list[Repayment]) -> float:
    crossings = [repayment.result.steps for repayment in found if math.isfinite(repayment.result.steps)]
    if crossings:
        return max(FEWEST_STEPS, BEYOND * max(crossings))
    costs = [time_of(it.prepare).value / time_of(it.other_step).value for it in found]
    return max(FEWEST_STEPS, BEYOND * max(costs))


def _line(axes: Axes, colour: str, prepare: Record, step: Record, last: float) -> None:
    start, time = time_of(prepare).value, time_of(step)
    axes.plot([0, last], [start, start + last * time.value], color=colour)
    if time.low is not None and time.high is not None:
        axes.fill_between(
            [0, last], [start, start + last * time.low], [start, start + last * time.high],
            color=colour, alpha=0.18, linewidth=0,
        )  # fmt: skip


def _crossing(axes: Axes, repayment: Repayment) -> None:
    steps = repayment.result.steps
    if not math.isfinite(steps):
        return
    start = time_of(repayment.prepare).value
    height = start + steps * time_of(repayment.step).value
    axes.plot([steps, steps], [0, height], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.plot([steps], [height], marker="o", markersize=4, color=INK)
    axes.annotate(
        units.count(whole_steps(steps)), (steps, height), xytext=(-6, 6), textcoords="offset points", ha="right"
    )
