"""A worker: one engine in one process, doing what the conductor asks of it.

    python -m suites.harness.worker CHANNEL_FD MODULE...    # the fork server: a process that becomes them all

What it may be asked, and how, stands in `protocol.py`. Everything that is timed is timed here, and nothing else runs.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import resource
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engines.engine import DynamicProgram, Engine, Placed, Program, Task
from engines.ops.random import step_key
from engines.value import UnavailableError
from suites.harness.agreement import judge, load_arrays, results, save_arrays
from suites.harness.cell import Cell, cell_from
from suites.harness.clock import calls_per_sample, collector_set, resolution_seconds, sample, seconds, synchronize, wake
from suites.harness.contender import Contender
from suites.harness.forkserver import forked
from suites.harness.heap import keep_freed_memory
from suites.harness.memory import memory_of
from suites.harness.protocol import VERSION, Status, decode_request, encode
from suites.harness.rest import rest, set_apart, threads
from suites.harness.stream import pass_twice
from suites.harness.training import Training
from suites.harness.warming import warm_up

Phases = dict[str, float]
Given = Mapping[str, Any]
Answer = dict[str, Any]
Handler = Callable[["Worker", Given], Answer | None]

SPLIT_CALLS = 5
LEAD_SECONDS = 0.002
MOST_WARNINGS = 4
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""How torch's allocators say that there is none left."""


class Preparation(NamedTuple):
    """What getting ready took, by phase and in all."""

    phases: Phases
    total_seconds: float


@dataclass(slots=True)
class Ready:
    """A cell that this worker's engine has been made ready for; `call` is what is timed."""

    cell: Cell
    contender: Contender
    task: Task
    engine: Engine
    program: Program
    call: Callable[[], object]
    preparation: Preparation | None = None  # of the last call, where a call is a preparation


