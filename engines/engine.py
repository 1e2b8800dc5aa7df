"""The one door between suites and engines: a `Task` goes in, a `Program` comes out, and runs.

program = engine.prepare(task)
placed = program.place(batch, key=step_key(seed=0, step=0))
outputs = program.run(placed)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import torch

from engines.op import Namespace
from engines.optim import Sgd
from engines.value import EngineError

Array = np.ndarray[Any, Any]
Quantity = Literal["forward", "loss_and_grad", "step"]
Style = Literal["dynamic", "static"]
Mark = Callable[[str], None]
LossFunction = Callable[[Namespace, Mapping[str, Any], Mapping[str, Any], Any], Any]


@dataclass(frozen=True, slots=True)
class Varying:
    """A size that changes from batch to batch: its name, where it stands, and between what it lies.

    `places` are pairs of a batch entry and a dimension of it; all have the size in common. An engine may round the size
    up: then these entries end in zeros, and the batch has one more entry, `mask`, with True for what is no padding. A
    model for which that may happen masks what it sums or averages over; where nothing is padded there is no mask.
    """

    name: str
    places: tuple[tuple[str, int], ...]
    least: int = 1
    most: int | None = None

    @property
    def mask(self) -> str:
        """The name of the batch entry that tells elements from padding: bool, of shape (the rounded size,)."""
        return f"{self.name}.mask"


@dataclass(frozen=True)
class Task:
    """What an engine is asked to make ready: a loss of these parameters on batches of this shape, on this device.

    `parameters` and `batch` are NumPy arrays; only the batch's shapes and dtypes matter here. `random` says whether the
    loss receives a key (training) or None (evaluation: dropout is the identity). `varying` are the sizes in which later
    batches may differ from this one.
    """

    loss: LossFunction
    parameters: Mapping[str, Array]
    batch: Mapping[str, Array]
    quantity: Quantity
    device: str = "cpu"
    optimizer: Sgd | None = None
    random: bool = True
    varying: tuple[Varying, ...] = ()

    def __post_init__(self) -> None:
        """Raises EngineError for a quantity that there is not."""
        known = get_args(Quantity)
        if self.quantity not in known:
            raise EngineError(f"task: quantity: found {self.quantity!r}, expected one of {', '.join(known)}")


class Placed(NamedTuple):
    """A batch on the device, with the key of its step."""

    batch: Mapping[str, torch.Tensor]
    key: torch.Tensor | None


class Outputs(NamedTuple):
    """What a run gives: the loss, and the gradients by parameter where they were asked for."""

    loss: torch.Tensor
    gradients: Mapping[str, torch.Tensor]


class Program(Protocol):
    """A task made ready. It owns its parameters; a step updates them in place."""

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds spent getting ready, by name, in order."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """Exact whole numbers: nodes, entries, ..."""
        ...

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The current parameters, in the program's own storage."""
        ...

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """Copy a batch to the device; never part of a timed run."""
        ...

    def run(self, placed: Placed) -> Outputs:
        """One forward pass, forward and backward pass, or training step."""
        ...


@runtime_checkable
class DynamicProgram(Program, Protocol):
    """A program whose record is made anew at each run."""

    def run_marked(self, placed: Placed, mark: Mark) -> Outputs:
        """As `run`, calling `mark` with "forward", "backward" and "update" as each of these ends."""
        ...

    def record(self, placed: Placed) -> Any:
        """Run forward with recording; whoever drops what this gives drops the record."""
        ...


class Engine(Protocol):
    """One way to run a task."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def style(self) -> Style:
        """Whether the graph is made anew at each run, or once."""
        ...

    def prepare(self, task: Task) -> Program:
        """Make a task ready. Raises EngineError for a model that this engine refuses."""
        ...


def unmarked(part: str) -> None:
    """A `Mark` that does nothing."""


@contextmanager
def phase(phases: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds spent within to `phases[name]`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        phases[name] = phases.get(name, 0.0) + time.perf_counter() - start


def place_arrays(arrays: Mapping[str, Array], device: str) -> dict[str, torch.Tensor]:
    """Arrays copied to a device as torch tensors. Raises EngineError for what is no array of numbers, or no device."""
    return {name: _placed(name, array, device) for name, array in arrays.items()}


def _placed(name: str, array: Array, device: str) -> torch.Tensor:
    try:
        return torch.tensor(array, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise EngineError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    except (TypeError, ValueError):
        found = getattr(array, "dtype", type(array).__name__)
        raise EngineError(f"{name}: found {found}, expected an array of numbers or truth values") from None


def place_batch(task: Task, batch: Mapping[str, Array], key: int) -> Placed:
    """A batch, and its key if the task is random, on the task's device. Raises EngineError, also if an entry lacks."""
    missing = [name for name in task.batch if name not in batch]
    if missing:
        raise EngineError(f"batch: entry {missing[0]!r} is missing; found {', '.join(batch) or 'none'}")
    placed = torch.tensor(key, dtype=torch.int64, device=task.device) if task.random else None
    return Placed(place_arrays(batch, task.device), placed)
