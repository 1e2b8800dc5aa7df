"""Estimate a time from its samples, and after how many steps preparing has paid for itself.

    estimate(samples)                      # Estimate(value, low, high, samples): the median, in seconds
    time_of(record)                        # the same of a row, with the interval that the row stores, if any
    judge(ratio.low, ratio.high)           # "faster", "slower" or "no difference"
    break_even(prepare, step, other_prepare, other_step).steps     # math.inf where it never pays

All intervals of our own are percentile bootstraps by scipy with a fixed seed, so the same file gives the same page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from report.stored import Judgement, Record

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0
MOST_VALUES_AT_ONCE = 1_000_000  # keeps the resamples of a long training run within a few megabytes
SMALLEST_COST = 1e-12  # seconds; stands for "preparing costs nothing more", so that the rate below stays finite

Samples = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A level with its interval, in the unit of the samples; no interval from a single sample."""

    value: float
    low: float | None
    high: float | None
    samples: int

    def per(self, number: int) -> Estimate:
        """The same estimate for one of `number` equal parts."""
        low = None if self.low is None else self.low / number
        high = None if self.high is None else self.high / number
        return Estimate(self.value / number, low, high, self.samples)


@dataclass(frozen=True, slots=True)
class BreakEven:
    """After how many steps preparing has paid for itself; math.inf means never. Derived from four medians."""

    steps: float
    low: float | None
    high: float | None


@cache
def estimate(samples: Samples) -> Estimate:
    """The median of at least one sample with its interval, in the samples' unit."""
    value = float(np.median(samples))
    if len(samples) == 1:
        return Estimate(value, None, None, 1)
    result = bootstrap(
        (np.asarray(samples),),
        np.median,
        n_resamples=RESAMPLES,
        batch=max(1, MOST_VALUES_AT_ONCE // len(samples)),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return Estimate(value, float(result.confidence_interval.low), float(result.confidence_interval.high), len(samples))


def time_of(row: Record) -> Estimate:
    """The level of a measured row in seconds, with the interval that it stores, or else with one of our own."""
    if row.interval is None:
        return estimate(row.seconds_per_call)
    value = row.interval.value or float(np.median(row.seconds_per_call))
    return Estimate(value, row.interval.low, row.interval.high, len(row.seconds_per_call))


def judge(low: float, high: float) -> Judgement:
    """What the interval of a time ratio says; an interval that holds 1 shows no difference."""
    if high < 1:
        return "faster"
    return "slower" if low > 1 else "no difference"


def break_even(
    prepare_seconds: Samples, step_seconds: Samples, other_prepare_seconds: Samples, other_step_seconds: Samples
) -> BreakEven:
    """Count the steps until the first engine has caught up with the other; never where its step is no faster.

    The bootstrap runs on the rate of repayment (seconds saved per step over extra seconds of preparing), which stays
    finite where the number of steps does not. A single sample counts as a constant.
    """
    samples = (prepare_seconds, step_seconds, other_prepare_seconds, other_step_seconds)
    prepare, step, other_prepare, other_step = (np.asarray(it if len(it) > 1 else it * 2) for it in samples)
    rate = float(_repayment(prepare, step, other_prepare, other_step))
    if all(len(sample) == 1 for sample in samples):
        return BreakEven(_steps(rate), None, None)
    result = bootstrap(
        (prepare, step, other_prepare, other_step),
        _repayment,
        n_resamples=RESAMPLES,
        vectorized=True,
        paired=False,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return BreakEven(
        _steps(rate), _steps(float(result.confidence_interval.high)), _steps(float(result.confidence_interval.low))
    )


def share_interval(hits: int, trials: int) -> tuple[float, float]:
    """The Wilson interval of a share such as an accuracy, from `hits` in `trials`."""
    found = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def windows(values: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """At most `most` means of equal stretches of a series, with the (fractional, 1-based) position of each."""
    parts = np.array_split(np.arange(1, len(values) + 1), min(most, len(values)))
    series = np.asarray(values)
    return [float(part.mean()) for part in parts], [float(series[part - 1].mean()) for part in parts]


def _repayment(
    prepare: NDArray[np.float64],
    step: NDArray[np.float64],
    other_prepare: NDArray[np.float64],
    other_step: NDArray[np.float64],
    axis: int = -1,
) -> NDArray[np.float64]:
    saved = np.median(other_step, axis=axis) - np.median(step, axis=axis)
    cost = np.median(prepare, axis=axis) - np.median(other_prepare, axis=axis)
    return np.asarray(saved / np.maximum(cost, SMALLEST_COST), dtype=np.float64)


def _steps(rate: float) -> float:
    return 1 / rate if rate > 0 else math.inf
