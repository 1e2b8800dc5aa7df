"""Numbers that depend on sizes, found from a few examples: a graph's attribute at each of several probes.

    probes = [{"size_length": 11}, {"size_length": 12}, {"size_length": 29}, {"size_length": 30}]
    solve([44, 48, 116, 120], probes)         # Formula: 4 * size_length
    solve([1 / 11, 1 / 12, 1 / 29, 1 / 30], probes)     # Formula: 1.0 / size_length

The first probe is the base, then comes one for each size with that size alone changed, and the rest are checks. Three
kinds of expression are tried: a product of powers, a product of shifted sizes or their reciprocals, a weighted sum. An
expression counts only if it gives every example, whole numbers exactly and others to the last few bits. Checks that lie
side by side (29, 30) tell a rounded-down quotient from the straight line that it looks like from afar.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, product
from typing import Any, NamedTuple

Number = int | float
Probe = Mapping[str, int]

RELATIVE = 1e-13
"""How far a number that is not whole may be off: some hundred roundings of double precision."""

LARGEST_DENOMINATOR = 64
"""Of a shift or a factor; roundings would be taken for larger ones."""

NEAR = 1e-6
"""How near a shift must be to a plain number, before every example is held against it."""


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression of sizes. `repr` of it is Python, with the sizes as variables."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def at(self, sizes: Probe) -> Any:
        """Its value where the sizes are these."""
        return eval(self.text, {"__builtins__": {}}, dict(sizes))  # noqa: S307 - a text of this file's own making


class Part(NamedTuple):
    """A factor: its text, whether it stands above the line, and its value at the base."""

    text: str
    above: bool
    at_base: float


def solve(values: Sequence[Number], probes: Sequence[Probe]) -> Formula | Number | None:
    """The number itself where it is the same at every probe, an expression that gives it at each, or None."""
    if all(type(value) is type(values[0]) and value == values[0] for value in values):
        return values[0]
    if any(isinstance(value, bool) or not math.isfinite(value) for value in values):
        return None
    for text in chain(_powers(values, probes), _shifted(values, probes), _weighted(values, probes)):
        if _gives(Formula(text), values, probes):
            return Formula(text)
    return None


def _gives(formula: Formula, values: Sequence[Number], probes: Sequence[Probe]) -> bool:
    for value, probe in zip(values, probes, strict=True):
        try:
            found = formula.at(probe)
        except ArithmeticError:
            return False
        exact = isinstance(value, int)
        allowed = 0.0 if exact else RELATIVE * abs(value)
        if isinstance(found, int) is not exact or abs(found - value) > allowed:
            return False
    return True


def _powers(values: Sequence[Number], probes: Sequence[Probe]) -> Iterator[str]:
    """c x s^p x t^q, with halves among the exponents of numbers that are not whole."""
    base = values[0]
    parts: list[Part] = []
    for name, value, before, after in _changes(values, probes):
        if base == 0 or value / base <= 0:
            return
        exponent = round(2 * math.log(value / base) / math.log(after / before)) / 2
        if exponent:
            power = f"**{abs(exponent):g}" if abs(exponent) != 1 else ""
            parts.append(Part(f"{name}{power}", exponent > 0, float(before) ** abs(exponent)))
    yield from _quotient(base, parts)


def _shifted(values: Sequence[Number], probes: Sequence[Probe]) -> Iterator[str]:
    """c x (s + a) / (t + b): each size with a shift of its own, above or below the line."""
    changed = [change for change in _changes(values, probes) if change[1] != values[0]]
    if values[0] == 0 or any(value == 0 for _, value, _, _ in changed):
        return
    for above in product((True, False), repeat=len(changed)):
        parts = [_shifted_size(values[0], change, up) for change, up in zip(changed, above, strict=True)]
        yield from _quotient(values[0], [part for part in parts if part is not None] if all(parts) else None)


def _shifted_size(base: Number, change: tuple[str, Number, int, int], above: bool) -> Part | None:
    """s + a, above or below the line, such that the value changes with s as it does; None where no plain a does."""
    name, value, before, after = change
    ratio = value / base if above else base / value
    wanted = (after - ratio * before) / (ratio - 1.0)
    shift = Fraction(wanted).limit_denominator(LARGEST_DENOMINATOR)
    if abs(float(shift) - wanted) > NEAR or before + shift == 0:
        return None
    sized = name if shift.denominator == 1 else f"{shift.denominator} * {name}"
    text = name if shift == 0 else f"({sized} {'+' if shift > 0 else '-'} {abs(shift.numerator)})"
    return Part(text, above, float(before * shift.denominator + shift.numerator))


def _weighted(values: Sequence[Number], probes: Sequence[Probe]) -> Iterator[str]:
    """a + b s + c t, of whole numbers."""
    if not all(isinstance(value, int) for value in values):
        return
    terms, rest = [], int(values[0])
    for name, value, before, after in _changes(values, probes):
        slope, left = divmod(int(value) - int(values[0]), after - before)
        if left:
            return
        if slope:
            terms.append(name if slope == 1 else f"{slope} * {name}")
        rest -= slope * before
    yield f"({' + '.join([*terms, *[str(rest)][: rest != 0]])})"


def _changes(values: Sequence[Number], probes: Sequence[Probe]) -> list[tuple[str, Number, int, int]]:
    """For each size: its name, the value where it alone changes, and the size before and after."""
    base = probes[0]
    return [
        (name, value, base[name], probe[name]) for name, value, probe in zip(base, values[1:], probes[1:], strict=False)
    ]


def _snapped(value: float) -> float:
    """The plain number that roundings have moved a little, if there is one near."""
    near = float(Fraction(value).limit_denominator(LARGEST_DENOMINATOR)) if abs(value) < 1e15 else value
    return near if near and abs(near - value) <= RELATIVE * abs(value) else value


def _quotient(base: Number, parts: Sequence[Part] | None) -> Iterator[str]:
    """A product over another, with the factor that makes it right at the base; none that whole numbers forbid."""
    if parts is None:
        return
    factor = float(base)
    for part in parts:
        factor = factor / part.at_base if part.above else factor * part.at_base
    factor = _snapped(factor)
    above, below = ([part.text for part in parts if part.above is up] for up in (True, False))
    whole = isinstance(base, int)
    if whole and (below or factor != int(factor) or any("." in text for text in above)):
        return
    shown = [] if whole and factor == 1.0 else [repr(int(factor) if whole else factor)]
    dividend, divisor = " * ".join([*shown, *above]), " * ".join(below)
    if below:
        yield f"({dividend} / {f'({divisor})' if len(below) > 1 else divisor})"
    else:
        yield f"({dividend})" if len(shown) + len(above) > 1 else dividend
