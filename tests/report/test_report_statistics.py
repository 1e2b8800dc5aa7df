"""Estimates, judgements and the break-even, against what can be said without a computer."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from report.repayment import steps_text
from report.statistics import (
    BreakEven,
    Series,
    break_even,
    estimate,
    judge,
    level_of,
    share_interval,
    step_ratio,
    windows,
)
from report.units import TIME, count, interval, percent, plural, ratio, seconds, size, spread, tick


def test_the_estimate_is_the_median_inside_its_interval() -> None:
    samples = tuple(float(it) for it in np.random.default_rng(1).lognormal(0, 0.1, 40))
    found = estimate(samples)
    assert found.value == np.median(samples)
    assert found.low is not None
    assert found.high is not None
    assert min(samples) < found.low < found.value < found.high < max(samples)
    assert found.samples == 40


def test_the_estimate_is_the_same_every_time() -> None:
    samples = tuple(float(it) for it in np.random.default_rng(5).lognormal(0, 0.1, 101))
    assert estimate.__wrapped__(samples) == estimate.__wrapped__(samples)
    pair = (samples, tuple(2 * it for it in samples))
    rows = of(pair[1], pair[0], pair[0], pair[1])
    assert break_even(*rows) == break_even(*rows)


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(150):
        found = estimate(tuple(float(it) for it in rng.normal(10, 1, 25)))
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 10 <= found.high
    assert 0.88 <= hits / 150 <= 1.0


def test_one_sample_has_no_interval() -> None:
    found = estimate((3.0,))
    assert (found.value, found.low, found.high, found.samples) == (3.0, None, None, 1)
    assert found.per(3).value == 1.0


def test_an_estimate_is_shared_out() -> None:
    whole = estimate((2.0, 4.0, 6.0))
    part = whole.per(2)
    assert (part.value, part.samples) == (2.0, 3)
    assert part.low == pytest.approx((whole.low or math.nan) / 2)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.8, 0.9, "faster"),
        (1.1, 1.2, "slower"),
        (0.9, 1.1, "no difference"),
        (1.0, 1.2, "no difference"),
        (0.8, 1.0, "no difference"),
    ],
)
def test_an_interval_that_holds_one_shows_no_difference(low: float, high: float, word: str) -> None:
    assert judge(low, high) == word


def of(*rows: tuple[float, ...]) -> list[Series]:
    """Rows of a single launch."""
    return [Series(row) for row in rows]


def test_break_even_is_extra_cost_over_seconds_saved_after_the_first_step_which_preparing_holds() -> None:
    found = break_even(*of((5.0,), (0.1,), (1.0,), (0.3,)))
    assert found.steps == pytest.approx(21)
    assert (found.low, found.high) == (None, None)
    ours, theirs = (ready + 20 * step for ready, step in ((5.0, 0.1), (1.0, 0.3)))  # one step is taken when ready
    assert ours == pytest.approx(theirs)


def test_break_even_has_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(3)
    rows = [tuple(float(centre * it) for it in rng.lognormal(0, 0.05, 15)) for centre in (5.0, 0.1, 1.0, 0.3)]
    for paired in (True, False):
        found = break_even(*of(*rows), paired=paired)
        assert found.low is not None
        assert found.high is not None
        assert 15 < found.low < found.steps < found.high < 26


@pytest.mark.parametrize("step", [0.3, 0.4])
def test_a_step_that_is_no_faster_never_pays(step: float) -> None:
    for prepare in (5.0, 0.5):  # even where preparing is cheaper
        found = break_even(*of((prepare,), (step,), (1.0,), (0.3,)))
        assert math.isinf(found.steps)
        assert found.word == "never"


def test_a_faster_step_that_costs_nothing_more_pays_at_once() -> None:
    found = break_even(*of((1.0,), (0.1,), (1.0,), (0.3,)))
    assert steps_text(found) == "from the first step"


def test_an_unsure_saving_may_never_pay() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = (tuple(float(it) for it in rng.lognormal(mean, 0.4, 15)) for mean in (-0.05, 0.0))
    found = break_even(*of((5.0,), ours, (1.0,), theirs))
    assert found.high == math.inf
    assert found.word == "cannot tell"


def test_rounds_that_drift_together_leave_no_doubt_of_a_saving() -> None:
    drift = tuple(float(it) for it in np.linspace(1.0, 3.0, 30))
    rows = of((5.0,), tuple(0.9 * it for it in drift), (1.0,), drift)
    found = break_even(*rows)
    assert found.word == "pays off"
    assert step_ratio(rows[1], rows[3]) == pytest.approx(0.9)
    assert break_even(*rows, paired=False).word == "cannot tell"


def test_launches_are_what_is_independent_not_their_rounds() -> None:
    """Each launch lies on a level of its own, of 20 rounds that agree: over rounds a saving, over launches none."""
    levels, rounds = (0.80, 1.10, 0.85, 0.84, 1.12), 20
    ours = tuple(level for level in levels for _ in range(rounds))
    theirs = (1.0,) * len(ours)
    launches = (rounds,) * len(levels)
    as_rounds = break_even(Series((5.0,)), Series(ours), Series((1.0,)), Series(theirs))
    as_launches = break_even(Series((5.0,)), Series(ours, launches), Series((1.0,)), Series(theirs, launches))
    assert as_rounds.word == "pays off"
    assert as_launches.word == "cannot tell"
    logs = np.log(levels)
    assert step_ratio(Series(ours, launches), Series(theirs, launches)) == pytest.approx(np.exp(logs.mean()))


def test_few_rounds_are_not_resampled() -> None:
    """A bootstrap of three ends at the least and the largest."""
    found = break_even(*of((4.9, 5.0, 5.1), (0.1,), (1.0,), (0.3,)))
    assert found.low is not None
    assert found.high is not None
    logs = np.log([4.9, 5.0, 5.1])
    reach = stats.t.ppf(0.975, 2) * stats.sem(logs)
    wanted = [1 + (np.exp(logs.mean() + end) - 1.0) / 0.2 for end in (-reach, reach)]
    assert [found.low, found.high] == pytest.approx(wanted, rel=0.02)


def test_the_level_that_a_row_stores_is_kept() -> None:
    rows = of((4.9, 5.0, 5.2), (0.1,), (1.0,), (0.3,))
    assert break_even(rows[0]._replace(level=5.0), *rows[1:]).steps == pytest.approx(21)


def test_a_level_over_launches_is_their_mean_logarithm_with_student_s_interval() -> None:
    """As a run takes the interval of its times, so the page that of the device's, which the run does not store."""
    rng = np.random.default_rng(9)
    levels = np.repeat([1.0, 1.2, 0.9, 1.1], 30)
    samples = tuple(float(it) for it in levels * rng.lognormal(0, 0.01, 120))
    found, alone = level_of(Series(samples, (30,) * 4)), level_of(Series(samples))
    logs = np.log([np.median(part) for part in np.split(np.asarray(samples), 4)])
    low, high = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    assert (found.value, found.low, found.high) == pytest.approx(np.exp([logs.mean(), low, high]))
    assert found.samples == 120
    assert alone == estimate(samples)


