"""The order of rounds: random, and balanced, so that no engine is always first or always after the same other.

    for block in blocks(["tape", "graph", "torch_eager"], seed="cnn-b64"):
        for order in block: ...                     # one round: everyone once

A block is a random Latin square: as many rounds as there are engines, each engine once in every position.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def blocks(players: Sequence[T], seed: str) -> Iterator[list[list[T]]]:
    """Blocks of rounds, without end. The same seed deals the same."""
    deal = random.Random(seed)  # noqa: S311 - an order, not a secret
    count = len(players)
    while True:
        seats, shifts = deal.sample(players, count), deal.sample(range(count), count)
        columns = deal.sample(range(count), count)
        yield [[seats[(column + shift) % count] for column in columns] for shift in shifts]
