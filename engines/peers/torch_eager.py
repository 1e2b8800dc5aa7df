"""PyTorch's own eager mode and autograd, on the same workload text: the line that calibrates ours.

Its namespace holds torch's native calls with nothing in between, so nothing slows it that does not slow a plain
`torch.nn.Module`.

`torch.optim` loads all of torch's compiler when an optimiser is first made, which takes a second. Loading is held
against no engine, so that is loaded here, with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from engines.engine import Array, Mark, Outputs, Placed, Style, Task, phase, place_arrays, place_batch, unmarked
from engines.op import Namespace, Op
from engines.ops import bare_kernel, bind
from engines.value import EngineError


def _batch_norm(x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> torch.Tensor:
    return functional.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def _layer_norm(
    x: Any, weight: Any = None, bias: Any = None, *, normalized_shape: Any, eps: float = 1e-5
) -> torch.Tensor:
    return functional.layer_norm(x, normalized_shape, weight, bias, eps)


def _without_gradient(function: Callable[..., Any], *values: Any) -> Any:
    with torch.no_grad():
        return function(*values)


NATIVE: Mapping[str, Callable[..., Any]] = {
    "matmul": torch.matmul,
    "linear": functional.linear,
    "max_pool2d": functional.max_pool2d,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "cross_entropy": functional.cross_entropy,
    "embedding": lambda weight, index: functional.embedding(index, weight),
    "flatten": torch.flatten,
    "checkpoint": partial(checkpoint, use_reentrant=False, preserve_rng_state=False),
    "without_gradient": _without_gradient,
    "gradients": partial(torch.autograd.grad, create_graph=True),
}
"""Where our kernel is not the function that a user of torch calls, or torch differentiates another one better."""


def native_ops(kernel: Callable[[Op], Callable[..., Any]] = bare_kernel) -> Namespace:
    """Torch's functions under the names of the op table; differentiable by torch."""
    ops = bind("torch_eager", kernel)
    for name, function in NATIVE.items():
        ops.add_function(name, function)
    return ops


OPS = native_ops()


class TorchEagerProgram:
    """A task on torch's autograd; its loss receives `ops`."""

    def __init__(self, task: Task, ops: Namespace = OPS) -> None:
        self._task = task
        self._ops = ops
        self.phases: dict[str, float] = {}
        with phase(self.phases, "place"):
            placed = place_arrays(task.parameters, task.device)
            self.parameters = {name: value.requires_grad_() for name, value in placed.items()}
        self.counters: Mapping[str, int] = {}
        self._optimizer: torch.optim.SGD | None = None
        if task.quantity == "step":
            if task.optimizer is None:
                raise EngineError("torch_eager: quantity 'step' needs an optimizer, found None")
            with phase(self.phases, "make optimizer"):  # the first in a process loads what torch's optimisers need
                self._optimizer = torch.optim.SGD(
                    list(self.parameters.values()), lr=task.optimizer.lr, momentum=task.optimizer.momentum
                )

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return place_batch(self._task, batch, key)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`."""
        return self.run_marked(placed, unmarked)

    def run_marked(self, placed: Placed, mark: Mark) -> Outputs:
        """See `DynamicProgram.run_marked`."""
        if self._task.quantity == "forward":
            with torch.inference_mode():
                return Outputs(self.record(placed), {})
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)  # before the forward pass, so that it has their memory
        loss = self.record(placed)
        mark("forward")
        if self._optimizer is None:
            found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
            mark("backward")
            pairs = zip(self.parameters.items(), found, strict=True)
            return Outputs(loss.detach(), {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs})
        loss.backward()  # type: ignore[no-untyped-call]
        mark("backward")
        self._optimizer.step()
        mark("update")
        return Outputs(loss.detach(), {})

    def record(self, placed: Placed) -> torch.Tensor:
        """See `DynamicProgram.record`."""
        loss: torch.Tensor = self._task.loss(self._ops, self.parameters, placed.batch, placed.key)
        return loss


class TorchEager:
    """PyTorch eager."""

    name = "torch_eager"
    style: Style = "dynamic"

    def prepare(self, task: Task) -> TorchEagerProgram:
        """See `Engine.prepare`."""
        return TorchEagerProgram(task)
