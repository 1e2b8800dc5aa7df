"""The tape's inner loop: for each op a function of its own, unrolled into straight-line Python.

What these functions do beside calling the kernel is all that recording costs. For relu, whose rule reads its output:

    def relu(p0, **given):
        if given or type(p0) is not Tensor:
            return general(p0, **given)
        tape = p0.tape
        x0, s0 = p0.data, p0.slot
        try:
            y0 = kernel(x0)
        except KERNEL_ERRORS as error:
            raise refusal(op, (p0,), NO_ATTRS, error) from None
        if tape.recording and (s0 >= 0):
            entries = tape.entries
            slot = len(entries)
            entries.append((op, NO_ATTRS, (s0,), ((y0, None,) if s0 >= 0 else None,), 1))
            return Tensor(y0, tape, slot)
        return Tensor(y0, tape, -1)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engines.op import KERNEL_ERRORS, Op, picked, plain, refusal, spec_of
from engines.tape.tensor import Tensor

NO_ATTRS: Mapping[str, Any] = {}
MOST_KNOWN = 256
"""Sets of attributes remembered per op."""


def unrolled(op: Op, general: Callable[..., Any]) -> Callable[..., Any]:
    """The recording form of an op with a fixed number of inputs and outputs.

    Whatever is out of the ordinary (an array, a value of another tape, mixed float widths, an unknown attribute) is
    handed to `general`, which knows all cases.
    """
    scope = {
        "Tensor": Tensor,
        "KERNEL_ERRORS": KERNEL_ERRORS,
        "NO_ATTRS": NO_ATTRS,
        "op": op,
        "kernel": op.kernel,
        "general": general,
        "attributes": _attributes(op),
        "refusal": refusal,
        "spec_of": spec_of,
    }
    # A name below this package, so that an error looks further up for the user's line.
    exec(compile("\n".join(_source(op)), f"{__file__}/{op.name}", "exec"), scope)  # noqa: S102
    function: Callable[..., Any] = scope[op.name]  # type: ignore[assignment]
    return function


def _source(op: Op) -> list[str]:
    given = ", ".join(f"p{i}" for i in range(len(op.vjps)))
    parameters = ", ".join(f"p{i}=None" if i else "p0" for i in range(len(op.vjps)))
    raw = ", ".join(f"x{i}" for i in range(len(op.vjps)))
    outs = ", ".join(f"y{k}" for k in range(op.outputs or 1))
    attrs = "attrs" if op.attrs else "NO_ATTRS"
    return [
        f"def {op.name}({parameters}, **given):",
        f"    if {'' if op.attrs else 'given or '}type(p0) is not Tensor:",
        f"        return general({given}, **given)",
        "    tape = p0.tape",
        "    x0, s0 = p0.data, p0.slot",
        *(line for i in range(1, len(op.vjps)) for line in _unwrap(op, i, given)),
        *(["    attrs = attributes(given)"] if op.attrs else []),
        "    try:",
        f"        {outs} = kernel({raw}{', **attrs' if op.attrs else ''})",
        "    except KERNEL_ERRORS as error:",
        f"        raise refusal(op, ({given},), {attrs}, error) from None",
        *_record(op, attrs),
        f"    return {', '.join(f'Tensor(y{k}, tape, -1)' for k in range(op.outputs or 1))}",
    ]


def _unwrap(op: Op, i: int, given: str) -> list[str]:
    """Statements that bring input `i` into x and s: its tensor (or number, or None) and its slot."""
    widths = f" or p{i}.data.dtype is not x0.dtype" if op.promotes else ""
    optional = "" if op.promotes else f"p{i} is None or "
    return [
        f"    if type(p{i}) is Tensor:",
        f"        if p{i}.tape is not tape{widths}:",
        f"            return general({given}, **given)",
        f"        x{i}, s{i} = p{i}.data, p{i}.slot",
        f"    elif {optional}type(p{i}) is float or type(p{i}) is int:",
        f"        x{i}, s{i} = p{i}, -1",
        "    else:",
        f"        return general({given}, **given)",
    ]


def _record(op: Op, attrs: str) -> list[str]:
    """Statements that append the entry and return recorded tensors, if a gradient is wanted for any input."""
    operands = [*(f"y{k}" for k in range(op.outputs or 1)), *(f"x{i}" for i in range(len(op.vjps)))]
    saved = [
        f"{picked(rule, op.attrs, operands)} if s{i} >= 0 else None" if rule else "None"
        for i, rule in enumerate(op.vjps)
    ]
    wanted = " or ".join(f"s{i} >= 0" for i, rule in enumerate(op.vjps) if rule)
    if not wanted:
        return []
    slots = ", ".join(f"s{i}" for i in range(len(op.vjps)))
    tensors = ", ".join(f"Tensor(y{k}, tape, slot{f' + {k}' if k else ''})" for k in range(op.outputs or 1))
    return [
        f"    if tape.recording and ({wanted}):",
        "        entries = tape.entries",
        "        slot = len(entries)",
        f"        entries.append((op, {attrs}, ({slots},), ({', '.join(saved)},), {op.outputs}))",
        *["        entries.append(None)"] * ((op.outputs or 1) - 1),
        f"        return {tensors}",
    ]


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
