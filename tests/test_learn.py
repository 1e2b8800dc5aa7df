"""Learning side by side: which losses are compared, and what is called wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from engines.registry import load_engine
from suites.harness.cell import Cell
from suites.harness.row import Row
from suites.harness.training import Training
from suites.learn import COMPARED_STEPS, LOSS_TOLERANCE, learn
from suites.workloads.digits import Digits, sklearn_digits

CELL = Cell("learning", "cnn", "train", 16)
STEPS = 40


@dataclass
class Told:
    """A learner whose losses are known."""

    losses: list[float]

    def epoch(self) -> tuple[list[float], list[float]]:
        return self.losses, [1e-3] * len(self.losses)

    def accuracy(self) -> float:
        return 0.5


def row_of(name: str, *, off_at: int, by: float) -> Row:
    """The row of an engine whose loss differs from the tape's at one step."""
    tape = [2.0 / (1 + step) for step in range(STEPS)]
    ours = [loss * (1 + by * (step == off_at)) for step, loss in enumerate(tape)]
    rows = {"tape": Row("tape"), name: Row(name)}
    learn(CELL, {"tape": Told(tape), name: Told(ours)}, rows, 1, sklearn_digits(), lambda _: None)
    return rows[name]


@pytest.mark.parametrize(
    ("name", "off_at", "by", "status"),
    [
        ("graph", 3, 0.5 * LOSS_TOLERANCE, "measured"),
        ("graph", 3, 2.0 * LOSS_TOLERANCE, "wrong"),
        ("graph", 3, float("nan"), "wrong"),
        ("graph", COMPARED_STEPS - 1, 2.0 * LOSS_TOLERANCE, "wrong"),
        ("graph", COMPARED_STEPS, 0.5, "measured"),
        ("graph_replay", STEPS - 1, 1e-9, "wrong"),
    ],
)
def test_a_loss_is_held_to_the_tape_s_while_roundings_have_not_grown(name, off_at, by, status):
    row = row_of(name, off_at=off_at, by=by)
    assert row.status == status
    assert row.learning["compared_steps"] == (STEPS if name == "graph_replay" else COMPARED_STEPS)


def test_the_compiled_cnn_learns_as_the_tape_does_step_by_step():
    """With everything that the pipeline does, kernels chosen by measurement included."""
    whole = sklearn_digits()
    kept = COMPARED_STEPS * CELL.batch_size
    few = Digits(whole.train_images[:kept], whole.train_labels[:kept], whole.test_images, whole.test_labels, "few")
    tape, graph = (np.array(Training(CELL, load_engine(name), few).epoch()[0]) for name in ("tape", "graph"))
    assert len(tape) == COMPARED_STEPS
    np.testing.assert_allclose(graph, tape, rtol=LOSS_TOLERANCE)
