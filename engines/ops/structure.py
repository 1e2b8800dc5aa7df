"""Structures of values: what the carry of a loop, its inputs, and the results of branches may be.

    leaves, outline = flatten({"h": h, "c": (c, None)})       # [c, h]: dictionaries by sorted key
    unflatten(outline, leaves)                                # the same structure of other leaves

A structure is a value, None, or a tuple, list or dictionary of structures. Lists come back as tuples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

LEAF: Final = "value"
"""The outline of a value. That of None is None, of a tuple a tuple, of a dictionary `Keys`."""

Outline = Any


class Keys(tuple[Any, ...]):
    """The outline of a dictionary: pairs of key and outline, sorted by key."""


def flatten(structure: Any) -> tuple[list[Any], Outline]:
    """The values of a structure in a fixed order, and how they stand in it."""
    if structure is None:
        return [], None
    if not isinstance(structure, (tuple, list, dict)):
        return [structure], LEAF
    leaves: list[Any] = []
    outlines = []
    named = isinstance(structure, dict)
    for key in sorted(structure) if named else range(len(structure)):
        found, outline = flatten(structure[key])
        leaves += found
        outlines.append((key, outline) if named else outline)
    return leaves, Keys(outlines) if named else tuple(outlines)


def unflatten(outline: Outline, leaves: Sequence[Any]) -> Any:
    """The structure with this outline whose values are `leaves`."""
    return _filled(outline, iter(leaves))


def _filled(outline: Outline, leaves: Iterator[Any]) -> Any:
    if outline is None:
        return None
    if isinstance(outline, Keys):
        return {key: _filled(part, leaves) for key, part in outline}
    if isinstance(outline, tuple):
        return tuple(_filled(part, leaves) for part in outline)
    return next(leaves)


def paths(outline: Outline, name: str) -> list[str]:
    """What to call each leaf in a message: `carry["c"][0]`."""
    if outline is None:
        return []
    if isinstance(outline, Keys):
        return [path for key, part in outline for path in paths(part, f"{name}[{key!r}]")]
    if isinstance(outline, tuple):
        return [path for index, part in enumerate(outline) for path in paths(part, f"{name}[{index}]")]
    return [name]


def describe_outline(outline: Outline) -> str:
    """An outline in a message."""
    if isinstance(outline, Keys):
        return "{" + ", ".join(f"{key!r}: {describe_outline(part)}" for key, part in outline) + "}"
    if isinstance(outline, tuple):
        return f"({', '.join(map(describe_outline, outline))})"
    return str(outline)
