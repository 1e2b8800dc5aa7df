"""Training on handwritten digits, engines side by side: each epoch is gone through by every one of them in turn.

    python -m suites.learn                                   # cnn and lenet5 on scikit-learn's digits
    python -m suites.learn --workload cnn --data ~/mnist --epochs 3
    python -m suites.learn --workload cnn --validate              # a fifth of the training digits held out

Every engine starts from the same parameters, sees the same batches and draws the same dropout masks. With passes off,
the loss curves of tape and graph must be equal to the last bit on a processor. With passes on, and on a GPU, sums are
rounded in another order, and training makes such differences grow by some factor each step, until a tape whose first
parameters are moved by one rounding has left its own course. So the losses of the first `COMPARED_STEPS` must agree
within `LOSS_TOLERANCE`, before roundings have grown, and the curves show the rest.

How long to train was chosen by `--validate` (see `Effort.epochs`), so that the test digits are met for the first time
when the accuracy on them is taken.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.registry import load_engine
from engines.value import EngineError
from suites.harness import exits
from suites.harness.agreement import Agreement
from suites.harness.cell import Cell
from suites.harness.deal import blocks
from suites.harness.effort import EFFORTS
from suites.harness.measure import Show
from suites.harness.row import Row
from suites.harness.training import SEED, Training
from suites.workloads import UnknownWorkloadError, load_workload
from suites.workloads.digits import DataError, Digits, load

LEARNERS = ("tape", "graph", "graph_replay")
BITWISE = ("graph_replay",)
"""Engines whose losses must equal the tape's bit for bit, where a kernel called twice gives the same bits."""
LOSS_TOLERANCE = 1e-3
"""Largest relative difference of a step's loss from the tape's, with optimisation passes on."""
COMPARED_STEPS = 22
"""For so many steps, an epoch in batches of 64. Roundings grow with steps, not with epochs: a relu that one of them
turns off turns off a weight's gradient."""
DEFAULT_EPOCHS = 30
BATCH_SIZE = 16
"""Small, as there are few digits: a step costs little, and learning takes steps."""
BACK = "\r\033[K"
"""What takes a terminal back to the beginning of an emptied line."""


class Learner(Protocol):
    """Someone who trains, here or in a worker."""

    def epoch(self) -> tuple[list[float], list[float]]:
        """Train on every digit once; the loss and the seconds of each step."""
        ...

    def accuracy(self) -> float:
        """Share of test digits classified right."""
        ...


@dataclass(frozen=True, slots=True)
class Course:
    """How training went: the losses of every engine, one a step, over so many epochs of these digits."""

    losses: Mapping[str, list[float]]
    epochs: int
    digits: Digits

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, of an engine that did not fail."""
        return max(map(len, self.losses.values()), default=0) // max(self.epochs, 1)


def learn(
    cell: Cell,
    learners: Mapping[str, Learner],
    rows: Mapping[str, Row],
    epochs: int,
    digits: Digits,
    show: Show,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Train for some epochs, everyone once per epoch, and fill in the rows: a sample a step, and `learning`.

    Ends earlier where after an epoch it is `enough`. A learner whose worker fails costs its row. A row is wrong where
    its losses are not what they must be beside the tape's.
    """
    losses: dict[str, list[float]] = {name: [] for name in learners}
    order = (order for block in blocks(list(learners), cell.name) for order in block)
    wanted = epochs
    for epoch in range(wanted):
        for name in next(order):
            show(f"{cell.name}: epoch {epoch + 1} of {wanted}: {name}")
            if rows[name].running:
                with rows[name].at_its_cost():
                    _one_epoch(learners[name], losses[name], rows[name])
        if enough():
            epochs = epoch + 1
            break
    course = Course(losses, epochs, digits)
    for name, row in rows.items():
        if row.running:
            with row.at_its_cost():
                _judge(row, learners[name], course, _tolerance(name, cell))


def _one_epoch(learner: Learner, losses: list[float], row: Row) -> None:
    found, taken = learner.epoch()
    losses += found
    row.samples += taken


def _tolerance(name: str, cell: Cell) -> float:
    """How far a loss may be from the tape's, relative; 0.0 is to the bit, in every step.

    On a GPU a kernel called twice need not give the same bits, whoever calls it: of PyTorch's, cuDNN's gradients of
    convolutions, as its notes on reproducibility say.
    """
    return 0.0 if name in BITWISE and cell.device == "cpu" else LOSS_TOLERANCE


def _judge(row: Row, learner: Learner, course: Course, tolerance: float) -> None:
    row.learning = _facts(course, row.engine, learner.accuracy(), tolerance)
    row.agreement = _agreement(row)
    if row.agreement.wrong:
        row.refuse("wrong", f"losses are off from the tape's by {row.agreement.error:.2e} relative")


