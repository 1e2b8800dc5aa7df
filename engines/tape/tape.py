"""The tape: a flat list of what ran, walked back once for gradients.

    with Tape() as tape:
        w = tape.parameter(array)
        loss = model(tape.ops, w)
        (gradient,) = tape.gradients(loss, [w])

The list is in the order of execution, so walking it backwards needs no sort and no recursion, whatever its length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self

import numpy as np
import torch

from engines.op import KERNEL_ERRORS, Namespace, describe, kernels_only
from engines.ops import KERNELS
from engines.ops.finite import Finite
from engines.tape.checkpoint import RANGE, Sieve, escaped, run_part
from engines.tape.finite import Watch
from engines.tape.pullback import Pullback
from engines.tape.record import OPS
from engines.tape.tensor import Tensor
from engines.value import EngineError, Location, Spec, canonical_device, user_location

LEAF: Final = "leaf"
"""Stands at the slot of a parameter."""


@dataclass(frozen=True, slots=True)
class Freed:
    """Stands where an entry was; `by` is the line of the backward pass that freed it."""

    by: Location


Entry = tuple[Any, ...] | Freed | Literal["leaf"] | None
"""What stands at a slot: an entry, None for an op's further outputs, `LEAF`, `Freed`."""


class Tape:
    """One record on one device. Inside `with`, torch's own autograd is off (`kernels_only`).

    With `check_finite` the first NaN or infinity that a kernel gives, forward or backward, is a NotFiniteError with op,
    line and trip; "nan" looks for NaN alone. It slows every kernel down.
    """

    ops: Namespace = OPS

    def __init__(self, device: str = "cpu", *, check_finite: Finite = False) -> None:
        self.device = canonical_device(device)
        self._device = torch.device(self.device)
        self.entries: list[Entry] = []
        self.recording = True
        self._leaves = 0
        self._parts = 0
        self._guard = kernels_only()
        self._watch: AbstractContextManager[object] | None = Watch(check_finite) if check_finite else None

    def __enter__(self) -> Self:
        self._guard.__enter__()
        if self._watch is not None:
            self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if self._watch is not None:
                self._watch.__exit__(*error)
        finally:
            self._guard.__exit__(*error)

    @property
    def record_bytes(self) -> int:
        """Bytes of the record itself: the list, its entries, their slots and saved shapes; not of the tensors saved."""
        held = ({id(part): part for part in entry[2:]} for entry in self.entries if type(entry) is tuple)
        own = (part for parts in held for part in parts.values())
        parts = sum(sys.getsizeof(part) for part in own if isinstance(part, (int, float, tuple)))
        entries = sum(sys.getsizeof(entry) for entry in self.entries if type(entry) is tuple)
        return sys.getsizeof(self.entries) + entries + parts

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Within, ops run and nothing is recorded."""
        before, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = before

    def checkpoint(self, function: Callable[..., Any], *values: Any) -> Any:
        """`function(*values)`, keeping nothing from inside: the backward pass runs it again.

        See `engines.ops.control.checkpoint` for what the function may do. Raises EngineError.
        """
        if not self.recording:
            return function(*values)
        self._parts += 1
        return run_part(self, function, values, self._parts * RANGE)

    def parameter(self, data: torch.Tensor | np.ndarray[Any, Any]) -> Tensor:
        """A value to differentiate with respect to. A NumPy array is copied; a torch tensor must be on this device."""
        tensor = self._place(data)
        if not tensor.dtype.is_floating_point:
            raise EngineError(f"parameter: needs a float dtype, found {Spec.of(tensor)} at {user_location()}")
        return self.leaves([tensor])[0]

    def leaves(self, data: Sequence[torch.Tensor]) -> list[Tensor]:
        """A `parameter` of each, for who knows them to be of a float dtype and on this device: nothing is looked at."""
        entries, made = self.entries, []
        for tensor in data:
            made.append(Tensor(tensor, self, len(entries)))
            entries.append(LEAF)
        self._leaves += len(made)
        return made

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
        if not record:
            freed = None if retain else Freed(user_location())
            return [Tensor(g, self, -1) for g in self.plain_gradients(loss, wrt, freed, seed=seed)]
        self._check(loss, wrt)
        first = self._seed(loss, seed)
        return _gradients(Walk(self, OPS, self.needed(loss.slot, wrt), freed=None, record=True), loss, first, wrt)

    def plain_gradients(
        self, loss: Tensor, wrt: Sequence[Tensor], freed: Freed | None, *, seed: Any = None
    ) -> list[torch.Tensor]:
        """`gradients` as torch's tensors, for who does nothing more with them on this tape.

        `freed` is left where an entry was; with None the record is retained. Raises EngineError.
        """
        self._check(loss, wrt)
        first = self._seed(loss, seed)
        walk = Walk(self, KERNELS, self.needed(loss.slot, wrt), freed, record=False)
        if torch.is_inference_mode_enabled():  # inside the tape's `with`: a second guard costs as much as a small op
            return _gradients(walk, loss, first.data, wrt)
        with kernels_only():
            return _gradients(walk, loss, first.data, wrt)

    def _check(self, loss: Tensor, wrt: Sequence[Tensor]) -> None:
        if isinstance(self.entries, Sieve):
            raise EngineError(f"gradients: asked for inside a checkpoint, which keeps no record, at {user_location()}")
        for value in (loss, *wrt):
            if not isinstance(value, Tensor):
                raise EngineError(f"gradients: needs values of this tape, found {describe(value)} at {user_location()}")
            if value.tape is not self:
                raise EngineError(f"gradients: {value.spec} belongs to another tape, at {user_location()}")
            if value.slot >= len(self.entries):
                raise escaped("gradients")
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
        slots, entries = {value.slot for value in wrt}, self.entries
        if len(slots) == self._leaves and not [slot for slot in slots if entries[slot] is not LEAF]:
            return None
        marks = bytearray(last + 1)
        for slot in slots:
            if slot <= last:
                marks[slot] = 1
        _mark(entries, marks, range(last + 1), min(slots, default=-1))
        return marks


def _mark(entries: list[Entry], marks: bytearray, slots: range, earliest: int) -> None:
    """Mark those of `slots` that depend on marked ones."""
    for slot in slots:
        entry = entries[slot]
        if type(entry) is Freed:
            marks[slot] |= slot > earliest  # what it depended on is gone: let the walk come here and say so
        elif type(entry) is tuple:
            pull, inputs = entry[0], entry[0].slots(entry)
            if max(inputs) >= slot:
                raise escaped(pull.name)
            if any(marks[s] for s in inputs):
                outputs = min(pull.outputs, slots.stop - slot)
                marks[slot : slot + outputs] = b"\1" * outputs


@dataclass(slots=True, eq=False)
class Walk:
    """What one backward pass knows.

    Gradients are torch tensors and rules run on kernels, or, with `record`, gradients are tensors of the tape and rules
    run on it. With `freed`, each entry is dropped as its rules run, and `freed` left in its place. `needed` marks the
    slots that depend on what gradients are asked for; None where every recorded slot does. `sums` are the slots whose
    gradient is a sum that this walk has made.
    """

    tape: Tape
    ops: Namespace
    needed: bytearray | None
    freed: Freed | None
    record: bool
    sums: set[int] = field(default_factory=set)

    @contextmanager
    def again(self, grads: list[Any]) -> Iterator[int]:
        """Within, what runs is recorded, from the slot given on; at the end that record is walked back and dropped.

        With `record` it stays, since the gradients may be differentiated in their turn.
        """
        tape, entries, start = self.tape, self.tape.entries, len(self.tape.entries)
        before, tape.recording = tape.recording, True
        try:
            yield start
        finally:
            tape.recording = before
        slots = range(len(entries) - 1, start - 1, -1)
        if self.needed is not None:
            self.needed.extend(bytes(len(entries) - len(self.needed)))
            _mark(entries, self.needed, slots[::-1], -1)
        if self.record:
            _walk(self, slots, grads, {}, -1)
            return
        _walk(replace(self, freed=self.freed or Freed(user_location())), slots, grads, {}, -1)
        for kept in (entries, grads, self.needed):
            if kept is not None:
                del kept[start:]
        self.sums.difference_update(slots)


def _gradients(walk: Walk, loss: Tensor, seed: Any, wrt: Sequence[Tensor]) -> list[Any]:
    entries = walk.tape.entries
    grads: list[Any] = [None] * len(entries)
    grads[loss.slot] = seed
    inner: dict[int, Any] = {}
    earliest = -1
    if walk.needed is not None:
        inner = {value.slot: None for value in wrt if entries[value.slot] is not LEAF}
        earliest = min([value.slot for value in wrt], default=-1)
    _walk(walk, range(loss.slot, -1, -1), grads, inner, earliest)
    for slot, inside in inner.items():
        grads[slot] = inside
    return [_zeros(walk, value) if (g := grads[value.slot]) is None else g for value in wrt]


def _zeros(walk: Walk, value: Tensor) -> Any:
    """The gradient by a value that the loss does not depend on."""
    return walk.ops.full_like(value, value=0.0) if walk.record else torch.zeros_like(value.data)


def _walk(walk: Walk, slots: range, grads: list[Any], inner: dict[int, Any], earliest: int) -> None:
    """Run the rules of the entries at `slots`, which fall. `inner` receives gradients that rules would use up."""
    entries, freed, record = walk.tape.entries, walk.freed, walk.record
    pull: Pullback | None = None
    try:
        for slot in slots:
            entry = entries[slot]
            if inner and slot in inner:
                inner[slot] = grads[slot]
            if type(entry) is not tuple:
                if type(entry) is Freed and slot > earliest and grads[slot] is not None:
                    raise _freed_already(entry)
                continue
            pull = entry[0]
            if freed is not None:
                entries[slot] = freed
                if pull.outputs > 1:
                    entries[slot : slot + pull.outputs] = [freed] * pull.outputs
            (pull.record if record else pull.run)(walk, entry, slot, grads)
    except KERNEL_ERRORS as error:
        assert pull is not None
        assert type(entry) is tuple
        if max(pull.slots(entry)) >= slot:
            raise escaped(pull.name) from None
        raise EngineError(f"gradient of {pull.name}: {error}; in the backward pass at {user_location()}") from error


def _freed_already(entry: Freed) -> EngineError:
    return EngineError(
        f"gradients: the record was freed by the backward pass at {entry.by}, found a second one at {user_location()}; "
        "give the first one retain=True"
    )
