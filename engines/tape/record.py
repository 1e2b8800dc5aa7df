"""How calling an op records it.

Most ops are called through a function unrolled for them (`engines.tape.unroll`); what is here serves all others, and
every op in unusual circumstances. The slot of a value is the position of its entry; an op with k outputs takes k
positions, all but the first None. What an entry holds says `engines.tape.pullback`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engines.op import KERNEL_ERRORS, Joint, Op, check_operands, describe, lift, listed, refusal
from engines.ops import bind
from engines.ops.structure import flatten
from engines.tape.pullback import general_pullback, rules_for
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
    promotes, single, pullback = op.promotes, op.outputs == 1, general_pullback(op)

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
                raw.append(lift(op.name, operand, "tape", tape.device))
                slots.append(-1)
        if promotes:
            check_operands(op, raw)
        try:
            outs = op.run(raw, attrs)
        except KERNEL_ERRORS as error:
            raise refusal(op, operands, attrs, error) from None
        inputs = tuple(i for i, slot in enumerate(slots) if slot >= 0 and op.rule(i) is not None)
        if tape.recording and inputs:
            slot = len(tape.entries)
            # The one rule of a variadic op reads the same for each input; kept n times, it would grow as n squared.
            saved = [_picked(op, which, outs, raw) for which in (inputs[:1] if op.variadic else rules_for(op, inputs))]
            saved *= len(inputs) if op.variadic else 1
            pull = pullback(inputs, len(outs))
            tape.entries.append((pull, attrs, *(slots[i] for i in inputs), *saved))
            for _ in range(len(outs) - 1):
                tape.entries.append(None)
            tensors = tuple(Tensor(o, tape, slot + i) for i, o in enumerate(outs))
        else:
            tensors = tuple(Tensor(o, tape, -1) for o in outs)
        return tensors[0] if single else tensors

    return call


def _picked(op: Op, which: int | Joint, outs: Sequence[Any], raw: Sequence[Any]) -> tuple[Any, ...]:
    """What the rule of one input, or a joint one, reads."""
    pick = op.picker(which)
    assert pick is not None
    return pick(*(outs if op.outputs is not None else ()), *raw)


def _recording(op: Op) -> Callable[..., Any]:
    return _general(op) if op.variadic or op.outputs is None else unrolled(op, _general(op))


def _gradients(loss: Tensor, wrt: Sequence[Tensor]) -> list[Any]:
    """`Tape.gradients` with `record=True`: gradients that are themselves recorded."""
    if not isinstance(loss, Tensor):
        raise EngineError(f"gradients: needs values of a tape, found {describe(loss)} at {user_location()}")
    return loss.tape.gradients(loss, wrt, record=True)


def _checkpoint(function: Callable[..., Any], *values: Any) -> Any:
    """`Tape.checkpoint`, on the tape of the first of `values` that is on one."""
    for value in values:
        if type(value) is Tensor:
            return value.tape.checkpoint(function, *values)
    found = ", ".join(map(describe, values))
    raise EngineError(
        f"checkpoint: no value of a tape among those given ({found}) at {user_location()}; "
        "give one, or call tape.checkpoint"
    )


def _without_gradient(function: Callable[..., Any], *values: Any) -> Any:
    """`function(*values)` with nothing recorded, on the tape of the first of `values` that is on one."""
    for value in flatten(values)[0]:
        if type(value) is Tensor:
            tape, before = value.tape, value.tape.recording
            tape.recording = False
            try:
                return function(*values)
            finally:
                tape.recording = before
    return function(*values)


OPS = bind("tape", _recording)
"""The namespace of every tape: each op runs its kernel at once and records what its gradient will need."""
OPS.add_function("gradients", _gradients)
OPS.add_function("checkpoint", _checkpoint)
OPS.add_function("without_gradient", _without_gradient)
Tensor.ops = OPS
