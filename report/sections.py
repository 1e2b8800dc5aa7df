"""Lay out the part of the page that has pictures: which sections, in which order, with which pictures.

for section in sections(scene):
    section.title, section.lead, section.pictures, section.missing
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain

from report import panels, units
from report.charts import (
    collector,
    construction,
    device,
    dispatch,
    learning,
    shapes,
    share,
    split,
    waterfall,
    ways,
)
from report.charts.canvas import Key, Picture
from report.charts.scene import Scene
from report.stored import Question

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
    "rate": "Share of the machine's rate",
    "call": "Cost of a call",
    "elementwise": "Large elementwise ops",
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


NAMES = "The tape and PyTorch eager run plain Python, the graph its own branches and loops, unless a name says more."
PLANS: tuple[Plan, ...] = (
    Plan(
        "step",
        "step",
        TITLES["step"],
        "Time of one training step (loss, gradients, update) by batch size, and relative to the tape. Where batch "
        "sizes are swept, both axes are logarithmic; a bar is an interval, a faint dot a sample.",
        panels.timed("step"),
    ),
    Plan(
        "break-even",
        "preparing",
        "Preparing and break-even",
        "The total time spent after n steps, getting ready included: where the lines cross, preparing has paid for "
        "itself. Then, what getting ready consists of. Cold is a fresh process with empty caches, warm is once more.",
        panels.ready,
    ),
    Plan(
        "outside",
        "step",
        "Against PyTorch",
        "Time of one training step relative to PyTorch eager run through the same interface, and what that costs. "
        "Then, where PyTorch's compiler was measured, time relative to that: of steps, of loss and gradients, of "
        "forward alone and of chains of small ops.",
        panels.against_outside,
    ),
    Plan(
        "forward",
        "forward",
        TITLES["forward"],
        "Forward alone, nothing recorded for gradients.",
        panels.timed("forward"),
    ),
    Plan("backward", "backward", TITLES["backward"], "Loss and all gradients, no update.", panels.timed("backward")),
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
        "what they fuse becomes native code; on a GPU all launches become one CUDA graph. Each bar begins where the "
        "last one ended; the line in it is the interval.",
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
        "call",
        "call",
        TITLES["call"],
        "Some numbers are added up, each an input of its own: there is next to nothing to compute, so the time is what "
        "a call costs.",
        panels.each_timed("call"),
    ),
    Plan(
        "elementwise",
        "elementwise",
        TITLES["elementwise"],
        "Loss and gradients of a chain of elementwise ops on large tensors: what runs op by op reads and writes memory "
        "at each.",
        panels.each_timed("elementwise"),
    ),
    Plan(
        "rate",
        "rate",
        TITLES["rate"],
        "The rate at which each engine computes, relative to that of a product of two large float32 matrices, which "
        "takes its turn in the same rounds.",
        share.pictures,
    ),
    Plan(
        "memory",
        "memory",
        TITLES["memory"],
        "The most that one step holds at once, on top of parameters and batch, in a fresh process. Then, where it is "
        "stored, what is alive at each point of a step.",
        panels.held,
    ),
    Plan(
        "recompute",
        "recompute",
        TITLES["recompute"],
        "A deep chain of large elementwise ops on the tape, whole and in marked parts, of which nothing inside is "
        "kept: the way back runs each part again. Time relative to the whole, then the bytes of both.",
        panels.recomputed,
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
