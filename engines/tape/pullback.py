"""How an entry of the tape gives its gradients back: for each op a function unrolled into straight-line Python.

An entry is one plain tuple, `(pullback, attrs, *slots, *saved)`: the slots of those inputs that want a gradient, and
what their rules will read, picked when it was recorded so that nothing else stays alive. Which inputs these are, and
what each saved value is, says the `Pullback`, of which there is one per op and set of inputs. That of tanh is

    def tanh(walk, entry, slot, grads):
        g = grads[slot]
        if g is None:
            return
        grads[slot] = None
        _, attrs, s0, y0 = entry
        needed = walk.needed
        if needed is None or needed[s0]:
            part = rule0(walk.ops, g, y0, None)
            had = grads[s0]
            if had is None:
                grads[s0] = part
            elif s0 in walk.sums:
                had += part
            else:
                grads[s0] = had + part
                walk.sums.add(s0)

A rule may give what others hold too (the gradient of a sum is that of its terms), so that the first two contributions
make a new tensor; nobody else has that one until it is read, and whatever comes next is added in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import torch

from engines.op import Joint, Namespace, Op, picks, spec_of
from engines.tape.tensor import Tensor


class Walk(Protocol):
    """What one backward pass knows: see `engines.tape.tape.Walk`."""

    @property
    def ops(self) -> Namespace:
        """What rules run on."""
        ...

    @property
    def needed(self) -> bytearray | None:
        """Marks of the slots that depend on what gradients are asked for; None where all do."""
        ...

    @property
    def tape(self) -> Any:
        """The tape that is walked back."""
        ...

    @property
    def sums(self) -> set[int]:
        """The slots whose gradient is a sum that this walk has made."""
        ...

    def again(self, grads: list[Any]) -> AbstractContextManager[int]:
        """Within, what runs is recorded; at the end that record is walked back and dropped."""
        ...


KNOWN = 256
"""Pullbacks remembered per op of any number of inputs."""

Pull = Callable[[Any, tuple[Any, ...], int, list[Any]], None]
"""`(walk, entry, slot, grads)`: takes the gradient at `slot`, adds to those of the entry's inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Pullback:
    """The way back through one op, for the inputs numbered in `inputs`.

    `run` calls the rules on kernels; `record` calls them on the tape, so that what they do is recorded in its turn.
    `saved` says what each saved value is: y0 is the first output, x1 the second input.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: int
    saved: tuple[str, ...]
    run: Pull
    record: Pull

    def slots(self, entry: tuple[Any, ...]) -> tuple[int, ...]:
        """The slots of the inputs that want a gradient."""
        return entry[2 : 2 + len(self.inputs)]

    def kept(self, entry: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the entry keeps alive, in the order of `saved`."""
        return entry[2 + len(self.inputs) :]


# Ops with a fixed number of inputs and outputs


def unrolled_pullback(op: Op, inputs: tuple[int, ...]) -> Pullback:
    """The pullback of an op with a fixed number of inputs and outputs, for some of its inputs."""
    saved = saved_values(op, inputs)
    run, record = (_compiled(op, inputs, saved, on_tape=on_tape) for on_tape in (False, True))
    return Pullback(op.name, inputs, op.outputs or 1, saved, run, record)


def rules_for(op: Op, inputs: tuple[int, ...]) -> tuple[int | Joint, ...]:
    """The rules that may run where these inputs want a gradient: each one's own, and joint ones."""
    return (*inputs, *(joint for joint in op.joints if set(joint.inputs) <= set(inputs)))


def saved_values(op: Op, inputs: tuple[int, ...]) -> tuple[str, ...]:
    """Sources of the values that the rules of these inputs read, each once; no shape of a value that is itself kept."""
    rules = rules_for(op, inputs)
    read = dict.fromkeys(pick for which in rules for pick in rule_arguments(op, which) if pick != "None")
    return tuple(pick for pick in read if pick in _operands(op) or not any(_is_of(pick, whole) for whole in read))


def rule_arguments(op: Op, which: int | Joint) -> list[str]:
    """Sources of what the rule of one input, or a joint one, reads: y0, x1, x0.shape, spec_of(x0), None."""
    rule = which.rule if isinstance(which, Joint) else op.vjps[which]
    assert rule is not None
    return picks(rule, op.attrs, _operands(op))


