"""Learning side by side: which losses are compared, and what is called wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

from engines.registry import load_engine
from suites.harness import exits
from suites.harness.cell import Cell
from suites.harness.row import Row
from suites.harness.training import Training
from suites.learn import COMPARED_STEPS, LOSS_TOLERANCE, learn
from suites.workloads.digits import Digits, sklearn_digits
from tests.test_store import INTERRUPTIBLE, ROOT

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


def row_of(name: str, *, off_at: int, by: float, device: str = "cpu") -> Row:
    """The row of an engine whose loss differs from the tape's at one step."""
    tape = [2.0 / (1 + step) for step in range(STEPS)]
    ours = [loss * (1 + by * (step == off_at)) for step, loss in enumerate(tape)]
    rows = {"tape": Row("tape"), name: Row(name)}
    cell = replace(CELL, device=device)
    learn(cell, {"tape": Told(tape), name: Told(ours)}, rows, 1, sklearn_digits(), lambda _: None)
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


@pytest.mark.parametrize(
    ("off_at", "by", "status"),
    [(3, 1e-7, "measured"), (3, 2.0 * LOSS_TOLERANCE, "wrong"), (COMPARED_STEPS, 0.5, "measured")],
)
def test_on_a_gpu_where_kernels_need_not_repeat_their_bits_no_engine_must(off_at, by, status):
    row = row_of("graph_replay", off_at=off_at, by=by, device="cuda")
    assert row.status == status
    assert row.learning["compared_steps"] == COMPARED_STEPS


def test_the_compiled_cnn_learns_as_the_tape_does_step_by_step():
    """With everything that the pipeline does, kernels chosen by measurement included."""
    whole = sklearn_digits()
    kept = COMPARED_STEPS * CELL.batch_size
    few = Digits(whole.train_images[:kept], whole.train_labels[:kept], whole.test_images, whole.test_labels, "few")
    tape, graph = (np.array(Training(CELL, load_engine(name), few).epoch()[0]) for name in ("tape", "graph"))
    assert len(tape) == COMPARED_STEPS
    np.testing.assert_allclose(graph, tape, rtol=LOSS_TOLERANCE)


def test_training_ends_after_the_epoch_in_which_it_is_enough():
    tape, rows, seen = [2.0, 1.0], {"tape": Row("tape"), "graph": Row("graph")}, []
    learners = {name: Told(tape) for name in rows}
    learn(CELL, learners, rows, 9, sklearn_digits(), seen.append, lambda: len(seen) >= 4)
    for row in rows.values():
        assert (row.learning["epochs"], row.learning["losses"], row.learning["steps_per_epoch"]) == (2, 2 * tape, 2)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INTERRUPTIBLE, "-m", "suites.learn", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "to train" in process.stdout.readline()
    assert "epochs with" in process.stdout.readline()  # from here on a Ctrl-C ends the epoch
    return process


STOPPING = "stopping after this epoch; Ctrl-C again to stop at once"


def test_ctrl_c_shows_what_was_learned_so_far():
    process = start("--workload", "lenet5", "--epochs", "999")
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert process.returncode == exits.INTERRUPTED
    assert "stopped by Ctrl-C after " in said
    assert said.count("test accuracy") == 3
    assert told.strip() == STOPPING


def test_a_second_ctrl_c_ends_learning_at_once():
    process = start("--workload", "cnn", "--batch-size", "1")  # an epoch of many seconds
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while STOPPING not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert process.returncode == exits.INTERRUPTED
    assert told.strip() == "interrupted"
    assert "accuracy" not in said
