"""Memory of one call, in a process of its own, never while timing.

    python -m suites.harness.memory '{"engine": "tape", "cell": {...}, "rounds": 5}'     # prints one JSON object

On the CPU the high-water mark comes from memray, which sees every allocation of the process, the kernels' scratch space
included; on a GPU from CUDA's caching allocator. Parameters, batch and, for a graph, the executable are there before
and are not counted: the figure is what the call needs on top.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engines.ops.random import step_key
from engines.registry import load_engine
from engines.value import EngineError
from suites.harness.cell import Cell
from suites.harness.clock import seconds, synchronize

WARM_UP_CALLS = 3
LONGEST_SECONDS = 300.0


class WorkerError(Exception):
    """A worker process that gave no answer: says how it ended."""


@dataclass(frozen=True, slots=True)
class Memory:
    """High-water mark of one call, over what was held before it; bytes. `seconds` are plain calls, untracked."""

    peak_bytes: int
    live_bytes_before: int
    method: str
    seconds: tuple[float, ...]


def measure_memory(engine: str, cell: Cell, rounds: int) -> Memory:
    """Start a fresh process and let it measure. Raises WorkerError."""
    request = json.dumps({"engine": engine, "cell": asdict(cell), "rounds": rounds})
    command = [sys.executable, "-m", "suites.harness.memory", request]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise WorkerError(f"memory of {engine} on {cell.name}: no answer within {LONGEST_SECONDS:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WorkerError(f"memory of {engine} on {cell.name}: worker ended with status {done.returncode}: {last}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Memory(**{**answer, "seconds": tuple(answer["seconds"])})


def _answer(request: dict[str, Any]) -> Memory:
    fields = {**request["cell"], "knobs": tuple((key, value) for key, value in request["cell"]["knobs"])}
    cell = Cell(**fields)
    task = cell.task()
    program = load_engine(request["engine"]).prepare(task)
    placed = program.place(task.batch, step_key(0, 0))

    def call() -> None:
        program.run(placed)

    for _ in range(WARM_UP_CALLS):
        call()
    samples = tuple(seconds(call, 1, cell.device) for _ in range(request["rounds"]))
    held = sum(value.nbytes for value in (*program.parameters.values(), *placed.batch.values()))
    peak, method = _cuda_peak(call) if cell.device.startswith("cuda") else _host_peak(call)
    return Memory(peak, held, method, samples)


def _host_peak(call: Callable[[], None]) -> tuple[int, str]:
    import memray  # noqa: PLC0415 - Unix only, and only this function needs it

    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.bin"
        with memray.Tracker(record):
            call()
        reader = memray.FileReader(record)
        peak_bytes = int(reader.metadata.peak_memory)
        reader.close()
    return peak_bytes, "memray, fresh process"


def _cuda_peak(call: Callable[[], None]) -> tuple[int, str]:
    synchronize("cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    synchronize("cuda")
    return torch.cuda.max_memory_allocated() - before, "CUDA caching allocator, fresh process"


if __name__ == "__main__":
    print(json.dumps(asdict(_answer(json.loads(sys.argv[1])))))  # noqa: T201


def memory_of(engine, cell):  # placeholder until merged
    raise EngineError("memory: not built")
