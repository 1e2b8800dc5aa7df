"""What steers a computation and computes nothing itself: branches, loops, and parts run in a way of their own.

    y = ops.cond(x > 0, lambda: ops.exp(x), lambda: x)
    y = ops.switch(index, [lambda v: v, lambda v: v * 2.0], x)
    n = ops.while_loop(lambda n: n < stop, lambda n: n + 1, start, limit=100)
    carry, ys = ops.scan(lambda h, x: (step(h, x), h), h0, xs)

What is written here is plain Python, on which every engine runs that computes at once. A static engine gives these
names functions of its own, which trace each branch and body once. All may use any value from
outside; gradients flow to all of them. Operands, carries and results are structures: see `engines.ops.structure`.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from engines.op import Namespace, describe
from engines.ops.finite import NotFiniteError
from engines.ops.structure import Outline, describe_outline, flatten, paths, unflatten
from engines.value import EngineError, Location, user_location

Kept = Literal["store", "recompute"]
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def checkpoint(_ops: Namespace, function: Callable[..., Any], *values: Any) -> Any:
    """`function(*values)`, a value or a tuple of them, of which an engine need not keep what its gradients read.

    An engine that keeps values for the backward pass runs the function again there instead (Chen et al., "Training deep
    nets with sublinear memory cost", 2016). `function` must do the same each time. What it reads may be given or
    captured, parameters among it; what it makes leaves it by being returned.
    """
    return function(*values)


def without_gradient(_ops: Namespace, function: Callable[..., Any], *values: Any) -> Any:
    """`function(*values)`, through which no gradient flows, so that an engine need not record it."""
    return function(*values)


def cond(_ops: Namespace, pred: Any, then: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """`then(*operands)` if `pred`, a scalar truth value, holds, else `otherwise(*operands)`.

    Both give the same structure of the same shapes and dtypes; an engine that runs only the branch taken sees only what
    that gives. Raises EngineError for another predicate.
    """
    return (then if truth("cond", pred) else otherwise)(*operands)


def switch(_ops: Namespace, index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """`branches[index](*operands)`: as `cond`, for many branches; `index` is a scalar integer. Raises EngineError."""
    check_index(index)
    return branches[within("switch", int(index), len(branches), user_location)](*operands)


def while_loop(
    ops: Namespace,
    condition: Callable[[Any], Any],
    body: Callable[[Any], Any],
    carry: Any,
    *,
    limit: int,
    gradient: Kept = "store",
) -> Any:
    """`carry = body(carry)` as long as `condition(carry)` holds; gives the last carry.

    `body` gives a carry of the same structure, shapes and dtypes. A loop that would go on after `limit` trips is an
    EngineError. For gradients each trip keeps what its body's rules read ("store"), or only its carry, from which the
    body is run once more ("recompute").
    """
    check_loop("while_loop", gradient, limit)
    step = kept(ops, gradient, body)
    before, outline = flatten(carry)
    check_values("while_loop", "carry", outline, before)
    trips = 0
    while truth("while_loop", ops.without_gradient(condition, carry)):
        if trips == limit:
            raise past_limit(limit, user_location())
        try:
            carry = step(carry)
        except NotFiniteError as error:
            raise error.in_trip("while_loop", trips) from None
        after, found = flatten(carry)
        check_carry("while_loop", outline, before, found, after)
        before = after
        trips += 1
    return carry


def scan(
    ops: Namespace,
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
    gradient: Kept = "store",
) -> tuple[Any, Any]:
    """`carry, y = body(carry, x)` for each x along the leading axis of `xs`; gives the last carry and the ys, stacked.

    The values of `xs` have one leading size, of at least 1; without them `length` says how often. With `reverse` the
    last x comes first, and ys stand where their xs stand. `gradient` is as for `while_loop`. Raises EngineError.
    """
    check_loop("scan", gradient, 0)
    step = kept(ops, gradient, body)
    given, xs_outline = flatten(xs)
    check_values("scan", "xs", xs_outline, given)
    length = common_length(given, xs_outline, length)
    before, outline = flatten(carry)
    check_values("scan", "carry", outline, before)
    parts = [ops.unstack(x) for x in given]
    rows: list[list[Any]] = [[]] * length
    y_outline: Outline = None
    for t in reversed(range(length)) if reverse else range(length):
        try:
            carry, y = pair(step(carry, unflatten(xs_outline, [part[t] for part in parts])))
        except NotFiniteError as error:
            raise error.in_trip("scan", t) from None
        after, found = flatten(carry)
        check_carry("scan", outline, before, found, after)
        before = after
        made, y_outline = flatten(y)
        check_values("scan", "y", y_outline, made)
        # Made a row at once, so that y's gradient comes after that of the carry, which may be the same value.
        rows[t] = [ops.reshape(value, shape=(1, *value.shape)) for value in made]
    return carry, unflatten(y_outline, [ops.concat(list(column), dim=0) for column in zip(*rows, strict=True)])


FUNCTIONS = (checkpoint, without_gradient, cond, switch, while_loop, scan)


# What every engine checks, in the same words


def truth(name: str, pred: Any) -> bool:
    """A predicate as Python's truth value. Raises EngineError unless it is a scalar of them."""
    if not isinstance(pred, bool):
        check_predicate(name, pred)
    return bool(pred)


def check_predicate(name: str, pred: Any) -> None:
    """Refuse what is no scalar truth value."""
    if tuple(getattr(pred, "shape", (0,))) != () or pred.dtype not in (torch.bool, bool):
        raise EngineError(f"{name}: the predicate must be a scalar bool, found {describe(pred)} at {user_location()}")


def check_index(index: Any) -> None:
    """Refuse what is no scalar integer."""
    whole = isinstance(index, numbers.Integral) and not isinstance(index, bool)
    if not whole and (tuple(getattr(index, "shape", (0,))) != () or index.dtype not in INTEGERS):
        raise EngineError(f"switch: the index must be a scalar integer, found {describe(index)} at {user_location()}")


def within(name: str, index: int, count: int, where: Callable[[], Location]) -> int:
    """The index, if there is such a branch. Raises EngineError."""
    if not 0 <= index < count:
        raise EngineError(f"{name}: index {index} is none of the {count} branches, 0 to {count - 1}, at {where()}")
    return index


def past_limit(limit: int, where: Location) -> EngineError:
    """The error of a loop that does not end."""
    return EngineError(f"while_loop: the condition still holds after {limit} trips, the limit, at {where}")


def check_values(name: str, what: str, outline: Outline, leaves: Sequence[Any]) -> None:
    """Refuse leaves that are no values of an engine: numbers, say."""
    for path, leaf in zip(paths(outline, what), leaves, strict=True) if leaves else ():
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "ndim"):
            raise EngineError(
                f"{name}: {path} must be a value, found {describe(leaf)} at {user_location()}; "
                "make a number one with ops.full_like(x, shape=(), value=...)"
            )