def test_over_launches_the_interval_is_as_wide_as_student_says() -> None:
    """Where the steps alone are unsure, the ends are those of the interval that a run stores for their ratio."""
    levels = (0.50, 0.52, 0.47, 0.51, 0.49, 0.53)
    logs = np.log(levels)
    reach = stats.t.ppf(0.975, len(levels) - 1) * stats.sem(logs)
    one_each = (1,) * len(levels)
    found = break_even(Series((5.0,)), Series(levels, one_each), Series((1.0,)), Series((1.0,) * 6, one_each))
    fast, slow = (1 + 4.0 / (1 - np.exp(logs.mean() + end)) for end in (-reach, reach))
    assert (found.low, found.high) == (pytest.approx(fast, rel=0.02), pytest.approx(slow, rel=0.02))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (BreakEven(math.inf, math.inf, math.inf), "never"),
        (BreakEven(math.inf, None, None), "never"),
        (BreakEven(math.inf, 900.2, math.inf), "cannot tell [901,_never]"),  # the interval holds 901 steps
        (BreakEven(322_201.0, 779.5, math.inf), "cannot tell [780,_never]"),
        (BreakEven(math.inf, 1.0, math.inf), "cannot tell [1,_never]"),
        (BreakEven(5e6, 1_234_567.0, math.inf), "cannot tell [1~230~000,_never]"),
        (BreakEven(19.01, 17.5, 22.0), "after 20_steps [18,_22]"),
        (BreakEven(1768.2, 1522.0, 2107.0), "after 1~770_steps [1~520,_2~110]"),
        (BreakEven(3235.0, 1.2, 30_940.0), "after 3~000_steps [1,_31~000]"),
        (BreakEven(322_201.0, None, None), "after 322~000_steps"),
        (BreakEven(20.0 + 1e-9, None, None), "after 20_steps"),
        (BreakEven(1.5, None, None), "after 2_steps"),
        (BreakEven(1.0, None, None), "from the first step"),
        (BreakEven(1.0, 1.0, 1.4), "from the first step [1,_2]"),
    ],
)
def test_break_even_in_words(result: BreakEven, text: str) -> None:
    assert plain(steps_text(result)) == text


