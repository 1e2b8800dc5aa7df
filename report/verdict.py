"""Give the first screen of the page: a headline, and an answer to each question in order.

    headline(results, labels)          # Of 9 cells, a graph step is faster than a tape step in 5 and slower in 4.
    for answer in verdict(results, labels):
        answer.question, answer.word, answer.sentence

A new question is a function in `report.answers` and a line in `ANSWERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from report import answers, limits
from report.answers import DYNAMIC, STATIC, Answer
from report.comparing import all_of, compare
from report.labels import Labels
from report.results import Results
from report.stored import Judgement

ANSWERS: tuple[Callable[[Results, Labels], Answer], ...] = (
    answers.step,
    answers.break_even,
    answers.outside,
    answers.forward,
    answers.backward,
    answers.attribution,
    answers.construction,
    answers.dispatch,
    limits.call,
    limits.elementwise,
    limits.rate,
    answers.memory,
    answers.shapes,
    answers.control_flow,
    answers.recompute,
    answers.collector,
    answers.learning,
    answers.agreement,
)
PHRASES: Mapping[Judgement, tuple[str, str]] = {  # alone, and after another phrase
    "faster": (f"faster than a {DYNAMIC} step", "faster"),
    "slower": (f"slower than a {DYNAMIC} step", "slower"),
    "no difference": (f"no different from a {DYNAMIC} step", "no different"),
    "cannot tell": (f"not to be told apart from a {DYNAMIC} step", "not to be told apart"),
}


def verdict(results: Results, labels: Labels) -> list[Answer]:
    """All answers, in the order of the page."""
    return [answer(results, labels) for answer in ANSWERS]


def headline(results: Results, labels: Labels) -> str:
    """The first sentence of the page: the answer to the question which style steps faster."""
    counts = compare(results, labels, "step", STATIC, DYNAMIC).counts()
    if not counts:
        return f"These results cannot tell whether a {STATIC} step or a {DYNAMIC} step is faster."
    total, found = sum(counts.values()), [word for word in PHRASES if counts[word]]
    if len(found) == 1:
        return f"A {STATIC} step is {PHRASES[found[0]][0]} in {all_of(total)} measured."
    parts = [f"{PHRASES[word][place > 0]} in {counts[word]}" for place, word in enumerate(found)]
    return f"Of {total} cells, a {STATIC} step is {', '.join(parts[:-1])} and {parts[-1]}."
