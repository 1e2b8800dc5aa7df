"""Say which part of the way from the tape to the full compiler each switch has, from rows paired by round.

    for found in attributions(results):
        found.steps           # what turning each switch on changed, in seconds: below zero is faster
        found.interaction     # what the whole changes beyond the sum of the steps
        found.alone           # what turning each switch on changes where all others are on already, then further passes

Every change is the median over rounds of the difference of two rows, since all rows of a cell are timed in each round.
All intervals come from the same resamples of the rounds, so that they fit together. The rows of the walk stand in the
order in which the run stored them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from report import units
from report.results import Results, cells
from report.statistics import CONFIDENCE, RESAMPLES, SEED
from report.stored import Cell, Record

WITHOUT, WITH = "without ", "with "
"""How the names of rows begin in which one switch is off, or a pass is on that is not in the full set."""

WORDS = {"replay": "no recording", "straight line": "no dispatch", "native": "native code"}
"""Switches that are no passes, in words of the page."""

FEWEST_ROUNDS = 3

Series = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of time, in seconds, with its interval; below zero is faster.

    `floor` is how far two rows that are the same lie apart: the cell's A/A control, as a share of the row's time.
    """

    name: str
    seconds: float
    low: float
    high: float
    floor: float

    @property
    def told(self) -> bool:
        """Whether the interval leaves no doubt that there is a change, beyond what a row shows against itself."""
        return self.low > self.floor or self.high < -self.floor


@dataclass(frozen=True, slots=True)
class Attribution:
    """One cell taken apart; `base_seconds` and `full_seconds` are medians of the first and the last row of the walk."""

    cell: Cell
    rounds: int
    base: str
    base_seconds: float
    full_seconds: float
    steps: tuple[Change, ...]
    whole: Change
    interaction: Change
    alone: tuple[Change, ...]
    alone_interaction: Change | None


def attributions(results: Results) -> list[Attribution]:
    """Every cell of the question whose walk was measured from its beginning to its end."""
    found = (_attribution(cell, rows, _reach(results, cell)) for cell, rows in cells(results.of("attribution")).items())
    return [one for one in found if one]


def _attribution(cell: Cell, rows: Sequence[Record], reach: float) -> Attribution | None:
    walk = [row for row in rows if not row.engine.startswith((WITHOUT, WITH))]
    measured = [row for row in rows if row.status == "measured"]
    rounds = {len(row.seconds_per_call) for row in measured}
    if len(walk) < 2 or not set(walk) <= set(measured) or len(rounds) > 1 or min(rounds) < FEWEST_ROUNDS:
        return None
    if len({row.file for row in measured}) > 1:  # rows of two runs share no round
        return None
    times = {row.engine: np.asarray(row.seconds_per_call) for row in measured}
    first, last = walk[0].engine, walk[-1].engine
    alone = {name.removeprefix(WITHOUT): times[last] - times[name] for name in times if name.startswith(WITHOUT)}
    more = {name: times[name] - times[last] for name in times if name.startswith(WITH)}
    begun = walk[0 if walk[1].engine in alone else 1].engine  # before the first switch that can be left out
    whole, rest = times[last] - times[first], times[last] - times[begun]

    base, full = float(np.median(times[first])), float(np.median(times[last]))

    def change(name: str, added: Series, taken: Iterable[Series] = (), of: float = base) -> Change:
        return _change(name, added, list(taken), reach * of)

    return Attribution(
        cell=cell,
        rounds=len(whole),
        base=first,
        base_seconds=base,
        full_seconds=full,
        steps=tuple(change(b.engine, times[b.engine] - times[a.engine]) for a, b in pairwise(walk)),
        whole=change("whole", whole),
        interaction=change("interaction", whole, (times[b.engine] - times[a.engine] for a, b in pairwise(walk))),
        alone=tuple(change(name, series, of=full) for name, series in (alone | more).items()),
        alone_interaction=change("interaction", rest, alone.values(), full) if alone else None,
    )


def _reach(results: Results, cell: Cell) -> float:
    """How far the cell's control reached from 1, relative; 0 where there was none."""
    controls = [row for run in results.runs if run.control for row in run.control.rows if row.cell == cell]
    return max((max(abs(row.low - 1), abs(row.high - 1)) for row in controls), default=0.0)


def _change(name: str, added: Series, taken: Sequence[Series], floor: float) -> Change:
    """The median of a series, less those of others, with a percentile bootstrap over rounds."""
    rounds = len(added)
    chosen = np.random.default_rng(SEED).integers(rounds, size=(RESAMPLES, rounds))

    def total(pick: NDArray[np.int64]) -> Series:
        less = [np.median(series[pick], axis=-1) for series in taken]
        return np.asarray(np.median(added[pick], axis=-1) - sum(less), dtype=np.float64)

    low, high = np.quantile(total(chosen), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Change(WORDS.get(name, name), float(total(np.arange(rounds))), float(low), float(high), floor)


def signed(change: Change) -> str:
    """A change in figures, with its sign and its interval."""
    text = units.spread(change.seconds, change.low, change.high, units.TIME)
    return f"+{text}" if change.seconds > 0 else text
