"""The harness: what it times, in which order, what it refuses to time, and what it stores."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from suites.harness import clock, progress, statistics
from suites.harness.cell import Cell
from suites.harness.deal import blocks
from suites.harness.rest import rest, set_apart, threads
from suites.harness.warming import WINDOW, warm_up
from suites.harness.worker import whole_float32


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
        found = statistics.paired_ratio(list(ours), list(theirs), seed=seed)
        misses += not found.low <= 1 <= found.high
    assert misses <= 22  # 5 % of 200 are 10; 22 is beyond three standard deviations


@pytest.mark.parametrize("rounds", [3, 5, 7, 10])
def test_the_interval_of_few_rounds_is_wide_enough_too(rounds):
    noise = np.random.default_rng(rounds)
    series = [list(np.exp(noise.normal(0, 0.05, rounds))) for _ in range(400)]
    found = [statistics.paired_ratio(each, [1.0] * rounds) for each in series]
    assert sum(not one.low <= 1 <= one.high for one in found) <= 36  # 5 % of 400 are 20; 36 is beyond three deviations
    levels = [statistics.median_interval(each) for each in series]
    assert [(one.low, one.high) for one in levels] == [(one.low, one.high) for one in found]


@pytest.mark.parametrize("rounds", [8, 9, 60, 175])
def test_an_interval_is_that_of_a_percentile_bootstrap_of_the_median(rounds):
    series = np.exp(np.random.default_rng(rounds).normal(0, 0.05, rounds))
    found = statistics.median_interval(list(series), seed=3)
    wanted = stats.bootstrap(
        (np.sort(series),),
        np.median,
        n_resamples=statistics.RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-12)


def launched(noise, launches, rounds, apart=0.02, spread=0.05):
    """Two series whose launches differ by what processes do, and whose rounds vary besides."""
    levels = noise.normal(0, apart, (2, launches, 1))
    return np.exp(levels + noise.normal(0, spread, (2, launches, rounds))).reshape(2, -1)


def test_an_interval_over_launches_holds_what_differs_from_process_to_process():
    noise, missed = np.random.default_rng(0), {1: 0, 6: 0}
    for _ in range(200):
        for launches in missed:
            counts = [120 // launches] * launches
            found = statistics.paired_ratio(*launched(noise, launches, counts[0]), counts)
            missed[launches] += found.excludes_one
            assert (found.launches, found.rounds) == (launches, 120)
    assert missed[6] <= 22  # 5 % of 200 are 10; 22 is beyond three standard deviations
    assert missed[1] > 100


def test_launches_count_alike_whatever_the_number_of_their_rounds():
    ours = [2.0] * 10 + [4.0] * 3 + [8.0] * 5
    found = statistics.paired_ratio(ours, [1.0] * 18, [10, 3, 5])
    assert found.value == pytest.approx(4.0)
    assert found.high / found.value == pytest.approx(found.value / found.low)
    level = statistics.median_interval(ours, [10, 3, 5])
    assert (level.value, level.low, level.high) == pytest.approx((found.value, found.low, found.high))
    assert statistics.paired_ratio(ours, [1.0] * 18, [10, 8]).value == 2.0  # of two launches, the median of all rounds
    same = statistics.paired_ratio([3.0] * 9, [2.0] * 9, [3, 3, 3])
    assert (same.low, same.value, same.high) == pytest.approx((1.5, 1.5, 1.5))


def test_beside_an_interval_over_launches_the_control_says_no_more():
    apart = statistics.Ratio(0.98, 1.01, 1.04, 0.95, 30)
    found = statistics.Ratio(1.03, 1.02, 1.04, 0.95, 30)
    for launches, claim in ((1, "cannot tell"), (5, "slower")):
        found = statistics.Ratio(1.03, 1.02, 1.04, 0.95, 30, launches)
        assert statistics.verdict(found, apart, margin=0.01) == claim


def test_a_sample_is_long_enough_for_the_clock_and_the_collector_is_off_within():
    import gc

    assert clock.calls_per_sample(clock.SHORTEST_SAMPLE_SECONDS / 8) == 8
    assert clock.calls_per_sample(0.5) == 1
    states = []
    found = clock.seconds(lambda: (states.append(gc.isenabled()), time.sleep(0.01)), 3, "cpu")
    assert states == [False] * 3
    assert gc.isenabled()
    assert 0.01 <= found < 0.1


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


def ratio(low, value, high, launches=1):
    return statistics.Ratio(value, low, high, 0.95, 30, launches)


def turned_over(found):
    return found and ratio(1.0 / found.high, 1.0 / found.value, 1.0 / found.low, found.launches)


@pytest.mark.parametrize(
    ("found", "control", "claim"),
    [
        (ratio(0.90, 0.91, 0.92, 5), None, "faster"),
        (ratio(1.08, 1.09, 1.10, 5), None, "slower"),
        (ratio(0.995, 1.0, 1.005, 5), None, "no difference"),
        (ratio(1.002, 1.004, 1.006, 5), None, "no difference"),
        (ratio(1.005, 1.015, 1.025, 5), None, "cannot tell"),
        (ratio(1.012, 1.015, 1.018, 5), None, "slower"),
        (ratio(1.0101, 1.015, 1.018, 5), None, "slower"),
        (ratio(0.982, 0.985, 0.988, 5), None, "faster"),
        (ratio(0.95, 1.0, 1.05, 5), None, "cannot tell"),
        # a single launch without a control: what nobody saw may be large
        (ratio(1.08, 1.09, 1.10), None, "cannot tell"),
        (ratio(0.9999, 1.0, 1.0001), None, "cannot tell"),
        (ratio(1.26, 1.3, 1.4), None, "slower"),
        (ratio(0.2, 0.5, 0.79), None, "faster"),
        # beside a control
        (ratio(1.002, 1.004, 1.006), ratio(0.998, 1.0, 1.003), "no difference"),
        (ratio(1.002, 1.004, 1.006), ratio(0.99, 1.0, 1.01), "cannot tell"),
        (ratio(0.999, 1.0, 1.001), ratio(0.98, 1.0, 1.02), "cannot tell"),
        (ratio(1.03, 1.04, 1.05), ratio(0.98, 1.01, 1.04), "cannot tell"),
        (ratio(1.05, 1.06, 1.07), ratio(0.98, 1.01, 1.04), "slower"),
        (ratio(0.95, 0.96, 0.97), ratio(0.98, 0.99, 0.995), "faster"),
        (ratio(0.97, 0.98, 0.985), ratio(0.98, 0.99, 0.995), "cannot tell"),
        (ratio(1.08, 1.12, 1.18), ratio(0.88, 0.89, 0.94), "cannot tell"),
        (ratio(1.14, 1.16, 1.18), ratio(0.88, 0.89, 0.94), "slower"),
        (ratio(0.88, 0.90, 0.92), ratio(1.06, 1.10, 1.14), "cannot tell"),
    ],
)
def test_a_difference_is_claimed_only_beyond_the_margin_and_beyond_the_control(found, control, claim):
    assert statistics.verdict(found, control, margin=0.01) == claim
    other_way = {"slower": "faster", "faster": "slower"}.get(claim, claim)
    assert statistics.verdict(turned_over(found), turned_over(control), margin=0.01) == other_way


def test_the_controls_together_give_false_alarms_and_the_smallest_effect():
    found = statistics.control([ratio(0.99, 1.0, 1.02), ratio(1.01, 1.02, 1.03), ratio(0.97, 0.98, 0.99)])
    assert (found.cells, found.false_alarms) == (3, 2)
    assert found.smallest_effect == pytest.approx(0.03)
    assert statistics.control([]) == statistics.Control(0, 0, None)


def test_a_median_s_interval_holds_it_and_needs_three_samples():
    found = statistics.median_interval([1.0, 2.0, 2.5, 2.7, 3.0, 3.1, 3.2, 4.0, 100.0])
    assert found.low <= found.value == 3.0 <= found.high
    assert statistics.median_interval([1.0, 2.0]) is None


def test_a_block_of_rounds_puts_everyone_once_into_every_position_and_orders_vary():
    dealt = blocks("abcde", "a seed")
    several = [next(dealt) for _ in range(6)]
    for block in several:
        assert all(sorted(order) == list("abcde") for order in block)
        assert all(sorted(place) == list("abcde") for place in zip(*block, strict=True))
    assert len({tuple(map(tuple, block)) for block in several}) == 6
    again = blocks("abcde", "a seed")
    assert [next(again) for _ in range(6)] == several
    followers = {(one, two) for block in several for order in block for one, two in itertools.pairwise(order)}
    assert len(followers) == 20


def test_a_warm_up_ends_when_two_levels_agree_and_keeps_what_it_saw():
    falling = iter([9.0, 7.0, 5.0, 3.0, 2.0, 1.5, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    found = warm_up(lambda: next(falling), budget_seconds=60)
    assert found.stable
    assert found.seconds[0] == 9.0
    assert len(found.seconds) == 14
    assert max(found.seconds[-2 * WINDOW :]) <= 1.5


def test_a_warm_up_that_never_settles_says_so_when_its_budget_is_spent():
    growing = itertools.count(1)
    found = warm_up(lambda: time.sleep(0.001) or float(next(growing) ** 2), budget_seconds=0.05)
    assert not found.stable
    assert len(found.seconds) > 1


class Event:
    """A CUDA event that writes down what it is told; the device takes 2 ms from one to the next."""

    log: ClassVar[list[str]] = []
    made = 0

    def __init__(self):
        Event.made += 1
        self.name = Event.made

    def record(self, stream):
        Event.log.append(f"record {self.name} on {stream}")

    def synchronize(self):
        time.sleep(0.005)  # until the device has done what came before
        Event.log.append(f"wait for {self.name}")

    def elapsed_time(self, other):
        return 2.0 * (other.name - self.name)


def test_each_call_on_a_gpu_stands_between_two_events_and_is_waited_for(monkeypatch):
    log: list[str] = []
    monkeypatch.setattr(Event, "log", log)
    monkeypatch.setattr(clock, "_event", Event)
    monkeypatch.setattr(clock, "synchronize", lambda device: log.append(f"finish {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"{device}'s stream")
    found = clock.sample(lambda: log.append("call"), 2, "cuda:1")
    assert log[:4] == [f"record {number} on cuda:1's stream" for number in (1, 2, 3, 4)]  # made before the clock runs
    each = [[f"record {a} on cuda:1's stream", "call", f"record {b} on cuda:1's stream", f"wait for {b}"]
            for a, b in ((1, 2), (3, 4))]  # fmt: skip
    assert log[4:13] == ["finish cuda:1", *each[0], *each[1]]
    assert log[13:] == ["finish cuda:1", *clock.CALLS_PER_SYNC * ["call"], "finish cuda:1"]
    assert found.device_seconds == pytest.approx(0.002)
    assert 0.005 <= found.seconds < 0.02
    assert 0 < found.every_seconds < 0.005
    log.clear()
    clock.sample(lambda: log.append("call"), 2 * clock.CALLS_PER_SYNC + 1, "cuda:1")
    few = [*clock.CALLS_PER_SYNC * ["call"], "finish cuda:1"]
    assert log[-34:] == ["finish cuda:1", *few, *few, *few]  # as often, however many calls make a sample


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_gpu_the_device_s_own_time_stands_beside_the_host_s():
    x = torch.randn(4096, 4096, device="cuda")
    found = clock.sample(lambda: x @ x, 5, "cuda:0")
    assert 0 < found.device_seconds <= found.seconds
    assert 0 < found.every_seconds < 2 * found.seconds


def test_threads_rest_after_work_instead_of_spinning():
    x = torch.randn(1500, 1500)

    def spun(seconds):
        began = time.process_time()
        time.sleep(seconds)
        return time.process_time() - began

    busy = []
    for _ in range(3):
        x @ x
        rest()
        busy.append(spun(0.03))
    assert min(busy) < 0.002


def test_threads_that_start_are_put_on_cores_of_their_own_and_may_move_again(monkeypatch) -> None:
    placed, move = {}, os.sched_setaffinity

    def watched(thread, cores):
        placed.setdefault(thread, []).append(set(cores))
        move(thread, cores)

    monkeypatch.setattr(os, "sched_setaffinity", watched)
    allowed, x = os.sched_getaffinity(0), torch.randn(1500, 1500)
    rest()
    before = threads()
    x @ x
    new = threads() - before
    set_apart(before)
    assert len(new) == torch.get_num_threads() - 1
    assert placed.keys() == ({threading.get_native_id(), *new} if new else set())
    first = [moves[0] for moves in placed.values()]
    assert all(len(cores) == 1 for cores in first)
    assert len(set(map(tuple, first))) == min(len(first), len(allowed))
    assert all(moves[1:] == [allowed] for moves in placed.values())
    set_apart(threads())
    assert all(len(moves) == 2 for moves in placed.values())


def test_float32_has_no_shortcut_in_a_worker() -> None:
    whole_float32()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