class Worker:
    """What one process knows: the cell it is ready for, or its training.

    Contenders that share it are each ready for the cell in their own way; `guest` is the one that is being asked.
    """

    def __init__(self) -> None:
        self.guest = ""
        self._ready: dict[str, Ready] = {}
        self._training: Training | None = None
        self._folder = Path()

    @property
    def ready(self) -> Ready:
        """The cell at hand."""
        if self.guest not in self._ready:
            raise RuntimeError("nothing is ready: it was not prepared, or was ended or let go of meanwhile")
        return self._ready[self.guest]

    def forget(self) -> None:
        """Let go of what was made ready and had too little memory: others are to have it."""
        self._ready.pop(self.guest, None)

    def start(self, given: Given) -> Answer:
        """Set this process up: the folder for arrays, the most memory, float32 without shortcuts, freed memory."""
        self._folder = Path(given["folder"])
        if given["memory_bytes"] is not None:
            _limit_memory(given["memory_bytes"])
        whole_float32()
        return {"allocator": keep_freed_memory(), "threads": torch.get_num_threads()}

    def prepare(self, given: Given) -> Answer:
        """Make the engine and its program; what that took, by phase, and what was warned of."""
        cell, contender, engine = _identity(given)
        if contender.collector:
            gc.unfreeze()  # where its cost is measured, it goes through all that a user's would
        task = cell.task()
        wake(cell.device)
        with warnings.catch_warnings(record=True) as said:
            start = time.perf_counter()
            program = engine.prepare(task)
            synchronize(cell.device)
            total = time.perf_counter() - start
        ready = self._ready[self.guest] = Ready(cell, contender, task, engine, program, lambda: None)
        ready.call = _call_of(ready)
        return {"style": engine.style, "phases": dict(program.phases), "seconds": total, "warnings": _told(said)}

    def prepare_cold(self, given: Given) -> Answer:
        """Get ready and make the first call; this process must be fresh."""
        cell, _, engine = _identity(given)
        return prepare_and_run(cell.task(), engine)._asdict()

    def results(self, given: Given) -> Answer:
        """Run once, before any timing, and put what came of it into a file."""
        ready = self.ready
        own = ready.cell.own_masks
        program = ready.engine.prepare(ready.cell.checked_task()) if own else ready.program
        path = self._folder / f"results-{os.getpid()}.npz"
        save_arrays(path, results(program, ready.cell))
        return {"path": str(path)}

    def judge(self, given: Given) -> Answer:
        """Hold another worker's results against the reference."""
        path = Path(given["path"])
        cell = cell_from(given["cell"])
        try:
            return asdict(judge(load_arrays(path), cell))
        finally:
            path.unlink()
            _give_back()  # what the reference took of a GPU that is about to be measured

    def first_call(self, given: Given) -> Answer:
        """One call, finished; the first that is timed."""
        return {"seconds": seconds(self.ready.call, 1, self.ready.cell.device)}

    def warm_up(self, given: Given) -> Answer:
        """Call until the level is stable, and say how many calls make a sample.

        What takes long to make ready has warmed up by being checked, and is not made ready again and again.
        """
        ready, first = self.ready, given["level_seconds"]
        budget = given["budget_seconds"]
        if ready.cell.prepares and first > budget:
            return {"seconds": [first], "stable": False, "calls": 1, **_clock_facts(first)}
        calls = calls_per_sample(first)
        found = warm_up(lambda: seconds(ready.call, calls, ready.cell.device), budget)
        level = min(found.seconds)  # the fastest seen: what is slow now may be fast again, and samples then too short
        calls = calls_per_sample(level)
        return {**asdict(found), "calls": calls, **_clock_facts(level * calls)}

    def sample(self, given: Given) -> Answer:
        """One sample of a round: calls that lead in, then the timed calls."""
        ready = self.ready
        if not ready.cell.prepares:
            _lead_in(ready)
        taken = sample(ready.call, given["calls"], ready.cell.device, collector=ready.contender.collector)
        return {**asdict(taken), "preparation": ready.preparation and ready.preparation._asdict()}

    def split(self, given: Given) -> Answer | None:
        """Forward, backward and update apart: the parts of the call whose total is the median. None if in one piece."""
        ready = self.ready
        program = ready.program
        if ready.cell.prepares or ready.cell.quantity == "forward" or not isinstance(program, DynamicProgram):
            return None
        placed = program.place(ready.task.batch, step_key(0, 0))
        _lead_in(ready)
        with collector_set(ready.contender.collector):
            found = sorted((_parts(program, placed, ready.cell.device) for _ in range(SPLIT_CALLS)), key=_total)
        return found[len(found) // 2]

    def counters(self, given: Given) -> Answer:
        """Exact counts, after everything has run."""
        return dict(self.ready.program.counters)

    def memory(self, given: Given) -> Answer:
        """What one call needs; this process must be fresh."""
        cell, _, engine = _identity(given)
        return {"style": engine.style, **asdict(memory_of(engine, cell))}

    def train(self, given: Given) -> Answer:
        """Train for one epoch; the loss and the seconds of each step."""
        if self._training is None:
            cell, _, engine = _identity(given)
            self._training = Training(cell, engine)
        losses, taken = self._training.epoch()
        return {"losses": losses, "seconds": taken, "style": self._training.style}

    def accuracy(self, given: Given) -> Answer:
        """Test accuracy of what was trained, and the program's counts."""
        if self._training is None:
            raise RuntimeError("asked before it was told to train")
        return {"accuracy": self._training.accuracy(), "counters": self._training.counters}

    def stream(self, given: Given) -> Answer:
        """Go through a stream of shapes twice, from nothing; seconds, losses, phases and counts."""
        cell, _, engine = _identity(given)
        return asdict(pass_twice(cell, engine))


HANDLERS: Mapping[str, Handler] = {
    handler.__name__: handler
    for handler in (
        Worker.start,
        Worker.prepare,
        Worker.prepare_cold,
        Worker.results,
        Worker.judge,
        Worker.first_call,
        Worker.warm_up,
        Worker.sample,
        Worker.split,
        Worker.counters,
        Worker.memory,
        Worker.train,
        Worker.accuracy,
        Worker.stream,
    )
}
"""Everything that a worker can be asked, by name."""


def prepare_and_run(task: Task, engine: Engine) -> Preparation:
    """From nothing to the end of the first call: the seconds of each phase, and in all."""
    wake(task.device)
    start = time.perf_counter()
    program = engine.prepare(task)
    synchronize(task.device)
    ready = time.perf_counter()
    placed = program.place(task.batch, step_key(0, 0))
    synchronize(task.device)
    before = time.perf_counter()
    program.run(placed)
    synchronize(task.device)
    after = time.perf_counter()
    phases = {**program.phases, "place batch": before - ready, "first call": after - before}
    return Preparation(phases, after - start)


def _identity(given: Given) -> tuple[Cell, Contender, Engine]:
    cell, contender = cell_from(given["cell"]), Contender(**given["contender"])
    return cell, contender, contender.load(cell)


def _told(said: Iterable[warnings.WarningMessage]) -> list[str]:
    """The first warnings, each once and as one line."""
    lines = (f"{one.category.__name__}: {(str(one.message).strip().splitlines() or [''])[0]}" for one in said)
    return list(dict.fromkeys(lines))[:MOST_WARNINGS]


def _call_of(ready: Ready) -> Callable[[], object]:
    """What one call is, by the cell's quantity."""
    program, task, engine = ready.program, ready.task, ready.engine
    if ready.cell.quantity == "prepare":

        def prepare() -> None:
            ready.preparation = prepare_and_run(task, engine)

        return prepare
    placed = program.place(task.batch, step_key(0, 0))
    if ready.cell.quantity != "construct":
        return lambda: program.run(placed)
    if isinstance(program, DynamicProgram):
        recording = program
        return lambda: recording.record(placed)
    return lambda: engine.prepare(task)


def _lead_in(ready: Ready) -> None:
    """Fill caches and wake threads: others ran since this engine did."""
    before = threads()
    ready.call()
    set_apart(before)
    end = time.perf_counter() + LEAD_SECONDS
    while True:
        ready.call()
        synchronize(ready.cell.device)  # each: else a host that runs ahead would ask for more than the time is for
        if time.perf_counter() >= end:
            return


def _parts(program: DynamicProgram, placed: Placed, device: str) -> Phases:
    found: Phases = {}
    last = time.perf_counter()

    def mark(part: str) -> None:
        nonlocal last
        synchronize(device)
        now = time.perf_counter()
        found[part], last = now - last, now

    program.run_marked(placed, mark)
    return found


def _total(phases: Phases) -> float:
    return sum(phases.values())


def _clock_facts(sample_seconds: float) -> dict[str, float]:
    return {"resolution_seconds": resolution_seconds(), "share_of_sample": resolution_seconds() / sample_seconds}


def whole_float32() -> None:
    """See that float32 is float32 on a GPU: by default cuDNN would round a convolution's operands to 10 bits (TF32).

    Every engine, and what each is held against, then works in the same precision.
    """
    # Not by `fp32_precision` of its parts: after that torch refuses to say, to whoever asks in the older way.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def _give_back() -> None:
    """Free what nobody holds any more, on a GPU."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    gc.collect()
    with suppress(RuntimeError):  # after an error that the device does not recover from, it gives nothing back
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _limit_memory(most_bytes: int) -> None:
    """Refuse this process more private memory than that, rather than let the machine run out of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


def refusal(error: BaseException) -> tuple[Status, str]:
    """What an engine's failure is called, and its reason in words."""
    if isinstance(error, UnavailableError):
        return "skipped", str(error)
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0] if said else 'no message'}"
    short = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        sign in reason.lower() for sign in NO_MEMORY
    )
    return ("out of memory" if short else "failed"), reason


def serve(requests: int, answers: int) -> None:
    """Answer requests until there are no more."""
    worker = Worker()
    hello = {"id": 0, "hello": VERSION, "pid": os.getpid(), "python": platform.python_version()}
    os.write(answers, encode({**hello, "torch": torch.__version__}))
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            number, name, given = decode_request(line)
            os.write(answers, encode({"id": number, **_answer(worker, name, given)}))


def _answer(worker: Worker, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any]
    try:
        worker.guest = given.get("guest", "")
        answer = HANDLERS[name](worker, given)
        rest()  # before the conductor lets the next one run
        told = {"answer": answer}
    except Exception as error:  # whatever an engine does wrong costs its row, and is told to the conductor
        status, reason = refusal(error)
        told = {"refused": status, "reason": reason}
    if told.get("refused") == "out of memory":
        worker.forget()
        _give_back()
    return told


def load(modules: Iterable[str]) -> None:
    """Import what workers will need, so that none waits for it, or is charged with it."""
    for name in modules:
        with suppress(ImportError):  # said to whoever asks for that engine
            importlib.import_module(name)


if __name__ == "__main__":
    load(sys.argv[2:])
    serve(*forked(socket.socket(fileno=int(sys.argv[1]))))
