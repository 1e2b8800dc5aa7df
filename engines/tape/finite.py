"""The tape's way to find where a NaN first appears: it looks at what every kernel gives, forward and backward."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engines.op import Op
from engines.ops.finite import Finite, check_finite
from engines.tape import pullback, unroll
from engines.value import user_location


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, a kernel that gives a NaN is a NotFiniteError naming the op and the user's line."""

    def __init__(self, what: Finite) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._what = what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the kernel, then look at what it gave."""
        results = func(*args, **(kwargs or {}))
        if "empty" not in func.name() and func.name() not in LOOKING:
            several = results if isinstance(results, (tuple, list)) else (results,)
            with torch.utils._python_dispatch._disable_current_modes():
                check_finite(_op_name(func), several, args, user_location(), self._what)
        return results


LOOKING = frozenset({"aten::isnan", "aten::isfinite"})
"""Kernels that give truth values about other values."""


def _op_name(func: Any) -> str:
    """The op of the table that called a kernel, or whose gradient did."""
    for frame in _frames():
        file, code = frame.f_code.co_filename, frame.f_code
        if file.startswith(unroll.__file__ + "/"):
            return code.co_name
        if file.startswith(pullback.__file__ + "/"):
            return f"gradient of {code.co_name}"
        op = frame.f_locals.get("op")
        if isinstance(op, Op):
            return f"gradient of {op.name}" if file == pullback.__file__ else op.name
    return str(func.name())


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
