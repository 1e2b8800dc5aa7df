"""Estimate a time from its samples, and after how many steps preparing has paid for itself.

    estimate(samples)                      # Estimate(value, low, high, samples): the median, in seconds
    time_of(record)                        # the same of a row, with the interval that the row stores, if any
    judge(ratio.low, ratio.high)           # "faster", "slower" or "no difference"
    break_even(prepare, step, other_prepare, other_step).steps     # math.inf where it never pays

Intervals of our own are percentile bootstraps by scipy over the rounds of one launch; over launches, which are few,
they are Student's. Seeds are fixed, so the same file gives the same page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, t

from report.stored import Judgement, Record

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0
MOST_VALUES_AT_ONCE = 1_000_000  # keeps the resamples of a long training run within a few megabytes
SMALLEST_COST = 1e-12  # seconds; stands for "preparing costs nothing more", so that the rate below stays finite
FEWEST_LAUNCHES = 3
"""From this many on, a run takes its intervals over launches; so does what is derived from its samples."""
FEWEST_RESAMPLED = 8
"""A median of fewer rounds is not resampled for what is derived: of three, a bootstrap's interval holds the truth three
times in four."""

Samples = tuple[float, ...]
Draws = NDArray[np.float64]


class Series(NamedTuple):
    """The samples of a row, how many of them each launch took (none: there was one launch), and their stored level."""

    seconds: Samples
    launches: tuple[int, ...] = ()
    level: float | None = None


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
    """After how many steps, the first included, preparing has paid for itself; math.inf means never. Derived."""

    steps: float
    low: float | None
    high: float | None

    @property
    def word(self) -> Literal["pays off", "never", "cannot tell"]:
        """What the whole interval says: where it runs from a number of steps to never, nothing."""
        low, high = (self.steps if end is None else end for end in (self.low, self.high))
        if math.isinf(low):
            return "never"
        return "pays off" if math.isfinite(high) else "cannot tell"


@cache
def estimate(samples: Samples) -> Estimate:
    """The median of at least one sample with its interval, in the samples' unit."""
    value = float(np.median(samples))
    if len(samples) == 1:
        return Estimate(value, None, None, 1)
    return Estimate(value, *_ends(_resampled(samples, np.random.default_rng(SEED))), len(samples))


def level_of(series: Series) -> Estimate:
    """The level of a series with its interval, over launches where they are enough, as a run takes its own."""
    if len(series.launches) < FEWEST_LAUNCHES:
        return estimate(series.seconds)
    logs = np.log(_apart(series))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * _error(logs)
    value, low, high = (math.exp(float(logs.mean()) + end) for end in (0.0, -reach, reach))
    return Estimate(value, low, high, len(series.seconds))


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
    prepare: Series, step: Series, other_prepare: Series, other_step: Series, *, paired: bool = True
) -> BreakEven:
    """Count the steps until the first engine has caught up with the other; never where its step is no faster.

    Preparing holds the first step, so that both have taken one when they are ready. What a further step saves follows
    from the ratio of the two steps, taken round by round where they are `paired`, as the ratio of the page is. The
    interval is that of the rate of repayment (seconds saved a step over extra seconds of preparing), which stays finite
    where the number of steps does not. A single sample counts as a constant.
    """
    rng = np.random.default_rng(SEED)
    extra = _drawn(prepare, rng) - _drawn(other_prepare, rng)
    saved = _drawn(other_step, rng) * (1 - _drawn_ratio(step, other_step, rng, paired=paired))
    rate = saved / np.maximum(extra, SMALLEST_COST)
    if all(len(series.seconds) == 1 for series in (prepare, step, other_prepare, other_step)):
        return BreakEven(_steps(float(rate[0])), None, None)
    low, high = _ends(rate[1:])
    return BreakEven(_steps(float(rate[0])), _steps(high), _steps(low))


def step_ratio(step: Series, other: Series, *, paired: bool = True) -> float:
    """The level of one step over the other, round by round where they are `paired`."""
    return float(_drawn_ratio(step, other, np.random.default_rng(SEED), paired=paired)[0])


def share_interval(hits: int, trials: int) -> tuple[float, float]:
    """The Wilson interval of a share such as an accuracy, from `hits` in `trials`."""
    found = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def windows(values: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """At most `most` means of equal stretches of a series, with the (fractional, 1-based) position of each."""
    parts = np.array_split(np.arange(1, len(values) + 1), min(most, len(values)))
    series = np.asarray(values)
    return [float(part.mean()) for part in parts], [float(series[part - 1].mean()) for part in parts]


def _drawn_ratio(step: Series, other: Series, rng: np.random.Generator, *, paired: bool) -> Draws:
    if not paired or len(step.seconds) != len(other.seconds):
        return np.asarray(_drawn(step, rng) / _drawn(other, rng), dtype=np.float64)
    ratios = np.asarray(step.seconds) / np.asarray(other.seconds)
    return _drawn(Series(tuple(map(float, ratios)), step.launches), rng)


def _drawn(series: Series, rng: np.random.Generator) -> Draws:
    """The level of a series, and behind it what the level might as well have been, `RESAMPLES` times.

    The rounds of a launch share its processes, so only launches are independent. They are few, as rounds may be, and a
    bootstrap of few is too narrow: then the mean logarithm is drawn from Student's distribution, as the run takes it.
    """
    apart = _apart(series)
    if len(apart) == 1:
        return np.full(1 + RESAMPLES, series.level or apart[0])
    if len(series.launches) < FEWEST_LAUNCHES and len(apart) >= FEWEST_RESAMPLED:
        return np.concatenate([[series.level or float(np.median(apart))], _resampled(series.seconds, rng)])
    logs = np.log(apart)
    off = rng.standard_t(len(logs) - 1, RESAMPLES) * _error(logs)
    level = series.level or float(np.exp(logs.mean()))
    return np.asarray(level * np.exp(np.concatenate([[0.0], off])), dtype=np.float64)


def _apart(series: Series) -> Draws:
    """What counts as independent: the medians of launches where they are enough, or else the rounds."""
    seconds = np.asarray(series.seconds)
    if len(series.launches) < FEWEST_LAUNCHES:
        return seconds
    return np.asarray([np.median(part) for part in np.split(seconds, np.cumsum(series.launches)[:-1])])


def _error(logs: Draws) -> float:
    """The standard error of a mean."""
    return float(logs.std(ddof=1)) / math.sqrt(len(logs))


def _resampled(samples: Samples, rng: np.random.Generator) -> Draws:
    """The medians of a bootstrap."""
    found = bootstrap(
        (np.asarray(samples),),
        np.median,
        n_resamples=RESAMPLES,
        batch=max(1, MOST_VALUES_AT_ONCE // len(samples)),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=rng,
    )
    return np.asarray(found.bootstrap_distribution, dtype=np.float64)


def _ends(draws: Draws) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _steps(rate: float) -> float:
    return 1 + 1 / rate if rate > 0 else math.inf
