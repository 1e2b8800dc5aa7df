"""The tile that a Triton kernel goes over: which elements, at which addresses, how many programs.

    y = (program * 4 + tl.arange(0, 4))[:, None]        # what sums keep, or rows
    rows = y < 64
    x = tl.arange(0, 256)[None, :]                      # what is summed over, or columns, or all there is
    columns = x < 200
    inside = rows & columns

Dimensions are joined as far as every operand's strides allow, then dealt into two: y over what sums keep, x over what
they sum. Without sums there is x alone. Ops on rows have a row's columns in x, all of them in one tile. A long x is cut
into shares, one a program, and a program goes along its share in steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from engines.graph.lower.walk import Shape, joined, strides_in

ELEMENTS = 1024
"""Of a tile: eight for each of a program's 128 threads."""

TALLEST = 64
"""Along y, where neighbours in memory are neighbours in y."""

PROGRAMS = 512
"""As many as keep a large processor busy, about four on each of its multiprocessors: more do not share one sum."""

INDEX_LIMIT = 1 << 31
"""Elements from which on an index needs 64 bits."""


def power_of_two(count: int) -> int:
    """The least power of two that is not smaller: Triton's tiles have no other sizes."""
    return 1 << max(count - 1, 0).bit_length()


class Tile:
    """The tile of a region of `shape`, given the shapes of operands, and of what sums keep if it ends in sums.

    `by_rows`: two dimensions, a row whole in one tile. `alone`: one program does all of each sum.
    """

    def __init__(
        self, shape: Shape, operands: Iterable[Shape], kept: Shape | None, *, by_rows: bool, alone: bool = False
    ) -> None:
        self.shape = shape
        shapes = list(dict.fromkeys([shape, *operands, *([] if kept is None else [kept])]))
        layouts = [strides_in(shape, each) for each in shapes]
        self.sizes: Shape = shape
        self.dims: dict[str, list[int]] = {"y": [0], "x": [1]}
        if not by_rows:
            self.sizes, layouts = joined(shape, layouts, keep_rows=False)
        self._strides = dict(zip(shapes, layouts, strict=True))
        if not by_rows:
            still = (0,) * len(self.sizes) if kept is None else self._strides[kept]
            self.dims = {"y": [d for d, step in enumerate(still) if step]}
            self.dims["x"] = [d for d, step in enumerate(still) if not step]
        self.has_y = bool(self.dims["y"])
        self.rows, self.columns = (math.prod(self.sizes[d] for d in self.dims[group]) for group in "yx")
        self.high, self.wide = self._extent(by_rows=by_rows)
        tiles = -(-self.columns // self.wide)
        self.blocks = -(-self.rows // self.high)
        most = 1 if alone else tiles if kept is None else max(PROGRAMS // self.blocks, 1)
        self.steps = -(-tiles // min(most, tiles))
        self.shares = -(-tiles // self.steps)

    def _extent(self, *, by_rows: bool) -> tuple[int, int]:
        """Sizes along y and x."""
        if by_rows:
            wide = power_of_two(self.columns)
            return min(max(ELEMENTS // wide, 1), power_of_two(self.rows)), wide
        if self.has_y and self.dims["y"][-1] > max(self.dims["x"], default=-1):
            high = min(power_of_two(self.rows), TALLEST)
            return high, min(power_of_two(self.columns), ELEMENTS // high)
        wide = min(power_of_two(self.columns), ELEMENTS)
        return min(power_of_two(self.rows), ELEMENTS // wide), wide

    @property
    def programs(self) -> int:
        """How many run the kernel."""
        return self.blocks * self.shares

    @property
    def extent(self) -> str:
        """The tile's shape as text."""
        return f"[{self.high}, {self.wide}]" if self.has_y else f"[{self.wide}]"

    @property
    def share(self) -> str:
        """Which share of x the program at hand has; nothing if there is one only."""
        if self.shares == 1:
            return ""
        return f"program % {self.shares}" if self.blocks > 1 else "program"

    @property
    def block(self) -> str:
        """Which block of y it has."""
        if self.blocks == 1:
            return ""
        return f"program // {self.shares}" if self.shares > 1 else "program"

    def before(self) -> Iterator[str]:
        """Lines that hold along the whole of x."""
        if self.programs > 1:
            long = ".to(tl.int64)" if math.prod(self.shape) + 2 * ELEMENTS >= INDEX_LIMIT else ""
            yield f"program = tl.program_id(0){long}"
        if self.has_y:
            yield f"y = {_range(times(self.block, self.high), self.high, '[:, None]')}"
            yield f"rows = y < {self.rows}"
            yield from self._apart("y", self.rows)

    def along(self) -> Iterator[str]:
        """Lines of one step along x."""
        number = _sum(times(self.share, self.steps), "step" if self.steps > 1 else "")
        yield f"x = {_range(times(number, self.wide), self.wide, '[None, :]' if self.has_y else '')}"
        yield f"{'columns' if self.has_y else 'inside'} = x < {self.columns}"
        if self.has_y:
            yield "inside = rows & columns"
        yield from self._apart("x", self.columns)

    def _apart(self, group: str, count: int) -> Iterator[str]:
        """The coordinates in each of several dimensions."""
        dims = self.dims[group]
        if len(dims) < 2:
            return
        for number, d in enumerate(dims):
            count //= self.sizes[d]
            whole = f"{group} // {count}" if count > 1 else group
            yield f"{group}{number} = {whole}{f' % {self.sizes[d]}' if number else ''}"

    def moves(self, shape: Shape) -> bool:
        """Whether an operand of this shape differs along x."""
        return any(self._strides[shape][d] for d in self.dims["x"])

    def offset(self, shape: Shape) -> str:
        """How far from its beginning the elements of an operand stand."""
        parts = [
            times(f"{group}{number}" if len(self.dims[group]) > 1 else group, self._strides[shape][d])
            for group in "yx"
            for number, d in enumerate(self.dims[group])
            if self._strides[shape][d]
        ]
        return _sum(*parts)

    def mask(self, shape: Shape) -> str:
        """Which elements of a tile are there for an operand; nothing where it has one only."""
        by_y = any(self._strides[shape][d] for d in self.dims["y"])
        if self.moves(shape):
            return "inside" if by_y or not self.has_y else "columns"
        return "rows" if by_y else ""


def _sum(*parts: str) -> str:
    return " + ".join(filter(None, parts))


def times(text: str, factor: int) -> str:
    """A product as text; nothing of nothing."""
    if not text or factor == 1:
        return text
    return f"({text}) * {factor}" if " " in text else f"{text} * {factor}"


def _range(first: str, size: int, axis: str) -> str:
    """So many numbers from the first on, along an axis of a tile."""
    numbers = _sum(first, f"tl.arange(0, {size})")
    return f"({numbers}){axis}" if first and axis else f"{numbers}{axis}"


def flat(block: str, count: int) -> list[str]:
    """The lines of a tile along `count` elements in a row."""
    return [f"x = {block} * {ELEMENTS} + tl.arange(0, {ELEMENTS})", f"inside = x < {count}"]