def _operands(op: Op) -> list[str]:
    return [*(f"y{k}" for k in range(op.outputs or 1)), *(f"x{i}" for i in range(len(op.vjps)))]


def _is_of(pick: str, whole: str) -> bool:
    """Whether `pick` is the shape or spec of `whole`."""
    return pick in {f"{whole}.shape", f"spec_of({whole})"}


def _local(pick: str) -> str:
    """The name of a saved value in the function: x0.shape becomes x0_shape."""
    return pick.replace(".", "_").replace("spec_of(", "").replace(")", "_spec" if pick.startswith("spec_of") else "")


def _compiled(op: Op, inputs: tuple[int, ...], saved: Sequence[str], *, on_tape: bool) -> Pull:
    scope: dict[str, Any] = {"Tensor": Tensor, "torch_Tensor": torch.Tensor, "spec_of": spec_of}
    scope |= {f"rule{i}": op.vjps[i] for i in inputs} | {_name(joint): joint.rule for joint in op.joints}
    source = "\n".join(_source(op, inputs, saved, on_tape=on_tape))
    # A name below this package, so that an error looks further up for the user's line.
    exec(compile(source, f"{__file__}/{op.name}", "exec"), scope)  # noqa: S102
    pull: Pull = scope[op.name]
    return pull


def _source(op: Op, inputs: tuple[int, ...], saved: Sequence[str], *, on_tape: bool) -> Iterator[str]:
    yield f"def {op.name}(walk, entry, slot, grads):"
    yield from _take_gradient(op.outputs or 1)
    yield f"    {', '.join(['_', 'attrs', *(f's{i}' for i in inputs), *map(_local, saved)])} = entry"
    if on_tape:
        yield from (line for pick in saved for line in _put_on_tape(pick, inputs))
    yield "    needed = walk.needed"
    for which in rules_for(op, inputs):
        if isinstance(which, Joint):
            yield from _together(op, which, inputs, saved, on_tape=on_tape)
    yield from _each(op, inputs, saved, "    ", on_tape=on_tape)


def _together(op: Op, joint: Joint, inputs: tuple[int, ...], saved: Sequence[str], *, on_tape: bool) -> Iterator[str]:
    """Statements that run a joint rule, if all of its inputs need their gradients, then the others', and return."""
    yield f"    if needed is None or ({' and '.join(f'needed[s{i}]' for i in joint.inputs)}):"
    yield f"        {', '.join(f'part{i}' for i in joint.inputs)} = {_call(op, joint, saved)}"
    for i in joint.inputs:
        yield from _add(i, f"part{i}", "        ", on_tape=on_tape)
    rest = tuple(i for i in inputs if i not in joint.inputs)
    yield from _each(op, rest, saved, "        ", on_tape=on_tape)
    yield "        return"


def _each(op: Op, inputs: tuple[int, ...], saved: Sequence[str], indent: str, *, on_tape: bool) -> Iterator[str]:
    """Statements that run each input's own rule, if it needs its gradient."""
    for i in inputs:
        yield f"{indent}if needed is None or needed[s{i}]:"
        yield f"{indent}    part = {_call(op, i, saved)}"
        yield from _add(i, "part", f"{indent}    ", on_tape=on_tape)


def _take_gradient(outputs: int) -> Iterator[str]:
    """Statements that take the gradients of the outputs out of `grads`, or leave where there are none."""
    if outputs == 1:
        yield from ("    g = grads[slot]", "    if g is None:", "        return", "    grads[slot] = None")
        return
    yield f"    g = tuple(grads[slot : slot + {outputs}])"
    yield "    if all(part is None for part in g):"
    yield "        return"
    yield f"    grads[slot : slot + {outputs}] = [None] * {outputs}"


def _put_on_tape(pick: str, inputs: tuple[int, ...]) -> Iterator[str]:
    """Statements that make a saved tensor a value of the tape again, in its old slot."""
    kind, number = pick[0], pick[1:]
    if not number.isdigit():
        return
    if kind == "y":
        yield f"    {pick} = Tensor({pick}, walk.tape, slot + {number})"
        return
    slot = f"s{number}" if int(number) in inputs else "-1"
    yield f"    if isinstance({pick}, torch_Tensor):"
    yield f"        {pick} = Tensor({pick}, walk.tape, {slot})"


