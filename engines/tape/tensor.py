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

from engines.op import KERNEL_ERRORS, Op, check_operands, describe, lift, listed, picked, plain, refusal, spec_of
from engines.ops import bind
from engines.value import EngineError, Spec, Value, user_location

if TYPE_CHECKING:
    from engines.tape.tape import Tape

NO_ATTRS: Mapping[str, Any] = {}
MOST_KNOWN = 256
"""Sets of attributes remembered per op."""


class Tensor(Value):
    """A torch tensor (`data`) on a tape; `slot` is its position there, -1 where it needs no gradient."""

    __slots__ = ("data", "slot", "tape")

    def __init__(self, data: torch.Tensor, tape: Tape, slot: int) -> None:
        self.data = data
        self.tape = tape
        self.slot = slot

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, one per dimension."""
        return self.data.shape

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.data.dtype

    @property
    def spec(self) -> Spec:
        """Shape, dtype and device."""
        return Spec.of(self.data)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy as a NumPy array."""
        array: np.ndarray[Any, Any] = self.data.cpu().numpy().copy()
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)

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
            operands = listed(op, operands)
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
            check_operands(op, raw)
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


def _unrolled(op: Op) -> Callable[..., Any]:
    """The same as `_general` for a fixed number of inputs and outputs, unrolled into straight-line Python.

    This is the tape's inner loop: what it does per op is all that recording costs. Whatever is out of the ordinary (an
    array, a value of another tape, mixed float widths, an unknown attribute) is handed to `_general`, which knows.
    """
    scope = {
        "Tensor": Tensor,
        "KERNEL_ERRORS": KERNEL_ERRORS,
        "NO_ATTRS": NO_ATTRS,
        "op": op,
        "kernel": op.kernel,
        "general": _general(op),
        "attributes": _attributes(op),
        "refusal": refusal,
        "spec_of": spec_of,
    }
    # A name below this package, so that an error looks further up for the user's line.
    exec(compile(_unrolled_source(op), f"{__file__}/{op.name}", "exec"), scope)  # noqa: S102
    return scope[op.name]  # type: ignore[return-value]


def _unrolled_source(op: Op) -> str:
    """Source of an op's recording form. For relu, whose rule reads the output alone, without its first two lines:

    def relu(p0, **given):
        if given or type(p0) is not Tensor:
            return general(p0, **given)
        tape = p0.tape
        x0, s0 = p0.data, p0.slot
        try:
            y0 = kernel(x0)
        except KERNEL_ERRORS as error:
            raise refusal(op, (p0,), NO_ATTRS, error) from None
        if tape.recording and s0 >= 0:
            entries = tape.entries
            slot = len(entries)
            entries.append((op, NO_ATTRS, (s0,), ((y0, None) if s0 >= 0 else None,), 1))
            return Tensor(y0, tape, slot)
        return Tensor(y0, tape, -1)
    """
    inputs, outputs = range(len(op.vjps)), range(op.outputs or 1)
    given = ", ".join(f"p{i}" for i in inputs)
    lines = [
        f"def {op.name}({', '.join(f'p{i}=None' if i else 'p0' for i in inputs)}, **given):",
        f"    if {'' if op.attrs else 'given or '}type(p0) is not Tensor:",
        f"        return general({given}, **given)",
        "    tape = p0.tape",
        "    x0, s0 = p0.data, p0.slot",
    ]
    for i in inputs[1:]:
        widths = f" or p{i}.data.dtype is not x0.dtype" if op.promotes else ""
        missing = "" if op.promotes else f"p{i} is None or "
        lines += [
            f"    if type(p{i}) is Tensor:",
            f"        if p{i}.tape is not tape{widths}:",
            f"            return general({given}, **given)",
            f"        x{i}, s{i} = p{i}.data, p{i}.slot",
            f"    elif {missing}type(p{i}) is float or type(p{i}) is int:",
            f"        x{i}, s{i} = p{i}, -1",
            "    else:",
            f"        return general({given}, **given)",
        ]
    attrs = "attrs" if op.attrs else "NO_ATTRS"
    raw, outs = ", ".join(f"x{i}" for i in inputs), ", ".join(f"y{i}" for i in outputs)
    saved = [
        f"{picked(rule, op.attrs, [*(f'y{k}' for k in outputs), *(f'x{k}' for k in inputs)])} if s{i} >= 0 else None"
        if rule
        else "None"
        for i, rule in enumerate(op.vjps)
    ]
    wanted = " or ".join(f"s{i} >= 0" for i, rule in enumerate(op.vjps) if rule) or "False"
    lines += [
        *(["    attrs = attributes(given)"] if op.attrs else []),
        "    try:",
        f"        {outs} = kernel({raw}{', **attrs' if op.attrs else ''})",
        "    except KERNEL_ERRORS as error:",
        f"        raise refusal(op, ({given},), {attrs}, error) from None",
        f"    if tape.recording and ({wanted}):",
        "        entries = tape.entries",
        "        slot = len(entries)",
        f"        entries.append((op, {attrs}, ({', '.join(f's{i}' for i in inputs)},), ({', '.join(saved)},), {len(outputs)}))",
        *(["        entries.append(None)"] * (len(outputs) - 1)),
        f"        return {', '.join(f'Tensor(y{k}, tape, slot + {k})' if k else 'Tensor(y0, tape, slot)' for k in outputs)}",
        f"    return {', '.join(f'Tensor(y{k}, tape, -1)' for k in outputs)}",
    ]
    return "\n".join(lines)


def _attributes(op: Op) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """`op.complete`, remembering the few sets of attributes that a model uses."""
    known: dict[Any, Mapping[str, Any]] = {}

    def attributes(given: dict[str, Any]) -> Mapping[str, Any]:
        key = (*given.items(), *map(type, given.values()))
        try:
            return known[key]
        except (KeyError, TypeError):  # not seen yet, or given as a list
            attrs = op.complete(given)
        if len(known) >= MOST_KNOWN:
            known.clear()
        if not any(value == 0.0 and isinstance(value, float) for value in given.values()):  # 0.0 and -0.0 are one key
            known[(*((name, plain(value)) for name, value in given.items()), *map(type, given.values()))] = attrs
        return attrs

    return attributes


def _recording(op: Op) -> Callable[..., Any]:
    return _general(op) if op.variadic or op.outputs is None else _unrolled(op)


def _gradients(loss: Tensor, wrt: Sequence[Tensor]) -> list[Any]:
    """`Tape.gradients` with `record=True`: gradients that are themselves recorded."""
    if not isinstance(loss, Tensor):
        raise EngineError(f"gradients: needs values of a tape, found {describe(loss)} at {user_location()}")
    return loss.tape.gradients(loss, wrt, record=True)


OPS = bind("tape", _recording)
"""The namespace of every tape: each op runs its kernel at once and records what its gradient will need."""
OPS.add_function("gradients", _gradients)
Tensor.ops = OPS
