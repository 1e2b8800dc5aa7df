"""Ratios with intervals, by scipy.

ratio = paired_ratio(ours, theirs)      # seconds of the same rounds
ratio.low, ratio.value, ratio.high
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of round-by-round ratios, with a bootstrap interval. Below 1: the first is faster."""

    value: float
    low: float
    high: float
    confidence: float
    rounds: int


def paired_ratio(seconds: Sequence[float], others: Sequence[float], seed: int = 0) -> Ratio | None:
    """Ratio of two series measured in the same rounds; None with fewer than three rounds.

    Each round gives one ratio, so a machine that slows down slows both sides of it. The interval is the percentile
    bootstrap of the median (Efron and Tibshirani, 1993): the bias-corrected one fails on samples with ties.
    """
    if len(seconds) != len(others):
        raise ValueError(f"paired_ratio: {len(seconds)} rounds against {len(others)}")
    if len(seconds) < 3:
        return None
    ratios = np.asarray(seconds) / np.asarray(others)
    found = stats.bootstrap(
        (ratios,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = found.confidence_interval
    return Ratio(float(np.median(ratios)), float(interval.low), float(interval.high), CONFIDENCE, len(ratios))
