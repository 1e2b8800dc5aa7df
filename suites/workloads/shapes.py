"""Streams of shapes: pairs of batch size and length, drawn by a law, no two alike, and the same work for any knob.

for rows, columns in shapes(LAWS["zipf"], rng, steps=500, distinct=8):
    ...

With fewer `distinct` shapes than steps, neighbours in work are merged into one shape of their mean work: so what
changes with the knob is how many shapes there are, and not how much there is to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from suites.workloads.workload import Rng

ROWS = (2, 16)
COLUMNS = (4, 64)
"""Least and most batch size and length."""

WORDS_PER_SENTENCE = (
    *(698, 786, 787, 1034, 960, 852, 768, 678, 569, 467, 334, 334, 294, 254, 246, 218, 199, 154, 137, 117, 116, 84, 81),
    *(57, 64, 61, 49, 32, 34, 25, 29, 20, 23, 17, 10, 8, 14, 13, 4, 7, 4, 5, 4, 5, 8, 1, 2, 5, 5, 2, 2, 1, 3, 2, 2, 2),
    *(0, 2, 4, 2, 1),
)
"""Sentences of 4 to 64 words in the docstrings of the modules at the top of CPython 3.11.7's standard library, counted
with `ast`: paragraphs split after . ! ? : and white space, words at white space."""

Weights = np.ndarray[Any, Any]
Shape = tuple[int, int]


def _sizes(bounds: tuple[int, int]) -> Weights:
    return np.arange(bounds[0], bounds[1] + 1)


def _uniform(sizes: Weights) -> Weights:
    return np.ones(len(sizes))


def _zipf(sizes: Weights) -> Weights:
    """The k-th smallest is drawn in proportion to 1 / k (Zipf, "Human behavior and the principle of least effort")."""
    return 1.0 / np.arange(1, len(sizes) + 1)


def _sentences(sizes: Weights) -> Weights:
    return np.asarray(WORDS_PER_SENTENCE, float)


LAWS: Mapping[str, tuple[Callable[[Weights], Weights], Callable[[Weights], Weights]]] = MappingProxyType(
    {"uniform": (_uniform, _uniform), "zipf": (_zipf, _zipf), "sentences": (_uniform, _sentences)}
)
"""By name, how often each batch size and each length would come if shapes could repeat."""


def shapes(law: str, rng: Rng, *, steps: int, distinct: int, work: Callable[[int, int], float]) -> list[Shape]:
    """`steps` pairs of batch size and length in random order, `distinct` of them different, for much the same `work`.

    Raises ValueError for more distinct shapes than steps, or more steps than there are shapes.
    """
    drawn = sorted(_drawn(law, rng, steps), key=lambda shape: (work(*shape), shape))
    if not 1 <= distinct <= steps:
        raise ValueError(f"shapes: from 1 to {steps} distinct shapes in {steps} steps, found {distinct}")
    merged: list[Shape] = []
    for group in np.array_split(np.arange(steps), distinct):
        members = [drawn[index] for index in group]
        merged += [_middle(members, work)] * len(members)
    return [merged[index] for index in rng.permutation(steps)]


def _drawn(law: str, rng: Rng, count: int) -> list[Shape]:
    """That many pairs, no two alike, the likelier ones first to be drawn."""
    rows, columns = _sizes(ROWS), _sizes(COLUMNS)
    by_rows, by_columns = LAWS[law]
    weights = np.outer(by_rows(rows), by_columns(columns)).ravel()
    if count > np.count_nonzero(weights):
        raise ValueError(f"shapes: at most {np.count_nonzero(weights)} steps, found {count}")
    found = rng.choice(len(weights), size=count, replace=False, p=weights / weights.sum())
    return [(int(rows[index // len(columns)]), int(columns[index % len(columns)])) for index in found]


def _middle(members: Sequence[Shape], work: Callable[[int, int], float]) -> Shape:
    """The member whose work is nearest to the mean."""
    mean = sum(work(*shape) for shape in members) / len(members)
    return min(members, key=lambda shape: abs(work(*shape) - mean))
