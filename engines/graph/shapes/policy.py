"""The policies: what size to compile for where a batch has some size, and how many executables to hold.

Bucket({"length": (16, 64)}).fitting(Varying("length", (("tokens", 1),)), 20)     # 64
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from engines.engine import Varying
from engines.value import EngineError, user_location

CAPACITY = 64
"""Executables that are held at once, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Exact:
    """One executable for each set of shapes. Nothing is padded, nothing is masked."""

    capacity: int = CAPACITY
    masks: ClassVar[bool] = False
    name: ClassVar[str] = "exact"

    def fitting(self, varying: Varying, size: int) -> int:
        """The size itself."""
        return size


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sizes rounded up to the next of `buckets`, by the name of the size; to powers of two where it has none.

    A power of two beyond the declared maximum gives way to that maximum.
    """

    buckets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    capacity: int = CAPACITY
    masks: ClassVar[bool] = True
    name: ClassVar[str] = "bucket"

    def fitting(self, varying: Varying, size: int) -> int:
        """The bucket for a size. Raises EngineError above the last one."""
        given = self.buckets.get(varying.name)
        most = max(given) if given else varying.most
        check_most(varying, size, most, self.name)
        if given:
            return min(bucket for bucket in given if bucket >= size)
        power = 1 << max(size - 1, 0).bit_length()
        return power if most is None else min(power, most)


@dataclass(frozen=True, slots=True)
class Pad:
    """Every size rounded up to its declared maximum."""

    capacity: int = CAPACITY
    masks: ClassVar[bool] = True
    name: ClassVar[str] = "pad"

    def fitting(self, varying: Varying, size: int) -> int:
        """The maximum. Raises EngineError above it, or where none is declared."""
        if varying.most is None:
            raise EngineError(f"pad: {varying.name} has no maximum (most=None) to pad to, at {user_location()}")
        check_most(varying, size, varying.most, self.name)
        return varying.most


@dataclass(frozen=True, slots=True)
class Symbolic:
    """One executable for all sizes from `least` to `most`, as far as a graph can be found that serves all."""

    capacity: int = CAPACITY
    masks: ClassVar[bool] = False
    name: ClassVar[str] = "symbolic"

    def fitting(self, varying: Varying, size: int) -> int:
        """The size itself. Raises EngineError where it lies outside what the graph was made for."""
        if size < varying.least:
            raise EngineError(
                f"{self.name}: {varying.name} is {size}, below the minimum {varying.least} that was declared for it, "
                f"at {user_location()}"
            )
        check_most(varying, size, varying.most, self.name)
        return size


Policy = Exact | Bucket | Pad | Symbolic


def check_most(varying: Varying, size: int, most: int | None, policy: str) -> None:
    """Refuse a size above the maximum. Raises EngineError."""
    if most is not None and size > most:
        entry, dimension = varying.places[0]
        raise EngineError(
            f"{policy}: {varying.name} is {size} (dimension {dimension} of {entry!r}), above the maximum {most}, "
            f"at {user_location()}"
        )
