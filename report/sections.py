"""Lay out the part of the page that has pictures: which sections, in which order, with which pictures.

for section in sections(scene):
    section.title, section.lead, section.pictures, section.missing
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain

from report import units
from report.answers import COMPILED, DYNAMIC, OUTSIDE, PLAIN
from report.charts import (
    break_even,
    collector,
    construction,
    device,
    dispatch,
    learning,
    live,
    memory,
    preparing,
    ratios,
    shapes,
    split,
    times,
    waterfall,
    ways,
)
from report.charts.canvas import Key, Picture
from report.charts.scene import Scene
from report.repayment import Repayment, repayments
from report.stored import Cell, Question, Record

COMPILED_IN: tuple[Question, ...] = ("step", "backward", "forward", "dispatch")
"""The questions whose rows are held against PyTorch's compiler, where that has rows."""

TITLES: dict[Question, str] = {
    "step": "Training step",
    "forward": "Forward",
    "backward": "Loss and gradients",
    "construction": "Building",
    "dispatch": "Dispatch",
    "preparing": "Getting ready",
    "memory": "Memory",
    "learning": "Learning",
    "interface": "Cost of the interface",
    "collector": "Garbage collector",
    "attribution": "Where the difference comes from",
    "shapes": "Changing shapes",
    "branches": "Branches",
    "loops": "Loops",
    "recursion": "Recursion",
    "recompute": "Recompute instead of keep",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a section is about: its anchor, the question whose rows it shows, a title, a lead and how to draw it.

    `absent` is what the page says where there is no picture. A second section about a question does not name its gaps
    again (`own_gaps`).
    """

    anchor: str
    question: Question
    title: str
    lead: str
    draw: Callable[[Scene], list[Picture]]
    absent: str = "No measured row, so no picture."
    own_gaps: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """A planned section with its pictures; `missing` names the rows of its question that no picture names."""

    plan: Plan
    pictures: tuple[Picture, ...]
    missing: tuple[str, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        """One legend for all pictures."""
        return tuple(dict.fromkeys(chain.from_iterable(picture.keys for picture in self.pictures)))


def sections(scene: Scene) -> list[Section]:
    """All sections with their pictures, in the order of the page."""
    return [_section(scene, plan) for plan in PLANS]


def _section(scene: Scene, plan: Plan) -> Section:
    found = plan.draw(scene)
    named = set(chain.from_iterable(picture.missing for picture in found))
    gaps = [
        f"{scene.labels.place(place)}: {gap}"
        for place, rows in scene.places(plan.question).items()
        for gap in scene.gaps(rows)
        if gap not in named
    ]
    return Section(plan, tuple(found), tuple(gaps) if plan.own_gaps else ())


def _timed(question: Question) -> Callable[[Scene], list[Picture]]:
    """Put times and ratios of each workload side by side."""

    def draw(scene: Scene) -> list[Picture]:
        found = []
        for place, rows in scene.places(question).items():
            found += [times.picture(scene, place, rows), ratios.picture(scene, place, rows, DYNAMIC)]
        return [picture for picture in found if picture]

    return draw


def _preparing(scene: Scene) -> list[Picture]:
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


def _memory(scene: Scene) -> list[Picture]:
    return [*memory.pictures(scene), *live.pictures(scene)]


def _recompute(scene: Scene) -> list[Picture]:
    found = [ratios.picture(scene, place, rows, DYNAMIC) for place, rows in scene.places("recompute").items()]
    drawn = [picture for picture in found if picture]
    return [*drawn, *memory.pictures(scene, "recompute"), *live.pictures(scene, "recompute")]


def _against_outside(scene: Scene) -> list[Picture]:
    found = [ratios.picture(scene, place, rows, OUTSIDE) for place, rows in scene.places("step").items()]
    for question in COMPILED_IN:
        there = {row.cell for row in scene.results.measured(question) if row.engine == COMPILED}
        for place, rows in scene.places(question).items():
            found.append(ratios.picture(scene, place, [row for row in rows if row.cell in there], COMPILED))
    found += [ratios.picture(scene, place, rows, PLAIN) for place, rows in scene.places("interface").items()]
    return [picture for picture in found if picture]


NAMES = "The tape and PyTorch eager run plain Python, the graph its own branches and loops, unless a name says more."
PLANS: tuple[Plan, ...] = (
    Plan(
        "step",
        "step",
        TITLES["step"],
        "Time of one training step (loss, gradients, update) by batch size, and relative to the tape. Where batch "
        "sizes are swept, both axes are logarithmic; a bar is an interval, a faint dot a sample.",
        _timed("step"),
    ),
    Plan(
        "break-even",
        "preparing",
        "Preparing and break-even",
        "The total time spent after n steps, getting ready included: where the lines cross, preparing has paid for "
        "itself. Then, what getting ready consists of. Cold is a fresh process with empty caches, warm is once more.",
        _preparing,
    ),
    Plan(
        "outside",
        "step",
        "Against PyTorch",
        "Time of one training step relative to PyTorch eager run through the same interface, and what that costs. "
        "Then, where PyTorch's compiler was measured, time relative to that: of steps, of loss and gradients, of "
        "forward alone and of chains of small ops.",
        _against_outside,
    ),
    Plan("forward", "forward", TITLES["forward"], "Forward alone, nothing recorded for gradients.", _timed("forward")),
    Plan("backward", "backward", TITLES["backward"], "Loss and all gradients, no update.", _timed("backward")),
    Plan(
        "split",
        "step",
        "Parts of a step",
        "Where the time of a step goes: forward, backward and update, for engines whose steps can be split. A full bar "
        "is the longest step of its cell; the figure beside it is the sum of the parts.",
        split.pictures,
        f"{units.DASH} No row stores how its step splits, so no picture.",
        own_gaps=False,
    ),
    Plan(
        "attribution",
        "attribution",
        TITLES["attribution"],
        "From the tape to the full compiler, one switch after the other: the graph is replayed by a loop, so that "
        "nothing is recorded; it becomes straight-line code, so that nothing is dispatched; then come its passes, and "
        "what they fuse becomes native code. Each bar begins where the last one ended; the line in it is the interval.",
        waterfall.pictures,
    ),
    Plan(
        "device",
        "step",
        "Host and device",
        "On a GPU the host may run ahead: the time that the host waits, the time that the device works, and the host's "
        "time where it waits only every few steps.",
        device.pictures,
        f"{units.DASH} No row stores device time, so no picture.",
        own_gaps=False,
    ),
    Plan(
        "construction",
        "construction",
        TITLES["construction"],
        "Time to build the record (tape) or the graph (trace, differentiate, passes, lower) against the number of ops. "
        "Both axes are logarithmic: a slope of 1 is linear growth.",
        construction.pictures,
    ),
    Plan(
        "dispatch",
        "dispatch",
        TITLES["dispatch"],
        "What one op costs when it has next to nothing to compute.",
        dispatch.pictures,
    ),
    Plan(
        "memory",
        "memory",
        TITLES["memory"],
        "The most that one step holds at once, on top of parameters and batch, in a fresh process. Then, where it is "
        "stored, what is alive at each point of a step.",
        _memory,
    ),
    Plan(
        "recompute",
        "recompute",
        TITLES["recompute"],
        "A deep chain of large elementwise ops on the tape, whole and in marked parts, of which nothing inside is "
        "kept: the way back runs each part again. Time relative to the whole, then the bytes of both.",
        _recompute,
    ),
    Plan(
        "collector",
        "collector",
        TITLES["collector"],
        "Python's garbage collector is off while rounds are timed. What it costs is measured apart: each engine with "
        "it on, relative to itself with it off.",
        collector.pictures,
    ),
    Plan(
        "shapes",
        "shapes",
        TITLES["shapes"],
        "A stream of batches that change in shape, from nothing and with empty caches: the time spent after each step, "
        "getting ready and compilations included. The tape takes a shape as it comes. The graph compiles for each one "
        "(exact), rounds sizes up and masks the padding (bucket, pad), or reads its sizes from its inputs (symbolic).",
        shapes.pictures,
    ),
    Plan(
        "branches",
        "branches",
        TITLES["branches"],
        f"Loss and gradients of models whose course depends on data. {NAMES} A graph may also compute all branches and "
        "mask (masked, padded), or be made for one path (dynamic), right for no other.",
        partial(ways.pictures, question="branches"),
    ),
    Plan(
        "loops",
        "loops",
        TITLES["loops"],
        f"Loss and gradients of models that loop, known times or until data say so. {NAMES} A graph may also be "
        "unrolled (unrolled, dynamic). Then, how long a graph takes to get ready by the number of trips.",
        partial(ways.pictures, question="loops"),
    ),
    Plan(
        "recursion",
        "recursion",
        TITLES["recursion"],
        f"Loss and gradients over trees. {NAMES} Or all trees go up level by level (levels); a graph of that is made "
        "for the very trees of one batch.",
        partial(ways.pictures, question="recursion"),
    ),
    Plan("learning", "learning", TITLES["learning"], "The loss at every training step.", learning.pictures),
)