def _name(which: int | Joint) -> str:
    """The name of a rule: rule1 for the second input's own, rule12 for a joint one."""
    return f"rule{''.join(map(str, which.inputs)) if isinstance(which, Joint) else which}"


def _call(op: Op, which: int | Joint, saved: Sequence[str]) -> str:
    arguments = [_local(pick) if pick in saved else pick for pick in rule_arguments(op, which)]
    return f"{_name(which)}({', '.join(['walk.ops', 'g', *arguments, *(['**attrs'] if op.attrs else [])])})"


def _add(index: int, part: str, indent: str, *, on_tape: bool) -> Iterator[str]:
    """Statements that add to the gradient of one input; what was added dies at once."""
    yield f"{indent}had = grads[s{index}]"
    yield f"{indent}if had is None:"
    yield f"{indent}    grads[s{index}] = {part}"
    if not on_tape:
        yield f"{indent}elif s{index} in walk.sums:"
        yield f"{indent}    had += {part}"
    yield f"{indent}else:"
    yield f"{indent}    grads[s{index}] = had + {part}"
    if not on_tape:
        yield f"{indent}    walk.sums.add(s{index})"
    yield f"{indent}del had, {part}"


# Any op


def general_pullback(op: Op) -> Callable[[tuple[int, ...], int], Pullback]:
    """The pullbacks of an op for any number of inputs and outputs; each saved value is all that one rule reads."""

    @lru_cache(maxsize=KNOWN)
    def pullback(inputs: tuple[int, ...], outputs: int) -> Pullback:
        saved = tuple(f"for {_name(which)}" for which in rules_for(op, inputs))
        run, record = (partial(_run_rules, op, inputs, outputs, on_tape) for on_tape in (False, True))
        return Pullback(op.name, inputs, outputs, saved, run, record)

    return pullback


def _run_rules(
    op: Op,
    inputs: tuple[int, ...],
    outputs: int,
    on_tape: bool,
    walk: Walk,
    entry: tuple[Any, ...],
    slot: int,
    grads: list[Any],
) -> None:
    g = tuple(grads[slot : slot + outputs])
    if all(part is None for part in g):
        return
    grads[slot : slot + outputs] = [None] * outputs
    attrs, slots = entry[1], dict(zip(inputs, entry[2:], strict=False))
    saved = dict(zip(rules_for(op, inputs), entry[2 + len(inputs) :], strict=True))
    wanted = [i for i in inputs if walk.needed is None or walk.needed[slots[i]]]
    single = g[0] if op.outputs == 1 else g

    def read(which: int | Joint) -> tuple[Any, ...]:
        return _on_tape(walk.tape, op, slot, slots, saved[which]) if on_tape else saved[which]

    joint = op.joint(wanted)
    if joint is not None:
        for i, part in zip(joint.inputs, joint.rule(walk.ops, single, *read(joint), **attrs), strict=True):
            _accumulate(walk, grads, slots[i], part, on_tape=on_tape)
        wanted = [i for i in wanted if i not in joint.inputs]
    for i in wanted:
        rule = op.rule(i)
        assert rule is not None
        index = {"index": i} if op.variadic else {}
        _accumulate(walk, grads, slots[i], rule(walk.ops, single, *read(i), **attrs, **index), on_tape=on_tape)


def _accumulate(walk: Walk, grads: list[Any], slot: int, part: Any, *, on_tape: bool) -> None:
    had = grads[slot]
    if had is None:
        grads[slot] = part
    elif on_tape:
        grads[slot] = had + part
    elif slot in walk.sums:
        had += part
    else:
        grads[slot] = had + part
        walk.sums.add(slot)


def _on_tape(tape: Any, op: Op, slot: int, slots: dict[int, int], args: Sequence[Any]) -> tuple[Any, ...]:
    """What a rule reads, as values of the tape, so that the rule's own work is recorded."""
    outputs = op.outputs or 0
    places = [*range(slot, slot + outputs), *(slots.get(i, -1) for i in range(len(args) - outputs))]
    return tuple(
        Tensor(arg, tape, at) if isinstance(arg, torch.Tensor) else arg for arg, at in zip(args, places, strict=True)
    )
