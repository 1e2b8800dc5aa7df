"""At which sizes to trace a model in order to see how its graph depends on them.

    generic, corners = probes((Varying("length", (("tokens", 1),), least=2, most=64),), avoid={32})

The generic ones are the base, one with each size alone changed, and two checks side by side, all of them away from the
model's other sizes, which an optimisation pass might take a size for by mistake. The corners lie at the ends of what is
declared, in every combination: there a branch on a size shows, and which of two sizes is the larger.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import product

from engines.engine import Varying
from engines.value import EngineError, user_location

Sizes = dict[str, int]

FEWEST = 4
"""Sizes that must lie within what is declared: two neighbours to look at, two more to check with."""

FURTHEST = 100
"""How far from the least size to look, where no maximum is declared."""


def probes(varying: Sequence[Varying], avoid: Set[int]) -> tuple[list[Sizes], list[Sizes]]:
    """The generic probes and the corners. Raises EngineError where too few sizes are declared."""
    taken = {0, 1, *avoid}
    base: Sizes = {}
    check: Sizes = {}
    for each in varying:
        base[each.name], check[each.name] = _two_pairs(each, taken)
        for first in (base[each.name], check[each.name]):
            taken |= {first, first + 1}
    alone = [{**base, name: size + 1} for name, size in base.items()]
    beside = {name: size + 1 for name, size in check.items()}
    ends = [(each.least, _most(each)) for each in varying]
    corners = [dict(zip(base, found, strict=True)) for found in product(*ends)]
    return [base, *alone, check, beside], corners


def _most(varying: Varying) -> int:
    return varying.least + FURTHEST if varying.most is None else varying.most


def _two_pairs(varying: Varying, taken: Set[int]) -> tuple[int, int]:
    """The first numbers of two pairs of neighbours, low and high in the range, neither among `taken` if that can be."""
    first, last = max(varying.least, 1), _most(varying) - 1
    if last - first + 2 < FEWEST:
        raise EngineError(
            f"symbolic: {varying.name} is declared from {varying.least} to {varying.most}, "
            f"which is fewer than {FEWEST} sizes, at {user_location()}; use Exact or Pad"
        )
    pairs = [size for size in range(first, last + 1) if not {size, size + 1} & taken]
    if not pairs or pairs[-1] - pairs[0] < 2:
        pairs = [first, last]
    return pairs[len(pairs) // 4] if pairs[-1] - pairs[len(pairs) // 4] >= 2 else pairs[0], pairs[-1]
