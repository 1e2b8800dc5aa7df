"""Workers are forks of a server: who they are, how they end, and what becomes of them when it does."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from suites.harness.caches import temporary
from suites.harness.cell import Cell
from suites.harness.conductor import Conductor
from suites.harness.contender import Contender
from suites.harness.forkserver import FIXED, Forked, ForkServer, wait_for_all
from suites.harness.protocol import WorkerError, encode
from tests.faulty import LOADER

LIMIT = 60.0
CELL = Cell("backward", "chain", "loss_and_grad", knobs=(("elements", 4), ("ops", 10)))


class Line:
    """The pipes of one worker, and the file of its errors."""

    def __init__(self, folder: Path) -> None:
        requests, self._write = os.pipe()
        read, answers = os.pipe()
        self._answers = os.fdopen(read, "rb")
        self._theirs, self._folder = (requests, answers), folder

    def connect(self, server: ForkServer) -> Line:
        with (self._folder / "worker.err").open("wb") as errors:
            try:
                self.process: Forked = server.fork(*self._theirs, errors.fileno(), {}, LIMIT)
            finally:
                for file in self._theirs:
                    os.close(file)
        self.hello = json.loads(self._answers.readline())
        return self

    def ask(self, number: int, do: str, **given: object) -> dict[str, object]:
        os.write(self._write, encode({"id": number, "do": do, **given}))
        return json.loads(self._answers.readline())

    def hang_up(self) -> None:
        os.close(self._write)
        self._write = -1

    def close(self) -> None:
        self._answers.close()
        if self._write >= 0:
            os.close(self._write)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    """Makes workers that have said hello, and hangs up in the end."""
    with ExitStack() as stack:

        def made(server: ForkServer) -> Line:
            new = Line(tmp_path)
            stack.callback(new.close)
            return new.connect(server)

        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForkServer]:
    made = ForkServer(sys.executable, tmp_path)
    yield made
    made.end()


def gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_worker_is_a_process_of_its_own(server, line, tmp_path):
    one, other = line(server), line(server)
    assert one.hello["pid"] == one.process.pid != other.process.pid
    assert os.getsid(one.process.pid) == one.process.pid
    answer = one.ask(1, "start", folder=str(tmp_path), memory_bytes=None)
    assert answer["answer"]["threads"] >= 1
    assert psutil.Process(one.process.pid).parent() == psutil.Process(other.process.pid).parent()


def test_the_server_has_used_nothing_that_a_fork_would_lose(server, line):
    worker = line(server)
    parent = psutil.Process(worker.process.pid).parent()
    assert parent.num_threads() == 1
    assert psutil.Process(worker.process.pid).num_threads() == 1


def test_a_worker_whose_requests_end_ends_well_and_one_that_is_killed_says_by_what(server, line):
    done, killed = line(server), line(server)
    done.hang_up()
    assert done.process.wait() == 0
    killed.process.kill()
    assert [killed.process.wait(), killed.process.wait()] == [-signal.SIGKILL, -signal.SIGKILL]
    killed.process.kill()  # its number may be another's by now
    assert line(server).hello["pid"] != killed.process.pid


def test_the_ends_of_several_are_asked_for_at_once_and_each_has_its_own(server, line, monkeypatch):
    done, killed, lost = line(server), line(server), line(server)
    lost.process.channel = None  # as if of a server that has gone
    done.hang_up()
    killed.process.kill()
    asked = []
    exchange = server._exchange
    monkeypatch.setattr(server, "_exchange", lambda *given: (asked.append(given), exchange(*given))[1])
    wait_for_all([killed.process, lost.process, done.process])
    ended = [each.process.status for each in (killed, lost, done)]
    assert ended == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert len(asked) == 1
    wait_for_all([killed.process, done.process])
    assert len(asked) == 1  # who has been waited for is not asked of again


def test_workers_end_with_their_server_and_the_next_gets_a_new_one(server, line):
    lost = line(server)
    parent = psutil.Process(lost.process.pid).parent()
    parent.kill()
    assert gone(lost.process.pid)
    with pytest.raises(WorkerError, match=r"worker killed by SIGKILL at 'fork'; perhaps the system ran out of memory"):
        line(server)
    again = line(server)
    assert again.hello["pid"] == again.process.pid
    assert lost.process.wait() == -signal.SIGKILL
    lost.process.kill()
    assert again.ask(1, "nothing")["refused"] == "failed"  # it lives


def test_an_interpreter_that_cannot_be_a_worker_says_so(tmp_path, line):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 'No module named torch' >&2\nexit 3\n")
    other.chmod(0o755)
    with pytest.raises(WorkerError, match="worker ended with status 3 at 'fork': No module named torch") as fault:
        line(ForkServer(str(other), tmp_path))
    assert fault.value.status == "crashed"


def test_a_server_that_does_not_answer_is_ended(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nexec sleep 600\n")
    other.chmod(0o755)
    server = ForkServer(str(other), tmp_path)
    with pytest.raises(WorkerError, match=r"no answer to 'fork' within 0\.2 s") as fault:
        server.fork(0, 1, 2, {}, 0.2)
    assert fault.value.status == "timed out"


def test_a_worker_that_cannot_be_asked_for_says_why(server, line):
    line(server)
    with pytest.raises(WorkerError, match="cannot ask for a worker: Bad file descriptor") as fault:
        server.fork(-1, -1, -1, {}, LIMIT)
    assert fault.value.status == "failed"
    assert line(server).hello["pid"] > 0  # by the next server


def test_workers_have_imported_what_their_server_was_told_to_as_far_as_it_is_there(line, tmp_path, monkeypatch):
    told = "import os, pathlib; pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))"
    (tmp_path / "its_own.py").write_text(told)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    modules = ("no.such.module", Contender("mine", loader="its_own:make").module)
    server = ForkServer(sys.executable, tmp_path, modules)
    worker = line(server)
    assert (tmp_path / "pid").read_text() == str(psutil.Process(worker.hello["pid"]).ppid())
    server.end()
    assert Contender("graph+collector", engine="graph").module == "engines.graph.engine"


def test_a_conductor_has_what_it_expects_and_the_judge_s_engine_loaded_once(monkeypatch):
    told = []

    def server(_python, _folder, modules):
        told.append(modules)
        return SimpleNamespace(end=lambda: None)

    monkeypatch.setattr("suites.harness.conductor.ForkServer", server)
    with Conductor() as conductor:
        conductor.expect([Contender("graph"), Contender("graph").again(), Contender("tape")])
        assert conductor.worker(Contender("graph")) is not conductor.worker(Contender("graph").again())
    assert told == [("engines.peers.torch_eager", "engines.graph.engine", "engines.tape.engine")]
    with Conductor() as conductor:
        conductor.expect([Contender("tape")], ["cpu", "cuda:1"])
        conductor.worker(Contender("tape"))
    assert told[1:] == [("engines.peers.torch_eager", "engines.tape.engine", "triton")]


def test_a_worker_for_which_there_are_no_files_costs_its_row_and_leaves_none_open(monkeypatch):
    before = len(list(Path("/proc/self/fd").iterdir()))
    pipe, made = os.pipe, []

    def few() -> tuple[int, int]:
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(pipe())
        return made[0]

    monkeypatch.setattr(os, "pipe", few)
    with Conductor() as conductor:
        with pytest.raises(WorkerError, match="cannot start a worker: Too many open files") as fault:
            conductor.worker(Contender("tape")).greet()
        assert fault.value.status == "failed"
        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("deed", "status", "seconds"), [("", "timed out", 10.0), (" and dies", "crashed", 60.0)])
def test_with_a_worker_end_its_compiler_and_its_temporary_files(tmp_path, monkeypatch, deed, status, seconds):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    told = tmp_path / f"pid{deed}"
    compiling = Contender("compiling", f"compiles {told}", LOADER)
    with Conductor() as conductor:
        with pytest.raises(WorkerError) as fault:
            conductor.worker(compiling).ask("prepare", seconds, cell=asdict(CELL), contender=compiling.data())
        assert fault.value.status == status, fault.value
        assert gone(int(told.read_text()))
        assert len(list(conductor.folder.rglob("source-*"))) == 1
    assert list(tmp_path.iterdir()) == [told]


def test_what_pytorch_s_compiler_keeps_lies_where_it_would_and_not_among_a_session_s_files(tmp_path, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert temporary(tmp_path) == {"TMPDIR": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": default_cache_dir()}
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert temporary(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"


def test_a_worker_that_leads_no_group_yet_is_killed_too(tmp_path):
    young = subprocess.Popen(["sleep", "600"])
    server = SimpleNamespace(has=lambda _: True)
    Forked(server, None, young.pid).kill()
    assert young.wait(10) == -signal.SIGKILL


def test_nothing_that_the_server_loads_begins_to_use_a_gpu():
    """Once CUDA's driver has been woken, no fork can use it. NVML tells how many there are without."""
    text = """
import torch

def refuse(*_, **__):
    raise AssertionError("woke the driver")

torch.cuda._device_count_nvml = lambda: 1  # as where there is a GPU
torch._C._cuda_getDeviceCount = refuse
for name in ("current_device", "init", "_lazy_init"):
    setattr(torch.cuda, name, refuse)
for name in ("is_available", "device_count", "current_accelerator"):
    setattr(torch.accelerator, name, refuse)
from engines.registry import ENGINES
from suites.harness.conductor import COMPILERS
from suites.harness.worker import load
load([*(row.module for row in ENGINES.values()), *COMPILERS.values()])
"""
    subprocess.run([sys.executable, "-c", text], check=True, timeout=LIMIT, env={**os.environ, **FIXED})
