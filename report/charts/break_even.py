"""Draw seconds spent after n steps, getting ready included: where the lines cross, preparing has paid for itself."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from report import units
from report.charts.canvas import Picture, draw
from report.charts.palette import INK
from report.charts.scene import Scene, engines_of, name_of
from report.repayment import Repayment, from_the_first, shown_steps, steps_text
from report.statistics import time_of
from report.stored import Record

BEYOND = 1.9  # the picture ends at so many times the last crossing
FEWEST_STEPS = 10


def picture(scene: Scene, found: list[Repayment]) -> Picture:
    """The cumulative times of one cell: of each static engine in `found`, and of the tape."""
    cell = found[0].cell
    tape = found[0].other_step
    lines = [(found[0].other_prepare, tape, time_of(tape).value)]
    lines += [(repayment.prepare, repayment.step, repayment.step_seconds) for repayment in found]
    last = _last_step(found)

    def paint(axes: Axes) -> None:
        for prepare, step, seconds in lines:
            _line(axes, scene.palette.engine(step.engine).colour, prepare, step, seconds, last)
        for repayment in found:
            _crossing(axes, repayment)
        axes.set_xlim(1, last)
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
        unit, name = units.unit_of(axes.get_ylim()[1], units.TIME)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}{units.FIXED}{name}"))
        axes.set_xlabel("steps")

    name = name_of("break even", cell)
    texts = [f"{repayment.engine}: {steps_text(repayment.result)}" for repayment in found]
    rows = [row for prepare, step, _ in lines for row in (prepare, step)]
    return Picture(
        name=name,
        title=f"{scene.labels.cell(cell)}: time spent after n steps",
        svg=draw(name, "Cumulative time over steps. " + "; ".join(texts), scene.palette, paint),
        notes=("; ".join(texts) + ". Derived: preparing, which holds the first step, and the steps after it.",),
        keys=tuple(key for key in scene.keys(rows) if key.text in engines_of(rows)),
    )


def _last_step(found: list[Repayment]) -> float:
    crossings = [repayment.result.steps for repayment in found if repayment.result.word == "pays off"]
    if crossings:
        return max(FEWEST_STEPS, BEYOND * max(crossings))
    costs = [time_of(it.prepare).value / time_of(it.other_step).value for it in found]
    return max(FEWEST_STEPS, BEYOND * max(costs))


def _line(axes: Axes, colour: str, prepare: Record, step: Record, seconds: float, last: float) -> None:
    start, time = time_of(prepare).value, time_of(step)
    axes.plot([1, last], [start, start + (last - 1) * seconds], color=colour)
    if time.low is not None and time.high is not None:
        low, high = (start + (last - 1) * seconds * end / time.value for end in (time.low, time.high))
        axes.fill_between([1, last], [start, low], [start, high], color=colour, alpha=0.18, linewidth=0)


def _crossing(axes: Axes, repayment: Repayment) -> None:
    steps = repayment.result.steps
    if repayment.result.word != "pays off" or from_the_first(steps):  # then the lines do not cross
        return
    height = time_of(repayment.prepare).value + (steps - 1) * repayment.step_seconds
    axes.plot([steps, steps], [0, height], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.plot([steps], [height], marker="o", markersize=4, color=INK)
    axes.annotate(
        units.count(shown_steps(repayment.result)),
        (steps, height), xytext=(-6, 6), textcoords="offset points", ha="right",
    )  # fmt: skip
