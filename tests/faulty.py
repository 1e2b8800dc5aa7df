"""Engines that do something wrong, or take a known time, for tests of the harness: workers load them by name.

Contender("slow", loader="tests.faulty:load", engine="spin 3.0 ms + 10 %")
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from engines.engine import Engine, Mark, Outputs, Placed, Task, unmarked
from engines.peers.torch_eager import TorchEager, TorchEagerProgram
from engines.value import EngineError
from suites.harness.cell import Cell
from suites.harness.clock import SHORTEST_SAMPLE_SECONDS

LOADER = "tests.faulty:load"
MILLISECOND = 1e-3


class Program(TorchEagerProgram):
    """Torch's program with something done to its outputs at each call; `calls` counts them."""

    def __init__(self, task: Task, do: Callable[[Program, Outputs], Outputs]) -> None:
        super().__init__(task)
        self.calls = 0
        self._do = do
        self.in_split: Callable[[], object] | None = None

    def run_marked(self, placed: Placed, mark: Mark) -> Outputs:
        if mark is not unmarked and self.in_split is not None:
            self.in_split()
        return super().run_marked(placed, mark)

    def run(self, placed: Placed) -> Outputs:
        self.began = time.perf_counter()
        outputs = super().run(placed)
        self.calls += 1
        return self._do(self, outputs)


class Uncountable(dict[str, int]):
    """Counters that fail when they are asked for."""

    def keys(self) -> NoReturn:
        raise ValueError("nobody counts")

    __iter__ = keys  # else nobody asks for a dict's keys


class Faulty(TorchEager):
    def __init__(self, name: str, do: Callable[[Program, Outputs], Outputs]) -> None:
        self.name = name
        self._do = do

    def prepare(self, task: Task) -> Program:
        if self.name == "fails in prepare":
            raise EngineError("no such op")
        if self.name == "warns":
            for _ in range(2):
                warnings.warn("no compiler\nto be found", RuntimeWarning, stacklevel=1)
            warnings.warn("nobody is told", DeprecationWarning, stacklevel=1)
        if self.name.startswith("compiles"):
            _compile(self.name)
        program = Program(task, self._do)
        program.in_split = {"killed in split": _kill, "fails in split": _fail}.get(self.name)
        if self.name == "uncountable":
            program.counters = Uncountable()
        return program


def _compile(name: str) -> None:
    """As a compiler's driver does: a temporary file, and a process that works on it for long."""
    with tempfile.NamedTemporaryFile(prefix="source-"):
        compiler = subprocess.Popen(["sleep", "600"])
        Path(name.removeprefix("compiles ")).write_text(str(compiler.pid))
        if "and dies" in name:
            _kill()
        compiler.wait()


def _spin(seconds: float) -> Callable[[Program, Outputs], Outputs]:
    """A call that takes this long, whatever the machine."""

    def spin(program: Program, outputs: Outputs) -> Outputs:
        while time.perf_counter() < program.began + seconds:
            pass
        return outputs

    return spin


def _moody(program: Program, outputs: Outputs) -> Outputs:
    """Every process has a speed of its own, as real ones have by where their memory lies."""
    return _spin(3 * MILLISECOND * random.Random(os.getpid()).uniform(0.96, 1.04))(program, outputs)


def _drifting(program: Program, outputs: Outputs) -> Outputs:
    """Each call is slower than the last, as on a machine that heats up."""
    return _spin(3 * MILLISECOND * 1.005 ** (program.calls / 3))(program, outputs)


def _slow_first(program: Program, outputs: Outputs) -> Outputs:
    return _spin(1.5 if program.calls == 1 else 3 * MILLISECOND)(program, outputs)


def _after(calls: int, then: Callable[[], object]) -> Callable[[Program, Outputs], Outputs]:
    """Do something from some call on; each is as long as a sample, so that this is in a round."""

    def wait(program: Program, outputs: Outputs) -> Outputs:
        if program.calls > calls:
            then()
        return _spin(1.25 * SHORTEST_SAMPLE_SECONDS)(program, outputs)

    return wait


def _raise(program: Program, outputs: Outputs) -> Outputs:
    raise ValueError("broken")


def _fail() -> None:
    raise ValueError("broken in a round")


def _allocate() -> None:
    torch.empty(6 << 30, dtype=torch.uint8)


def _lose_the_device() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _run_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _babble() -> None:
    """Onto the pipe of the answers: the only one that this process writes to."""
    for link in Path("/proc/self/fd").glob("[0-9]*"):
        file = int(link.name)
        if file > 2 and link.is_fifo() and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_WRONLY:
            os.write(file, b"here is what I think of your protocol\n")


def _spoil(program: Program, outputs: Outputs) -> Outputs:
    """One element of one gradient is off by 1e-2."""
    spoilt = {name: gradient.clone() for name, gradient in outputs.gradients.items()}
    next(iter(spoilt.values())).view(-1)[-1] += 1e-2
    return Outputs(outputs.loss, spoilt)


DEEDS: dict[str, Callable[[Program, Outputs], Outputs]] = {
    "right": lambda _, outputs: outputs,
    "3 ms": _spin(3 * MILLISECOND),
    "moody": _moody,
    "3 ms + 3 %": _spin(3.09 * MILLISECOND),
    "3 ms + 10 %": _spin(3.3 * MILLISECOND),
    "drifts": _drifting,
    "slow first call": _slow_first,
    "fails in prepare": lambda _, outputs: outputs,
    "fails": _raise,
    "fails in a round": _after(12, _fail),
    "killed": _after(12, _kill),
    "hangs": _after(12, lambda: time.sleep(3600)),
    "out of memory": _after(12, _allocate),
    "loses the device": _after(0, _lose_the_device),
    "runs out": _after(0, _run_out),
    "babbles": _after(12, _babble),
    "killed in split": lambda _, outputs: outputs,
    "fails in split": lambda _, outputs: outputs,
    "uncountable": lambda _, outputs: outputs,
    "warns": lambda _, outputs: outputs,
    "one element off": _spoil,
    "nan": lambda _, outputs: Outputs(outputs.loss * math.nan, outputs.gradients),
    "wrong shape": lambda _, outputs: Outputs(outputs.loss.reshape(1), outputs.gradients),
    "no gradients": lambda _, outputs: Outputs(outputs.loss, {}),
}


def load(cell: Cell, name: str) -> Engine:
    return Faulty(name, DEEDS["right" if name.startswith("compiles") else name])
