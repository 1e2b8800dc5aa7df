"""Training on handwritten digits, all engines in lockstep: each step is taken by every engine on the same batch.

    python -m suites.learn                                   # cnn and lenet5 on scikit-learn's digits
    python -m suites.learn --workload cnn --data ~/mnist --epochs 3

Every engine starts from the same parameters, sees the same batches and draws the same dropout masks. With passes off,
the loss curves of tape and graph must be equal to the last bit; with passes on, within `LOSS_TOLERANCE`.

The test accuracy shows that the engines learn, not how well the network does on unseen digits: how long to train was
chosen by looking at it (see `Effort`).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.engine import Program, Task
from engines.op import kernels_only
from engines.ops import KERNELS
from engines.ops.random import step_key
from engines.value import EngineError
from suites.harness import exits
from suites.harness.agreement import Agreement
from suites.harness.cell import Cell
from suites.harness.clock import seconds
from suites.harness.effort import EFFORTS
from suites.harness.measure import Load, Row, Show, add_ratios, by_name
from suites.workloads import UnknownWorkloadError, load_workload
from suites.workloads.digits import DataError, Digits, load
from suites.workloads.workload import Workload

LEARNERS = ("tape", "graph", "graph_replay")
BITWISE = ("graph_replay",)
"""Engines whose losses must equal the tape's bit for bit."""
LOSS_TOLERANCE = 1e-3
"""Largest relative difference of any step's loss from the tape's, with optimisation passes on."""
DEFAULT_EPOCHS = 30
SEED = 0
CHUNK = 256


