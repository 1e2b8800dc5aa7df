"""Read what a stored row says about memory: peak, bytes alive along the step, record, allocations, lower bound.

    row["extra_info"].maybe("memory", read_memory)       # Memory, or None where the row says nothing about memory

A figure that could not be had is None, and the row's `notes` say why. Of one that was had they may say more.
"""

from __future__ import annotations

from itertools import pairwise

from report.fields import Field
from report.stored import Memory


def read_memory(memory: Field) -> Memory:
    """The field `memory` of a row."""
    notes = memory.maybe("notes", _reasons) or {}
    told = memory["peak_bytes"].value is None and "peak_bytes" in notes
    return Memory(
        peak_bytes=None if told else memory["peak_bytes"].whole(),
        live_bytes_before=memory.maybe("live_bytes_before", Field.whole),
        method=memory["method"].text(),
        curve=memory.maybe("curve", _curve) or (),
        allocations=memory.maybe("allocations", Field.whole),
        allocated_bytes=memory.maybe("allocated_bytes", Field.whole),
        record_bytes=memory.maybe("record_bytes", Field.whole),
        lower_bound_bytes=memory.maybe("lower_bound_bytes", Field.whole),
        peaks_bytes=memory.maybe("peak_bytes_by_call", _wholes) or (),
        notes=notes,
        record_entries=memory.maybe("record_entries", Field.whole),
    )


def _curve(curve: Field) -> tuple[tuple[float, int], ...]:
    points = tuple(_point(point) for point in curve.items())
    if any(one[0] > two[0] for one, two in pairwise(points)):
        curve.fail("positions in order")
    return points


def _point(point: Field) -> tuple[float, int]:
    pair = point.items()
    if len(pair) != len(("position", "bytes")):
        point.fail("a pair of position and bytes")
    position, held = pair
    return position.not_negative(), held.whole()


def _wholes(numbers: Field) -> tuple[int, ...]:
    return tuple(number.whole() for number in numbers.items())


def _reasons(notes: Field) -> dict[str, str]:
    return {name: reason.text() for name, reason in notes.members().items()}
