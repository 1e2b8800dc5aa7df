"""One row: what came of one engine in one cell, as it is measured and as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from suites.harness.agreement import UNCHECKED, Agreement
from suites.harness.cell import Cell
from suites.harness.clock import CALLS_PER_SYNC
from suites.harness.protocol import Status, WorkerError
from suites.harness.statistics import Ratio, median_interval, paired_ratio, verdict

CLOSES_WITHIN = 0.05
CALIBRATOR = "torch_eager"
SCHEMA = 2


@dataclass(slots=True)
class Row:
    """What came of one engine in one cell. `samples` are seconds per call, in the order of the rounds.

    `launches` says how many of them each launch took; it is empty where samples are not of rounds. `positions` says in
    which place of each round the engine came; `device_samples` and `every_samples` are a GPU's own time and the host's
    with a synchronisation every few calls, of the same rounds. `notes` say, by the name of a stage, what a measured row
    lacks and why, or what an engine warned of.
    """

    engine: str
    style: str | None = None
    status: Status = "measured"
    reason: str | None = None
    samples: list[float] = field(default_factory=list)
    launches: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    device_samples: list[float] = field(default_factory=list)
    every_samples: list[float] = field(default_factory=list)
    calls_per_sample: int = 1
    clock: dict[str, float] | None = None
    first_call_seconds: float | None = None
    warm_up: dict[str, Any] | None = None
    stopped: dict[str, Any] | None = None
    phases: dict[str, float] = field(default_factory=dict)
    phases_check: dict[str, Any] | None = None
    split: dict[str, float] | None = None
    split_check: dict[str, Any] | None = None
    counters: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Any] | None = None
    agreement: Agreement = UNCHECKED
    learning: dict[str, Any] | None = None
    stream: dict[str, Any] | None = None
    ratios: list[dict[str, Any]] = field(default_factory=list)
    control: dict[str, Any] | None = None
    formulation: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def refuse(self, status: Status, reason: str) -> None:
        """This row will have no time, for this reason."""
        self.status, self.reason = status, reason
        for series in (self.samples, self.positions, self.device_samples, self.every_samples):
            series.clear()
        self.launches.clear()
        self.ratios.clear()

    @property
    def running(self) -> bool:
        """Whether this row can still get a time."""
        return self.status == "measured"

    @contextmanager
    def at_its_cost(self) -> Iterator[None]:
        """Within, what becomes of a worker costs this row and nothing else."""
        try:
            yield
        except WorkerError as fault:
            self.refuse(fault.status, fault.reason)

    @contextmanager
    def at_a_note_s_cost(self, stage: str) -> Iterator[None]:
        """Within, what becomes of a worker costs what this stage finds, of which nothing else hangs, and is noted."""
        try:
            yield
        except WorkerError as fault:
            self.notes[stage] = f"{fault.status}: {fault.reason}"

    def _every(self) -> dict[str, Any] | None:
        if not self.every_samples:
            return None
        return {"calls": CALLS_PER_SYNC, "samples": self.every_samples}

    def extra_info(self, cell: Cell) -> dict[str, Any]:
        """The row as it is stored."""
        interval = median_interval(self.samples, self.launches) if self.status == "measured" else None
        return {
            "schema": SCHEMA,
            **cell.facts(),
            "formulation": self.formulation or cell.formulation,
            "engine": self.engine,
            "style": self.style,
            "status": self.status,
            "reason": self.reason,
            "interval": interval and asdict(interval),
            "ratio": next((ratio for ratio in self.ratios if ratio["to"] == CALIBRATOR), None),
            "ratios": self.ratios,
            "control": self.control,
            "calls_per_sample": self.calls_per_sample,
            "clock": self.clock,
            "first_call_seconds": self.first_call_seconds,
            "warm_up": self.warm_up,
            "stopped": self.stopped,
            "launches": self.launches,
            "positions": self.positions,
            "device_seconds": self.device_samples or None,
            "every": self._every(),
            "phases": self.phases,
            "phases_check": self.phases_check,
            "split": self.split,
            "split_check": self.split_check,
            "counters": self.counters,
            "memory": self.memory,
            "agreement": asdict(self.agreement),
            "learning": self.learning,
            "stream": self.stream,
            "notes": self.notes,
        }


def closing(parts: dict[str, float], total_seconds: float) -> dict[str, Any]:
    """Whether parts add up to their total within 5 %."""
    found = sum(parts.values())
    closes = abs(found - total_seconds) <= CLOSES_WITHIN * total_seconds
    return {"total_seconds": total_seconds, "sum_seconds": found, "closes": closes}


Paired = Callable[[str, str], bool]
"""Whether one engine gets a ratio to another, both by name."""


def always(_engine: str, _other: str) -> bool:
    """Every engine gets a ratio to every other."""
    return True


def add_ratios(rows: Sequence[Row], control: Ratio | None = None, margin: float = 0.0, paired: Paired = always) -> None:
    """Give every measured row its ratio to every other (that it is `paired` with), and what may be claimed of it."""
    for row in rows:
        for other in rows:
            if (
                not paired(row.engine, other.engine)
                or row is other
                or len(row.samples) != len(other.samples)
                or row.memory is not None
                or not row.running
            ):
                continue
            ratio = paired_ratio(row.samples, other.samples, row.launches)
            if ratio is not None:
                claim = verdict(ratio, control, margin)
                row.ratios.append({"to": other.engine, **asdict(ratio), "verdict": claim})
