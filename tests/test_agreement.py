"""Right before fast: what is held against the reference, what is refused, and what eager mode's own error excuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engines.peers.torch_eager import TorchEager
from engines.tape.engine import TapeEngine
from suites.harness import agreement
from suites.harness.cell import Cell

IMAGES = Cell("backward", "lenet5", "loss_and_grad", 4)


def test_the_tolerance_is_twice_eager_s_error_plus_a_little():
    wanted = np.array([3.0, 4.0])
    assert agreement.relative_error(wanted * 1.01, wanted) == pytest.approx(0.01)
    assert agreement.relative_error(wanted[:1], wanted) == math.inf
    assert agreement.relative_error(np.array([math.nan, 4.0]), wanted) == math.inf
    assert agreement.relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    found = agreement.check(TapeEngine().prepare(IMAGES.task()), IMAGES)
    assert found.verdict == "agrees"
    assert 0 <= found.error <= found.allowed < 1e-5


def test_a_sum_within_a_rounding_of_zero_may_be_let_through_or_not_and_no_more_is_excused():
    halfway = (("keep_rate", 0.5),)  # ResNet-32: every gradient depends on what some relu lets through
    cell = Cell("branches", "block_drop", "loss_and_grad", 16, knobs=halfway)
    task = cell.checked_task()
    seeds = range(agreement.NUDGES, 2 * agreement.NUDGES)  # not those of the judge
    others = [agreement._nudged(task, seed) for seed in seeds]
    for name, values in task.parameters.items():
        moved = np.abs(others[0].parameters[name] - values)
        assert moved.any()
        assert (moved <= np.spacing(np.abs(values))).all()
    runs = [agreement._results(TorchEager().prepare(other), other) for other in others]
    found = [agreement.judge(run, cell) for run in runs]
    excused = [one for one in found if one.reference == agreement.NUDGED]  # one run of eager would have refused these
    assert excused
    assert {one.verdict for one in found} == {"agrees"}
    runs[0]["grad.block13.first.shift"][0] += 1e-2
    assert agreement.judge(runs[0], cell).verdict == "wrong"


def judged(monkeypatch, found, wanted, eager):
    """The verdict on one tensor."""
    monkeypatch.setattr(agreement, "_reference", lambda cell: {"loss": np.array(wanted)})
    monkeypatch.setattr(agreement, "_eager_errors", lambda cell, nudges=0: {"loss": eager})
    return agreement.judge({"loss": np.array(found)}, IMAGES)


def test_a_reference_that_is_not_finite_makes_nobody_right(monkeypatch):
    for wanted in (math.nan, math.inf):
        for found in (1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=r"loss of the reference is not finite: .*lenet5"):
                judged(monkeypatch, found, wanted, math.inf)


def test_an_eager_run_that_overflows_excuses_nobody(monkeypatch):
    assert judged(monkeypatch, 1.0, 1.0, math.inf).verdict == "agrees"
    assert judged(monkeypatch, 1.1, 1.0, math.inf).verdict == "wrong"
    assert judged(monkeypatch, math.nan, 1.0, math.inf).verdict == "wrong"
