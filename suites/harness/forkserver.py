"""The fork server: a process that has loaded what every worker needs, and becomes one worker after another by forking.

    server = ForkServer(sys.executable, folder)
    process = server.fork(requests, answers, errors, {"XDG_CACHE_HOME": "/tmp/empty"}, limit_seconds=120.0)
    process.kill()                                  # and all that it has started
    process.wait()                                  # -9, as from `subprocess.Popen`

Loading torch and engines takes seconds, and a session has hundreds of workers. A fork has all loaded and nothing used:
the server makes no tensor and touches no GPU, and the threads that OpenBLAS starts when it is loaded end before a fork,
by its own doing. All workers of a session then also have their libraries at the same addresses, which differ by chance
from session to session.

It is asked over a socket, one JSON object a line, and answers in turn; a worker's three files travel beside the line:

    -> {"variables": {"XDG_CACHE_HOME": "/tmp/empty"}}       # with requests, answers, errors
    <- {"pid": 4711}                                         # or {"refused": "Cannot allocate memory"}
    -> {"wait": [4711]}
    <- {"statuses": [-9]}
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suites.harness.protocol import WorkerError, encode

ROOT = Path(__file__).resolve().parents[2]
FIXED = {"PYTHONHASHSEED": "0", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Variables of every worker. Where names fall in Python's tables moves small calls by some per cent, at random. And
whoever asks torch whether there is a GPU is not to begin using it: no fork of that process could."""

CHUNK_BYTES = 1 << 16
FILES = 3
LAST_WORDS = 400
"""Characters of a dead process's standard error that are told."""

PR_SET_PDEATHSIG = 1


