"""The harness: what it times, in which order, what it refuses to time, and what it stores."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.engine import Outputs
from engines.peers.torch_eager import TorchEager
from engines.tape.engine import TapeEngine
from engines.value import EngineError
from suites.harness import agreement, clock, measure, progress, statistics
from suites.harness.cell import Cell
from suites.harness.effort import EFFORTS
from suites.harness.environment import IDENTITY, environment

QUICK = replace(EFFORTS["quick"], seconds_per_engine=0.02, min_rounds=5, max_rounds=12)
CELL = Cell("step", "chain", "step", knobs=(("elements", 4), ("ops", 10)))
IMAGES = Cell("backward", "lenet5", "loss_and_grad", 4)


def silent(_: str) -> None:
    pass


class Altered:
    """Torch's eager engine with something done to each run."""

    style = "dynamic"

    def __init__(self, name, alter):
        self.name = name
        self._alter = alter

    def prepare(self, task):
        program = TorchEager().prepare(task)
        run = program.run
        program.run = lambda placed: self._alter(run(placed))
        return program


def rows_of(cell, **engines):
    return measure.measure(cell, list(engines), QUICK, silent, lambda _, name: engines[name])


def test_every_engine_of_a_cell_gets_the_same_number_of_samples_and_raw_samples_are_kept():
    rows = measure.measure(CELL, ["tape", "graph", "graph_replay", "torch_eager"], QUICK, silent)
    assert {row.status for row in rows.values()} == {"measured"}
    counts = {len(row.samples) for row in rows.values()}
    assert len(counts) == 1
    assert QUICK.min_rounds <= counts.pop() <= QUICK.max_rounds
    assert all(sample > 0 for row in rows.values() for sample in row.samples)
    assert all(len(row.ratios) == 3 for row in rows.values())


def test_each_round_runs_every_engine_once_in_changing_order():
    log = []

    def noting(name):
        return Altered(name, lambda outputs: (log.append(name), time.sleep(0.002), outputs)[-1])

    names = ["a", "b", "c"]
    cell = replace(CELL, rounds=40)
    rows_of(cell, **{name: noting(name) for name in names})
    rounds = [log[-120:][i : i + 3] for i in range(0, 120, 3)]
    assert all(sorted(one) == names for one in rounds)
    first = [one[0] for one in rounds]
    assert all(5 <= first.count(name) <= 25 for name in names)


def test_an_engine_that_is_wrong_in_one_gradient_element_gets_no_time():
    def spoil(outputs):
        spoilt = dict(outputs.gradients)
        spoilt["fc3.bias"] = spoilt["fc3.bias"].clone()
        spoilt["fc3.bias"][3] += 1e-2
        return Outputs(outputs.loss, spoilt)

    rows = rows_of(IMAGES, good=Altered("good", lambda o: o), bad=Altered("bad", spoil))
    assert rows["good"].status == "measured"
    assert rows["bad"].status == "wrong"
    assert rows["bad"].samples == []
    assert "grad.fc3.bias" in rows["bad"].reason
    assert rows["bad"].agreement.error > rows["bad"].agreement.allowed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda o: Outputs(o.loss * math.nan, o.gradients),
        lambda o: Outputs(o.loss.reshape(1), o.gradients),
        lambda o: Outputs(o.loss, {}),
    ],
    ids=["nan", "shape", "missing"],
)
def test_nan_wrong_shapes_and_missing_gradients_are_wrong(spoil):
    rows = rows_of(IMAGES, bad=Altered("bad", spoil))
    assert rows["bad"].status == "wrong"


def test_a_step_that_does_not_move_the_parameters_is_wrong():
    class Lazy(TapeEngine):
        def prepare(self, task):
            return super().prepare(replace(task, quantity="forward"))

    rows = rows_of(replace(IMAGES, quantity="step"), lazy=Lazy(), tape=TapeEngine())
    assert rows["lazy"].status == "wrong"
    assert rows["tape"].status == "measured"


@pytest.mark.parametrize("error", [EngineError("no such op"), RuntimeError("CUDA error"), MemoryError("4 EiB")])
def test_an_engine_that_fails_costs_its_own_row_only(error):
    class Failing:
        name, style = "failing", "static"

        def prepare(self, task):
            raise error

    rows = rows_of(CELL, failing=Failing(), tape=TapeEngine())
    assert rows["failing"].status == "failed"
    assert str(error) in rows["failing"].reason
    assert rows["tape"].status == "measured"
    assert rows["tape"].ratios == []


def test_an_engine_slowed_by_a_tenth_is_seen_to_be_slower():
    def slowed(seconds):
        def wait(outputs):
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                pass
            return outputs

        return wait

    cell = replace(CELL, rounds=60)
    rows = rows_of(cell, fast=Altered("fast", slowed(0.004)), slow=Altered("slow", slowed(0.0044)))
    (ratio,) = rows["slow"].ratios
    assert 1.0 < ratio["low"] < ratio["value"] < ratio["high"] < 1.25


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

    assert clock.calls_per_sample(1e-6) == 1000
    assert clock.calls_per_sample(0.5) == 1
    states = []
    found = clock.seconds(lambda: (states.append(gc.isenabled()), time.sleep(0.01)), 3, "cpu")
    assert states == [False] * 3
    assert gc.isenabled()
    assert 0.01 <= found < 0.1


def test_preparing_rows_hold_phases_and_the_first_call():
    cell = replace(IMAGES, question="preparing", quantity="prepare", rounds=4)
    rows = measure.measure(cell, ["tape", "graph"], QUICK, silent)
    graph = rows["graph"]
    assert list(graph.phases)[:3] == ["place", "trace", "autodiff"]
    assert list(graph.phases)[-3:] == ["other", "place batch", "first call"]
    assert list(rows["tape"].phases) == ["other", "place batch", "first call"]
    assert min(graph.samples) * 0.8 < sum(graph.phases.values()) < max(graph.samples) * 1.05
    assert graph.counters["nodes"] > 0
    assert np.median(rows["tape"].samples) < np.median(graph.samples)


def test_the_tolerance_is_twice_eager_s_error_plus_a_little():
    wanted = np.array([3.0, 4.0])
    assert agreement.relative_error(wanted * 1.01, wanted) == pytest.approx(0.01)
    assert agreement.relative_error(wanted[:1], wanted) == math.inf
    assert agreement.relative_error(np.array([math.nan, 4.0]), wanted) == math.inf
    assert agreement.relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    found = agreement.check(TapeEngine().prepare(IMAGES.task()), IMAGES)
    assert found.verdict == "agrees"
    assert 0 <= found.error <= found.allowed < 1e-5


def test_the_fingerprint_changes_with_what_must_be_equal_and_with_nothing_else():
    first, again = environment("quick"), environment("full")
    assert first["fingerprint"] == again["fingerprint"]
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert environment("quick")["fingerprint"] != first["fingerprint"]
    finally:
        torch.set_num_threads(before)
    assert set(IDENTITY) <= set(first)


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