def _facts(course: Course, name: str, accuracy: float, tolerance: float) -> dict[str, Any]:
    losses, digits = course.losses, course.digits
    ours, tape = np.asarray(losses[name]), np.asarray(losses.get("tape", losses[name]))
    compared = name != "tape" and len(losses.get("tape", ())) == len(ours)
    steps = min(COMPARED_STEPS, len(ours)) if tolerance else len(ours)
    off = np.abs(ours[:steps] - tape[:steps]) / np.abs(tape[:steps]) if compared else None
    return {
        "losses": losses[name],
        "steps_per_epoch": course.steps_per_epoch,
        "epochs": course.epochs,
        "test_accuracy": accuracy,
        "seed": SEED,
        "train_samples": len(digits.train_labels),
        "test_samples": len(digits.test_labels),
        "source": digits.source,
        "equal_bits_to": "tape" if compared and losses[name] == losses["tape"] else None,
        "largest_relative_difference": None if off is None else float(np.max(off)),
        "compared_steps": steps if compared else None,
        "tolerance": tolerance,
    }


def _agreement(row: Row) -> Agreement:
    assert row.learning is not None
    off, allowed = row.learning["largest_relative_difference"], row.learning["tolerance"]
    if off is None:
        return Agreement("unchecked", reference=None)
    verdict = "agrees" if off <= allowed else "wrong"
    return Agreement(verdict, "loss", off, allowed, "the tape's losses")


@exits.interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives an exit code."""
    options = _parser().parse_args(arguments)
    try:
        for name in options.workload:
            load_workload(name)
        digits = load(options.data).validation() if options.validate else load(options.data)
        print(f"{digits.source}: {len(digits.train_labels)} to train, {len(digits.test_labels)} to test", flush=True)
        with _gentle_stop() as stopped:
            failed = [
                name for name in options.workload if not (stopped() or _learn_and_tell(name, digits, options, stopped))
            ]
    except (UnknownWorkloadError, EngineError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.BAD_DATA if isinstance(error, DataError) else exits.USAGE
    if failed:
        return exits.WRONG_NUMERICS
    return exits.INTERRUPTED if stopped() else 0


@contextmanager
def _gentle_stop() -> Iterator[Callable[[], bool]]:
    """Within, a first Ctrl-C only makes what is given say yes, and the next one is a KeyboardInterrupt again."""
    usual, asked = signal.getsignal(signal.SIGINT), threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, usual)
        print("\nstopping after this epoch; Ctrl-C again to stop at once", file=sys.stderr)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.learn", description="Train on digits, side by side.")
    parser.add_argument("--workload", nargs="+", default=["cnn", "lenet5"], help="what to train; default cnn lenet5")
    parser.add_argument("--engine", nargs="+", default=list(LEARNERS), help=f"default {' '.join(LEARNERS)}")
    parser.add_argument("--data", type=Path, help="folder with MNIST's IDX files; default scikit-learn's digits")
    parser.add_argument("--epochs", type=int, help="passes over the digits; default as at standard effort")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"default {BATCH_SIZE}")
    parser.add_argument("--validate", action="store_true", help="hold out training digits, and leave the test alone")
    parser.add_argument("--device", default="cpu")
    return parser


def _learn_and_tell(name: str, digits: Digits, options: argparse.Namespace, enough: Callable[[], bool]) -> bool:
    cell = Cell("learning", name, "train", options.batch_size, device=options.device)
    start = time.monotonic()
    epochs = options.epochs or EFFORTS["standard"].epochs.get(name, DEFAULT_EPOCHS)
    print(f"{name}: {epochs} epochs with {', '.join(options.engine)}", flush=True)
    learners = {engine: Training(cell, load_engine(engine), digits) for engine in options.engine}
    rows = {engine: Row(engine, learner.style) for engine, learner in learners.items()}
    learn(cell, learners, rows, epochs, digits, _line(), enough)
    print(f"{BACK if sys.stdout.isatty() else ''}{name}: {time.monotonic() - start:.0f} s")
    if enough():
        steps = max((len(row.samples) for row in rows.values()), default=0)
        print(f"  stopped by Ctrl-C after {steps} steps an engine, {epochs} epochs were wanted")
    for row in rows.values():
        facts = row.learning
        assert facts is not None
        off = facts["largest_relative_difference"]
        bits = facts["equal_bits_to"] is not None
        within = f"losses within {off:.1e} in the first {facts['compared_steps']} steps" if off is not None else ""
        same = "losses equal the tape's bit for bit" if bits else within
        curve = f"loss {facts['losses'][0]:.4f} -> {facts['losses'][-1]:.4f}"
        print(f"  {row.engine:13s} {curve}, test accuracy {100 * facts['test_accuracy']:.2f} %  {same}")
    return all(row.status == "measured" for row in rows.values())


def _line() -> Callable[[str], None]:
    def show(text: str) -> None:
        if sys.stdout.isatty():
            print(f"{BACK}{text}", end="", flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
