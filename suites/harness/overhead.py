"""What measuring costs by itself, read from the protocol's log: the conductor's time while it waits for nobody.

    found = overhead(conductor.log)
    found.own_round_seconds / found.round_seconds, found.cell_seconds_median

A cell lies between two notes of the conductor, `BEGUN` and `ENDED`. The rounds of a launch go from its first sample to
its last, with the looks in between whether they are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
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
    rounds = [launch for _, events, _ in cells for launch in _launches(events)]
    own = [(seconds - _waited(events), name) for name, events, seconds in cells]
    most, most_in = max(own, default=(None, None))
    return Overhead(
        cells=len(cells),
        round_seconds=sum(map(_wall, rounds)),
        own_round_seconds=sum(_wall(launch) - _waited(launch) for launch in rounds),
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


def _launches(events: Sequence[Event]) -> Iterator[list[Event]]:
    """The samples of each launch: nothing else is asked for among them."""
    for is_sample, together in groupby(events, lambda event: event.what == "sample"):
        if is_sample:
            yield list(together)


def _wall(rounds: Sequence[Event]) -> float:
    """Seconds from the first sample to the end of the last."""
    return rounds[-1].began_seconds + rounds[-1].took_seconds - rounds[0].began_seconds


def _waited(events: Sequence[Event]) -> float:
    return sum(event.took_seconds for event in events)