class ForkServer:
    """The conductor's side: one interpreter's server, started when first needed, and again after it died.

    It has imported these `modules`, as far as they are there.
    """

    def __init__(self, python: str, folder: Path, modules: Sequence[str] = ()) -> None:
        self._python = python
        self._modules = modules
        self._errors = folder / f"{id(self):x}.err"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def fork(
        self, requests: int, answers: int, errors: int, variables: Mapping[str, str], limit_seconds: float
    ) -> Forked:
        """A new worker that reads requests and writes answers there. Raises WorkerError."""
        if self._channel is None:
            self._channel = self._start()
        message = encode({"variables": dict(variables)})
        found = self._exchange(self._channel, message, [requests, answers, errors], limit_seconds)
        if "refused" in found:
            raise WorkerError("out of memory", f"no process for a worker: {found['refused']}")
        return Forked(self, self._channel, found["pid"])

    def wait_for(self, workers: Sequence[Forked]) -> None:
        """Wait until these workers have ended, and give each its status."""
        ours = [worker for worker in workers if self.has(worker)]
        for worker in workers:
            worker.status = -signal.SIGKILL  # what becomes of every worker whose server ends
        if ours:
            with suppress(WorkerError):
                asked = encode({"wait": [worker.pid for worker in ours]})
                found = self._exchange(ours[0].channel, asked, [], None)["statuses"]
                for worker, status in zip(ours, found, strict=True):
                    worker.status = int(status)

    def has(self, worker: Forked) -> bool:
        """Whether the server that forked this worker still runs."""
        return worker.channel is self._channel

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with theirs, self._errors.open("wb") as errors:
            try:
                self._process = subprocess.Popen(
                    [self._python, "-m", "suites.harness.worker", str(theirs.fileno()), *self._modules],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # a Ctrl-C at the terminal is for the conductor alone
                    cwd=ROOT,
                    env={**os.environ, **FIXED, "PYTHONPATH": path},
                )
            except OSError as error:
                ours.close()
                raise WorkerError("failed", f"cannot start {self._python}: {error.strerror}") from None
        return ours

    def _exchange(
        self, channel: socket.socket, message: bytes, files: list[int], limit_seconds: float | None
    ) -> dict[str, Any]:
        """Raises WorkerError, and then there is no server any more: what state it is in is unknown."""
        try:
            channel.settimeout(limit_seconds)
            socket.send_fds(channel, [message], files)
            line, _ = _receive(channel)
            if not line:
                raise self._died()
            return dict(json.loads(line))
        except TimeoutError:
            self.end()
            raise WorkerError("timed out", f"no answer to 'fork' within {limit_seconds:g} s") from None
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        except OSError as error:  # such as too many open files
            self.end()
            raise WorkerError("failed", f"cannot ask for a worker: {error.strerror}") from None
        except BaseException:
            self.end()
            raise

    def _died(self) -> WorkerError:
        process = self._process
        assert process is not None
        status = process.wait()
        self.end()
        return WorkerError("crashed", f"worker {end_of(status, 'fork', self._errors)}")

    def end(self) -> None:
        """End the server, and with it every worker that it forked."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(slots=True)
class Forked:
    """A worker's process. Its number stays its own until it has been waited for."""

    server: ForkServer
    channel: socket.socket
    pid: int
    status: int | None = None

    def kill(self) -> None:
        """End it, if it has not ended, and what it has started, such as a compiler."""
        if self.status is None and self.server.has(self):
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it leads no group yet, or has died with its server
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end: its exit status, or minus the signal that killed it."""
        wait_for_all([self])
        assert self.status is not None
        return self.status


def wait_for_all(workers: Iterable[Forked]) -> None:
    """Wait for the end of each. A server is asked once: an answer takes milliseconds, and a launch has many ends."""
    waiting = [worker for worker in workers if worker.status is None]
    for server in dict.fromkeys(worker.server for worker in waiting):
        server.wait_for([worker for worker in waiting if worker.server is server])


def end_of(status: int, do: str, errors: Path) -> str:
    """How a process ended when it was asked for something, in words, with the last that it wrote among its errors."""
    how = f"killed by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
    hint = "; perhaps the system ran out of memory" if status == -signal.SIGKILL else ""
    said = errors.read_text(encoding="utf8", errors="replace").strip()
    words = f": {said.splitlines()[-1][-LAST_WORDS:]}" if said else ""
    return f"{how} at {do!r}{hint}{words}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def forked(channel: socket.socket) -> tuple[int, int]:
    """The server's side: fork whenever asked to. Comes back in every new worker, with its requests and its answers."""
    _end_with_the_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # no worker's collector goes through what was imported
    while True:
        line, files = _receive(channel)
        if not line:
            raise SystemExit(0)  # the conductor has gone
        asked = json.loads(line)
        if "wait" in asked:
            answer: dict[str, Any] = {"statuses": [_end_of_all(pid) for pid in asked["wait"]]}
        else:
            try:
                pid = os.fork()
            except OSError as error:
                pid, answer = -1, {"refused": error.strerror}
            if pid == 0:
                channel.close()
                return _settled(files, asked["variables"])
            if pid > 0:
                answer = {"pid": pid}
            for file in files:
                os.close(file)
        channel.sendall(encode(answer))


def _end_of_all(pid: int) -> int:
    """Wait for a worker's end, and end what it has left running; how it ended."""
    if sys.platform != "darwin":  # which has no way to wait and leave the number in use
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _settled(files: list[int], variables: Mapping[str, str]) -> tuple[int, int]:
    """Make this new process a worker of its own."""
    requests, answers, errors = files
    os.setsid()
    _end_with_the_parent()  # a fork does not inherit that
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.close(errors)
    os.environ |= variables
    tempfile.tempdir = None  # which is asked of the variables once, and perhaps was before the fork
    return requests, answers


def _end_with_the_parent() -> None:
    """Have the kernel end this process when its parent ends, in whatever way."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """The next line with the files beside it; an empty one where the other side has gone."""
    line, files, _, _ = socket.recv_fds(channel, CHUNK_BYTES, FILES)
    while line and not line.endswith(b"\n"):
        line += channel.recv(CHUNK_BYTES)
    return line, files
