"""Say what stands in each column of a table: one small function a column, and three tuples that put them in order.

    for name, read in FIGURES:
        entry = read(Desk(results, palette), record)     # an Entry, or None where the row has no such figure

A new column is a function and a line in one of the tuples.
"""

from __future__ import annotations

from report import units
from report.entry import Column, Desk, Entry, number, words
from report.memory_columns import MEMORY
from report.method_columns import METHOD, PARTS, TIMES
from report.results import uncollected
from report.statistics import time_of
from report.stored import Record

REFERENCES = ("tape", "torch_eager", "torch_module")


def _engine(desk: Desk, row: Record) -> Entry:
    paint = desk.palette.engine(row.engine)
    return Entry(row.engine, row.engine, mark=(paint.variable, paint.glyph))


def _size(row: Record, name: str) -> Entry | None:
    value = dict(row.cell.size).get(name)
    return None if value is None else number(value, units.count(value))


def _time(_: Desk, row: Record) -> Entry | None:
    if not row.seconds_per_call:
        return None
    value = time_of(row).value
    return number(value, units.seconds(value))


def _interval(_: Desk, row: Record) -> Entry | None:
    if not row.seconds_per_call:
        return None
    time = time_of(row)
    if time.low is None or time.high is None:
        return None
    size, _name = units.unit_of(time.value, units.TIME)
    decimals = units.decimals_of(time.value / size)
    return number(time.high - time.low, units.interval(time.low, time.high, size, decimals))


def _samples(_: Desk, row: Record) -> Entry | None:
    taken = len(row.seconds_per_call)
    calls = f" {units.CROSS} {units.count(row.calls_per_sample)}" if row.calls_per_sample > 1 else ""
    return number(taken, f"{units.count(taken)}{calls}") if taken else None


def _per_op(_: Desk, row: Record) -> Entry | None:
    if not row.seconds_per_call or row.cell.question != "dispatch":
        return None
    time = time_of(row).per(row.ops)
    return number(time.value, units.spread(time.value, time.low, time.high, units.TIME))


def _ratio_to(to: str) -> Column:
    def read(desk: Desk, row: Record) -> Entry | None:
        ratio = desk.results.ratio(row.cell, row.engine, to=to) if row.engine != to else None
        if ratio is None:
            return None
        return number(ratio.value, f"{units.ratio(ratio.value, ratio.low, ratio.high)} {ratio.verdict}")

    return read


def _to_collector_off(desk: Desk, row: Record) -> Entry | None:
    return _ratio_to(uncollected(row.engine))(desk, row)


def _rounds(_: Desk, row: Record) -> Entry | None:
    rounds = sorted({ratio.rounds for ratio in row.ratios})
    return number(rounds[0], " / ".join(map(str, rounds))) if rounds else None


def _method(_: Desk, row: Record) -> Entry | None:
    return words(row.memory.method) if row.memory else None


def _losses(_: Desk, row: Record) -> Entry | None:
    it = row.learning
    return (
        number(it.losses[-1], f"{units.significant(it.losses[0])} → {units.significant(it.losses[-1])}") if it else None
    )


def _accuracy(_: Desk, row: Record) -> Entry | None:
    it = row.learning
    return (
        number(it.test_accuracy, f"{units.percent(it.test_accuracy)} of {units.count(it.test_samples)}") if it else None
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
    return None if difference is None else number(difference, f"{difference:.1e}")


def _counters(_: Desk, row: Record) -> Entry | None:
    listed = ", ".join(f"{name} {units.count(number)}" for name, number in row.counters.items())
    return words(listed)


def _agreement(_: Desk, row: Record) -> Entry | None:
    return words(row.agreement.verdict)


def _worst(_: Desk, row: Record) -> Entry | None:
    it = row.agreement
    if it.error is None:
        return None
    allowed = "" if it.allowed is None else f" of {it.allowed:.1e} allowed"
    return number(it.error, f"{it.worst or 'worst'}: {it.error:.1e}{allowed}")


def _reference(_: Desk, row: Record) -> Entry | None:
    return words(row.agreement.reference)


def _file(desk: Desk, row: Record) -> Entry | None:
    return number(desk.source(row), f"[{desk.source(row)}]") if len(desk.results.runs) > 1 else None


def _reason(_: Desk, row: Record) -> Entry | None:
    return words(row.reason)


def _other_sizes(row: Record) -> Entry | None:
    others = ", ".join(f"{name} {units.amount(value)}" for name, value in row.cell.size if name != "ops")
    return words(others)


IDENTITY: tuple[tuple[str, Column], ...] = (
    ("workload", lambda _, row: words(row.cell.workload)),
    ("ops", lambda _, row: _size(row, "ops")),
    ("other sizes", lambda _, row: _other_sizes(row)),
    ("batch", lambda _, row: number(row.cell.batch_size, units.count(row.cell.batch_size))),
    ("start", lambda _, row: words(row.cell.start)),
    ("engine", _engine),
)
CONSTANT: tuple[tuple[str, Column], ...] = (
    ("formulation", lambda _, row: words(row.cell.formulation)),
    ("device", lambda _, row: words(row.cell.device)),
    ("dtype", lambda _, row: words(row.cell.dtype)),
    ("quantity", lambda _, row: words(row.cell.quantity)),
)
FIGURES: tuple[tuple[str, Column], ...] = (
    *MEMORY,
    ("loss, first → last", _losses),
    ("test accuracy", _accuracy),
    ("largest relative difference", _difference),
    ("per op, derived", _per_op),
    ("median", _time),
    ("interval", _interval),
    ("samples", _samples),
    *TIMES,
    *((f"ratio to {to}", _ratio_to(to)) for to in REFERENCES),
    ("ratio to collector off", _to_collector_off),
    ("rounds", _rounds),
    ("note", _reason),
    ("training", _training),
    ("agreement", _agreement),
    ("worst error", _worst),
    ("reference", _reference),
    *PARTS,
    ("counters", _counters),
    ("method", _method),
    *METHOD,
    ("file", _file),
)
