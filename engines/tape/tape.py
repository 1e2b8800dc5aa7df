"""The tape: a flat list of what ran, walked back once for gradients.

    with Tape() as tape:
        w = tape.parameter(array)
        loss = model(tape.ops, w)
        (gradient,) = tape.gradients(loss, [w])

The list is in the order of execution, so walking it backwards needs no sort and no recursion, whatever its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from engines.op import KERNEL_ERRORS, Namespace, Op, describe, kernels_only
from engines.ops import KERNELS
from engines.tape.record import OPS
from engines.tape.tensor import Tensor
from engines.value import EngineError, Location, Spec, canonical_device, user_location

LEAF = ("leaf",)
Entry = tuple[Any, ...] | None


class Freed(NamedTuple):
    """Stands where an entry was; `by` is the line of the backward pass that freed it."""

    by: Location


class Tape:
    """One record on one device. Inside `with`, torch's own autograd is off (`kernels_only`)."""

    ops: Namespace = OPS

    def __init__(self, device: str = "cpu") -> None:
        self.device = canonical_device(device)
        self._device = torch.device(self.device)
        self.entries: list[Entry] = []
        self.recording = True
        self._leaves = 0
        self._guard = kernels_only()

    def __enter__(self) -> Self:
        self._guard.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._guard.__exit__(*error)

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Within, ops run and nothing is recorded."""
        before, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = before

    def parameter(self, data: torch.Tensor | np.ndarray[Any, Any]) -> Tensor:
        """A value to differentiate with respect to. A NumPy array is copied; a torch tensor must be on this device."""
        tensor = self._place(data)
        if not tensor.dtype.is_floating_point:
            raise EngineError(f"parameter: needs a float dtype, found {Spec.of(tensor)} at {user_location()}")
        self.entries.append(LEAF)
        self._leaves += 1
        return Tensor(tensor, self, len(self.entries) - 1)

    def constant(self, data: torch.Tensor | np.ndarray[Any, Any] | float) -> Tensor:
        """A value that no gradient is wanted for."""
        return Tensor(self._place(data), self, -1)

    def _place(self, data: Any) -> torch.Tensor:
        if not isinstance(data, torch.Tensor):
            return torch.tensor(data, device=self.device)
        if data.device != self._device:
            raise EngineError(
                f"the tape is on {self.device}, found {Spec.of(data)} on {data.device} at {user_location()}; "
                f"move it with .to({self.device!r})"
            )
        return data.detach() if data.requires_grad else data

    def record(
        self, op: Op, attrs: Mapping[str, Any], slots: Sequence[int], outs: Sequence[Any], raw: Sequence[Any]
    ) -> int:
        """Append one entry; gives its slot."""
        saved = tuple(
            pick(*(outs if op.outputs is not None else ()), *raw)
            if slot >= 0 and (pick := op.picker(i)) is not None
            else None
            for i, slot in enumerate(slots)
        )
        entries = self.entries
        entries.append((op, attrs, tuple(slots), saved, len(outs)))
        slot = len(entries) - 1
        entries.extend([None] * (len(outs) - 1))
        return slot

    def gradients(
        self,
        loss: Tensor,
        wrt: Sequence[Tensor],
        *,
        seed: Any = None,
        retain: bool = False,
        record: bool = False,
    ) -> list[Any]:
        """Gradients of `loss` with respect to each of `wrt`, in their shapes; zeros where the loss does not depend.

        `seed` is the gradient of the loss itself: 1 by default, needed where the loss is not a scalar. The record is
        freed on the way back unless `retain` is set. With `record` the gradients are recorded in their turn and can be
        differentiated again; without it they are constants of this tape. Raises EngineError.
        """
        self._check(loss, wrt)
        first = self._seed(loss, seed)
        if record:
            return _walk(self, loss.slot, first, wrt, ops=OPS, freed=None, record=True)
        freed = None if retain else Freed(user_location())
        with kernels_only():
            found = _walk(self, loss.slot, first.data, wrt, ops=KERNELS, freed=freed, record=False)
        return [Tensor(g, self, -1) for g in found]

    def _check(self, loss: Tensor, wrt: Sequence[Tensor]) -> None:
        for value in (loss, *wrt):
            if not isinstance(value, Tensor):
                raise EngineError(f"gradients: needs values of this tape, found {describe(value)} at {user_location()}")
            if value.tape is not self:
                raise EngineError(f"gradients: {value.spec} belongs to another tape, at {user_location()}")
        for value in wrt:
            if value.slot < 0:
                raise EngineError(
                    f"gradients: {value.spec} is not recorded, so there is no gradient with respect to it, "
                    f"at {user_location()}; make it with tape.parameter(...)"
                )
        if loss.slot < 0:
            raise EngineError(
                f"gradients: the loss {loss.spec} depends on no parameter of this tape, at {user_location()}; "
                "was it computed under no_grad, or from constants only?"
            )

    def _seed(self, loss: Tensor, seed: Any) -> Tensor:
        if seed is None:
            if loss.data.numel() != 1:
                raise EngineError(
                    f"gradients: the loss is {loss.spec}, not a scalar, at {user_location()}; "
                    "reduce it with ops.sum or ops.mean, or give its gradient as `seed`"
                )
            return Tensor(torch.ones_like(loss.data), self, -1)
        given = seed if isinstance(seed, Tensor) else self.constant(seed)
        if given.tape is not self:
            raise EngineError(f"gradients: seed {given.spec} belongs to another tape, at {user_location()}")
        if given.shape != loss.shape or given.dtype != loss.dtype:
            raise EngineError(f"gradients: seed is {given.spec}, the loss {loss.spec}, at {user_location()}")
        return given

    def needed(self, last: int, wrt: Sequence[Tensor]) -> bytearray | None:
        """Marks of the slots up to `last` that depend on `wrt`; None where every recorded slot does."""
        slots = {value.slot for value in wrt}
        earliest = min(slots, default=-1)
        if len(slots) == self._leaves and all(self.entries[slot] is LEAF for slot in slots):
            return None
        marks = bytearray(last + 1)
        for slot in slots:
            if slot <= last:
                marks[slot] = 1
        for slot, entry in enumerate(self.entries[: last + 1]):
            if type(entry) is Freed:
                marks[slot] |= slot > earliest  # what it depended on is gone: let the walk come here and say so
            elif entry is not None and entry is not LEAF and any(marks[s] for s in entry[2] if s >= 0):
                marks[slot : slot + entry[4]] = b"\1" * min(entry[4], last + 1 - slot)
        return marks


def _walk(
    tape: Tape, last: int, seed: Any, wrt: Sequence[Tensor], *, ops: Namespace, freed: Freed | None, record: bool
) -> list[Any]:
    """Walk back from slot `last`, gradients being torch tensors or, with `record`, tensors of the tape.

    With `freed`, each entry is dropped as soon as its rules have run, and `freed` left in its place.
    """
    entries, needed = tape.entries, tape.needed(last, wrt)
    grads: list[Any] = [None] * len(entries)
    grads[last] = seed
    found: dict[int, Any] = {value.slot: None for value in wrt}
    earliest = min(found, default=-1)
    for slot in range(last, -1, -1):
        if slot in found:
            found[slot] = grads[slot]
        entry = entries[slot]
        if entry is None or entry is LEAF:
            continue
        if type(entry) is Freed:
            if grads[slot] is not None and slot > earliest:
                raise _freed_already(entry)
            continue
        op, outputs = entry[0], entry[4]
        g = grads[slot] if op.outputs == 1 else _together(grads[slot : slot + outputs])
        if g is not None:
            grads[slot : slot + outputs] = [None] * outputs
            _run_rules(tape, slot, g, grads, needed, ops=ops, record=record)
        if freed is not None:
            entries[slot : slot + outputs] = [freed] * outputs
    return [ops.full_like(v if record else v.data, value=0.0) if found[v.slot] is None else found[v.slot] for v in wrt]


def _run_rules(
    tape: Tape, slot: int, g: Any, grads: list[Any], needed: bytearray | None, *, ops: Namespace, record: bool
) -> None:
    """Run the rules of one entry for the inputs that want a gradient, and add what they give to `grads`.

    A function of its own so that what the rules read dies with its locals.
    """
    entry = tape.entries[slot]
    assert entry is not None
    op, attrs, slots, saved, _ = entry
    wanted = [i for i, args in enumerate(saved) if args is not None and (needed is None or needed[slots[i]])]
    try:
        if op.joint is not None and all(i in wanted for i in op.joint.inputs):
            inputs, joint = op.joint
            args = saved[inputs[0]]
            parts = joint(ops, g, *(_on_tape(tape, slot, args) if record else args), **attrs)
            for i, part in zip(inputs, parts, strict=True):
                grads[slots[i]] = part if grads[slots[i]] is None else grads[slots[i]] + part
            wanted = [i for i in wanted if i not in inputs]
        for i in wanted:
            args = _on_tape(tape, slot, saved[i]) if record else saved[i]
            rule, target = op.rule(i), slots[i]
            part = rule(ops, g, *args, **attrs, index=i) if op.variadic else rule(ops, g, *args, **attrs)
            grads[target] = part if grads[target] is None else grads[target] + part
            del part  # where it was added, nobody else needs it
    except KERNEL_ERRORS as error:
        raise EngineError(f"gradient of {op.name}: {error}; in the backward pass at {user_location()}") from error


def _freed_already(entry: Freed) -> EngineError:
    return EngineError(
        f"gradients: the record was freed by the backward pass at {entry.by}, found a second one at {user_location()}; "
        "give the first one retain=True"
    )


def _together(parts: list[Any]) -> tuple[Any, ...] | None:
    """The gradients of an op's several outputs; None where none of them got any."""
    return None if all(part is None for part in parts) else tuple(parts)


def _on_tape(tape: Tape, slot: int, args: Sequence[Any]) -> tuple[Any, ...]:
    """What a rule of the entry at `slot` reads, as values of the tape, so that the rule's own work is recorded."""
    entry = tape.entries[slot]
    assert entry is not None
    op, _, slots, _, outputs = entry
    own = range(slot, slot + outputs) if op.outputs is not None else ()
    return tuple(
        Tensor(arg, tape, at) if isinstance(arg, torch.Tensor) else arg
        for arg, at in zip(args, (*own, *slots), strict=True)
    )
