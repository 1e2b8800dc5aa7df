"""Draw the way from the tape to the full compiler as a waterfall: one bar a switch, each from where the last one ended.

A second picture shows what each switch is worth where all others are on already.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from report import units
from report.attribution import Attribution, Change, attributions, signed
from report.charts.canvas import Key, Picture, draw
from report.charts.palette import INK, Paint
from report.charts.rows import around_zero, from_zero, label_rows, row_height
from report.charts.scene import Scene, measured_of, name_of
from report.results import cells

HEIGHT = 0.62
ALL_ON = "all switches on"
INTERACTION = (
    "Interaction is what the whole changes beyond the sum of the steps: medians of differences need not add up to the "
    "median of the whole difference."
)
ALONE = (
    "Here interaction is what switches do together and none does by itself: code that is not fused gains nothing from "
    "native code, so each of the two is credited with what both are needed for."
)


def pictures(scene: Scene) -> list[Picture]:
    """Two pictures for each cell that can be taken apart."""
    rows = cells(scene.results.of("attribution"))
    found = []
    for one in attributions(scene.results):
        missing = tuple(
            f"{row.engine}: {row.status}, {row.reason}"
            for row in rows[one.cell]
            if row not in measured_of(rows[one.cell])
        )
        found.append(_walk(scene, one, missing))
        if one.alone_interaction is not None:
            found.append(_alone(scene, one, one.alone_interaction))
    return found


def _walk(scene: Scene, one: Attribution, missing: tuple[str, ...]) -> Picture:
    changes = (*one.steps, one.interaction)
    labels = [one.base, *(change.name for change in changes), ALL_ON]
    values = [units.seconds(one.base_seconds), *map(signed, changes), units.seconds(one.full_seconds)]
    start, end = one.base_seconds, one.full_seconds

    def paint(axes: Axes) -> None:
        axes.barh(0, start, height=HEIGHT, color=scene.palette.engine("tape").colour)
        level = start
        for index, change in enumerate(changes, 1):
            _bar(axes, index, level, change, _paint(scene, change))
            axes.plot([level, level], [index - 1 + HEIGHT / 2, index - HEIGHT / 2], color=INK, linewidth=0.6)
            level += change.seconds
        axes.barh(len(changes) + 1, end, height=HEIGHT, color=scene.palette.engine("graph").colour)
        from_zero(axes, max(start, end, *_levels(start, changes)), units.TIME)
        axes.set_xlabel("time of a step")
        label_rows(axes, labels, values)

    name = name_of("walk", one.cell)
    spoken = "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
    return Picture(
        name=name,
        title=f"{scene.labels.cell(one.cell)}: one switch at a time",
        svg=draw(
            name, f"From {one.base} to the full compiler. {spoken}", scene.palette, paint, row_height(len(labels))
        ),
        notes=(f"{sums_up(one)} {INTERACTION}",),
        missing=missing,
        keys=_keys(scene),
    )


def _alone(scene: Scene, one: Attribution, interaction: Change) -> Picture:
    changes = (*one.alone, interaction)
    values = [signed(change) for change in changes]

    def paint(axes: Axes) -> None:
        for index, change in enumerate(changes):
            _bar(axes, index, 0.0, change, _paint(scene, change))
        axes.axvline(0, color=INK, linewidth=1, alpha=0.7, zorder=1)
        low = min(0.0, *(it.low for it in changes))
        high = max(0.0, *(it.high for it in changes))
        around_zero(axes, low, high, units.TIME)
        axes.set_xlabel("change of the time of a step")
        label_rows(axes, [change.name for change in changes], values)

    name = name_of("alone", one.cell)
    spoken = "; ".join(f"{change.name}: {value}" for change, value in zip(changes, values, strict=True))
    return Picture(
        name=name,
        title=f"{scene.labels.cell(one.cell)}: each switch with all others on",
        svg=draw(name, f"What each switch changes last. {spoken}", scene.palette, paint, row_height(len(changes))),
        notes=(ALONE,),
        keys=_keys(scene),
    )


def sums_up(one: Attribution) -> str:
    """Whether the steps add up to the whole within its interval."""
    added = sum(change.seconds for change in one.steps)
    word = "add" if one.whole.low <= added <= one.whole.high else "do not add"
    return (
        f"The steps {word} up to the whole within its interval: together they change {units.seconds(added)}, the whole "
        f"{signed(one.whole)}, over {units.plural(one.rounds, 'round')}."
    )


def _levels(start: float, changes: Sequence[Change]) -> list[float]:
    levels, level = [], start
    for change in changes:
        levels.append(level + max(change.high, 0.0))
        level += change.seconds
    return levels


def _bar(axes: Axes, index: int, start: float, change: Change, paint: Paint) -> None:
    axes.barh(index, change.seconds, left=start, height=HEIGHT, color=paint.colour)
    axes.plot([start + change.low, start + change.high], [index, index], color=INK, linewidth=1.2)


def _paint(scene: Scene, change: Change) -> Paint:
    if not change.told:
        return scene.palette.rest
    return scene.palette.engine("graph" if change.seconds < 0 else "tape")


def _keys(scene: Scene) -> tuple[Key, ...]:
    paints = (
        (scene.palette.engine("graph"), "saves time"),
        (scene.palette.engine("tape"), "costs time"),
        (scene.palette.rest, "not beyond its interval and the control"),
    )
    return tuple(Key(paint.variable, "■", text) for paint, text in paints)
