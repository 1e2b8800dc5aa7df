"""The columns about how a row was measured: clock, first call, warm-up, why its rounds ended, closing checks, GPU time.

for name, read in METHOD:
    entry = read(desk, record)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from report import units
from report.entry import Column, Desk, Entry, number, words
from report.method import Check
from report.statistics import Series, level_of
from report.stored import Record
from report.wording import check_text, width_text


def _parts(parts: Callable[[Record], Mapping[str, float]]) -> Column:
    def read(_: Desk, row: Record) -> Entry | None:
        return words(", ".join(f"{name} {units.seconds(time)}" for name, time in parts(row).items()))

    return read


def _check(check: Callable[[Record], Check | None]) -> Column:
    def read(_: Desk, row: Record) -> Entry | None:
        found = check(row)
        return words(check_text(found)) if found else None

    return read


def _device(_: Desk, row: Record) -> Entry | None:
    if not row.device_seconds:
        return None
    time = level_of(Series(row.device_seconds, row.launches))
    return number(time.value, units.spread(time.value, time.low, time.high, units.TIME))


def _sparse(_: Desk, row: Record) -> Entry | None:
    if row.every is None or not row.every.seconds_per_call:
        return None
    time = level_of(Series(row.every.seconds_per_call, row.launches))
    text = units.spread(time.value, time.low, time.high, units.TIME)
    return number(time.value, f"{text}, every {units.plural(row.every.steps, 'step')}")


def _first_call(_: Desk, row: Record) -> Entry | None:
    first = row.first_call_seconds
    return None if first is None else number(first, units.seconds(first))


def _warm_up(_: Desk, row: Record) -> Entry | None:
    if row.warm_up is None:
        return None
    taken = units.plural(len(row.warm_up.seconds_per_call), "sample")
    return words(f"{taken}, {'stable' if row.warm_up.stable else 'never stable'}")


def _stopped(_: Desk, row: Record) -> Entry | None:
    it = row.stopped
    if it is None:
        return None
    launched = f" in {units.plural(len(row.launches), 'launch', 'launches')}" if row.launches else ""
    return words(f"{it.why}, {units.plural(it.rounds, 'round')}{launched}, {width_text(it.width, it.wanted)}")


def _clock(_: Desk, row: Record) -> Entry | None:
    it = row.clock
    if it is None:
        return None
    share = units.percent(it.share_of_sample, 4)
    return number(it.share_of_sample, f"{units.seconds(it.resolution_seconds)}, {share} of a sample")


def _positions(_: Desk, row: Record) -> Entry | None:
    counted = Counter(row.positions)
    return words(", ".join(f"{place}: {counted[place]}{units.CROSS}" for place in sorted(counted)))


TIMES: tuple[tuple[str, Column], ...] = (
    ("device time", _device),
    ("waited for rarely", _sparse),
    ("first call", _first_call),
)
PARTS: tuple[tuple[str, Column], ...] = (
    ("split", _parts(lambda row: row.split_seconds)),
    ("split adds up", _check(lambda row: row.split_check)),
    ("phases", _parts(lambda row: row.phase_seconds)),
    ("phases add up", _check(lambda row: row.phases_check)),
)
METHOD: tuple[tuple[str, Column], ...] = (
    ("warm-up", _warm_up),
    ("rounds ended", _stopped),
    ("places in rounds", _positions),
    ("clock", _clock),
)
