"""How calling an op records it.

An entry of the tape is a plain tuple `(op, attrs, slots, saved, outputs)`: the slots of the op's inputs (-1 where no
gradient is wanted), and for each of them what its gradient rule will read, picked now so that nothing else stays alive.
The slot of a value is the position of its entry; an op with k outputs takes k positions, all but the first None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engines.op import KERNEL_ERRORS, Op, check_operands, describe, lift, listed, refusal
from engines.ops import bind
from engines.tape.tensor import Tensor
from engines.tape.unroll import NO_ATTRS, unrolled
from engines.value import EngineError, user_location

if TYPE_CHECKING:
    from engines.tape.tape import Tape


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
    """The recording form of any op, whatever it is given: any number of inputs and outputs, numbers, arrays."""
    promotes, single, arity = op.promotes, op.outputs == 1, len(op.vjps)
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
                raw.append(lift(op, operand, "tape", tape.device))
                slots.append(-1)
        if promotes:
            check_operands(op, raw)
        try:
            outs = op.run(raw, attrs)
        except KERNEL_ERRORS as error:
            raise refusal(op, operands, attrs, error) from None
        active = op.rule if op.variadic else rules.__getitem__
        if tape.recording and any(slot >= 0 and active(i) is not None for i, slot in enumerate(slots)):
            slot = tape.record(op, attrs, slots, outs, raw)
            tensors = tuple(Tensor(o, tape, slot + i) for i, o in enumerate(outs))
        else:
            tensors = tuple(Tensor(o, tape, -1) for o in outs)
        return tensors[0] if single else tensors

    return call


def _recording(op: Op) -> Callable[..., Any]:
    return _general(op) if op.variadic or op.outputs is None else unrolled(op, _general(op))


def _gradients(loss: Tensor, wrt: Sequence[Tensor]) -> list[Any]:
    """`Tape.gradients` with `record=True`: gradients that are themselves recorded."""
    if not isinstance(loss, Tensor):
        raise EngineError(f"gradients: needs values of a tape, found {describe(loss)} at {user_location()}")
    return loss.tape.gradients(loss, wrt, record=True)


OPS = bind("tape", _recording)
"""The namespace of every tape: each op runs its kernel at once and records what its gradient will need."""
OPS.add_function("gradients", _gradients)
Tensor.ops = OPS
