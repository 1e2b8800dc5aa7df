"""A run captured as a CUDA graph: launched whole from then on, by one call instead of one a kernel.

    step = Captured(run, graph, held={"weight"}, recorder=CudaRecorder(device))
    loss, weight = step(weight, image, key)      # the first call captures, each later one replays

A CUDA graph works on the addresses that it was captured with. So inputs that are `held` (parameters, and whatever is
updated in place) are captured where they lie, and captured again where a call brings others; all other inputs, keys of
random draws among them, are copied into buffers of the graph's own before a replay. Results are copied out of it: a
caller may keep them. What is captured is what plain launches would do, kernel by kernel.

Kernels run once before the capture, on copies of what they would update: libraries choose their algorithms then, and
what a capture forbids is done. Where a graph cannot be captured, kernels are launched one by one; why is said once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch

from engines.graph.control import all_nodes
from engines.graph.ir import Graph
from engines.graph.lower.aten import Run
from engines.graph.lower.compiler import say_once

Tensors = tuple[torch.Tensor, ...]

WARM_UPS = 2
"""Runs before a capture: some libraries choose in the first and allocate in the second."""

MOST_CAPTURES = 8
"""Whoever brings other parameters more often than this would pay for a capture more than replays save."""

DECIDE = frozenset({"cond", "switch", "while"})
"""Ops that need a value before they can go on. The trips of a scan are known, so it is captured whole."""

LARGE = 1 << 16
"""Elements from which on a tensor is copied by a kernel of its own."""

BOUNDARY_BYTES = 16
"""Triton compiles a kernel anew where a tensor does not begin on such a boundary."""

MADE = -1
"""Where a result is found that is none of the inputs."""

_ONE_CAPTURE = threading.Lock()  # CUDA allows one at a time in a process


class Recording(NamedTuple):
    """What was captured: what launches it, and the results that each launch overwrites.

    It works in `arena_bytes` of memory that is its own, also between launches; of these the results take `kept_bytes`.
    """

    replay: Callable[[], None]
    results: Tensors
    arena_bytes: int = 0
    kept_bytes: int = 0


def _nothing() -> None:
    """What is replayed before anything is captured."""


NOTHING = Recording(_nothing, ())


class Recorder(Protocol):
    """What captures and replays."""

    def on_device(self) -> AbstractContextManager[object]:
        """Within, kernels go to the graph's device."""
        ...

    def warm_up(self, act: Callable[[], object]) -> None:
        """Run aside from the caller's stream, before what the caller does next."""
        ...

    def capture(self, act: Callable[[], Tensors]) -> Recording:
        """What `act` launches, as one thing to replay."""
        ...

    def follow(self) -> None:
        """Whatever is launched next comes after every earlier replay, on whichever stream."""
        ...


class CudaRecorder:
    """torch's own CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None
        self._last: torch.cuda.Stream | None = None

    def on_device(self) -> AbstractContextManager[object]:
        """See `Recorder.on_device`."""
        return torch.cuda.device(self._device)

    def warm_up(self, act: Callable[[], object]) -> None:
        """See `Recorder.warm_up`."""
        current, side = torch.cuda.current_stream(self._device), self._stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            act()
        current.wait_stream(side)

    def capture(self, act: Callable[[], Tensors]) -> Recording:
        """See `Recorder.capture`. The allocator's peak, which `torch.cuda` tells, begins anew."""
        graph = torch.cuda.CUDAGraph()
        side = self._stream()
        # The stream is set here as well: torch leaves it set where a capture ends in an error.
        with torch.cuda.stream(side), torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            torch.cuda.reset_peak_memory_stats(self._device)
            before = torch.cuda.memory_allocated(self._device)
            results = act()
            kept_bytes = torch.cuda.memory_allocated(self._device) - before
            arena_bytes = torch.cuda.max_memory_allocated(self._device) - before
        return Recording(graph.replay, results, arena_bytes, kept_bytes)

    def follow(self) -> None:
        """See `Recorder.follow`."""
        current = torch.cuda.current_stream(self._device)
        if self._last is not None and self._last != current:
            current.wait_stream(self._last)
        self._last = current

    def _stream(self) -> torch.cuda.Stream:
        if self._side is None:
            new_stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
            self._side = new_stream(device=self._device)
        return self._side