def learn(
    cell: Cell, engines: Sequence[str], epochs: int, digits: Digits, show: Show, load_by_name: Load = by_name
) -> dict[str, Row]:
    """Train every engine for some epochs; rows by engine, one sample a step, with `learning` filled in.

    A row is wrong where its losses are not what they must be beside the tape's. Raises DataError and EngineError.
    """
    model = cell.model
    task = _task(cell, model, digits)
    loaded = {name: load_by_name(cell, name) for name in engines}
    programs = {name: engine.prepare(task) for name, engine in loaded.items()}
    rows = {name: Row(name, engine.style) for name, engine in loaded.items()}
    losses: dict[str, list[float]] = {name: [] for name in engines}
    rng, deal = np.random.default_rng([SEED, 2]), random.Random(SEED)  # noqa: S311 - an order, not a secret
    step = 0
    for epoch in range(epochs):
        for batch in digits.epoch(rng, cell.batch_size):
            for name in deal.sample(list(engines), len(engines)):
                losses[name].append(_step(programs[name], batch, step, rows[name], cell.device))
            step += 1
            show(f"{cell.name}: epoch {epoch + 1}/{epochs}, loss {losses[engines[0]][-1]:.3f}")
    for name, row in rows.items():
        accuracy = _accuracy(model, programs[name].parameters, digits, cell.device)
        row.counters = dict(programs[name].counters)
        row.learning = _facts(losses, name, step // max(epochs, 1), epochs, accuracy, digits)
        row.agreement = _agreement(row)
        if row.agreement.wrong:
            row.refuse("wrong", f"losses are off from the tape's by {row.agreement.error:.2e} relative")
    add_ratios(list(rows.values()))
    return rows


def _task(cell: Cell, model: Workload, digits: Digits) -> Task:
    if model.predict is None:
        raise EngineError(f"learn: workload {model.name} does not classify images")
    example = digits.sample(np.random.default_rng(SEED), cell.batch_size)
    return Task(
        loss=model.loss,
        parameters=model.init(np.random.default_rng([SEED, 0])),
        batch=example,
        quantity="step",
        device=cell.device,
        optimizer=model.optimizer,
        random=model.random,
    )


def _step(program: Program, batch: Mapping[str, Any], step: int, row: Row, device: str) -> float:
    """One training step, timed; gives its loss."""
    placed = program.place(batch, step_key(SEED, step))
    found: list[torch.Tensor] = []
    row.samples.append(seconds(lambda: found.append(program.run(placed).loss), 1, device))
    return float(found[0])


def _accuracy(model: Workload, parameters: Mapping[str, torch.Tensor], digits: Digits, device: str) -> float:
    """Share of test digits classified right, dropout off, on the kernels that all engines share."""
    assert model.predict is not None
    right = 0
    with kernels_only():
        for at in range(0, len(digits.test_labels), CHUNK):
            image = torch.tensor(digits.test_images[at : at + CHUNK], device=device)
            label = torch.tensor(digits.test_labels[at : at + CHUNK], device=device)
            logits = model.predict(KERNELS, parameters, image, None)
            right += int((logits.argmax(dim=1) == label).sum())
    return right / len(digits.test_labels)


def _facts(
    losses: Mapping[str, list[float]], name: str, steps_per_epoch: int, epochs: int, accuracy: float, digits: Digits
) -> dict[str, Any]:
    ours, tape = np.asarray(losses[name]), np.asarray(losses.get("tape", losses[name]))
    compared = name != "tape" and "tape" in losses
    return {
        "losses": losses[name],
        "steps_per_epoch": steps_per_epoch,
        "epochs": epochs,
        "test_accuracy": accuracy,
        "seed": SEED,
        "train_samples": len(digits.train_labels),
        "test_samples": len(digits.test_labels),
        "source": digits.source,
        "equal_bits_to": "tape" if compared and losses[name] == losses["tape"] else None,
        "largest_relative_difference": float(np.max(np.abs(ours - tape) / np.abs(tape))) if compared else None,
        "tolerance": 0.0 if name in BITWISE else LOSS_TOLERANCE,
    }


def _agreement(row: Row) -> Agreement:
    assert row.learning is not None
    off, allowed = row.learning["largest_relative_difference"], row.learning["tolerance"]
    if off is None:
        return Agreement("unchecked", reference=None)
    verdict = "agrees" if off <= allowed else "wrong"
    return Agreement(verdict, "loss", off, allowed, "the tape's losses")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives an exit code."""
    options = _parser().parse_args(arguments)
    try:
        for name in options.workload:
            load_workload(name)
        digits = load(options.data)
        print(f"{digits.source}: {len(digits.train_labels)} to train, {len(digits.test_labels)} to test")  # noqa: T201
        failed = [name for name in options.workload if not _learn_and_tell(name, digits, options)]
    except (UnknownWorkloadError, EngineError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return exits.BAD_DATA if isinstance(error, DataError) else exits.USAGE
    return exits.WRONG_NUMERICS if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.learn", description="Train on digits with every engine.")
    parser.add_argument("--workload", nargs="+", default=["cnn", "lenet5"], help="what to train; default cnn lenet5")
    parser.add_argument("--engine", nargs="+", default=list(LEARNERS), help=f"default {' '.join(LEARNERS)}")
    parser.add_argument("--data", type=Path, help="folder with MNIST's IDX files; default scikit-learn's digits")
    parser.add_argument("--epochs", type=int, help="passes over the digits; default as at quick effort")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    return parser


def _learn_and_tell(name: str, digits: Digits, options: argparse.Namespace) -> bool:
    cell = Cell("learning", name, "train", options.batch_size, device=options.device)
    start = time.monotonic()
    epochs = options.epochs or EFFORTS["quick"].epochs.get(name, DEFAULT_EPOCHS)
    rows = learn(cell, options.engine, epochs, digits, _line())
    print(f"\r\033[K{name}: {time.monotonic() - start:.0f} s" if sys.stdout.isatty() else name)  # noqa: T201
    for row in rows.values():
        facts = row.learning
        assert facts is not None
        off = facts["largest_relative_difference"]
        same = "" if off is None else "losses equal the tape's bit for bit" if off == 0 else f"losses within {off:.1e}"
        curve = f"loss {facts['losses'][0]:.4f} -> {facts['losses'][-1]:.4f}"
        print(f"  {row.engine:13s} {curve}, test accuracy {100 * facts['test_accuracy']:.2f} %  {same}")  # noqa: T201
    return all(row.status == "measured" for row in rows.values())


def _line() -> Callable[[str], None]:
    def show(text: str) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{text}", end="", flush=True)  # noqa: T201

    return show


if __name__ == "__main__":
    sys.exit(main())
