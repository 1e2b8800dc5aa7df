"""What a stored run holds, as frozen types: a `Run` has `Record`s, a record is one engine in one `Cell`.

For instance:

    record.cell.workload, record.cell.batch_size, record.engine
    record.seconds_per_call      # all raw samples; empty where status is not "measured", and then `reason` says why
    record.ratios                # against the other engines of the cell, paired by round

`report.records` makes them, checked; nothing here checks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Question = Literal[
    "step", "forward", "backward", "construction", "dispatch", "preparing", "memory", "learning", "interface"
]
Style = Literal["dynamic", "static"]
Quantity = Literal["forward", "loss_and_grad", "step", "construct", "prepare", "train"]
Status = Literal["measured", "skipped", "failed", "wrong"]
Verdict = Literal["agrees", "wrong", "unchecked"]

QUESTIONS: tuple[Question, ...] = get_args(Question)
STYLES: tuple[Style, ...] = get_args(Style)
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
GAPS: tuple[Status, ...] = ("skipped", "failed", "wrong")
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
COUNTED_IN_OPS: tuple[Question, ...] = ("construction", "dispatch")


class Cell(NamedTuple):
    """What was measured, whoever did it: rows of one cell differ in the engine alone."""

    question: Question
    workload: str
    formulation: str
    device: str
    dtype: str
    quantity: Quantity
    size: tuple[tuple[str, int], ...]
    batch_size: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """The time of a row's engine over the time of engine `to`, paired by round, with its interval; no unit."""

    to: str
    value: float
    low: float
    high: float
    confidence: float
    rounds: int

    def inverse(self, engine: str) -> Ratio:
        """The same comparison from the other side: the time of `to` over the time of `engine`."""
        return Ratio(engine, 1 / self.value, 1 / self.high, 1 / self.low, self.confidence, self.rounds)


@dataclass(frozen=True, slots=True)
class Memory:
    """The high-water mark of one step in a fresh process, on top of what was held before it (parameters, batch)."""

    peak_bytes: int
    live_bytes_before: int
    method: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether outputs and gradients agree with the reference; `error` and `allowed` belong to the `worst` tensor.

    `error` is infinite where a shape is wrong or a NaN came out.
    """

    verdict: Verdict
    worst: str | None
    error: float | None
    allowed: float | None
    reference: str | None


@dataclass(frozen=True, slots=True)
class Learning:
    """A training run: one loss a step, and the accuracy (0 to 1) on the test samples at its end."""

    losses: tuple[float, ...]
    steps_per_epoch: int
    epochs: int
    test_accuracy: float
    seed: int
    train_samples: int
    test_samples: int
    equal_bits_to: str | None
    largest_relative_difference: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One row: one engine in one cell. `seconds_per_call` is empty, and `reason` filled, where nothing was measured."""

    file: str
    name: str
    cell: Cell
    engine: str
    style: Style
    status: Status
    reason: str | None
    seconds_per_call: tuple[float, ...]
    calls_per_sample: int
    phase_seconds: Mapping[str, float]
    counters: Mapping[str, int]
    memory: Memory | None
    agreement: Agreement
    ratios: tuple[Ratio, ...]
    learning: Learning | None

    @property
    def ops(self) -> int:
        """The number of ops in the chain; 0 where the cell is not counted in ops."""
        return dict(self.cell.size).get("ops", 0)


@dataclass(frozen=True, slots=True)
class Run:
    """One stored file: where, when and from which commit its records come. `environment` holds plain JSON values."""

    file: str
    taken_at: str | None
    machine: Mapping[str, str]
    fingerprint: str
    environment: Mapping[str, object]
    commit: str
    branch: str | None
    dirty: bool
    effort: str | None
    records: tuple[Record, ...]
