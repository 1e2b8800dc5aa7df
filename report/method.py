"""How a row or a run was measured, as frozen types: what a reader needs to judge how far its numbers carry.

For instance:

    record.stopped.why                  # "precise", "budget" or "fixed"
    record.phases_check.closes          # whether the phases add up to their total
    run.cautions[0].advice              # what to do about something that may have moved numbers

Everything here is optional in a stored file: a run that knows less about itself is still a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Why = Literal["precise", "budget", "fixed"]
WHYS: tuple[Why, ...] = get_args(Why)


@dataclass(frozen=True, slots=True)
class Clock:
    """The resolution of the clock behind a row, and what share (0 to 1) of one sample it is."""

    resolution_seconds: float
    share_of_sample: float


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The samples thrown away before the first round, and whether their level was stable at the end."""

    seconds_per_call: tuple[float, ...]
    stable: bool


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why a cell's rounds ended; `width` and `wanted` are relative widths of its widest ratio interval."""

    why: Why
    rounds: int
    width: float | None
    wanted: float | None


@dataclass(frozen=True, slots=True)
class Sparse:
    """Host time on a GPU that is waited for only every `steps` steps."""

    steps: int
    seconds_per_call: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A total and the sum of its parts; `closes` says whether they agree within what the harness allows (5 %)."""

    total_seconds: float
    sum_seconds: float
    closes: bool


@dataclass(frozen=True, slots=True)
class Interval:
    """A stored level with its interval, in seconds; `value` is None in files that store no level but the median."""

    value: float | None
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Caution:
    """Something about the machine that may have moved numbers: what was seen, and what to do."""

    kind: str
    seen: str
    advice: str
