"""The op table: every op of every engine, each with its kernel and its gradient rules side by side.

    TABLE["exp"].kernel(x)            # the torch kernel itself
    KERNELS.exp(x)                    # the same through a namespace: what gradient rules run on in a backward pass
    bind("mine", make)                # a new engine's namespace, `make` turning each op into a function

To add an op: one block in one of these files, and its case in tests/op_cases.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

from engines.op import REQUIRED, Namespace, Op
from engines.ops import control, conv, elementwise, index, linalg, loss, norm, pool, random, reduction, shape, update
from engines.ops.settle import settle

settle()

TABLE = MappingProxyType(
    {
        op.name: op
        for module in (elementwise, reduction, shape, linalg, conv, pool, norm, index, loss, random, update)
        for op in module.OPS
    }
)
"""Every op by name."""

COMPOSITES = (
    *shape.COMPOSITES,
    *conv.COMPOSITES,
    *pool.COMPOSITES,
    *norm.COMPOSITES,
    *loss.COMPOSITES,
    *random.COMPOSITES,
)
"""Functions `(ops, ...)` written in ops, offered beside them."""


CONTROL = control.FUNCTIONS
"""Functions `(ops, function, ...)` that run a part of a model; engines may give them a way of their own."""


def bind(engine: str, make: Callable[[Op], Callable[..., Any]]) -> Namespace:
    """The namespace of an engine: `make(op)` for each row of the table, and the composites on top of them."""
    ops = Namespace(engine)
    for op in TABLE.values():
        ops.add_function(op.name, make(op))
    for composite in (*COMPOSITES, *CONTROL):
        ops.add_function(composite.__name__, partial(composite, ops))
    return ops


def bare_kernel(op: Op) -> Callable[..., Any]:
    """An op's kernel, with the default attributes filled in."""
    defaults = {name: value for name, value in op.attrs.items() if value is not REQUIRED}
    return partial(op.kernel, **defaults) if defaults else op.kernel


KERNELS = bind("kernels", bare_kernel)
"""Kernels alone, on torch tensors: nothing is recorded or traced."""
KERNELS.add_function("conv2d_gradients", conv.conv2d_gradients_on_kernels)
