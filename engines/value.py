"""What flows through an engine: a `Value` with NumPy-like operators, described by a `Spec`.

    y = (x * 2.0 + 1.0)[:, 0]        # works on a tape's tensor and on a graph's symbol alike

A `Value` knows its engine's op namespace and nothing else: every operator below is one call into it.
"""

from __future__ import annotations

import numbers
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from engines.op import Namespace

DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
"""Dtypes by the name that models and stored graphs use."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The inverse of `DTYPES`."""


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, of one that is not in `DTYPES` as torch has it."""
    return DTYPE_NAMES.get(dtype) or str(dtype).removeprefix("torch.")


_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}
_NOT_THE_USER = tuple(str(Path(file).parent) + os.sep for file in (__file__, np.__file__, torch.__file__))


class EngineError(Exception):
    """A model or a call that an engine refuses: says what, found, expected and where."""


class UnavailableError(EngineError):
    """An engine that this machine cannot run, through no fault of the model: says what it needs and does not find."""


class Location(NamedTuple):
    """A line of the user's source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


class Spec(NamedTuple):
    """Shape, dtype and device of a value: all that is known before it is computed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Spec:
        """The spec of a torch tensor."""
        return cls(tuple(tensor.shape), tensor.dtype, str(tensor.device))

    def __str__(self) -> str:
        name = dtype_name(self.dtype)
        kind = name.rstrip("0123456789")
        sizes = ",".join(map(str, self.shape))
        device = "" if self.device == "cpu" else f"@{self.device}"
        return f"{_SHORT.get(kind, kind)}{name[len(kind) :]}[{sizes}]{device}"


def canonical_device(device: str) -> str:
    """A device as torch names its tensors': "cuda" becomes "cuda:0", or whichever is current."""
    if device == "cpu" or ":" in device:
        return device
    return str(torch.empty(0, device=device).device)


def user_location() -> Location:
    """Where the nearest caller outside `engines`, NumPy and torch stands: the line of the model to blame."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USER):
        frame = frame.f_back
    if frame is None:
        return Location("<unknown>", 0)
    return Location(frame.f_code.co_filename, frame.f_lineno)


class Value:
    """A multi-dimensional array in one engine's hands.

    Subclasses give `ops` (the engine's namespace), `shape` and `dtype`. Comparison is elementwise; hashing and
    membership go by identity.
    """

    __slots__ = ()
    ops: Namespace

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, one per dimension."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise EngineError(f"len: a value of shape () has no length, at {user_location()}")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        return self.ops.getitem(self, key=_plain_key(key))

    def __add__(self, other: Any) -> Any:
        return self.ops.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return self.ops.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return self.ops.sub(self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.ops.sub(other, self)

    def __mul__(self, other: Any) -> Any:
        return self.ops.mul(self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.ops.mul(other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.ops.div(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.ops.div(other, self)

    def __pow__(self, other: Any) -> Any:
        return self.ops.power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return self.ops.power(other, self)

    def __matmul__(self, other: Any) -> Any:
        return self.ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self.ops.matmul(other, self)

    def __neg__(self) -> Any:
        return self.ops.neg(self)

    def __lt__(self, other: Any) -> Any:
        return self.ops.less(self, other)

    def __le__(self, other: Any) -> Any:
        return self.ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return self.ops.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return self.ops.greater_equal(self, other)

    def __eq__(self, other: object) -> Any:
        return self.ops.equal(self, other)

    def __ne__(self, other: object) -> Any:
        return self.ops.not_equal(self, other)

    __hash__ = object.__hash__
    __array_ufunc__ = None  # so that `numpy_array * value` comes to __rmul__ instead of looping over elements


def _plain_key(key: Any) -> tuple[Any, ...]:
    """Basic indexing as hashable, storable data: an int, "...", None, or (start, stop, step) for a slice."""
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(_plain_part(part) for part in parts)


def _plain_part(part: Any) -> Any:
    if isinstance(part, slice):
        return (part.start, part.stop, part.step)
    if part is Ellipsis:
        return "..."
    if isinstance(part, numbers.Integral) and not isinstance(part, bool):
        return int(part)  # NumPy's integers among them
    if part is None:
        return part
    raise EngineError(
        f"getitem: an index is an int, a slice, None or ...; found {part!r} at {user_location()}; "
        "to index by a value use ops.gather or ops.embedding"
    )
