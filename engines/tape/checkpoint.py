"""Recompute instead of keep: a part of a model of which the tape records that it ran, and nothing from inside.

    hidden = ops.checkpoint(lambda x: ops.relu(ops.linear(x, weight, bias)), x)

Forward, the part runs behind a `Sieve`, which lets every entry go and notes only what the part read from outside, given
or captured alike. Backward, the function runs once more, now recorded at the end of the tape, and that record is walked
back at once and dropped. Gradients are added up in the order they would be without it, so they are equal to the bit;
dropout masks come from keys, which are inputs, so they are the same. Parts may stand in each other.

A function that does something else the second time is refused as far as it shows: in the number, shapes and dtypes of
what it returns. A tape with such a part that is never walked back is freed by Python's collector, not by reference
counts, since the function may hold values of the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from engines.op import describe
from engines.tape.pullback import Pullback, Walk
from engines.tape.tensor import Tensor
from engines.value import EngineError, Location, Spec, user_location

RANGE = 1 << 40
"""Slots of each part's own, far from those of the tape, so that a value that escapes is known by its slot."""


class Sieve(list[Any]):
    """Stands for the record while a part runs. Keeps of each entry only which slots outside the part it reads."""

    def __init__(self, outer: list[Any], start: int) -> None:
        super().__init__()
        self.outer = outer
        self.start = start
        self.passed = 0
        self.read: set[int] = set()

    def __len__(self) -> int:
        return self.start + self.passed

    def append(self, entry: Any) -> None:
        """Count an entry and let it go."""
        if entry is not None and type(entry) is not tuple:
            raise EngineError(f"parameter: made inside a checkpoint, at {user_location()}; make it outside")
        self.passed += 1
        if entry is None:
            return
        for slot in entry[0].slots(entry):
            if slot < self.start:
                self._check(entry[0], slot)
                self.read.add(slot)

    def _check(self, pull: Pullback, slot: int) -> None:
        around: list[Any] = self.outer
        while isinstance(around, Sieve) and slot < around.start:
            around = around.outer
        if slot >= len(around):
            raise escaped(pull.name)


@dataclass(frozen=True, slots=True)
class Part:
    """What is kept of a part: how to run it again, what it gave, and the line that marked it."""

    function: Callable[..., Any]
    values: tuple[Any, ...]
    gave: tuple[Spec, ...]
    where: Location


def escaped(name: str) -> EngineError:
    """The error for an op that reads what was made inside a checkpoint and not returned from it."""
    return EngineError(
        f"{name}: reads a value that was made inside a checkpoint and is not kept, at {user_location()}; "
        "return it from the function"
    )


def run_part(tape: Any, function: Callable[..., Any], values: tuple[Any, ...], start: int) -> Any:
    """Run a part with nothing kept from inside, and record that it ran. Slots from `start` on are the part's own."""
    outer = tape.entries
    tape.entries = sieve = Sieve(outer, start)
    try:
        result = function(*values)
    finally:
        tape.entries = outer
    made = _made(result, start)
    if not made:
        return result
    slots = sorted(sieve.read)
    specs = tuple(tensor.spec for tensor in made.values())
    part = Part(function, values, specs, user_location())
    pull = Pullback("checkpoint", tuple(range(len(slots))), len(made), ("part",), _run_again, _run_again)
    first = len(outer)
    outer.append((pull, {}, *slots, part))
    for _ in range(len(made) - 1):
        outer.append(None)
    return _renamed(result, {old: Tensor(t.data, tape, first + i) for i, (old, t) in enumerate(made.items())})


def _run_again(walk: Walk, entry: tuple[Any, ...], slot: int, grads: list[Any]) -> None:
    """Run the part once more, recorded, and walk that record back."""
    part, outputs = entry[-1], entry[0].outputs
    given = grads[slot : slot + outputs]
    if all(g is None for g in given):
        return
    grads[slot : slot + outputs] = [None] * outputs
    try:
        with walk.again(grads) as start:
            made = _made(part.function(*part.values), start)
            found = tuple(tensor.spec for tensor in made.values())
            if found != part.gave:
                raise EngineError(
                    f"checkpoint: the function gave {_list(part.gave)} at first, {_list(found)} this time"
                )
            grads.extend([None] * (len(walk.tape.entries) - len(grads)))
            for number, g in zip(made, given, strict=True):
                grads[number] = g
            del made, given, g
    except EngineError as error:
        raise EngineError(f"{error}; in the part checkpointed at {part.where}") from error


def _list(specs: Iterable[Spec]) -> str:
    return f"({', '.join(map(str, specs))})"


def _values(result: Any) -> tuple[Any, ...]:
    values = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    for value in values:
        if not isinstance(value, Tensor):
            raise EngineError(
                f"checkpoint: the function gives a value of the tape or a tuple of them, found {describe(value)}, "
                f"at {user_location()}"
            )
    return values


def _made(result: Any, start: int) -> dict[int, Tensor]:
    """What a part returned and made itself, by slot."""
    return {value.slot: value for value in _values(result) if value.slot >= start}


def _renamed(result: Any, names: dict[int, Tensor]) -> Any:
    values = tuple(names.get(value.slot, value) for value in _values(result))
    return values if isinstance(result, (tuple, list)) else values[0]
