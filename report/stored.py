"""What a stored run holds, as frozen types: a `Run` has `Record`s, a record is one engine in one `Cell`.

For instance:

    record.cell.workload, record.cell.batch_size, record.engine
    record.seconds_per_call      # all raw samples; empty where status is not "measured", and then `reason` says why
    record.ratios                # against the other engines of the cell, paired by round

`report.records` makes them, checked; nothing here checks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from report.method import Caution, Check, Clock, Interval, Sparse, Stopped, WarmUp

Question = Literal[
    "step", "forward", "backward", "construction", "dispatch", "preparing", "memory", "learning", "interface",
    "collector", "attribution", "shapes", "branches", "loops", "recursion", "recompute", "rate",
    "call", "elementwise",
]  # fmt: skip
Style = Literal["dynamic", "static"]
Quantity = Literal["forward", "loss_and_grad", "step", "construct", "prepare", "train", "stream"]
Status = Literal[
    "measured", "skipped", "failed", "wrong", "crashed", "timed out", "out of memory", "not run"
]  # fmt: skip
Verdict = Literal["agrees", "wrong", "unchecked"]
Judgement = Literal["faster", "slower", "no difference", "cannot tell"]
Start = Literal["", "cold", "warm"]

QUESTIONS: tuple[Question, ...] = get_args(Question)
STYLES: tuple[Style, ...] = get_args(Style)
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
GAPS: tuple[Status, ...] = get_args(Status)[1:]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
TURNED: Mapping[Judgement, Judgement] = {"faster": "slower", "slower": "faster"}
BY_WAYS: tuple[Question, ...] = ("branches", "loops", "recursion")
"""Questions whose rows of one cell run different formulations, each told by its engine's name."""
SHARED = "static"
"""The formulation of such a cell: the one that all are held against."""
COUNTED_IN_OPS: tuple[Question, ...] = ("construction", "dispatch")


class Cell(NamedTuple):
    """What was measured, whoever did it: rows of one cell differ in the engine alone.

    `start` tells preparing in a fresh process with empty caches (cold) from preparing once more (warm); it is empty in
    all other questions, and where the file does not tell the two apart.
    """

    question: Question
    workload: str
    formulation: str
    device: str
    dtype: str
    quantity: Quantity
    size: tuple[tuple[str, float], ...]
    batch_size: int
    start: Start = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The time of a row's engine over the time of engine `to`, paired by round, with its interval; no unit.

    In several `launches` each engine had a new process in each, and the interval holds what differs between them.
    `verdict` is the word that the run stored, or else what the interval says.
    """

    to: str
    value: float
    low: float
    high: float
    confidence: float
    rounds: int
    launches: int
    verdict: Judgement

    def inverse(self, engine: str) -> Ratio:
        """The same comparison from the other side: the time of `to` over the time of `engine`."""
        turned = TURNED.get(self.verdict, self.verdict)
        bounds = 1 / self.high, 1 / self.low
        return Ratio(engine, 1 / self.value, *bounds, self.confidence, self.rounds, self.launches, turned)


@dataclass(frozen=True, slots=True)
class Memory:
    """The high-water mark of one step in a fresh process, on top of what was held before it (parameters, batch).

    `curve` holds the bytes of live tensors by position in the step, `record_bytes` the tape's or the plan's own size,
    `lower_bound_bytes` the largest sum of values alive at once, `peaks_bytes` the peak of each of several calls
    in that process. `notes` say, by the name of a figure, why it could not be had and is None, or more of it.
    """

    peak_bytes: int | None
    live_bytes_before: int | None
    method: str
    curve: tuple[tuple[float, int], ...] = ()
    allocations: int | None = None
    allocated_bytes: int | None = None
    record_bytes: int | None = None
    lower_bound_bytes: int | None = None
    peaks_bytes: tuple[int, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    record_entries: int | None = None

    @property
    def bytes_per_entry(self) -> float | None:
        """What one entry of the record takes (derived): for a tape one recorded op, for a plan one node."""
        if self.record_bytes is None or not self.record_entries:
            return None
        return self.record_bytes / self.record_entries


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
    compared_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """The way through a stream of batches that change in shape: getting ready, then every step, then all steps again.

    All are medians over the rounds; `first_seconds` are of the steps in which shapes are met for the first time.
    """

    prepare_seconds: float
    first_seconds: tuple[float, ...]
    again_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One row: one engine in one cell. `seconds_per_call` is empty, and `reason` filled, where nothing was measured.

    `collector` says whether the garbage collector was on inside rounds, `positions` where in the order of each round
    this engine stood, `device_seconds` what a GPU's own events say of the same rounds. `notes` say by the name of a
    stage what a measured row lacks and why, or what an engine warned of; None where an older file does not tell. What
    else it does not store is None or empty, and so is the style of an engine that never got as far as to say it.
    """

    schema: int
    file: str
    name: str
    cell: Cell
    engine: str
    style: Style | None
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
    stream: Stream | None
    collector: bool
    clock: Clock | None
    first_call_seconds: float | None
    warm_up: WarmUp | None
    stopped: Stopped | None
    launches: tuple[int, ...]
    positions: tuple[int, ...]
    device_seconds: tuple[float, ...]
    every: Sparse | None
    phases_check: Check | None
    split_seconds: Mapping[str, float]
    split_check: Check | None
    interval: Interval | None
    notes: Mapping[str, str] | None

    @property
    def ops(self) -> int:
        """The number of ops in the chain; 0 where the cell is not counted in ops."""
        return int(dict(self.cell.size).get("ops", 0))


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One engine against itself: a ratio that should be 1, and whether it was called different all the same."""

    cell: Cell
    engine: str
    value: float
    low: float
    high: float
    rounds: int
    launches: int
    false_alarm: bool


@dataclass(frozen=True, slots=True)
class Control:
    """The A/A control of a run; within `smallest_effect` of 1, which is relative, 95 % of its intervals stayed.

    It is None where too few cells were tried to say. It bounds no single verdict: each is held against its own cell.
    """

    cells: int
    false_alarms: int
    smallest_effect: float | None
    rows: tuple[ControlRow, ...]


@dataclass(frozen=True, slots=True)
class Overhead:
    """What measuring cost a run: seconds of all rounds and, of them, those in which no engine was asked for anything.

    The same of whole cells: the median, the most, and the cell that took most; None where no cell was measured.
    """

    cells: int
    round_seconds: float
    own_round_seconds: float
    cell_seconds_median: float | None
    cell_seconds_most: float | None
    most_in: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """One stored file: where, when and from which commit its records come. `environment` holds plain JSON values.

    `interrupted` says why a run ended early, where it did. `cautions` is None where the file does not say: a run
    recovered from its journal never got as far as to look.
    """

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
    control: Control | None
    overhead: Overhead | None
    cautions: tuple[Caution, ...] | None
    interrupted: str | None
