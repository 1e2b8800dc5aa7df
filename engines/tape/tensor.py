"""A tape's value, and how calling an op records it.

An entry of the tape is a plain tuple `(op, attrs, slots, saved, outputs)`: the slots of the op's inputs (-1 where no
gradient is wanted), and for each of them what its gradient rule will read, picked now so that nothing else stays alive.
The slot of a value is the position of its entry; an op with k outputs takes k positions, all but the first None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engines.op import KERNEL_ERRORS, Op, check_widths, lift, refusal
from engines.ops import bind
from engines.value import EngineError, Spec, Value, user_location

if TYPE_CHECKING:
    from engines.tape.tape import Tape

NO_ATTRS: Mapping[str, Any] = {}


class Tensor(Value):
    """A torch tensor (`data`) on a tape; `slot` is its position there, -1 where it needs no gradient."""

    __slots__ = ("data", "slot", "tape")

    def __init__(self, data: torch.Tensor, tape: Tape, slot: int) -> None:
        self.data = data
        self.tape = tape
        self.slot = slot

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def spec(self) -> Spec:
        """Shape, dtype and device."""
        return Spec.of(self.data)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy as a NumPy array."""
        array: np.ndarray[Any, Any] = self.data.cpu().numpy().copy()
        return array

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}, slot={self.slot})"


def _elsewhere(op: Op, tensor: Tensor, tape: Tape) -> EngineError:
    return EngineError(
        f"{op.name}: {tensor.spec} belongs to another tape (on {tensor.tape.device}; this one is on {tape.device}), "
        f"at {user_location()}; values live as long as the tape that made them"
    )


def _tape_of(op: Op, operands: Sequence[Any]) -> Tape:
    for operand in operands:
        if type(operand) is Tensor:
            return operand.tape
    found = ", ".join(type(operand).__name__ for operand in operands)
    raise EngineError(
        f"{op.name}: no value of a tape among the inputs ({found}) at {user_location()}; "
        "make one with tape.parameter(...) or tape.constant(...)"
    )


def _general(op: Op) -> Callable[..., Any]:
    """The recording form of any op: any number of inputs and outputs, numbers and arrays among them, attributes."""
    kernel, promotes, single, arity = op.kernel, op.promotes, op.outputs == 1, len(op.vjps)
    rules = [op.rule(i) for i in range(arity)]

    def call(*operands: Any, **given: Any) -> Any:
        if op.variadic:
            operands = tuple(operands[0])
        tape = _tape_of(op, operands)
        attrs = op.complete(given) if op.attrs or given else NO_ATTRS
        raw, slots = [], []
        for operand in operands:
            if type(operand) is Tensor:
                if operand.tape is not tape:
                    raise _elsewhere(op, operand, tape)
                raw.append(operand.data)
                slots.append(operand.slot)
            else:
                raw.append(lift(op, operand, tape.device))
                slots.append(-1)
        if promotes:
            check_widths(op, raw)
        try:
            out = kernel(raw, **attrs) if op.variadic else kernel(*raw, **attrs)
        except KERNEL_ERRORS as error:
            raise refusal(op, operands, attrs, error) from None
        outs = (out,) if single else out
        active = op.rule if op.variadic else rules.__getitem__
        if tape.recording and any(slot >= 0 and active(i) is not None for i, slot in enumerate(slots)):
            slot = tape.record(op, attrs, slots, outs, raw)
            tensors = tuple(Tensor(o, tape, slot + i) for i, o in enumerate(outs))
        else:
            tensors = tuple(Tensor(o, tape, -1) for o in outs)
        return tensors[0] if single else tensors

    return call


def _unary(op: Op) -> Callable[..., Any]:
    """The recording form of an op of one input, one output and no attributes: the same as `_general`, unrolled."""
    kernel, pick, general = op.kernel, op.pickers[0], _general(op)

    def call(x: Any) -> Any:
        if type(x) is not Tensor:
            return general(x)
        data = x.data
        try:
            out = kernel(data)
        except KERNEL_ERRORS as error:
            raise refusal(op, (x,), NO_ATTRS, error) from None
        tape, slot = x.tape, x.slot
        if slot < 0 or pick is None or not tape.recording:
            return Tensor(out, tape, -1)
        entries = tape.entries
        entries.append((op, NO_ATTRS, (slot,), (pick(out, data),), 1))
        return Tensor(out, tape, len(entries) - 1)

    return call


def _binary(op: Op) -> Callable[..., Any]:
    """The recording form of an op of two inputs, one output and no attributes: the same as `_general`, unrolled."""
    kernel, promotes, general = op.kernel, op.promotes, _general(op)
    pick_a, pick_b = op.pickers

    def call(a: Any, b: Any) -> Any:
        if type(a) is not Tensor:
            return general(a, b)
        tape, slot_a, data_a = a.tape, a.slot, a.data
        if type(b) is Tensor:
            slot_b, data_b = b.slot, b.data
            if b.tape is not tape or (promotes and data_a.dtype is not data_b.dtype):
                return general(a, b)
        elif type(b) is float or type(b) is int:
            slot_b, data_b = -1, b
        else:
            return general(a, b)
        try:
            out = kernel(data_a, data_b)
        except KERNEL_ERRORS as error:
            raise refusal(op, (a, b), NO_ATTRS, error) from None
        saved_a = pick_a(out, data_a, data_b) if slot_a >= 0 and pick_a is not None else None
        saved_b = pick_b(out, data_a, data_b) if slot_b >= 0 and pick_b is not None else None
        if not tape.recording or (saved_a is None and saved_b is None):
            return Tensor(out, tape, -1)
        entries = tape.entries
        entries.append((op, NO_ATTRS, (slot_a, slot_b), (saved_a, saved_b), 1))
        return Tensor(out, tape, len(entries) - 1)

    return call


def _recording(op: Op) -> Callable[..., Any]:
    if op.attrs or op.variadic or op.outputs != 1 or len(op.vjps) > 2:
        return _general(op)
    return _unary(op) if len(op.vjps) == 1 else _binary(op)


def _gradients(loss: Tensor, wrt: Sequence[Tensor]) -> list[Any]:
    """`Tape.gradients` with `record=True`: gradients that are themselves recorded."""
    return loss.tape.gradients(loss, wrt, record=True)


OPS = bind("tape", _recording)
"""The namespace of every tape: each op runs its kernel at once and records what its gradient will need."""
OPS.add_function("gradients", _gradients)
Tensor.ops = OPS
