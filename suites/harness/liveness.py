"""The least memory that a sequence of kernel calls can do with: the largest sum of values alive at once.

    with Recorder("cpu") as recorder:
        kept = call()
    recorder.lower_bound_bytes()          # while `kept` holds what the call returned

**Definition.** The order of the calls is taken as it is. A value is a storage that one of the calls made. It is alive
from the call that first gives it to the last call that reads or writes it, both included; what is still held at the end
(returned, or a state kept for the next step) is alive to the end. Views cost nothing and read nothing. Nothing is
written over its own input unless the call itself did so, so a call's inputs and outputs are alive together. A kernel's
own scratch space counts nothing, nor does what was there before. An engine that frees each value after its last use,
and whose kernels need no scratch space, reaches this bound; recomputing or another order might go below it.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class KernelCall(NamedTuple):
    """One call of a kernel, with the numbers of the storages that it reads and of those that it makes or overwrites."""

    name: str
    reads: frozenset[int]
    writes: frozenset[int]


def lower_bound_bytes(calls: Sequence[KernelCall], sizes: Mapping[int, int], kept: Collection[int]) -> int:
    """The bound of the definition above. `sizes` has the bytes of the storages that the calls made; others are free."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, call in enumerate(calls):
        for storage in call.writes:
            first.setdefault(storage, position)
        last.update(dict.fromkeys(call.reads | call.writes, position))
    last.update(dict.fromkeys(kept, len(calls) - 1))
    changes = [0] * (len(calls) + 1)
    for storage, size in sizes.items():
        changes[first[storage]] += size
        changes[last[storage] + 1] -= size
    return max(accumulate(changes))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within, every kernel call on tensors of one device type is noted. Holds no tensor and no storage alive."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[KernelCall] = []
        self.sizes: dict[int, int] = {}
        self._device_type = torch.device(device).type
        self._numbers: dict[weakref.ref[torch.UntypedStorage], int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the kernel and note what it read and wrote."""
        del types
        kwargs = kwargs or {}
        reads = frozenset(number for number, _ in self._storages((args, *kwargs.values())))
        known = len(self._numbers)
        result = func(*args, **kwargs)
        given = dict(self._storages(result))
        view = not func._schema.is_mutable and given.keys() <= reads
        if not view:
            self.calls.append(KernelCall(str(func), reads, frozenset(given)))
            self.sizes.update({n: size for n, size in given.items() if n >= known or n in self.sizes})
        return result

    def lower_bound_bytes(self) -> int | None:
        """The bound of what was noted, taking what is alive now as kept; None where no kernel was called."""
        kept = {number for ref, number in self._numbers.items() if number in self.sizes and ref() is not None}
        return lower_bound_bytes(self.calls, self.sizes, kept) if self.calls else None

    def _storages(self, value: Any) -> Iterator[tuple[int, int]]:
        """Number and bytes of every storage on this device among the tensors in `value`."""
        for tensor in _tensors(value):
            if tensor.device.type == self._device_type:
                storage = tensor.untyped_storage()
                yield self._numbers.setdefault(weakref.ref(storage), len(self._numbers)), storage.nbytes()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
