"""Samples taken elsewhere, handed to pytest-benchmark through its public interfaces.

A marker gives `benchmark` a timer that replays our clock, and `benchmark.pedantic` then runs as many empty rounds as
there are samples: its table, its JSON, its compare and its histograms show the very samples that were taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


class ReplayTimer:
    """A clock that shows, call by call, the start and the end of each sample."""

    def __init__(self, samples: Sequence[float]) -> None:
        self._readings = iter([reading for sample in samples for reading in (0.0, sample)])

    def __call__(self) -> float:
        """The next reading, in seconds."""
        return next(self._readings)


RunRow = Callable[[BenchmarkFixture], None]
"""What a suite's test does with its `benchmark` fixture."""

Keep = Callable[[dict[str, Any]], None]


def replay(
    request: pytest.FixtureRequest, group: str, samples: Sequence[float], info: dict[str, Any], keep: Keep
) -> RunRow:
    """Prepare this test's benchmark row from samples (seconds per call) and extra facts; `keep` gets it as stored.

    Must be called before the `benchmark` fixture is made, since that reads the marker.
    """
    request.node.add_marker(pytest.mark.benchmark(timer=ReplayTimer(samples), group=group))

    def run(benchmark: BenchmarkFixture) -> None:
        benchmark.extra_info.update(info)
        benchmark.pedantic(_nothing, rounds=len(samples), iterations=1)
        keep(benchmark.stats.as_dict(include_data=True))

    return run


def _nothing() -> None:
    """What is run in each replayed round."""
