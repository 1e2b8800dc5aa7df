"""Finding where a NaN or an infinity first appears: what both engines' checking modes say, in the same words.

with Tape(check_finite=True) as tape: ...
Executable.build(graph, check_finite=True)(...)

NotFiniteError: log: gives the first NaN, in 1 of 4 elements of f32[4], at model.py:12, in trip 3 of while_loop
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

from engines.value import EngineError, Location, Spec

Finite = Literal["nan"] | bool
"""Whether to check every result: for NaN and infinities (True), for NaN alone ("nan"), or not."""


class NotFiniteError(EngineError):
    """An op gave a NaN or an infinity, which no op before had given."""

    def in_trip(self, name: str, trip: int) -> NotFiniteError:
        """The same with the trip of a loop, counted from 0."""
        return NotFiniteError(f"{self}, in trip {trip} of {name}")


def check_finite(name: str, results: Iterable[Any], inputs: Iterable[Any], where: Location, what: Finite) -> None:
    """Refuse results that are not finite. Raises NotFiniteError."""
    for result in results:
        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            continue
        bad = _bad(result, what)
        if bool(bad.any()):
            kind = "NaN" if bool(result.isnan().any()) else "infinity"
            from_outside = any(
                isinstance(x, torch.Tensor) and x.is_floating_point() and bool(_bad(x, what).any()) for x in inputs
            )
            raise NotFiniteError(
                f"{name}: gives the first {kind}, in {int(bad.sum())} of {result.numel()} elements of "
                f"{Spec.of(result)}, {'being given one from outside, ' if from_outside else ''}at {where}"
            )


def _bad(tensor: torch.Tensor, what: Finite) -> torch.Tensor:
    return tensor.isnan() if what == "nan" else ~tensor.isfinite()
