"""What measuring costs by itself, read from the protocol's log: the conductor's time while it waits for nobody.

    found = overhead(conductor.log)
    found.own_round_seconds / found.round_seconds, found.cell_seconds_median

A cell lies between two notes of the conductor, `BEGUN` and `ENDED`. Its rounds go from its first sample to its last,
with the looks in between whether they are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from suites.harness.conductor import Event

BEGUN, ENDED = "cell begun", "cell ended"


@dataclass(frozen=True, slots=True)
class Overhead:
    """`own_...` seconds are those in which no worker had been asked for anything.

    `round_seconds` is the time of all rounds. Of a cell's own seconds there are the median over cells, the most, and
    the cell that took most; these are None where no cell was measured.
    """

    cells: int
    round_seconds: float
    own_round_seconds: float
    cell_seconds_median: float | None
    cell_seconds_most: float | None
    most_in: str | None


def overhead(log: Sequence[Event]) -> Overhead:
    """Sum up a session's log."""
    cells = list(_cells(log))
    rounds = [_span(events) for _, events, _ in cells]
    own = [(seconds - _waited(events), name) for name, events, seconds in cells]
    most, most_in = max(own, default=(None, None))
    return Overhead(
        cells=len(cells),
        round_seconds=sum(wall for wall, _ in rounds),
        own_round_seconds=sum(mine for _, mine in rounds),
        cell_seconds_median=median(seconds for seconds, _ in own) if own else None,
        cell_seconds_most=most,
        most_in=most_in,
    )


def _cells(log: Sequence[Event]) -> Iterator[tuple[str, list[Event], float]]:
    """Each cell that came to its end: its name, what was asked within, and how long it took."""
    begun, within = 0.0, list[Event]()
    for event in log:
        if event.what == BEGUN:
            begun, within = event.began_seconds, []
        elif event.what == ENDED:
            yield event.ended, within, event.began_seconds - begun
        else:
            within.append(event)


def _span(events: Sequence[Event]) -> tuple[float, float]:
    """Seconds from the first sample to the end of the last, and how many of them nobody was asked for anything."""
    places = [place for place, event in enumerate(events) if event.what == "sample"]
    if not places:
        return 0.0, 0.0
    rounds = events[places[0] : places[-1] + 1]
    wall = rounds[-1].began_seconds + rounds[-1].took_seconds - rounds[0].began_seconds
    return wall, wall - _waited(rounds)


def _waited(events: Sequence[Event]) -> float:
    return sum(event.took_seconds for event in events)
