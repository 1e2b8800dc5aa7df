"""Measuring a cell: every engine made ready, checked, warmed up, then timed in rounds dealt out in random order.

    rows = measure(cell, ["tape", "graph"], effort)      # a Row per engine, all with the same number of samples

Within a round every engine is timed once, in an order drawn anew, so that a machine which drifts drifts for all alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engines.engine import DynamicProgram, Engine, Program, Task
from engines.ops.random import step_key
from engines.registry import load_engine
from engines.value import EngineError
from suites.harness.agreement import UNCHECKED, Agreement, check
from suites.harness.cell import Cell
from suites.harness.clock import calls_per_sample, seconds, synchronize
from suites.harness.effort import Effort
from suites.harness.memory import WorkerError, measure_memory
from suites.harness.statistics import paired_ratio

WARM_UP_SECONDS = 0.15
LONG_CALL_SECONDS = 1.0
Phases = dict[str, float]
Show = Callable[[str], None]
Load = Callable[[Cell, str], Engine]


@dataclass(slots=True)
class Row:
    """What came of one engine in one cell. `samples` are seconds per call, in the order of the rounds."""

    engine: str
    style: str | None = None
    status: str = "measured"
    reason: str | None = None
    samples: list[float] = field(default_factory=list)
    calls_per_sample: int = 1
    phases: dict[str, float] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Any] | None = None
    agreement: Agreement = UNCHECKED
    learning: dict[str, Any] | None = None
    ratios: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, status: str, reason: str) -> None:
        """This row will have no time, for this reason."""
        self.status, self.reason, self.samples = status, reason, []

    def extra_info(self, cell: Cell) -> dict[str, Any]:
        """The row as it is stored."""
        to_eager = next((r for r in self.ratios if r["to"] == "torch_eager"), None)
        return {
            "schema": 1,
            **cell.facts(),
            "engine": self.engine,
            "style": self.style,
            "calls_per_sample": self.calls_per_sample,
            "phases": self.phases,
            "counters": self.counters,
            "memory": self.memory,
            "agreement": asdict(self.agreement),
            "ratio": to_eager,
            "ratios": self.ratios,
            "learning": self.learning,
            "status": self.status,
            "reason": self.reason,
        }


@dataclass(slots=True)
class _Arm:
    """One engine at work in a cell."""

    row: Row
    call: Callable[[], object]
    program: Program
    phases: list[Phases] = field(default_factory=list)  # of each call, where a call is a preparation


def by_name(cell: Cell, name: str) -> Engine:
    """The engine of this name, whatever the cell."""
    del cell
    return load_engine(name)


def measure(cell: Cell, engines: Sequence[str], effort: Effort, show: Show, load: Load = by_name) -> dict[str, Row]:
    """Rows by engine. An engine that fails costs its own row only."""
    rows = {name: Row(name) for name in engines}
    if cell.question == "memory":
        _measure_memory(cell, rows, effort, show)
    else:
        arms = [arm for row in rows.values() if (arm := _ready(cell, row, show, load)) is not None]
        _time(cell, arms, effort, show)
        for arm in arms:
            arm.row.counters = dict(arm.program.counters)
            if arm.phases:
                arm.row.phases = _typical(arm.phases)
    add_ratios(list(rows.values()))
    return rows


def _ready(cell: Cell, row: Row, show: Show, load: Load) -> _Arm | None:
    """Prepare and check one engine; None, with the reason in its row, where it cannot be timed."""
    show(f"{cell.name}: {row.engine}: prepare and check")
    try:
        engine = load(cell, row.engine)
        row.style = engine.style
        program = engine.prepare(cell.task())
        row.phases = dict(program.phases)
        row.agreement = check(engine.prepare(cell.checked_task()) if cell.own_masks else program, cell)
        if row.agreement.wrong:
            a = row.agreement
            row.refuse("wrong", f"{a.worst} is off by {a.error:.2e} relative, {a.allowed:.2e} is allowed")
            return None
        return _arm(cell, row, engine, program)
    except (EngineError, RuntimeError, MemoryError) as error:
        row.refuse("failed", f"{type(error).__name__}: {error}")
        return None


def _arm(cell: Cell, row: Row, engine: Engine, program: Program) -> _Arm:
    task = cell.task()
    if cell.quantity == "prepare":
        found: list[Phases] = []
        return _Arm(row, lambda: found.append(prepare_and_run(task, engine)), program, found)
    placed = program.place(task.batch, step_key(0, 0))
    if cell.quantity != "construct":
        return _Arm(row, lambda: program.run(placed), program)
    if isinstance(program, DynamicProgram):
        recording = program
        return _Arm(row, lambda: recording.record(placed), program)
    return _Arm(row, lambda: engine.prepare(task), program)


def prepare_and_run(task: Task, engine: Engine) -> Phases:
    """From nothing to the end of the first call; gives the seconds of each phase."""
    start = time.perf_counter()
    program = engine.prepare(task)
    ready = time.perf_counter()
    placed = program.place(task.batch, step_key(0, 0))
    before = time.perf_counter()
    program.run(placed)
    synchronize(task.device)
    after = time.perf_counter()
    rest = ready - start - sum(program.phases.values())
    return {**program.phases, "other": rest, "place batch": before - ready, "first call": after - before}


def _time(cell: Cell, arms: Sequence[_Arm], effort: Effort, show: Show) -> None:
    """Fill the samples of every arm, round by round."""
    longest = max((_warm_up(cell, arm, show) for arm in arms), default=0.0)
    rounds = cell.rounds or min(
        max(round(effort.seconds_per_engine / max(longest, 1e-9)), effort.min_rounds), effort.max_rounds
    )
    deal = random.Random(cell.name)  # noqa: S311 - an order, not a secret
    for number in range(rounds):
        order = list(arms)
        deal.shuffle(order)
        for arm in order:
            show(f"{cell.name}: round {number + 1}/{rounds}: {arm.row.engine}")
            arm.row.samples.append(seconds(arm.call, arm.row.calls_per_sample, cell.device))


def _warm_up(cell: Cell, arm: _Arm, show: Show) -> float:
    """Run until caches and clocks have settled; gives the seconds that one sample will take.

    What takes seconds has warmed up by being prepared and checked, and is not run once more.
    """
    show(f"{cell.name}: {arm.row.engine}: warm-up")
    last = sum(arm.row.phases.values())
    if last < LONG_CALL_SECONDS:
        end = time.monotonic() + WARM_UP_SECONDS
        last = seconds(arm.call, 1, cell.device)
        while time.monotonic() < end:
            last = seconds(arm.call, 1, cell.device)
    arm.row.calls_per_sample = calls_per_sample(last)
    return last * arm.row.calls_per_sample


def _typical(phases: Sequence[Phases]) -> Phases:
    """The phases of the preparation whose total is the median: medians taken phase by phase would not add up."""
    totals = sorted(phases, key=lambda one: sum(one.values()))
    return totals[len(totals) // 2]


def _measure_memory(cell: Cell, rows: dict[str, Row], effort: Effort, show: Show) -> None:
    for row in rows.values():
        show(f"{cell.name}: {row.engine}: memory, in a fresh process")
        row.style = load_engine(row.engine).style
        try:
            found = measure_memory(row.engine, cell, effort.min_rounds)
        except WorkerError as error:
            row.refuse("failed", str(error))
            continue
        row.samples = list(found.seconds)
        row.memory = {key: value for key, value in asdict(found).items() if key != "seconds"}


def add_ratios(rows: Sequence[Row]) -> None:
    """Give every measured row its ratio to every other, paired by round."""
    for row in rows:
        for other in rows:
            if row is other or len(row.samples) != len(other.samples) or row.memory is not None:
                continue
            ratio = paired_ratio(row.samples, other.samples)
            if ratio is not None:
                row.ratios.append({"to": other.engine, **asdict(ratio)})
