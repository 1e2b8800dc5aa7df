"""How much time a run may take: `quick` to look, `standard` to decide, `full` to publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

Name = Literal["quick", "standard", "full"]


@dataclass(frozen=True, slots=True)
class Effort:
    """The knobs of one effort.

    `precision` is the smallest difference that is claimed. A launch gives every engine of a cell a new process, and
    rounds for `seconds_per_engine` each, but at least `min_rounds` and no block begins after `max_rounds`. `launches`
    are the fewest and the most: between them another is made until every ratio's interval is no wider than `precision`
    and lets something be said. Where there is but one, its rounds end as soon as that is so. To become stable a program
    gets `warm_up_seconds`.
    `batches` and `chain_lengths` are what the suites sweep; `epochs` says who learns the digits, and how long: at
    quick effort as time allows; at standard effort until the accuracy on training digits held out hardly rises
    any more (`python -m suites.learn --validate`). `streams` are the steps of a stream of
    shapes, and then the numbers of distinct shapes in it.
    """

    name: Name
    precision: float
    launches: tuple[int, int]
    seconds_per_engine: float
    warm_up_seconds: float
    min_rounds: int
    max_rounds: int
    batches: tuple[int, ...]
    chain_lengths: tuple[int, ...]
    prepare_rounds: int
    epochs: Mapping[str, int]
    streams: tuple[int, ...]

    def shortened(self, share: float) -> Effort:
        """The same with this share of the time for rounds."""
        return replace(self, seconds_per_engine=share * self.seconds_per_engine)

    def in_one_launch(self) -> Effort:
        """The same rounds in a single launch: for engines that share a process anyway."""
        _, most = self.launches
        return replace(
            self,
            launches=(1, 1),
            seconds_per_engine=most * self.seconds_per_engine,
            min_rounds=most * self.min_rounds,
            max_rounds=most * self.max_rounds,
        )


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        effort.name: effort
        for effort in (
            Effort(
                name="quick",
                precision=0.05,
                launches=(1, 1),
                seconds_per_engine=0.35,
                warm_up_seconds=0.3,
                min_rounds=10,
                max_rounds=60,
                batches=(1, 64),
                chain_lengths=(10, 100, 1000, 2000),
                prepare_rounds=3,
                epochs={"lenet5": 5},
                streams=(24, 2),
            ),
            Effort(
                name="standard",
                precision=0.02,
                launches=(5, 10),
                seconds_per_engine=0.5,
                warm_up_seconds=1.0,
                min_rounds=4,
                max_rounds=60,
                batches=(1, 4, 16, 64, 256),
                chain_lengths=(10, 100, 1000, 10_000, 100_000),
                prepare_rounds=7,
                epochs={"cnn": 30, "lenet5": 40},
                streams=(200, 1, 4, 16, 64),
            ),
            Effort(
                name="full",
                precision=0.01,
                launches=(10, 30),
                seconds_per_engine=1.0,
                warm_up_seconds=2.0,
                min_rounds=4,
                max_rounds=100,
                batches=(1, 2, 4, 8, 16, 32, 64, 128, 256),
                chain_lengths=(10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000),
                prepare_rounds=15,
                epochs={"cnn": 45, "lenet5": 80},
                streams=(500, 1, 4, 20, 100, 500),
            ),
        )
    }
)
"""Every effort by name."""