def check_carry(name: str, outline: Outline, before: Sequence[Any], found: Outline, after: Sequence[Any]) -> None:
    """Refuse a body that gives another structure, shape or dtype than it was given."""
    if found != outline:
        raise EngineError(
            f"{name}: the carry is {describe_outline(outline)}, the body gives {describe_outline(found)}, "
            f"at {user_location()}"
        )
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if not hasattr(new, "dtype"):
            check_values(name, "carry", found, after)
        if old.shape != new.shape or old.dtype != new.dtype:
            path = paths(outline, "carry")[i]
            raise EngineError(
                f"{name}: {path} is {describe(old)}, the body makes it {describe(new)}, at {user_location()}"
            )


def common_length(leaves: Sequence[Any], outline: Outline, length: int | None) -> int:
    """How many trips a scan makes. Raises EngineError where that is not clear, or none."""
    sizes = {x.shape[0] if x.shape else None for x in leaves} | ({length} if length is not None else set())
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        found = ", ".join(f"{path} {describe(x)}" for path, x in zip(paths(outline, "xs"), leaves, strict=True))
        raise EngineError(
            f"scan: xs need one leading size of at least 1, or without them a length; "
            f"found {found or 'no xs'}, length {length}, at {user_location()}"
        )
    return int(sizes.pop() or 0)


def pair(result: Any) -> tuple[Any, Any]:
    """What the body of a scan gives. Raises EngineError where it is no pair."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        found = describe_outline(flatten(result)[1])
        raise EngineError(f"scan: the body must give a pair (carry, y), found {found}, at {user_location()}")
    return result[0], result[1]


def check_loop(name: str, gradient: str, limit: int) -> None:
    """Refuse options that mean nothing."""
    if gradient not in ("store", "recompute"):
        raise EngineError(f"{name}: gradient is 'store' or 'recompute', found {gradient!r} at {user_location()}")
    if not isinstance(limit, numbers.Integral) or limit < 0:
        raise EngineError(f"{name}: limit is a number of trips, found {limit!r} at {user_location()}")


def kept(ops: Namespace, gradient: str, body: Callable[..., Any]) -> Callable[..., Any]:
    """A body that keeps what `gradient` says."""
    if gradient == "store":
        return body

    def again(*given: Any) -> Any:
        leaves, outline = flatten(given)
        outlines: list[Outline] = []

        def flat(*values: Any) -> tuple[Any, ...]:
            found, result = flatten(body(*unflatten(outline, values)))
            outlines.append(result)
            return tuple(found)

        made = ops.checkpoint(flat, *leaves)
        return unflatten(outlines[0], made)

    return again
