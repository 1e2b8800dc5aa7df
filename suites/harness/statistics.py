"""What samples say: medians and ratios with intervals, verdicts, and what an A/A control allows one to claim. By scipy.

ratio = paired_ratio(ours, theirs)                  # seconds of the same rounds
ratio = paired_ratio(ours, theirs, [20, 20, 20])    # of the same rounds in three launches
ratio.low, ratio.value, ratio.high
verdict(ratio, control, margin=0.02)    # "faster", "slower", "no difference" or "cannot tell"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST_ROUNDS = 3
FEWEST_LAUNCHES = 3
"""From this many on, an interval is taken over launches."""

FEWEST_RESAMPLED = 8
"""A median of fewer is not resampled: of three, the interval would be from the least to the largest, and hold the truth
three times in four."""

UNCONTROLLED = 1.25
"""How far two processes that run the same may lie apart, where no control shows it: the control of a single launch
reached further in 3 of 485 cells, over all runs on a CPU that stood in `results/` when this was chosen. The page says
the same (`report/limitations.py`)."""

Verdict = Literal["faster", "slower", "no difference", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A level with its interval; seconds per call."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio paired by round, with its interval. Below 1: the first is faster.

    In one launch (a process for each of the two) it is the median over rounds (of fewer than `FEWEST_RESAMPLED`, their
    geometric mean), and the interval tells how well these rounds agree. In `FEWEST_LAUNCHES` or more it is the
    geometric mean of the launches' medians, and the interval tells how well launches agree: it holds what differs from
    process to process.
    """

    value: float
    low: float
    high: float
    confidence: float
    rounds: int
    launches: int = 1

    @property
    def width(self) -> float:
        """The interval's width, relative to the ratio."""
        return (self.high - self.low) / self.value

    @property
    def excludes_one(self) -> bool:
        """Whether the interval alone would call the two different."""
        return self.high < 1.0 or self.low > 1.0


@dataclass(frozen=True, slots=True)
class Control:
    """What a session's A/A controls say, each the same engine twice, in processes of its own, under the same schedule.

    `smallest_effect` is relative: the 95th percentile, over the controls, of the far end of their intervals, which is
    how far processes that run the same seem to lie apart. A verdict is held against the control of its own cell.
    """

    cells: int
    false_alarms: int
    smallest_effect: float | None


def median_interval(seconds: Sequence[float], launches: Sequence[int] = (), seed: int = 0) -> Interval | None:
    """The level of a series; None with fewer than three samples. `launches`: how many samples each launch took."""
    if len(seconds) < FEWEST_ROUNDS:
        return None
    return Interval(*_level(np.asarray(seconds), launches, seed))


def paired_ratio(
    seconds: Sequence[float], others: Sequence[float], launches: Sequence[int] = (), seed: int = 0
) -> Ratio | None:
    """Ratio of two series measured in the same rounds; None with fewer than three rounds.

    Each round gives one ratio, so a machine that slows down slows both sides of it. `launches`: how many of the rounds,
    in their order, each launch took; without it there was one.
    """
    if len(seconds) != len(others):
        raise ValueError(f"paired_ratio: {len(seconds)} rounds against {len(others)}")
    if len(seconds) < FEWEST_ROUNDS:
        return None
    ratios = np.asarray(seconds) / np.asarray(others)
    return Ratio(*_level(ratios, launches, seed), CONFIDENCE, len(ratios), max(1, len(launches)))


def _level(series: np.ndarray[Any, Any], launches: Sequence[int], seed: int) -> tuple[float, float, float]:
    """The level, and its interval: over launches where they are enough, or else over rounds.

    The rounds of a launch share its processes and are not independent; launches are (Kalibera and Jones, Rigorous
    benchmarking in reasonable time, 2013).
    """
    if len(launches) >= FEWEST_LAUNCHES:
        return _students(np.asarray([np.median(part) for part in np.split(series, np.cumsum(launches)[:-1])]))
    if len(series) < FEWEST_RESAMPLED:
        return _students(series)
    return float(np.median(series)), *_bootstrap(series, seed)


def _students(series: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """The geometric mean and Student's interval of it: for few values a bootstrap's intervals are too narrow."""
    logs = np.log(series)
    level = logs.mean()
    reach = stats.t.ppf((1.0 + CONFIDENCE) / 2.0, len(logs) - 1) * stats.sem(logs)
    return float(np.exp(level)), float(np.exp(level - reach)), float(np.exp(level + reach))


def _bootstrap(series: np.ndarray[Any, Any], seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the median (Efron and Tibshirani, 1993): the bias-corrected one fails on ties.

    Which ranks a resample's median comes from does not depend on the series, so they are drawn once for a length.
    """
    ordered, (lower, upper) = np.sort(series), _resampled_middles(len(series), seed)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile((ordered[lower] + ordered[upper]) / 2.0, (tail, 1.0 - tail))
    return float(low), float(high)


@lru_cache(maxsize=256)
def _resampled_middles(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The ranks of the two middle elements (of an odd `count` twice the same) of each resample of that many."""

    def at(place: int) -> np.ndarray[Any, Any]:
        found = stats.bootstrap(
            (np.arange(float(count)),),
            lambda ranks, axis: np.partition(ranks, place, axis=axis).take(place, axis=axis),
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),  # the same for both: the same resamples
        )
        return np.asarray(found.bootstrap_distribution, dtype=np.intp)

    return at((count - 1) // 2), at(count // 2)


def verdict(ratio: Ratio, control: Ratio | None, margin: float) -> Verdict:
    """What may be claimed of a ratio, beside the ratio of one engine to itself in the same rounds.

    `margin` is the smallest difference that this effort means to resolve: a difference lies wholly beyond it, and there
    is none where the whole interval lies within it. Between the two lies what cannot be told.

    The interval of a single launch tells how well its rounds agree, not how far two processes that run the same lie
    apart, which is often some per cent. There a difference also lies further from 1 than the control's interval reaches
    on either side: which of two processes is the slow one is chance, and the slow one may be in this ratio. And there
    is none only where the interval, made wider by as much, still lies within the margin.
    """
    most = 1.0 + margin  # turned over: the same whichever of the two is put over the other
    apart = 1.0 if ratio.launches >= FEWEST_LAUNCHES else _apart(control)
    if ratio.high < 1.0 / max(most, apart):
        return "faster"
    if ratio.low > max(most, apart):
        return "slower"
    return "no difference" if ratio.high * apart <= most and ratio.low / apart >= 1.0 / most else "cannot tell"


def _apart(control: Ratio | None) -> float:
    """By what factor two processes that run the same may differ."""
    return UNCONTROLLED if control is None else max(control.high, 1.0 / control.low)


def control(ratios: Sequence[Ratio]) -> Control:
    """The A/A controls of a session together."""
    reaches = [max(abs(ratio.low - 1.0), abs(ratio.high - 1.0)) for ratio in ratios]
    smallest = float(np.quantile(reaches, CONFIDENCE)) if reaches else None
    return Control(len(ratios), sum(ratio.excludes_one for ratio in ratios), smallest)


def control_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run stores of its controls: each row as it was kept, and what all say together."""
    names = [field.name for field in fields(Ratio)]
    return {**asdict(control([Ratio(**{name: row[name] for name in names}) for row in rows])), "rows": list(rows)}
