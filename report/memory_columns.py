"""The columns about memory. A figure that could not be had shows a dash and why, any other what the row says of it.

for name, read in MEMORY:
    entry = read(desk, record)
"""

from __future__ import annotations

from collections.abc import Callable

from report import units
from report.entry import Column, Desk, Entry, number
from report.stored import Memory, Record

CURVE = "curve"


def _figure(field: str, figure: Callable[[Memory], int | None], write: Callable[[float], str]) -> Column:
    def read(_: Desk, row: Record) -> Entry | None:
        if row.memory is None:
            return None
        value, note = figure(row.memory), row.memory.notes.get(field)
        if value is None:
            return Entry(f"{units.DASH} {note}") if note else None
        return number(value, f"{write(value)}, {note}" if note else write(value))

    return read


def _of_bound(_: Desk, row: Record) -> Entry | None:
    memory = row.memory
    if memory is None or not memory.lower_bound_bytes or memory.peak_bytes is None:
        return None
    share = memory.peak_bytes / memory.lower_bound_bytes
    return number(share, units.ratio(share))


def _peaks(_: Desk, row: Record) -> Entry | None:
    peaks = row.memory.peaks_bytes if row.memory else ()
    if not peaks:
        return None
    low, high = units.size(min(peaks)), units.size(max(peaks))
    listed = low if low == high else f"{low} to {high}"
    return number(max(peaks) - min(peaks), f"{listed} in {units.plural(len(peaks), 'call')} of one fresh process")


def _per_entry(_: Desk, row: Record) -> Entry | None:
    each = row.memory.bytes_per_entry if row.memory else None
    return None if each is None else number(each, units.size(each))


def _curve(_: Desk, row: Record) -> Entry | None:
    if row.memory is None:
        return None
    if row.memory.curve:
        return number(len(row.memory.curve), units.plural(len(row.memory.curve), "point"))
    reason = row.memory.notes.get(CURVE)
    return Entry(f"{units.DASH} {reason}") if reason else None


MEMORY: tuple[tuple[str, Column], ...] = (
    ("peak", _figure("peak_bytes", lambda it: it.peak_bytes, units.size)),
    ("peaks", _peaks),
    ("lower bound", _figure("lower_bound_bytes", lambda it: it.lower_bound_bytes, units.size)),
    ("peak over lower bound, derived", _of_bound),
    ("record or plan", _figure("record_bytes", lambda it: it.record_bytes, units.size)),
    ("entries or nodes", _figure("record_entries", lambda it: it.record_entries, units.count)),
    ("bytes an entry, derived", _per_entry),
    ("allocations", _figure("allocations", lambda it: it.allocations, units.count)),
    ("allocated", _figure("allocated_bytes", lambda it: it.allocated_bytes, units.size)),
    ("live before", _figure("live_bytes_before", lambda it: it.live_bytes_before, units.size)),
    ("live bytes along the step", _curve),
)
