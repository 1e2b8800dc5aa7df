"""Do both styles learn, and the same? Training on handwritten digits, every engine once per epoch, from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.conductor import Guest, Worker
from suites.harness.effort import Effort
from suites.harness.measure import Measuring
from suites.harness.replay import RunRow
from suites.harness.row import Row
from suites.learn import BATCH_SIZE, LEARNERS, learn
from suites.workloads.digits import sklearn_digits

ENGINES = LEARNERS


def cells(effort: Effort, device: str) -> list[Cell]:
    """The two networks that were made for digits, the smaller one alone where time is short."""
    return [Cell("learning", name, "train", BATCH_SIZE, device=device) for name in effort.epochs]


class RemoteTraining:
    """A training that goes on in a worker."""

    def __init__(self, cell: Cell, worker: Worker | Guest, row: Row) -> None:
        self._worker = worker
        self._row = row
        self._cell = asdict(cell)

    def epoch(self) -> tuple[list[float], list[float]]:
        """See `Training.epoch`."""
        found: dict[str, Any] = self._worker.ask("train", cell=self._cell, contender=self._worker.contender.data())
        self._row.style = found["style"]
        return found["losses"], found["seconds"]

    def accuracy(self) -> float:
        """See `Training.accuracy`; the last that is asked of it."""
        found: dict[str, Any] = self._worker.ask("accuracy")
        self._row.counters = found["counters"]
        return float(found["accuracy"])


def measure_cell(job: Measuring) -> Mapping[str, Row]:
    """Samples are the training steps themselves."""
    rows = {who.name: Row(who.name) for who in job.contenders}
    learners = {who.name: RemoteTraining(job.cell, job.conductor.worker(who), rows[who.name]) for who in job.contenders}
    learn(job.cell, learners, rows, job.effort.epochs[job.cell.workload], sklearn_digits(), job.show)
    return rows


def test_learning(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
