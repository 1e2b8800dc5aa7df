"""A loop in C as a function of tensors.

function = bound_loop(library.loop_0, node, "loop_0")
(carry, ys) = function(carry, xs, weight)
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engines.graph.control import WHILE, execute
from engines.graph.fused import interpret
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.whole import FULL, PAST_LIMIT, counted
from engines.graph.lower.written import OUTSIDE
from engines.op import kernels_only
from engines.ops.control import past_limit
from engines.value import EngineError, Spec

Function = Callable[..., tuple[torch.Tensor, ...]]
Tensors = tuple[torch.Tensor, ...]
Counts = ctypes.c_int64 * 2

FEWEST_TRIPS = 16
"""How many trips a store has room for at first; doubled as often as that is too few."""


def bound_loop(function: Callable[..., int], node: Node, name: str) -> Function:
    """What to call for the node of a loop. C trusts shapes, which are the same at every call, so one look is enough."""
    operands = [operand for operand in node.inputs if isinstance(operand, Var)]
    run = (_Growing if node.op is WHILE else _Following)(function, node) if counted(node) else _Fixed(function, node)
    on_kernels = [_on_kernels(part) for part in node.attrs["body"]]
    checked = False

    def call(*given: Any) -> Tensors:
        nonlocal checked
        tensors = tuple([_whole(value, operand) for value, operand in zip(given, operands, strict=True)])
        if not checked:
            _check(node, tensors)
            checked = True
        outputs, status = run(tensors)
        if status == PAST_LIMIT:
            raise past_limit(node.attrs["limit"], node.where)
        if status == OUTSIDE:  # the kernels say which
            with kernels_only():
                return execute(node, on_kernels, tensors)
        if status:
            raise EngineError(f"{node.op.name}: no memory for the values of its body, from {node.where}")
        return outputs

    call.__name__ = name
    return call


class _Fixed:
    """Runs a loop whose results have the shapes that its node says."""

    def __init__(self, function: Callable[..., int], node: Node) -> None:
        self._function = function
        self._specs = [var.spec for var in node.outputs]
        self._pack = struct.Struct(f"{len(node.inputs) + len(node.outputs)}P").pack

    def __call__(self, given: Tensors) -> tuple[Tensors, int]:
        outputs = tuple([torch.empty(spec.shape, dtype=spec.dtype) for spec in self._specs])
        return outputs, self._function(self._pack(*map(torch.Tensor.data_ptr, (*given, *outputs))))


class _Counted:
    """Runs a loop some of whose tensors are as long as there are trips."""

    def __init__(self, function: Callable[..., int], node: Node) -> None:
        self._function = function
        self._node = node
        self._carried: int = node.attrs["carried"]
        self._specs = [var.spec for var in node.outputs]
        self._pack = struct.Struct(f"{len(node.inputs) + len(node.outputs) + 1}P").pack

    def _ask(self, given: Tensors, outputs: Sequence[torch.Tensor], counts: ctypes.Array[ctypes.c_int64]) -> int:
        pointers = map(torch.Tensor.data_ptr, (*given, *outputs))
        return self._function(self._pack(*pointers, ctypes.addressof(counts)))

    def _carry(self) -> list[torch.Tensor]:
        return [torch.empty(spec.shape, dtype=spec.dtype) for spec in self._specs[: self._carried]]

    def _rows(self, trips: int) -> list[torch.Tensor]:
        """Room for what is kept of so many trips."""
        return [torch.empty((trips, *spec.shape[1:]), dtype=spec.dtype) for spec in self._specs[self._carried :]]


class _Following(_Counted):
    """A scan over what another loop kept."""

    def __call__(self, given: Tensors) -> tuple[Tensors, int]:
        lengths = {len(x) for x in given[self._carried : self._carried + self._node.attrs["scanned"]]}
        if len(lengths) != 1:
            node = self._node
            raise EngineError(f"{node.op.name}: its xs have {sorted(lengths)} rows, from {node.where}")
        (trips,) = lengths
        outputs = (*self._carry(), *self._rows(trips))
        return outputs, self._ask(given, outputs, Counts(trips, 0))


class _Growing(_Counted):
    """A while loop that keeps something of each trip: begins with room for as many as the longest so far had."""

    def __init__(self, function: Callable[..., int], node: Node) -> None:
        super().__init__(function, node)
        self._room = FEWEST_TRIPS

    def __call__(self, given: Tensors) -> tuple[Tensors, int]:
        room = self._room
        carry, stores = self._carry(), self._rows(room)
        counts = Counts(0, room)
        while (status := self._ask(given, (*carry, *stores), counts)) == FULL:
            grown = self._rows(2 * room)
            for more, store in zip(grown, stores, strict=True):
                more[:room] = store
            stores, room = grown, 2 * room
            counts[1] = room
        trips = counts[0]
        self._room = max(self._room, trips)
        return (*carry, *(store[:trips] for store in stores)), status


def _on_kernels(part: Graph) -> Function:
    return lambda *given: interpret(given, body=part)


def _whole(value: Any, operand: Var) -> torch.Tensor:
    """An operand as C reads it: in one piece, rows that came one by one put together."""
    if isinstance(value, list):
        return torch.stack(value) if value else torch.empty(operand.spec.shape, dtype=operand.spec.dtype)
    tensor: torch.Tensor = value
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _check(node: Node, given: Tensors) -> None:
    rows = range(node.attrs["carried"], node.attrs["carried"] + node.attrs.get("scanned", 0)) if counted(node) else ()
    for place, (operand, tensor) in enumerate(zip(node.inputs, given, strict=True)):
        assert isinstance(operand, Var)
        found = Spec.of(tensor)
        if place in rows:  # as long as there were trips
            found = found._replace(shape=(*operand.spec.shape[:1], *found.shape[1:]))
        if found != operand.spec:
            raise EngineError(f"{node.op.name}: takes {operand.spec}, found {Spec.of(tensor)}; from {node.where}")
