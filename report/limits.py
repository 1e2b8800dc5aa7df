"""How near each engine comes to a limit: the machine's rate of matrix products, and a call that computes nothing.

    for share in shares(results)[cell]:
        share.engine, share.value, share.flops_per_second     # "graph", 0.5, 80e9

A run that has a share measures a product of two large matrices, the yardstick, in the rounds of the engines, and stores
the floating-point operations of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from report import units
from report.answers import DYNAMIC, OUTSIDE, STATIC, Answer, against_compiled, compared
from report.comparing import CANNOT_TELL, compare
from report.labels import Labels
from report.results import YARDSTICK, Results, cells
from report.statistics import time_of
from report.stored import Cell, Record


@dataclass(frozen=True, slots=True)
class Share:
    """The rate of one engine over the product's, as a share of 1 with its interval, and the rate itself.

    Derived: the operations of the task over those of the product, times the stored ratio of their times.
    """

    engine: str
    value: float
    low: float
    high: float
    flops_per_second: float
    rounds: int


def product_of(rows: list[Record]) -> Record | None:
    """The row of the product among those of a cell, if it was measured and its operations were stored."""
    found = (row for row in rows if row.engine == YARDSTICK and row.seconds_per_call)
    return next((row for row in found if row.counters.keys() >= {"flops", "task_flops"}), None)


def shares(results: Results) -> dict[Cell, list[Share]]:
    """The share of each engine that was paired with the product, by cell."""
    found: dict[Cell, list[Share]] = {}
    for cell, rows in cells(results.measured("rate")).items():
        product = product_of(rows)
        if product is None:
            continue
        work = product.counters["task_flops"] / product.counters["flops"]
        paired = [(row, results.ratio(cell, YARDSTICK, to=row.engine)) for row in rows if row is not product]
        found[cell] = [
            Share(
                engine=row.engine,
                value=work * it.value,
                low=work * it.low,
                high=work * it.high,
                flops_per_second=product.counters["task_flops"] / time_of(row).value,
                rounds=it.rounds,
            )
            for row, it in paired
            if it
        ]
    return found


BEYOND = " What needs fewer multiplications for the same counts as the sum that it stands for."


def rate(results: Results, labels: Labels) -> Answer:
    """What share of the machine's rate of matrix products each engine reaches."""
    asked = "How near does the graph come to the machine's rate of matrix products?"
    found = {cell: {share.engine: share for share in ours} for cell, ours in shares(results).items()}
    told = {cell: ours[STATIC] for cell, ours in found.items() if STATIC in ours}
    if not told:
        return Answer("rate", asked, CANNOT_TELL, f"No cell has a row of {STATIC} paired with the product.")
    lowest, highest = (pick(told.values(), key=lambda share: share.value) for pick in (min, max))
    ends = dict.fromkeys(units.percent(share.value, 0) for share in (lowest, highest))
    sentence = "; ".join(f"{labels.cell(cell)}, {cell.quantity}: {_spread(share)}" for cell, share in told.items())
    details = tuple(
        f"{labels.cell(cell)}, {cell.quantity}: {', '.join(f'{it.engine} {_spread(it)}' for it in others)} (derived)."
        for cell, ours in found.items()
        if (others := [share for share in ours.values() if share.engine != STATIC])
    )
    beyond = BEYOND if highest.value > 1.0 else ""
    return Answer("rate", asked, " to ".join(ends), f"{sentence} (derived).{beyond}", details)


def call(results: Results, labels: Labels) -> Answer:
    """Whether a call costs a graph less than a tape where next to nothing is computed."""
    ours = compare(results, labels, "call", STATIC, DYNAMIC)
    details = [
        compare(results, labels, "call", STATIC, OUTSIDE).sentence(),
        *against_compiled(results, labels, "call"),
    ]
    return compared("call", "Is a call that computes nothing cheaper in a graph?", ours, details)


def elementwise(results: Results, labels: Labels) -> Answer:
    """Whether a graph is faster where every op goes over a large tensor."""
    ours = compare(results, labels, "elementwise", STATIC, DYNAMIC)
    details = [
        compare(results, labels, "elementwise", STATIC, OUTSIDE).sentence(),
        *against_compiled(results, labels, "elementwise"),
    ]
    return compared("elementwise", "Are chains of ops on large tensors faster in a graph?", ours, details)


def _spread(share: Share) -> str:
    return units.spread(share.value, share.low, share.high, units.SHARE)
