"""Programs with branches and loops, each written twice: in ops of control flow, and in Python's own statements.

`Case.model(ops, x, w, n)` and `Case.plain(x, w, n)` give the same values; x and w are vectors of four, n is an integer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch


class Case(NamedTuple):
    """A program in ops, and the same in plain torch; `trips` are the values of n that it is tried with."""

    model: Callable[..., Any]
    plain: Callable[..., Any]
    trips: tuple[int, ...] = (3,)


def _cond(ops: Any, x: Any, w: Any, n: Any) -> Any:
    return ops.cond(n > 2, lambda: ops.exp(x) * w, lambda: x)


def _cond_plain(x: Any, w: Any, n: Any) -> Any:
    return torch.exp(x) * w if n > 2 else x


def _operands(ops: Any, x: Any, w: Any, n: Any) -> Any:
    made = ops.cond(n > 2, lambda a, b: {"s": a * b, "t": (a,)}, lambda a, b: {"s": b, "t": (a - b,)}, x, ops.tanh(w))
    return made["s"] * made["t"][0] + x


def _operands_plain(x: Any, w: Any, n: Any) -> Any:
    s, t = (x * torch.tanh(w), x) if n > 2 else (torch.tanh(w), x - torch.tanh(w))
    return s * t + x


def _switch(ops: Any, x: Any, w: Any, n: Any) -> Any:
    return ops.switch(n, [lambda v: v, lambda v: ops.tanh(v) * w, lambda v: ops.sum(v) * w], x * 2.0)


def _switch_plain(x: Any, w: Any, n: Any) -> Any:
    v = x * 2.0
    return [v, torch.tanh(v) * w, v.sum() * w][int(n)]


def _power(ops: Any, x: Any, w: Any, n: Any, **options: Any) -> Any:
    def body(c: Any) -> Any:
        return {"y": ops.tanh(c["y"] * w) + c["y"], "i": c["i"] + 1}

    return ops.while_loop(lambda c: c["i"] < n, body, {"y": x, "i": n - n}, limit=2000, **options)["y"]


def _power_plain(x: Any, w: Any, n: Any) -> Any:
    y = x
    for _ in range(int(n)):
        y = torch.tanh(y * w) + y
    return y


def _recomputed(ops: Any, x: Any, w: Any, n: Any) -> Any:
    return _power(ops, x, w, n, gradient="recompute")


def _until(ops: Any, x: Any, w: Any, n: Any) -> Any:
    """Halve until small: how often depends on the numbers."""
    small = ops.cast(n, dtype="float64") * 0.01
    return ops.while_loop(lambda y: ops.sum(y * y) > small, lambda y: y * 0.5 * ops.tanh(w), x + w, limit=100)


def _until_plain(x: Any, w: Any, n: Any) -> Any:
    y = x + w
    while (y * y).sum() > n * 0.01:
        y = y * 0.5 * torch.tanh(w)
    return y


def _scan(ops: Any, x: Any, w: Any, n: Any, **options: Any) -> Any:
    carry, ys = ops.scan(lambda h, v: (ops.tanh(h * w + v), (h * v, ops.sum(h))), w * 2.0, x, **options)
    return carry + ys[0] * ops.reshape(ys[1], shape=(4, 1))


def _scan_plain(x: Any, w: Any, n: Any, *, turned: bool = False) -> Any:
    h, ys = w * 2.0, [w] * 4
    for t in (3, 2, 1, 0) if turned else range(4):
        ys[t] = h * x[t] * h.sum()
        h = torch.tanh(h * w + x[t])
    return h + torch.stack(ys)


def _counted(ops: Any, x: Any, w: Any, n: Any) -> Any:
    """No xs, and a y that is a value from outside."""
    carry, ys = ops.scan(lambda c, _: ((c[1], c[0] * w), x), (x, w), length=5)
    return carry[0] + carry[1] * ops.sum(ys, dim=0)


def _counted_plain(x: Any, w: Any, n: Any) -> Any:
    a, b = x, w
    for _ in range(5):
        a, b = b, a * w
    return a + b * (x * 5)


def _nested(ops: Any, x: Any, w: Any, n: Any) -> Any:
    """A branch in a loop in a loop, all using w from the outermost."""

    def outer(h: Any, v: Any) -> Any:
        def body(c: Any) -> Any:
            grown = ops.cond(ops.sum(c[0]) > 3.0, lambda: c[0] * 0.5, lambda: c[0] + w * v)
            return grown, c[1] + 1

        h, _ = ops.while_loop(lambda c: c[1] < n, body, (h, n - n), limit=50)
        return h, ops.sum(h * w)

    carry, ys = ops.scan(outer, x, ops.tanh(x))
    return carry * ys


def _nested_plain(x: Any, w: Any, n: Any) -> Any:
    h, ys = x, []
    for v in torch.tanh(x):
        for _ in range(int(n)):
            h = h * 0.5 if h.sum() > 3.0 else h + w * v
        ys.append((h * w).sum())
    return h * torch.stack(ys)


def _layers(ops: Any, x: Any, w: Any, n: Any) -> Any:
    """Matrix products, views and reductions in a body; one weight that only one branch uses."""

    def body(c: Any, v: Any) -> Any:
        square = ops.reshape(c, shape=(2, 2))
        product = ops.matmul(square, ops.transpose(ops.reshape(w, shape=(2, 2)), dim0=0, dim1=1))
        return ops.reshape(ops.sigmoid(product), shape=(4,)) + v, None

    carry, _ = ops.scan(body, x, x)
    return carry


def _layers_plain(x: Any, w: Any, n: Any) -> Any:
    h = x
    for v in x:
        h = torch.sigmoid(h.reshape(2, 2) @ w.reshape(2, 2).T).reshape(4) + v
    return h


CASES = {
    "cond": Case(_cond, _cond_plain, (2, 3)),
    "cond with operands": Case(_operands, _operands_plain, (2, 3)),
    "switch": Case(_switch, _switch_plain, (0, 1, 2)),
    "while": Case(_power, _power_plain, (0, 1, 5)),
    "while, recomputed": Case(_recomputed, _power_plain, (0, 1, 5)),
    "while on numbers": Case(_until, _until_plain, (1, 10000)),
    "scan": Case(_scan, _scan_plain),
    "scan in reverse": Case(partial(_scan, reverse=True), partial(_scan_plain, turned=True)),
    "scan, recomputed": Case(partial(_scan, gradient="recompute"), _scan_plain),
    "scan without xs": Case(_counted, _counted_plain),
    "scan with layers": Case(_layers, _layers_plain),
    "nested": Case(_nested, _nested_plain, (0, 2)),
}
