"""The conductor: starts workers, asks one at a time, waits no longer than is allowed, and writes down what was done.

    with Conductor() as conductor:
        worker = conductor.worker(Contender("tape"))
        worker.ask("prepare", cell=..., contender=...)

It computes nothing itself, so that while a worker is timed this process sleeps on a pipe. Workers come from one fork
server for each interpreter, and work on one launch of one cell each: what a process has done before makes it faster or
slower by some per cent, and no two engines of a session have done the same.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from suites.harness.agreement import EAGER
from suites.harness.caches import temporary, variables
from suites.harness.contender import Contender
from suites.harness.forkserver import FIXED, Forked, ForkServer, end_of, wait_for_all
from suites.harness.protocol import VERSION, WorkerError, decode, encode

CHUNK_BYTES = 1 << 16
COMPILERS = {"cuda": "triton"}
"""The module that compiles for a device."""

DEVICE_LOST = "CUDA error"
"""In a reason: whatever else this process asks of the device may be refused for it, so a new one must be started."""


class Event(NamedTuple):
    """One line of the protocol's log: when, for how long, which worker, what it was asked, and how that ended."""

    began_seconds: float
    took_seconds: float
    worker: str
    pid: int
    what: str
    ended: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a worker may take over one request before it is ended, and how much memory it may use (None: all)."""

    request_seconds: float = 300.0
    start_seconds: float = 120.0
    sample_seconds: float = 30.0
    memory_bytes: int | None = None


class Worker:
    """One contender's process, as seen from outside: started when first asked, and again after it died."""

    def __init__(
        self,
        contender: Contender,
        server: ForkServer,
        folder: Path,
        limits: Limits,
        log: list[Event],
        variables: Mapping[str, str],
    ) -> None:
        self.contender = contender
        self._server = server
        self.facts: dict[str, Any] = {}
        self._folder = folder
        self._limits = limits
        self._log = log
        self._variables = variables
        self._process: Forked | None = None
        self._read, self._write = -1, -1
        self._unread = b""
        self._number = 0
        self._greeted = False

    @property
    def pid(self) -> int:
        """Its process, or 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def ask(self, do: str, limit_seconds: float | None = None, **given: Any) -> Any:
        """Ask for something and wait for the answer. Raises WorkerError; a worker that did not answer is ended."""
        self.greet()
        return self._ask(do, limit_seconds or self._limits.request_seconds, given)

    def _ask(self, do: str, limit_seconds: float, given: Mapping[str, Any]) -> Any:
        pid, began = self.pid, time.monotonic()
        try:
            answer = self._exchange(do, limit_seconds, given)
        except WorkerError as fault:
            self._note(began, pid, do, fault.status)
            raise
        self._note(began, pid, do, "answered")
        return answer

    def _exchange(self, do: str, limit_seconds: float, given: Mapping[str, Any]) -> Any:
        self._number += 1
        with self._ended_on_fault():
            try:
                os.write(self._write, encode({"id": self._number, "do": do, **given}))
            except BrokenPipeError:
                raise self._died(do) from None
            message = decode(self._line(do, limit_seconds), self._number)
        if "refused" in message:
            if DEVICE_LOST in message["reason"]:
                self.end()
            raise WorkerError(message["refused"], message["reason"])
        return message["answer"]

    def greet(self) -> None:
        """Have the process started and set up, if it is not yet. Raises WorkerError."""
        if self._greeted:
            return
        began = time.monotonic()
        with self._ended_on_fault():
            self._spawn()
            hello = decode(self._line("start", self._limits.start_seconds), 0)
            if hello.get("hello") != VERSION:
                raise WorkerError("failed", f"worker speaks protocol {hello.get('hello')!r}, expected {VERSION}")
            self._number = 0
            self.facts = {key: value for key, value in hello.items() if key not in {"id", "hello"}}
            given = {"folder": str(self._folder), "memory_bytes": self._limits.memory_bytes}
            self.facts |= self._exchange("start", self._limits.start_seconds, given)
        self._greeted = True
        self._note(began, self.pid, "start", "answered")

    def _spawn(self) -> None:
        self._unread = b""
        with ExitStack() as theirs:
            try:
                requests, self._write = os.pipe()
                theirs.callback(os.close, requests)
                self._read, answers = os.pipe()
                theirs.callback(os.close, answers)
                errors = theirs.enter_context(self._errors().open("wb")).fileno()
                limit_seconds = self._limits.start_seconds
                self._process = self._server.fork(requests, answers, errors, self._variables, limit_seconds)
            except OSError as error:  # such as too many open files, or a full disk
                raise WorkerError("failed", f"cannot start a worker: {error.strerror}") from None

    def _line(self, do: str, limit_seconds: float) -> bytes:
        """The next line from the worker. Raises WorkerError where none comes."""
        end = time.monotonic() + limit_seconds
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while b"\n" not in self._unread:
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                raise WorkerError("timed out", f"no answer to {do!r} within {limit_seconds:g} s")
            chunk = os.read(self._read, CHUNK_BYTES)
            if not chunk:
                raise self._died(do)
            self._unread += chunk
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _died(self, do: str) -> WorkerError:
        assert self._process is not None
        return WorkerError("crashed", f"worker {end_of(self._process.wait(), do, self._errors())}")

    def _errors(self) -> Path:
        return self._folder / f"{id(self):x}.err"

    @contextmanager
    def _ended_on_fault(self) -> Iterator[None]:
        """Within, a fault in talking to the process, or an interrupt, ends the process: its state is unknown."""
        try:
            yield
        except BaseException:
            self.end()
            raise

    def _note(self, began: float, pid: int, what: str, ended: str) -> None:
        self._log.append(Event(began, time.monotonic() - began, self.contender.label, pid, what, ended))

    def leave(self) -> Forked | None:
        """Have the process ended, if there is one, and give it to be waited for."""
        process, self._process, self._greeted = self._process, None, False
        for pipe in (self._read, self._write):
            if pipe >= 0:
                os.close(pipe)
        self._read, self._write = -1, -1
        if process is not None:
            process.kill()
        return process

    def end(self) -> None:
        """End the process, if there is one."""
        process = self.leave()
        if process is not None:
            process.wait()


@dataclass(frozen=True, slots=True)
class Guest:
    """A contender that shares a worker with others, to be asked as if it had one to itself."""

    contender: Contender
    host: Worker

    def ask(self, do: str, limit_seconds: float | None = None, **given: Any) -> Any:
        """See `Worker.ask`. A fault costs the others of the room their rows, too."""
        return self.host.ask(do, limit_seconds, guest=self.contender.label, **given)

    def end(self) -> None:
        """See `Worker.end`."""
        self.host.end()


@dataclass
class Conductor:
    """Every worker of a session, by contender; `log` is all that they were asked, in order."""

    limits: Limits = field(default_factory=Limits)
    log: list[Event] = field(default_factory=list)
    _workers: dict[Contender, Worker] = field(default_factory=dict)
    _judge: Worker | None = None
    _servers: dict[str, ForkServer] = field(default_factory=dict)
    _folder: Path | None = None
    _modules: Sequence[str] = ()
    _leaving: list[Forked] = field(default_factory=list)

    def expect(self, contenders: Iterable[Contender], devices: Iterable[str] = ("cpu",)) -> None:
        """Have all workers come with these contenders' engines loaded, and the judge's; before the first is asked.

        With them come what engines load when they first compile for one of these devices.
        """
        engines = (who.module for who in (Contender(EAGER), *contenders))
        compilers = (COMPILERS[kind] for device in devices if (kind := device.partition(":")[0]) in COMPILERS)
        self._modules = tuple(dict.fromkeys((*engines, *compilers)))

    def worker(self, contender: Contender) -> Worker | Guest:
        """The contender's worker, or its place in the one of its room."""
        if contender.room:
            host = Contender(contender.room, python=contender.python, collector=contender.collector)
            return Guest(contender, self._own(host))
        return self._own(contender)

    def _own(self, contender: Contender) -> Worker:
        if contender not in self._workers:
            self._workers[contender] = self._made(contender, {})
        return self._workers[contender]

    @contextmanager
    def fresh(self, contender: Contender) -> Iterator[Worker]:
        """A worker in a new process with empty caches on disk, ended afterwards."""
        caches = Path(tempfile.mkdtemp(dir=self.folder))
        worker = self._made(contender, variables(caches))
        try:
            yield worker
        finally:
            worker.end()
            shutil.rmtree(caches, ignore_errors=True)

    def _made(self, contender: Contender, variables: Mapping[str, str]) -> Worker:
        python = contender.python
        if python not in self._servers:
            self._servers[python] = ForkServer(python, self.folder, self._modules)
        files = self.folder / "tmp"
        files.mkdir(exist_ok=True)
        own = {**temporary(files), **variables}
        return Worker(contender, self._servers[python], self.folder, self.limits, self.log, own)

    @property
    def judge(self) -> Worker:
        """The worker that holds results against the reference, kept for the session: it is never timed."""
        if self._judge is None:
            self._judge = self._made(Contender("judge", python=sys.executable), {})
        return self._judge

    @property
    def folder(self) -> Path:
        """A folder for the session's arrays and errors, and its workers' temporary files."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tape-vs-graph-"))
        return self._folder

    def note(self, what: str, about: str) -> None:
        """Write something of the conductor's own into the log."""
        self.log.append(Event(time.monotonic(), 0.0, "conductor", os.getpid(), what, about))

    @property
    def waited_seconds(self) -> float:
        """Time spent waiting for answers; the rest of a session is the conductor's own."""
        return sum(event.took_seconds for event in self.log)

    def seconds_by_request(self) -> dict[str, float]:
        """Where the time went: seconds by what workers were asked."""
        spent: dict[str, float] = {}
        for event in self.log:
            spent[event.what] = spent.get(event.what, 0.0) + event.took_seconds
        return spent

    def settings(self) -> dict[str, dict[str, Any]]:
        """What each contender's last worker said of itself when it started: its allocator's policy, its threads."""
        workers = [*self._workers.values(), *([self._judge] if self._judge is not None else [])]
        return {worker.contender.label: {**worker.facts, "variables": FIXED} for worker in workers}

    def renew_workers(self) -> None:
        """Have every worker but the judge begin anew when it is next asked, so that all are of the same age.

        A process takes milliseconds to end. It does so while the next ones are made ready, and is waited for later.
        """
        before, self._leaving = self._leaving, [process for each in self._workers.values() if (process := each.leave())]
        wait_for_all(before)

    def end_workers(self) -> None:
        """End every worker but the judge, and wait until all have ended: what follows may be timed at once."""
        self.renew_workers()
        wait_for_all(self._leaving)
        self._leaving.clear()

    def close(self) -> None:
        """End every worker and remove the folder; an interrupt on the way leaves nothing behind either."""
        with ExitStack() as last_first:
            last_first.callback(self._remove_folder)
            for server in self._servers.values():
                last_first.callback(server.end)
            if self._judge is not None:
                last_first.callback(self._judge.end)
            self.end_workers()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