class Captured:
    """`run`, the lowered `graph`, as a CUDA graph. `held` names the inputs that are captured where they lie."""

    def __init__(self, run: Run, graph: Graph, held: Collection[str], recorder: Recorder) -> None:
        self._run = run
        self._name = graph.name
        self._donated = [name in graph.donated for name in graph.inputs]
        self._held = [name in held or name in graph.donated for name in graph.inputs]
        self._recorder = recorder
        self._lock = threading.Lock()  # buffers are shared by all calls
        self._captures = 0
        self._where: list[object] | None = None
        self._buffers: list[torch.Tensor] = []
        self._recording = NOTHING
        self._handed_out: list[int] = []
        self._made: list[torch.Tensor] = []
        self.refusal = None if graph.nodes else "it launches nothing"
        """Why kernels are launched one by one, if they are."""
        reason = obstacle(graph)
        if reason is not None:
            self._refuse(reason)

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        """The same as `run(*inputs)`."""
        with self._recorder.on_device():
            if self.refusal is None:
                with self._lock:
                    if self._is_captured(inputs):
                        return self._replayed(inputs)
            return self._run(*inputs)

    def capture(self, *inputs: torch.Tensor) -> None:
        """Capture now what the first call with such inputs would."""
        with self._recorder.on_device(), self._lock:
            self._is_captured(inputs)

    def _is_captured(self, inputs: Sequence[torch.Tensor]) -> bool:
        """Whether there is a capture for these inputs, after one has been made if there may be."""
        if self.refusal is not None:
            return False
        where: list[object] = [(t.data_ptr(), t.stride()) for t, held in zip(inputs, self._held, strict=True) if held]
        if where == self._where:
            return True
        if self._captures == MOST_CAPTURES:
            self._refuse(f"its parameters lay elsewhere at {MOST_CAPTURES} calls")
            return False
        self._recorder.follow()  # then the memory of the last one is free first
        self._where, self._recording, self._buffers, self._made = None, NOTHING, [], []
        try:
            self._buffers = [_copy(t) for t, held in zip(inputs, self._held, strict=True) if not held]
            buffers = iter(self._buffers)
            static = [t if held else next(buffers) for t, held in zip(inputs, self._held, strict=True)]
            self._warm_up(static)
        except torch.OutOfMemoryError as error:
            self._refuse(_first_line(error))
            return False
        self._record(static, where)
        return self._where is not None

    def _warm_up(self, static: Sequence[torch.Tensor]) -> None:
        """Run on what will be captured, and copies of what would be updated. What kernels refuse, they refuse here."""
        trial = [_copy_at(t) if donated else t for t, donated in zip(static, self._donated, strict=True)]
        for _ in range(WARM_UPS):
            self._recorder.warm_up(lambda: self._run(*trial))

    def _record(self, static: Sequence[torch.Tensor], where: list[object]) -> None:
        try:
            with _ONE_CAPTURE:
                self._recording = self._recorder.capture(lambda: self._run(*static))
        except Exception as error:  # a kernel that waits for the device, a library that allocates: launches still work
            self._refuse(_first_line(_cause(error)))
            return
        number = {id(tensor): index for index, tensor in enumerate(static)}
        self._handed_out = [number.get(id(result), MADE) for result in self._recording.results]
        self._made = [r for r, at in zip(self._recording.results, self._handed_out, strict=True) if at == MADE]
        self._where = where
        self._captures += 1

    def _replayed(self, inputs: Sequence[torch.Tensor]) -> Tensors:
        self._recorder.follow()
        _copy_all([given for given, held in zip(inputs, self._held, strict=True) if not held], self._buffers)
        self._recording.replay()
        made = [torch.empty_like(result) for result in self._made]
        _copy_all(self._made, made)
        fresh = iter(made)
        # A result that is one of the inputs, such as an updated parameter, is the caller's own tensor.
        return tuple(next(fresh) if at == MADE else inputs[at] for at in self._handed_out)

    def memory(self) -> Mapping[str, int]:
        """Bytes that the capture has to itself, and how many of them torch's allocator counts as in use."""
        return {"arena_bytes": self._recording.arena_bytes, "arena_kept_bytes": self._recording.kept_bytes}

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._buffers, self._made, self._recording = [], [], NOTHING
        say_once(f"{self._name} cannot be captured as a CUDA graph: {reason}: its kernels are launched one by one")


def obstacle(graph: Graph) -> str | None:
    """What keeps a graph from being captured, as far as that can be seen beforehand."""
    for node in all_nodes(graph):
        if node.op.name in DECIDE:
            return f"{node.op.name} waits for a value to decide what comes next, at {node.where}"
    return None


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _copy_at(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that lies to a boundary as the tensor does: kernels are compiled apart for what does not lie on one."""
    past = tensor.data_ptr() % BOUNDARY_BYTES // tensor.element_size()
    room = tensor.new_empty(past + tensor.numel())
    return room[past:].view(tensor.shape).copy_(tensor)


def _cause(error: BaseException) -> BaseException:
    """What broke a capture: the error that ends one says only that there was an earlier one."""
    earlier = error.__context__
    return earlier if earlier is not None and "previous error" in str(error) else error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _copy_all(tensors: Sequence[torch.Tensor], into: Sequence[torch.Tensor]) -> None:
    """Copy each into its buffer: the small ones of a dtype by one kernel, which has too few blocks for a large one."""
    small: dict[torch.dtype, list[int]] = {}
    for at, buffer in enumerate(into):
        if buffer.numel() < LARGE:
            small.setdefault(buffer.dtype, []).append(at)
        else:
            buffer.copy_(tensors[at])
    for places in small.values():
        torch._foreach_copy_([into[at] for at in places], [tensors[at] for at in places])
