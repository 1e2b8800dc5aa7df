"""One Triton kernel of a region: from loads to stores, its nodes one line each with the user's line beside it.

    @triton.jit
    def fused_0(a0, a1, numbers):
        k0 = tl.load(numbers + 0)
        x = tl.program_id(0) * 1024 + tl.arange(0, 1024)
        inside = x < 5000
        v0 = tl.load(a0 + x, inside)
        v1 = tanh(v0)  # model.py:3
        v2 = v1 * k0  # model.py:4
        tl.store(a1 + x, v2, inside)

Numbers are handed over, so that kernels which differ in these alone share one text. Where several programs share a sum,
each gives a part, and another kernel adds the parts up, in an order that does not change from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from engines.graph.ir import Node, Var
from engines.graph.lower.loops import comment
from engines.graph.lower.triton_formulas import FORMULAS, ROWS, UPDATES
from engines.graph.lower.triton_tile import ELEMENTS, INDEX_LIMIT, Tile, flat, times
from engines.graph.lower.walk import SUMS, Shape, given_shape, kept_shape
from engines.ops import TABLE
from engines.value import Spec

WARP = 256
"""Elements of a tile for each warp of 32 threads."""

MOST_WARPS = 16

TYPES = {torch.float32: "tl.float32", torch.float64: "tl.float64"}


@dataclass(frozen=True)
class Kernel:
    """A kernel's text but for its name, how many programs run it, the values and numbers to hand over."""

    parameters: str
    lines: tuple[str, ...]
    programs: int
    values: tuple[Var, ...]
    numbers: tuple[float, ...]
    dtype: torch.dtype
    warps: int

    def text(self, name: str) -> str:
        """The function under this name."""
        return "\n".join(["@triton.jit", f"def {name}({self.parameters}):", *(f"    {line}" for line in self.lines)])


class Reach(NamedTuple):
    """How sums of a tile are taken and where they go: the axis, offset and mask as text, how many share one."""

    axis: str
    offset: str
    mask: str
    elements: int
    program: str
    programs: int


class Lines:
    """The lines of a kernel as they come about: before, inside and after the steps along x."""

    def __init__(self) -> None:
        self.head: list[str] = []
        self.step: list[str] = []
        self.tail: list[str] = []
        self.names: dict[Var, str] = {}
        self._pointers: dict[Var, str] = {}
        self._numbers: dict[float, str] = {}
        self._count = 0

    def pointer(self, var: Var) -> str:
        """The parameter that points to a value."""
        return self._pointers.setdefault(var, f"a{len(self._pointers)}")

    def number(self, value: float) -> str:
        """A number as a scalar of the region's type."""
        name = self._numbers.get(value)
        if name is None:
            name = self._numbers[value] = f"k{len(self._numbers)}"
            self.head.append(f"{name} = tl.load(numbers + {name[1:]})")
        return name

    def name(self) -> str:
        """A name for one more value."""
        self._count += 1
        return f"v{self._count - 1}"

    def kernel(self, lines: Sequence[str], programs: int, dtype: torch.dtype, warps: int) -> Kernel:
        """The kernel of these lines."""
        parameters = ", ".join([*self._pointers.values(), *["numbers"] * bool(self._numbers)])
        return Kernel(parameters, tuple(lines), programs, tuple(self._pointers), tuple(self._numbers), dtype, warps)


