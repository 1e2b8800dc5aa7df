"""A tape's value: a torch tensor, and its place on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engines.value import Spec, Value

if TYPE_CHECKING:
    from engines.tape.tape import Tape


class Tensor(Value):
    """A torch tensor (`data`) on a tape; `slot` is its position there, -1 where it needs no gradient."""

    __slots__ = ("data", "slot", "tape")

    def __init__(self, data: torch.Tensor, tape: Tape, slot: int) -> None:
        self.data = data
        self.tape = tape
        self.slot = slot

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, one per dimension."""
        return self.data.shape

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.data.dtype

    @property
    def spec(self) -> Spec:
        """Shape, dtype and device."""
        return Spec.of(self.data)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy as a NumPy array."""
        array: np.ndarray[Any, Any] = self.data.cpu().numpy().copy()
        return array

    def item(self) -> Any:
        """The only element as a Python number."""
        return self.data.item()

    def tolist(self) -> Any:
        """The elements as Python numbers, in nested lists."""
        return self.data.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}, slot={self.slot})"
