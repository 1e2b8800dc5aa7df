"""The memory that a planned graph works in: an arena, and the views of it that a run is given.

    frame = frames.take()            # as many tensors as there are slots
    outputs = run(*frame, *inputs)
    frames.give_back(frame)

A call has an arena to itself for as long as it runs, so an executable may be called from several threads at once. An
arena is kept for the next call; there are as many as calls have ever run at the same time. No output stands in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from engines.graph.lower.aten import Slot

Frame = tuple[torch.Tensor, ...]


class Frames:
    """The arenas of one executable that no call is using."""

    def __init__(self, slots: Sequence[Slot], arena_bytes: int) -> None:
        self._slots = slots
        self._arena_bytes = arena_bytes
        self._waiting: list[Frame] = []

    def take(self) -> Frame:
        """Views of an arena that nobody uses, a new one if need be."""
        if not self._slots:
            return ()
        try:
            return self._waiting.pop()  # one step for the interpreter, so no two threads get the same
        except IndexError:
            return self._new()

    def give_back(self, frame: Frame) -> None:
        """Keep the arena for the next call."""
        if frame:
            self._waiting.append(frame)

    def fill(self, byte: int) -> int:
        """Overwrite every waiting arena; gives how many. A byte of 255 makes each float NaN: no result may change."""
        for frame in list(self._waiting):
            arena = frame[0].untyped_storage()
            torch.empty(0, dtype=torch.uint8).set_(arena).fill_(byte)
        return len(self._waiting)

    def _new(self) -> Frame:
        arena = torch.empty(self._arena_bytes, dtype=torch.uint8)
        return tuple(_view(arena, slot) for slot in self._slots)


def _view(arena: torch.Tensor, slot: Slot) -> torch.Tensor:
    size = math.prod(slot.spec.shape) * slot.spec.dtype.itemsize
    return arena[slot.offset : slot.offset + size].view(slot.spec.dtype).view(slot.spec.shape)
