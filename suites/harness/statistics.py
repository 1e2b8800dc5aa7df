"""What samples say: medians and ratios with intervals, verdicts, and what an A/A control allows one to claim. By scipy.

ratio = paired_ratio(ours, theirs)      # seconds of the same rounds
ratio.low, ratio.value, ratio.high
verdict(ratio, control, margin=0.02)    # "faster", "slower", "no difference" or "cannot tell"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST_ROUNDS = 3

Verdict = Literal["faster", "slower", "no difference", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with its bootstrap interval; seconds per call."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of round-by-round ratios, with a bootstrap interval. Below 1: the first is faster."""

    value: float
    low: float
    high: float
    confidence: float
    rounds: int

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
    """What a session's A/A controls say, each the same engine in two processes under the same schedule.

    `smallest_effect` is relative: what differs by less cannot be told from a difference between two processes that run
    the same. It is the 95th percentile, over the controls, of the far end of their intervals.
    """

    cells: int
    false_alarms: int
    smallest_effect: float | None


def median_interval(seconds: Sequence[float], seed: int = 0) -> Interval | None:
    """The median of a series; None with fewer than three samples."""
    if len(seconds) < FEWEST_ROUNDS:
        return None
    low, high = _bootstrap(np.asarray(seconds), seed)
    return Interval(float(np.median(seconds)), low, high)


def paired_ratio(seconds: Sequence[float], others: Sequence[float], seed: int = 0) -> Ratio | None:
    """Ratio of two series measured in the same rounds; None with fewer than three rounds.

    Each round gives one ratio, so a machine that slows down slows both sides of it.
    """
    if len(seconds) != len(others):
        raise ValueError(f"paired_ratio: {len(seconds)} rounds against {len(others)}")
    if len(seconds) < FEWEST_ROUNDS:
        return None
    ratios = np.asarray(seconds) / np.asarray(others)
    low, high = _bootstrap(ratios, seed)
    return Ratio(float(np.median(ratios)), low, high, CONFIDENCE, len(ratios))


def _bootstrap(series: np.ndarray[Any, Any], seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the median (Efron and Tibshirani, 1993): the bias-corrected one fails on ties."""
    found = stats.bootstrap(
        (series,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def verdict(ratio: Ratio, control: Ratio | None, margin: float) -> Verdict:
    """What may be claimed of a ratio, beside the ratio of one engine to itself in the same rounds.

    `margin` is the smallest difference that this effort means to resolve. An interval tells how well the rounds of
    these processes agree, not how far two processes that run the same lie apart, which is often some per cent: so a
    difference lies wholly beyond `margin`, and further from 1 than the control's interval reaches on either side: which
    of two processes is the slow one is chance, and the slow one may be in this ratio. There is none where the whole
    interval lies within `margin` of 1. Between the two lies what cannot be told.
    """
    least, most = 1.0 / (1.0 + margin), 1.0 + margin  # the same whichever of the two is put over the other
    floor, ceiling = least, most
    if control is not None:
        apart = max(control.high, 1.0 / control.low)
        floor, ceiling = min(least, 1.0 / apart), max(most, apart)
    if ratio.high < floor:
        return "faster"
    if ratio.low > ceiling:
        return "slower"
    return "no difference" if least <= ratio.low and ratio.high <= most else "cannot tell"


def control(ratios: Sequence[Ratio]) -> Control:
    """The A/A controls of a session together."""
    reaches = [max(abs(ratio.low - 1.0), abs(ratio.high - 1.0)) for ratio in ratios]
    smallest = float(np.quantile(reaches, CONFIDENCE)) if reaches else None
    return Control(len(ratios), sum(ratio.excludes_one for ratio in ratios), smallest)
