"""PyTorch's own compiler on the same workload text: `torch.compile` as people use it.

Default mode, inductor behind it, the loss function compiled as it stands, gradients by torch's autograd through what
was compiled, the optimiser's update called as ever. It is `torch_eager` with its loss compiled and nothing else
changed, so that neither has a longer way through our interface than the other.

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


class TorchCompileProgram:
    """A task whose loss torch has compiled."""

    def __init__(self, task: Task) -> None:
        self.phases: dict[str, float] = {}
        with phase(self.phases, "start compiler"):
            torch.compiler.reset()  # else the ninth text of one process would run uncompiled, and nobody would be told
            loss = _compiled(task)
        graphs, breaks = _graphs(), _breaks()
        self._eager = TorchEagerProgram(replace(task, loss=loss), OPS)
        self.phases |= self._eager.phases
        self._compile(task)
        self.counters = {"graphs": _graphs() - graphs, "graph_breaks": _breaks() - breaks}

    def _compile(self, task: Task) -> None:
        """Make the call that compiles, with nothing updated."""
        placed = self._eager.place(task.batch, step_key(0, 0))
        try:
            with phase(self.phases, "compile forward"), torch.inference_mode(task.quantity == "forward"):
                loss = self._eager.record(placed)
            if task.quantity != "forward":
                with phase(self.phases, "compile backward"):
                    torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        except (BackendCompilerFailed, InductorError) as error:
            raise _refusal(error) from None

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """See `Program.parameters`."""
        return self._eager.parameters

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return self._eager.place(batch, key)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`."""
        return self._eager.run(placed)


class TorchCompile:
    """PyTorch with its compiler."""

    name = "torch_compile"
    style: Style = "static"

    def prepare(self, task: Task) -> TorchCompileProgram:
        """See `Engine.prepare`. Raises UnavailableError where inductor finds no C++ compiler, or does not run here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells authors of texts, and its own, what it would like better
            return TorchCompileProgram(task)


def _compiled(task: Task) -> LossFunction:
    try:
        return torch.compile(task.loss)
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


def _graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def _breaks() -> int:
    return sum(counters["graph_break"].values())