class Nest(Lines):
    """Nodes over one shape, which end in the values to store, and in sums that all keep one shape (or go over rows)."""

    def __init__(
        self,
        nodes: Sequence[Node],
        shape: Shape,
        dtype: torch.dtype,
        stored: Sequence[Var],
        divisors: Mapping[Var, float],
        *,
        alone: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.dtype, self.divisors = shape, dtype, divisors
        self.by_rows = any(node.op.name in ROWS for node in nodes)
        self.parts: dict[Node, Var] = {}
        """For each sum of which a program gives a part only: where the parts stand, (programs, elements)."""
        made = {var for node in nodes for var in node.outputs}
        operands = [
            given_shape(node, index)
            for node in nodes
            for index, operand in enumerate(node.inputs)
            if isinstance(operand, Var) and operand not in made and node.op.name != "full_like"
        ]
        kept = next((kept_shape(node, shape) for node in nodes if node.op.name in SUMS), None)
        self.tile = Tile(shape, operands, kept, by_rows=self.by_rows, alone=alone)
        self._loaded: dict[tuple[Var, Shape], str] = {}
        for node in nodes:
            if node.op.name in SUMS:
                self._sum(node)
            else:
                self._value(node, stored)

    def whole(self) -> Kernel:
        """All of it as one kernel."""
        tile = self.tile
        step = [*tile.along(), *self.step]
        if tile.steps > 1:
            step = [f"for step in range({tile.steps}):", *(f"    {line}" for line in step)]
        warps = min(max(tile.high * tile.wide // WARP, 1), MOST_WARPS)
        return self.kernel([*tile.before(), *self.head, *step, *self.tail], tile.programs, self.dtype, warps)

    def _operand(self, node: Node, index: int) -> str:
        """An operand, truth values as numbers save for the choice in a `where`."""
        operand = node.inputs[index]
        if not isinstance(operand, Var):
            assert operand is not None
            return self.number(operand)
        name = self.names.get(operand) or self._load(operand, given_shape(node, index))
        is_choice = node.op.name == "where" and index == 0
        return name if is_choice or operand.spec.dtype != torch.bool else f"{name}.to({TYPES[self.dtype]})"

    def _load(self, var: Var, shape: Shape) -> str:
        if (var, shape) not in self._loaded:
            name = self._loaded[var, shape] = self.name()
            lines = self.step if self.tile.moves(shape) else self.head
            address = " + ".join(filter(None, [self.pointer(var), self.tile.offset(shape)]))
            lines.append(f"{name} = tl.load({', '.join(filter(None, [address, self.tile.mask(shape)]))})")
        return self._loaded[var, shape]

    def _value(self, node: Node, stored: Sequence[Var]) -> None:
        (out,) = node.outputs
        text = self._text(node)
        name = self.names[out] = self.name()
        self.step.append(f"{name} = {text}  # {comment(str(node.where))}")
        if out in stored:
            # Of one element only there is no offset: but what is stored may be a tile, so the place must be one.
            offset, mask = self.tile.offset(self.shape) or "x", self.tile.mask(self.shape) or "inside"
            self.step.append(f"tl.store({self.pointer(out)} + {offset}, {name}, {mask})")

    def _text(self, node: Node) -> str:
        name = node.op.name
        if name == "full_like":
            return self.number(node.attrs["value"])
        operands = [self._operand(node, index) for index in range(len(node.inputs))]
        if name in ROWS:
            scale = self.number(-1.0 / node.attrs["shape"][0]) if "{scale}" in ROWS[name] else ""
            return ROWS[name].format(*operands, scale=scale, columns=self.tile.columns)
        if name == "dropout_mask":
            operands += [self.tile.offset(self.shape) or "x", self.number(1.0 / (1.0 - node.attrs["rate"]))]
        return bare(FORMULAS[name](operands, node).replace("(T)", f"({TYPES[self.dtype]})"))

    def _sum(self, node: Node) -> None:
        (out,) = node.outputs
        reach = self._reach(node)
        total = f"tl.sum({self._summed(node)}{reach.axis})"
        if reach.programs == 1:
            if self.divisors.get(out, 1.0) != 1.0:
                total = f"divide({total}, {self.number(self.divisors[out])})"
            address = [self.pointer(out), reach.offset]
        else:
            parts = self.parts[node] = Var(Spec((reach.programs, reach.elements), self.dtype, out.spec.device))
            address = [self.pointer(parts), times(reach.program, reach.elements), reach.offset]
        place = " + ".join(filter(None, address))
        self.tail.append(f"tl.store({', '.join(filter(None, [place, total, reach.mask]))})")

    def _summed(self, node: Node) -> str:
        """The name of a tile of summands, with 0 where there is no element; along x they are added up."""
        value, mask = (self._text(node), "rows") if node.op.name in ROWS else (self._operand(node, 0), "inside")
        name, sign = self.name(), "="
        if self.tile.steps > 1:
            self.head.append(f"{name} = tl.zeros({self.tile.extent}, {TYPES[self.dtype]})")
            sign = "+="
        self.step.append(f"{name} {sign} tl.where({mask}, {value}, 0.0)  # {comment(str(node.where))}")
        return name

    def _reach(self, node: Node) -> Reach:
        """What of a tile becomes one sum, and who shares it."""
        tile = self.tile
        kept = (1, 1, *kept_shape(node, self.shape))[-2:] if self.by_rows else (tile.rows, 1)
        if tile.has_y and kept[0] != 1:
            programs, program = (1, "") if self.by_rows else (tile.shares, tile.share)
            return Reach(", 1, keep_dims=True", "y", "rows", tile.rows, program, programs)
        if self.by_rows and kept[1] != 1:
            return Reach(", 0, keep_dims=True", "x", "columns", tile.columns, tile.block, tile.blocks)
        program, programs = (tile.block, tile.blocks) if self.by_rows else (tile.share, tile.shares)
        return Reach("", "", "", 1, program, programs)


def added_up(node: Node, parts: Var, divisor: float) -> Kernel:
    """The kernel that adds up the parts of a sum."""
    out = Var(Spec(parts.spec.shape[1:], parts.spec.dtype, parts.spec.device))
    total = Node(TABLE["sum"], (parts,), {"dim": 0, "keepdim": False}, (out,), node.where)
    kernel = Nest([total], parts.spec.shape, parts.spec.dtype, [], {out: divisor}, alone=True).whole()
    given = tuple(node.outputs[0] if var is out else var for var in kernel.values)
    return replace(kernel, values=given)


def updated(nodes: Sequence[Node]) -> Kernel:
    """The kernel of updates in one dtype, each of a shape of its own: a program works on a block of one of them."""
    lines = Lines()
    first = 0
    for node in nodes:
        out = node.outputs[0].spec
        count = math.prod(out.shape)
        blocks = -(-count // ELEMENTS)
        lines.step.append(f"if (program >= {first}) & (program < {first + blocks}):  # {comment(str(node.where))}")
        block = f"(program - {first})" if first else "program"
        lines.step += [f"    {line}" for line in flat(block, count)]
        lines.step += [f"    {line}" for line in _update(node, lines)]
        first += blocks
    wide = ".to(tl.int64)" if first * ELEMENTS >= INDEX_LIMIT else ""
    body = [f"program = tl.program_id(0){wide}", *lines.head, *lines.step]
    return lines.kernel(body, first, nodes[0].outputs[0].spec.dtype, ELEMENTS // WARP)


def _update(node: Node, lines: Lines) -> Iterator[str]:
    """The lines of one update: every operand is loaded, and those that it owns are stored."""
    names = [lines.name() for _ in node.inputs]
    pointers = [lines.pointer(operand) for operand in node.inputs if isinstance(operand, Var)]
    for name, pointer in zip(names, pointers, strict=True):
        yield f"{name} = tl.load({pointer} + x, inside)"
    numbers = {name: lines.number(value) for name, value in node.attrs.items()}
    for statement in UPDATES[node.op.name]:
        yield statement.format(*names, **numbers)
    for index in node.op.donates:
        yield f"tl.store({pointers[index]} + x, {names[index]}, inside)"


def bare(text: str) -> str:
    """An expression without brackets around the whole of it."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and index < len(text) - 1:
            return text
    return text[1:-1] if text.startswith("(") else text
