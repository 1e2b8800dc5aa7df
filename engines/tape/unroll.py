"""The tape's inner loop: for each op a function of its own, unrolled into straight-line Python.

What these functions do beside calling the kernel is all that recording costs. For relu, whose rule reads its output:

    def relu(p0, **given):
        if given or type(p0) is not Tensor:
            return general(p0, **given)
        tape, x0, s0 = p0.tape, p0.data, p0.slot
        try:
            y0 = kernel(x0)
        except KERNEL_ERRORS as error:
            raise refusal(op, (p0,), NO_ATTRS, error) from None
        slot = -1
        if tape.recording:
            entries = tape.entries
            if s0 >= 0:
                slot = len(entries)
                entries.append((pull_0 or pullback((0,)), NO_ATTRS, s0, y0))
        t0 = new(Tensor)
        t0.data, t0.tape, t0.slot = y0, tape, slot
        return t0
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from engines.op import KERNEL_ERRORS, REQUIRED, Op, plain, refusal, spec_of
from engines.tape.pullback import Pullback, saved_values, unrolled_pullback
from engines.tape.tensor import Tensor

NO_ATTRS: Mapping[str, Any] = {}
MOST_KNOWN = 256
"""Sets of attributes remembered per op."""

NUMBERS_KNOWN = 4096
"""Numbers remembered as tensors."""

EXACT = 1 << 24
"""Whole numbers up to here are exact in float32."""

INFIX = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/"}
"""Kernels that cost less as Python's own operators, and take a number on the right and its tensor alike to the bit."""


def unrolled(op: Op, general: Callable[..., Any]) -> Callable[..., Any]:
    """The recording form of an op with a fixed number of inputs and outputs.

    Whatever is out of the ordinary (an array, a value of another tape, mixed float widths, an unknown attribute) is
    handed to `general`, which knows all cases.
    """
    scope = {
        "Tensor": Tensor,
        "new": Tensor.__new__,
        "KERNEL_ERRORS": KERNEL_ERRORS,
        "NO_ATTRS": NO_ATTRS,
        "DEFAULTS": op.attrs,
        "op": op,
        "kernel": op.kernel,
        "general": general,
        "attributes": _attributes(op),
        "refusal": refusal,
        "scalar": scalar,
        "spec_of": spec_of,
    }
    scope.update(dict.fromkeys((_pull(inputs) for inputs in _subsets(op)), None))

    def pullback(inputs: tuple[int, ...]) -> Pullback:
        made = scope[_pull(inputs)] = unrolled_pullback(op, inputs)
        return made

    scope["pullback"] = pullback
    # A name below this package, so that an error looks further up for the user's line.
    exec(compile("\n".join(_source(op)), f"{__file__}/{op.name}", "exec"), scope)  # noqa: S102
    function: Callable[..., Any] = scope[op.name]  # type: ignore[assignment]
    return function


@lru_cache(maxsize=NUMBERS_KNOWN, typed=True)
def scalar(number: float, dtype: torch.dtype) -> torch.Tensor | float:
    """A number other than 0 as a tensor without dimensions, which torch takes in half the time of a number.

    The number itself where the tensor would not be the same to the bit.
    """
    if dtype not in (torch.float32, torch.float64) or not abs(number) < torch.finfo(dtype).max:
        return number
    if type(number) is int and abs(number) > EXACT:
        return number
    return torch.tensor(number, dtype=dtype)


def _pull(inputs: Sequence[int]) -> str:
    """The name of a pullback in the function's scope."""
    return f"pull_{''.join(map(str, inputs))}"


def _subsets(op: Op) -> list[tuple[int, ...]]:
    """The sets of inputs that may want a gradient."""
    subsets: list[tuple[int, ...]] = [()]
    for i, rule in enumerate(op.vjps):
        subsets += [(*subset, i) for subset in subsets if rule is not None]
    return subsets[1:]


