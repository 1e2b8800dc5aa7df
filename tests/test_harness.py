"""The harness: what it times, in which order, what it refuses to time, and what it stores."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest

from engines.tape.engine import TapeEngine
from suites.harness import agreement, clock, progress, statistics
from suites.harness.cell import Cell

IMAGES = Cell("backward", "lenet5", "loss_and_grad", 4)


def test_a_ratio_is_paired_so_that_common_drift_cancels():
    drift = [1.005**i for i in range(60)]
    noise = random.Random(1)
    ours = [0.5 * d * (1 + noise.gauss(0, 0.003)) for d in drift]
    theirs = [d * (1 + noise.gauss(0, 0.003)) for d in drift]
    found = statistics.paired_ratio(ours, theirs)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(0.5, rel=0.01)
    assert found.high - found.low < 0.01
    assert statistics.paired_ratio([1.0, 1.0], [1.0, 1.0]) is None
    with pytest.raises(ValueError, match="3 rounds against 2"):
        statistics.paired_ratio([1, 1, 1], [1, 1])


def test_the_interval_of_equal_engines_nearly_always_holds_one():
    noise = np.random.default_rng(0)
    misses = 0
    for seed in range(200):
        ours, theirs = np.exp(noise.normal(0, 0.05, (2, 30)))
        found = statistics.paired_ratio(list(ours), list(theirs), seed)
        misses += not found.low <= 1 <= found.high
    assert misses <= 22  # 5 % of 200 are 10; 22 is beyond three standard deviations


def test_a_sample_is_long_enough_for_the_clock_and_the_collector_is_off_within():
    import gc

    assert clock.calls_per_sample(clock.SHORTEST_SAMPLE_SECONDS / 8) == 8
    assert clock.calls_per_sample(0.5) == 1
    states = []
    found = clock.seconds(lambda: (states.append(gc.isenabled()), time.sleep(0.01)), 3, "cpu")
    assert states == [False] * 3
    assert gc.isenabled()
    assert 0.01 <= found < 0.1


def test_the_tolerance_is_twice_eager_s_error_plus_a_little():
    wanted = np.array([3.0, 4.0])
    assert agreement.relative_error(wanted * 1.01, wanted) == pytest.approx(0.01)
    assert agreement.relative_error(wanted[:1], wanted) == math.inf
    assert agreement.relative_error(np.array([math.nan, 4.0]), wanted) == math.inf
    assert agreement.relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    found = agreement.check(TapeEngine().prepare(IMAGES.task()), IMAGES)
    assert found.verdict == "agrees"
    assert 0 <= found.error <= found.allowed < 1e-5


def test_progress_says_how_far_and_how_long_and_is_silent_without_a_terminal():
    lines = []
    bar = progress.Progress(3, lines.append)
    bar.show("a")
    bar.finish_cell()
    bar.show("b")
    assert lines[0] == "[0/3] a"
    assert lines[1].startswith("[1/3] b, about ")
    progress.Progress(3, None).show("nothing")


def test_cells_of_a_suite_differ_in_name_and_know_their_facts():
    cell = Cell("dispatch", "chain", "loss_and_grad", knobs=(("elements", 1), ("ops", 300)))
    assert cell.name == "chain-elements1-ops300-loss_and_grad-cpu"
    assert cell.facts()["size"] == {"elements": 1, "ops": 300}
    assert Cell("step", "cnn", "step", 64).name == "cnn-b64-cpu"