def test_a_share_has_a_wilson_interval() -> None:
    low, high = share_interval(470, 500)
    assert low == pytest.approx(0.9156, abs=1e-3)
    assert high == pytest.approx(0.9576, abs=1e-3)
    assert share_interval(500, 500)[1] == pytest.approx(1.0)


def test_windows_are_means_of_equal_stretches() -> None:
    assert windows([1.0, 3.0, 5.0, 7.0], 2) == ([1.5, 3.5], [2.0, 6.0])
    assert windows([1.0, 3.0], 200) == ([1.0, 2.0], [1.0, 3.0])


def plain(text: str) -> str:
    """Text in ASCII, with the spaces that hold units and thousands together made visible."""
    text = text.replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{MINUS SIGN}", "-")
    return text.replace("\N{NO-BREAK SPACE}", "_").replace("\N{NARROW NO-BREAK SPACE}", "~")


UNITS = SimpleNamespace(
    cases=[
        (seconds(0.0036171), "3.62_ms"),
        (seconds(0.6e-6), "600_ns"),
        (seconds(12.0), "12.0_s"),
        (seconds(1234.5), "1~234_s"),
        (size(900 * 2**20), "900_MiB"),
        (size(1536), "1.50_KiB"),
        (size(0), "0_B"),
        (ratio(0.8, 0.78, 0.83), "0.800_x [0.780,_0.830]"),
        (ratio(1.02, 1.001, 1.04), "1.020_x [1.001,_1.040]"),
        (ratio(25.0), "25.0_x"),
        (spread(0.0036171, 0.0035, 0.0038, TIME), "3.62_ms [3.50,_3.80]"),
        (interval(0.0035, 0.0038, 1e-3, 1), "[3.5,_3.8]"),
        (percent(0.031), "3.1_%"),
        (percent(-0.018), "-1.8_%"),
        (count(10_000), "10~000"),
        (count(math.inf), "never"),
        (plural(1, "sample"), "1_sample"),
        (plural(2, "sample"), "2_samples"),
        (tick(0.03, TIME), "30_ms"),
    ]
)


@pytest.mark.parametrize(("found", "expected"), UNITS.cases)
def test_numbers_carry_three_digits_and_their_unit(found: str, expected: str) -> None:
    assert plain(found) == expected
