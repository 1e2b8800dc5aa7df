"""Say what stands in each column of a table: one small function a column, and three tuples that put them in order.

    for name, read in FIGURES:
        entry = read(Desk(results, palette), record)     # an Entry, or None where the row has no such figure

A new column is a function and a line in one of the tuples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from report import units
from report.charts.palette import Palette
from report.results import Results
from report.statistics import estimate
from report.stored import Record

REFERENCES = ("tape", "torch_eager", "torch_module")


@dataclass(frozen=True, slots=True)
class Entry:
    """One table cell: its text, what it sorts by (None sorts last), and the CSS variable and character of a mark."""

    text: str
    order: float | str | None = None
    number: bool = False
    mark: tuple[str, str] | None = None
    span: int = 1  # columns


@dataclass(frozen=True, slots=True)
class Desk:
    """What the columns look things up in."""

    results: Results
    palette: Palette

    def source(self, row: Record) -> int:
        """The 1-based place of the file that a row comes from; the last file of that name."""
        return max(place for place, run in enumerate(self.results.runs, 1) if run.file == row.file)


Column = Callable[[Desk, Record], Entry | None]


def _engine(desk: Desk, row: Record) -> Entry:
    paint = desk.palette.engine(row.engine)
    return Entry(row.engine, row.engine, mark=(paint.variable, paint.glyph))


def _number(value: float | None, text: str) -> Entry | None:
    return None if value is None else Entry(text, value, number=True)


def _size(row: Record, name: str) -> Entry | None:
    value = dict(row.cell.size).get(name)
    return None if value is None else _number(value, units.count(value))


def _time(_: Desk, row: Record) -> Entry | None:
    if not row.seconds_per_call:
        return None
    value = estimate(row.seconds_per_call).value
    return _number(value, units.seconds(value))


def _interval(_: Desk, row: Record) -> Entry | None:
    if not row.seconds_per_call:
        return None
    time = estimate(row.seconds_per_call)
    if time.low is None or time.high is None:
        return None
    size, _name = units.unit_of(time.value, units.TIME)
    decimals = units.decimals_of(time.value / size)
    return _number(time.high - time.low, units.interval(time.low, time.high, size, decimals))


def _samples(_: Desk, row: Record) -> Entry | None:
    taken = len(row.seconds_per_call)
    calls = f" {units.CROSS} {units.count(row.calls_per_sample)}" if row.calls_per_sample > 1 else ""
    return _number(taken, f"{units.count(taken)}{calls}") if taken else None


def _per_op(_: Desk, row: Record) -> Entry | None:
    if not row.seconds_per_call or row.cell.question != "dispatch":
        return None
    time = estimate(row.seconds_per_call).per(row.ops)
    return _number(time.value, units.spread(time.value, time.low, time.high, units.TIME))


def _ratio_to(to: str) -> Column:
    def read(desk: Desk, row: Record) -> Entry | None:
        ratio = desk.results.ratio(row.cell, row.engine, to=to) if row.engine != to else None
        return _number(ratio.value, units.ratio(ratio.value, ratio.low, ratio.high)) if ratio else None

    return read


def _rounds(_: Desk, row: Record) -> Entry | None:
    rounds = sorted({ratio.rounds for ratio in row.ratios})
    return _number(rounds[0], " / ".join(map(str, rounds))) if rounds else None


def _peak(_: Desk, row: Record) -> Entry | None:
    return _number(row.memory.peak_bytes, units.size(row.memory.peak_bytes)) if row.memory else None


def _live(_: Desk, row: Record) -> Entry | None:
    return _number(row.memory.live_bytes_before, units.size(row.memory.live_bytes_before)) if row.memory else None


def _method(_: Desk, row: Record) -> Entry | None:
    return Entry(row.memory.method, row.memory.method) if row.memory else None


def _losses(_: Desk, row: Record) -> Entry | None:
    it = row.learning
    return (
        _number(it.losses[-1], f"{units.significant(it.losses[0])} → {units.significant(it.losses[-1])}")
        if it
        else None
    )


def _accuracy(_: Desk, row: Record) -> Entry | None:
    it = row.learning
    return (
        _number(it.test_accuracy, f"{units.percent(it.test_accuracy)} of {units.count(it.test_samples)}")
        if it
        else None
    )


def _training(_: Desk, row: Record) -> Entry | None:
    it = row.learning
    if it is None:
        return None
    steps = f"{units.plural(it.epochs, 'epoch')} of {units.plural(it.steps_per_epoch, 'step')}"
    return Entry(f"{steps}, {units.count(it.train_samples)} samples, seed {it.seed}", it.epochs)


def _difference(_: Desk, row: Record) -> Entry | None:
    it = row.learning
    if it and it.equal_bits_to:
        return Entry(f"equal bits to {it.equal_bits_to}", 0.0)
    difference = it.largest_relative_difference if it else None
    return None if difference is None else _number(difference, f"{difference:.1e}")


def _phases(_: Desk, row: Record) -> Entry | None:
    listed = ", ".join(f"{name} {units.seconds(time)}" for name, time in row.phase_seconds.items())
    return Entry(listed, listed) if listed else None


def _counters(_: Desk, row: Record) -> Entry | None:
    listed = ", ".join(f"{name} {units.count(number)}" for name, number in row.counters.items())
    return Entry(listed, listed) if listed else None


def _agreement(_: Desk, row: Record) -> Entry:
    return Entry(row.agreement.verdict, row.agreement.verdict)


def _worst(_: Desk, row: Record) -> Entry | None:
    it = row.agreement
    if it.error is None:
        return None
    allowed = "" if it.allowed is None else f" of {it.allowed:.1e} allowed"
    return _number(it.error, f"{it.worst or 'worst'}: {it.error:.1e}{allowed}")


def _reference(_: Desk, row: Record) -> Entry | None:
    return Entry(row.agreement.reference, row.agreement.reference) if row.agreement.reference else None


def _file(desk: Desk, row: Record) -> Entry | None:
    return _number(desk.source(row), f"[{desk.source(row)}]") if len(desk.results.runs) > 1 else None


def _reason(_: Desk, row: Record) -> Entry | None:
    return Entry(row.reason, row.reason) if row.reason else None


def _other_sizes(row: Record) -> Entry | None:
    others = ", ".join(f"{name} {units.count(value)}" for name, value in row.cell.size if name != "ops")
    return Entry(others, others) if others else None


IDENTITY: tuple[tuple[str, Column], ...] = (
    ("workload", lambda _, row: Entry(row.cell.workload, row.cell.workload)),
    ("ops", lambda _, row: _size(row, "ops")),
    ("other sizes", lambda _, row: _other_sizes(row)),
    ("batch", lambda _, row: _number(row.cell.batch_size, units.count(row.cell.batch_size))),
    ("engine", _engine),
)
CONSTANT: tuple[tuple[str, Column], ...] = (
    ("formulation", lambda _, row: Entry(row.cell.formulation, row.cell.formulation)),
    ("device", lambda _, row: Entry(row.cell.device, row.cell.device)),
    ("dtype", lambda _, row: Entry(row.cell.dtype, row.cell.dtype)),
    ("quantity", lambda _, row: Entry(row.cell.quantity, row.cell.quantity)),
)
FIGURES: tuple[tuple[str, Column], ...] = (
    ("peak", _peak),
    ("live before", _live),
    ("loss, first → last", _losses),
    ("test accuracy", _accuracy),
    ("largest relative difference", _difference),
    ("per op, derived", _per_op),
    ("median", _time),
    ("interval", _interval),
    ("samples", _samples),
    *((f"ratio to {to}", _ratio_to(to)) for to in REFERENCES),
    ("rounds", _rounds),
    ("note", _reason),
    ("training", _training),
    ("agreement", _agreement),
    ("worst error", _worst),
    ("reference", _reference),
    ("phases", _phases),
    ("counters", _counters),
    ("method", _method),
    ("file", _file),
)
