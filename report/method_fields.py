"""Read what a stored file says about how it was measured; one function a type of `report.method`.

    extra.maybe("stopped", read_stopped)      # Stopped, or None where the file has no such field or null

Each names file and field where a value is not what it should be.
"""

from __future__ import annotations

from collections.abc import Callable

from report.fields import Field
from report.method import WHYS, Caution, Check, Clock, Interval, Sparse, Stopped, WarmUp
from report.stored import Cell, Control, ControlRow, Overhead


def read_clock(clock: Field) -> Clock:
    """The field `clock` of a row."""
    return Clock(clock["resolution_seconds"].not_negative(), clock["share_of_sample"].not_negative())


def read_warm_up(warm_up: Field) -> WarmUp:
    """The field `warm_up` of a row."""
    return WarmUp(times(warm_up["seconds"]), warm_up["stable"].flag())


def read_stopped(stopped: Field) -> Stopped:
    """The field `stopped` of a row."""
    return Stopped(
        why=stopped["why"].one_of(WHYS),
        rounds=stopped["rounds"].whole(),
        width=stopped.maybe("width", Field.not_negative),
        wanted=stopped.maybe("wanted", Field.not_negative),
    )


def read_sparse(every: Field) -> Sparse:
    """The field `every` of a row: host time, waited for every K steps."""
    return Sparse(every["calls"].whole(1), times(every["samples"]))


def read_check(check: Field) -> Check:
    """The field `phases_check` or `split_check` of a row."""
    return Check(check["total_seconds"].not_negative(), check["sum_seconds"].not_negative(), check["closes"].flag())


def read_interval(interval: Field) -> Interval:
    """The field `interval` of a row."""
    low, high = ordered(interval)
    return Interval(interval.maybe("value", Field.positive), low, high, confidence(interval))


def read_parts(parts: Field) -> dict[str, float]:
    """Seconds by name, in stored order."""
    return {name: part.not_negative() for name, part in parts.members().items()}


def read_control(control: Field, cell_of: Callable[[Field], Cell]) -> Control:
    """The field `control` of a whole run; `cell_of` reads what its rows share with all others."""
    cells, alarms = control["cells"].whole(), control["false_alarms"].whole()
    if alarms > cells:
        control["false_alarms"].fail(f"at most {control.path}.cells, which is {cells}")
    return Control(
        cells=cells,
        false_alarms=alarms,
        smallest_effect=control.maybe("smallest_effect", Field.not_negative),
        rows=tuple(_control_row(row, cell_of) for row in control["rows"].items()),
    )


def read_overhead(found: Field) -> Overhead:
    """What measuring cost the run."""
    return Overhead(
        cells=found["cells"].whole(),
        round_seconds=found["round_seconds"].not_negative(),
        own_round_seconds=found["own_round_seconds"].not_negative(),
        cell_seconds_median=found.maybe("cell_seconds_median", Field.not_negative),
        cell_seconds_most=found.maybe("cell_seconds_most", Field.not_negative),
        most_in=found.maybe("most_in", Field.text),
    )


def read_cautions(cautions: Field) -> tuple[Caution, ...]:
    """What the run warns of."""
    return tuple(Caution(it["kind"].text(), it["seen"].text(), it["advice"].text()) for it in cautions.items())


def times(field: Field) -> tuple[float, ...]:
    """A list of times above zero, in seconds."""
    return tuple(item.positive() for item in field.items())


def ordered(field: Field) -> tuple[float, float]:
    """The ends of an interval above zero; raises ReportError where `low` is above `high`."""
    low, high = field["low"].positive(), field["high"].positive()
    if low > high:
        field["low"].fail(f"at most {field.path}.high, which is {high}")
    return low, high


def launches(field: Field) -> int:
    """Over how many launches something was taken: one, in files that do not say."""
    return field.maybe("launches", lambda number: number.whole(1)) or 1


def confidence(field: Field) -> float:
    """A confidence between 0 and 1."""
    found = field["confidence"].positive()
    if found >= 1:
        field["confidence"].fail("a share between 0 and 1")
    return found


def _control_row(row: Field, cell_of: Callable[[Field], Cell]) -> ControlRow:
    low, high = ordered(row)
    return ControlRow(
        cell=cell_of(row),
        engine=row["engine"].text(),
        value=row["value"].positive(),
        low=low,
        high=high,
        rounds=row["rounds"].whole(1),
        launches=launches(row),
        false_alarm=row["false_alarm"].flag(),
    )