def _source(op: Op) -> Iterator[str]:
    arity, outputs = len(op.vjps), op.outputs or 1
    given = ", ".join(f"p{i}" for i in range(arity))
    attrs = "attrs" if op.attrs else "NO_ATTRS"
    results = [f"y{k}" for k in range(outputs)]
    yield f"def {op.name}({', '.join(f'p{i}=None' if i else 'p0' for i in range(arity))}, **given):"
    yield from _unwrap_first(op, given)
    for i in range(1, arity):
        yield from _unwrap(op, i, given)
    if op.attrs:
        yield f"    attrs = attributes(given){'' if REQUIRED in op.attrs.values() else ' if given else DEFAULTS'}"
    yield "    try:"
    yield f"        {', '.join(results)} = {_kernel_call(op)}"
    yield "    except KERNEL_ERRORS as error:"
    yield f"        raise refusal(op, ({given},), {attrs}, error) from None"
    recorded = any(op.vjps)
    if recorded:
        yield "    slot = -1"
        yield "    if tape.recording:"
        yield "        entries = tape.entries"
        yield from _record(op, attrs, 0, (), "        ")
    for k in range(outputs):
        slot = "-1" if not recorded else "slot" if k == 0 else f"slot + {k} if slot >= 0 else -1"
        yield f"    t{k} = new(Tensor)"
        yield f"    t{k}.data = y{k}; t{k}.tape = tape; t{k}.slot = {slot}"
    yield f"    return {', '.join(f't{k}' for k in range(outputs))}"


def _unwrap_first(op: Op, given: str) -> Iterator[str]:
    """Statements that bring the first input into x0 and s0, and the tape into `tape`."""
    unknown = "" if op.attrs else "given or "
    if op.kernel in INFIX:  # a number may stand first
        yield "    if type(p0) is Tensor:"
        yield "        tape = p0.tape; x0 = p0.data; s0 = p0.slot"
        yield "    elif (type(p0) is float or type(p0) is int) and type(p1) is Tensor:"
        # A number by a tensor torch divides in a way of its own.
        number = "p0" if op.kernel is operator.truediv else "scalar(p0, p1.data.dtype) if p0 else p0"
        yield f"        tape = p1.tape; x0 = {number}; s0 = -1"
        yield "    else:"
        yield f"        return general({given}, **given)"
        yield "    if given:"
    else:
        yield f"    if {unknown}type(p0) is not Tensor:"
    yield f"        return general({given}, **given)"
    if op.kernel not in INFIX:
        yield "    tape = p0.tape; x0 = p0.data; s0 = p0.slot"


def _unwrap(op: Op, i: int, given: str) -> Iterator[str]:
    """Statements that bring input `i` into x and s: its tensor (or number, or None) and its slot."""
    first = "type(p0) is Tensor and " if op.kernel in INFIX else ""
    widths = f" or {first}p{i}.data.dtype is not x0.dtype" if op.promotes else ""
    optional = "" if op.promotes else f"p{i} is None or "
    number = f"scalar(p{i}, x0.dtype) if p{i} else p{i}" if op.kernel in INFIX else f"p{i}"
    yield f"    if type(p{i}) is Tensor:"
    yield f"        if p{i}.tape is not tape{widths}:"
    yield f"            return general({given}, **given)"
    yield f"        x{i} = p{i}.data; s{i} = p{i}.slot"
    yield f"    elif {optional}type(p{i}) is float or type(p{i}) is int:"
    yield f"        x{i} = {number}; s{i} = -1"
    yield "    else:"
    yield f"        return general({given}, **given)"


def _kernel_call(op: Op) -> str:
    raw = [f"x{i}" for i in range(len(op.vjps))]
    if op.kernel in INFIX:
        return f" {INFIX[op.kernel]} ".join(raw)
    return f"kernel({', '.join([*raw, *(['**attrs'] if op.attrs else [])])})"


def _record(op: Op, attrs: str, i: int, inputs: tuple[int, ...], indent: str) -> Iterator[str]:
    """Statements that append the entry, a branch for each set of inputs that may want a gradient."""
    if i < len(op.vjps) and op.vjps[i] is None:
        yield from _record(op, attrs, i + 1, inputs, indent)
    elif i < len(op.vjps):
        yield f"{indent}if s{i} >= 0:"
        yield from _record(op, attrs, i + 1, (*inputs, i), indent + "    ")
        rest = list(_record(op, attrs, i + 1, inputs, indent + "    "))
        if rest:
            yield f"{indent}else:"
            yield from rest
    elif inputs:
        pull = f"{_pull(inputs)} or pullback({inputs})"
        entry = ", ".join([pull, attrs, *(f"s{n}" for n in inputs), *saved_values(op, inputs)])
        yield f"{indent}slot = len(entries)"
        yield f"{indent}entries.append(({entry}))"
        yield from [f"{indent}entries.append(None)"] * ((op.outputs or 1) - 1)


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
