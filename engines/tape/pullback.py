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

from engines.op import Namespace, Op, picks, spec_of
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


def saved_values(op: Op, inputs: tuple[int, ...]) -> tuple[str, ...]:
    """Sources of the values that the rules of these inputs read, each once; no shape of a value that is itself kept."""
    read = dict.fromkeys(pick for i in inputs for pick in rule_arguments(op, i) if pick != "None")
    return tuple(pick for pick in read if pick in _operands(op) or not any(_is_of(pick, whole) for whole in read))


def rule_arguments(op: Op, index: int) -> list[str]:
    """Sources of what the rule of one input reads: y0, x1, x0.shape, spec_of(x0), None."""
    rule = op.vjps[index]
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
    scope |= {f"rule{i}": op.vjps[i] for i in inputs}
    if op.joint is not None:
        scope["joint"] = op.joint.rule
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
    together = op.joint.inputs if op.joint is not None and set(op.joint.inputs) <= set(inputs) else ()
    if together:
        yield f"    together = needed is None or ({' and '.join(f'needed[s{i}]' for i in together)})"
        yield "    if together:"
        yield f"        {', '.join(f'part{i}' for i in together)} = {_call(op, 'joint', together[0], saved)}"
        for i in together:
            yield from _add(i, f"part{i}", on_tape=on_tape)
    for i in inputs:
        yield f"    if {f'not together and needed[s{i}]' if i in together else f'needed is None or needed[s{i}]'}:"
        yield f"        part = {_call(op, f'rule{i}', i, saved)}"
        yield from _add(i, "part", on_tape=on_tape)


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


def _call(op: Op, rule: str, index: int, saved: Sequence[str]) -> str:
    arguments = [_local(pick) if pick in saved else pick for pick in rule_arguments(op, index)]
    return f"{rule}({', '.join(['walk.ops', 'g', *arguments, *(['**attrs'] if op.attrs else [])])})"


def _add(index: int, part: str, *, on_tape: bool) -> Iterator[str]:
    """Statements that add to the gradient of one input; what was added dies at once."""
    yield f"        had = grads[s{index}]"
    yield "        if had is None:"
    yield f"            grads[s{index}] = {part}"
    if not on_tape:
        yield f"        elif s{index} in walk.sums:"
        yield f"            had += {part}"
    yield "        else:"
    yield f"            grads[s{index}] = had + {part}"
    if not on_tape:
        yield f"            walk.sums.add(s{index})"
    yield f"        del had, {part}"


# Any op


def general_pullback(op: Op) -> Callable[[tuple[int, ...], int], Pullback]:
    """The pullbacks of an op for any number of inputs and outputs; each saved value is all that one rule reads."""

    @lru_cache(maxsize=KNOWN)
    def pullback(inputs: tuple[int, ...], outputs: int) -> Pullback:
        run, record = (partial(_run_rules, op, inputs, outputs, on_tape) for on_tape in (False, True))
        return Pullback(op.name, inputs, outputs, tuple(f"for x{i}" for i in inputs), run, record)

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
    saved = dict(zip(inputs, entry[2 + len(inputs) :], strict=True))
    wanted = [i for i in inputs if walk.needed is None or walk.needed[slots[i]]]
    if on_tape:
        saved = {i: _on_tape(walk.tape, op, slot, slots, saved[i]) for i in wanted}
    single = g[0] if op.outputs == 1 else g
    if op.joint is not None and all(i in wanted for i in op.joint.inputs):
        together, joint = op.joint
        for i, part in zip(together, joint(walk.ops, single, *saved[together[0]], **attrs), strict=True):
            _accumulate(walk, grads, slots[i], part, on_tape=on_tape)
        wanted = [i for i in wanted if i not in together]
    for i in wanted:
        rule = op.rule(i)
        assert rule is not None
        index = {"index": i} if op.variadic else {}
        _accumulate(walk, grads, slots[i], rule(walk.ops, single, *saved[i], **attrs, **index), on_tape=on_tape)


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
