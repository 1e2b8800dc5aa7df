"""PyTorch's own compiler on the same workload text: `torch.compile` as people use it.

Default mode, inductor behind it, the loss function compiled as it stands, gradients by torch's autograd through what
was compiled, the optimiser's update called as ever. It is `torch_eager` with its loss compiled and nothing else
changed, so that neither has a longer way through our interface than the other.

On CUDA there is also mode "reduce-overhead", which replays what it has compiled as CUDA graphs: what our compiled graph
does there, and what the manual recommends where launches take longer than kernels.

`torch.compile` compiles when it is first called, so getting ready makes that call and takes its time as phases. Each
program starts with nothing compiled in this process, as in a script of its own; what earlier ones left on disk
(TORCHINDUCTOR_CACHE_DIR) is used, unless that folder is empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MethodDescriptorType
from typing import Any

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from engines.engine import Array, LossFunction, Outputs, Placed, Style, Task, phase
from engines.op import Op
from engines.ops import bare_kernel
from engines.ops.random import step_key
from engines.peers.torch_eager import TorchEagerProgram, native_ops
from engines.value import EngineError, UnavailableError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own making
    import torch._inductor.compile_fx  # or the first compilation would load it, and be charged


def _traceable(op: Op) -> Callable[..., Any]:
    """An op's kernel as a function of torch: not every version of the compiler goes into a method of the tensor."""
    kernel = bare_kernel(op)
    if not isinstance(kernel, MethodDescriptorType):
        return kernel
    function: Callable[..., Any] = getattr(torch, kernel.__name__)
    return function


OPS = native_ops(_traceable)

CALLS_TO_CAPTURE = 2
"""After the one that compiles: one to warm up, and one that is captured."""


class TorchCompileProgram:
    """A task whose loss torch has compiled, in its default mode or another."""

    def __init__(self, task: Task, mode: str | None = None) -> None:
        self.phases: dict[str, float] = {}
        with phase(self.phases, "start compiler"):
            torch.compiler.reset()  # else the ninth text of one process would run uncompiled, and nobody would be told
            loss = _compiled(task, mode)
        before = _counts()
        self._eager = TorchEagerProgram(replace(task, loss=loss), OPS)
        self._replays = mode is not None
        if self._replays:  # an nn.Parameter would be taken to stay where it is; a plain tensor is copied at each call
            for value in self.parameters.values():
                torch._dynamo.mark_static_address(value)
        self.phases |= self._eager.phases
        self._call(task, "compile forward", "compile backward")
        if self._replays:
            for _ in range(CALLS_TO_CAPTURE):
                self._call(task, "capture forward", "capture backward")
        self.counters = {name: count - before[name] for name, count in _counts().items()}
        if not self._replays:
            del self.counters["uncaptured"]

    def _call(self, task: Task, forward: str, backward: str) -> None:
        """Make a call, with nothing updated: the first one compiles."""
        placed = self._eager.place(task.batch, step_key(0, 0))
        self._begin()
        try:
            with phase(self.phases, forward), torch.inference_mode(task.quantity == "forward"):
                loss = self._eager.record(placed)
            if task.quantity != "forward":
                with phase(self.phases, backward):
                    torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        except (BackendCompilerFailed, InductorError) as error:
            raise _refusal(error) from None

    def _begin(self) -> None:
        """Let what the last run gave be overwritten."""
        if self._replays:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """See `Program.parameters`."""
        return self._eager.parameters

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return self._eager.place(batch, key)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`. In mode "reduce-overhead" the next run overwrites what this one gives."""
        self._begin()
        return self._eager.run(placed)


class TorchCompile:
    """PyTorch with its compiler."""

    style: Style = "static"

    def __init__(self, name: str = "torch_compile", mode: str | None = None) -> None:
        self.name = name
        self._mode = mode

    def prepare(self, task: Task) -> TorchCompileProgram:
        """See `Engine.prepare`. Raises UnavailableError where inductor finds no C++ compiler, or does not run here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells authors of texts, and its own, what it would like better
            return TorchCompileProgram(task, self._mode)


def reduce_overhead() -> TorchCompile:
    """The compiler in the mode that replays CUDA graphs."""
    return TorchCompile("torch_compile_reduce_overhead", "reduce-overhead")


def _compiled(task: Task, mode: str | None) -> LossFunction:
    try:
        return torch.compile(task.loss, mode=mode)
    except RuntimeError as error:  # this Python or this system is none that it knows
        raise UnavailableError(f"torch_compile: {_first_line(error)}") from None


def _refusal(error: Exception) -> EngineError:
    """What the compiler could not do, in a line: a machine without C++ is no fault of the model's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InvalidCxxCompiler):
            return UnavailableError("torch_compile: inductor found no C++ compiler")
        cause = cause.__cause__ or getattr(cause, "inner_exception", None)
    return EngineError(f"torch_compile: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__


def _counts() -> dict[str, int]:
    """What the compiler has counted so far: graphs, where it had to leave them, and those that it could not capture."""
    return {
        "graphs": int(counters["stats"]["unique_graphs"]),
        "graph_breaks": sum(counters["graph_break"].values()),
        "uncaptured": int(counters["inductor"]["cudagraph_skips"]),
    }
