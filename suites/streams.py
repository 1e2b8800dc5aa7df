"""Measuring streams of shapes: every engine goes through the whole stream, from empty caches, once a round.

A stream is one long run, not a repeated step, so that a sample is the whole of it: getting ready, each step, and each
compilation on the way. The graph takes part once for each policy, all in one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from engines.engine import Engine
from engines.graph.engine import GraphEngine
from engines.graph.shapes import Bucket, Exact, Pad, Policy, Symbolic
from engines.registry import load_engine
from suites.harness.agreement import REFERENCE, Agreement
from suites.harness.cell import Cell
from suites.harness.conductor import Guest, Worker
from suites.harness.contender import Contender
from suites.harness.deal import blocks
from suites.harness.measure import Measuring, finish
from suites.harness.protocol import WorkerError
from suites.harness.row import Row
from suites.harness.statistics import FEWEST_ROUNDS

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {f"graph_{policy.name}": policy for policy in (Exact(), Bucket(), Pad(), Symbolic())}
)
"""The graph under each policy, by the name of its rows."""

LOSS_TOLERANCE = 1e-4
"""Largest relative difference of any step's loss from the reference's, which every step before it has a part in."""

SECONDS_PER_SHAPE, SECONDS_PER_STEP, SECONDS_BESIDE = 5.0, 0.5, 60.0
"""What a worker may take for a stream before it is taken to hang."""

REFEREE = Contender("torch_eager")
"""Who says what the losses are, in float64."""


def by_policy(cell: Cell, name: str) -> Engine:
    """The graph under the policy of this name, or another engine."""
    del cell
    return GraphEngine(name, policy=POLICIES[name]) if name in POLICIES else load_engine(name)


def contender(name: str) -> Contender:
    """An engine, or the graph under a policy: these share a process, since each stream begins from nothing."""
    return Contender(name, loader=f"{__name__}:by_policy", room="graph") if name in POLICIES else Contender(name)


@dataclass(slots=True)
class Arm:
    """One contender at work in a cell: who it is, in which process, its row, and what each round gave."""

    contender: Contender
    worker: Worker | Guest
    row: Row
    passages: list[Mapping[str, Any]] = field(default_factory=list)


def measure_cell(job: Measuring) -> Mapping[str, Row]:
    """Rows by engine, a sample a stream."""
    arms = [Arm(who, job.conductor.worker(who), Row(who.name)) for who in job.contenders]
    limit = _limit_seconds(job.cell)
    exact = replace(job.cell, dtype="float64")
    job.show(f"{job.cell.name}: reference")
    try:
        reference = job.conductor.judge.ask("stream", limit, cell=asdict(exact), contender=REFEREE.data())["losses"]
    except WorkerError as fault:
        for arm in arms:
            arm.row.refuse(fault.status, f"no reference to hold it against: {fault.reason}")
        return finish(job, [arm.row for arm in arms])
    for arm in arms:
        with arm.row.at_its_cost():  # what a process does but once, such as loading libraries, is no part of a sample
            arm.worker.ask("stream", limit, cell=asdict(_shortest(job.cell)), contender=arm.contender.data())
    rounds = max(job.cell.rounds or 0, FEWEST_ROUNDS)
    orders = (order for block in blocks(arms, job.cell.name) for order in block)
    for number in range(rounds):
        for position, arm in enumerate(each for each in next(orders) if each.row.running):
            job.show(f"{job.cell.name}: round {number + 1} of {rounds}: {arm.contender.label}")
            with arm.row.at_its_cost():
                _passage(job, arm, position, limit)
                _judge(arm.row, arm.passages[-1]["losses"], reference)
    for arm in arms:
        if arm.row.running:
            arm.row.stopped = {"why": "fixed", "rounds": rounds, "width": None, "wanted": None}
            _sum_up(arm.row, arm.passages)
    return finish(job, [arm.row for arm in arms])


def _limit_seconds(cell: Cell) -> float:
    knobs: Mapping[str, int] = dict(cell.knobs)
    return SECONDS_BESIDE + SECONDS_PER_SHAPE * knobs["distinct"] + SECONDS_PER_STEP * knobs["steps"]


def _shortest(cell: Cell) -> Cell:
    """The cell with one step in its stream."""
    return replace(cell, knobs=tuple((name, 1) for name, _ in cell.knobs))


def _passage(job: Measuring, arm: Arm, position: int, limit_seconds: float) -> None:
    found = arm.worker.ask("stream", limit_seconds, cell=asdict(job.cell), contender=arm.contender.data())
    arm.passages.append(found)
    arm.row.style = found["style"]
    arm.row.samples.append(found["prepare_seconds"] + sum(found["first_seconds"]))
    arm.row.positions.append(position)


def _judge(row: Row, losses: Sequence[float], reference: Sequence[float]) -> None:
    """Hold every step's loss against the reference's; a row that is off gets no time."""
    off = float(np.max(np.abs(np.subtract(losses, reference)) / np.abs(reference)))
    verdict = "agrees" if off <= LOSS_TOLERANCE else "wrong"
    row.agreement = Agreement(verdict, "loss", off, LOSS_TOLERANCE, REFERENCE)
    if row.agreement.wrong:
        row.refuse("wrong", f"a loss is off by {off:.2e} relative, {LOSS_TOLERANCE:.2e} is allowed")


def _sum_up(row: Row, passages: Sequence[Mapping[str, Any]]) -> None:
    """The row's course: medians over the rounds, step by step; phases and counts of the round in the middle."""
    order = np.argsort(row.samples, kind="stable")
    typical = passages[int(order[len(order) // 2])]
    row.phases, row.counters = typical["phases"], typical["counters"]
    row.stream = {
        "prepare_seconds": float(np.median([one["prepare_seconds"] for one in passages])),
        "first_seconds": np.median([one["first_seconds"] for one in passages], axis=0).tolist(),
        "again_seconds": np.median([one["again_seconds"] for one in passages], axis=0).tolist(),
    }
