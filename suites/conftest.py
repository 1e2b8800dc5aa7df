"""The pytest side of the suites: options, one test per row, and how rows get into pytest-benchmark's file.

    pytest suites --benchmark-only                          # measure, store under results/
    pytest suites --benchmark-only --workload cnn --effort standard -k "tape or torch_eager"
    pytest suites                                           # each row once, untimed, as a test

A suite is a file `test_QUESTION.py` with `cells(effort, device)`, the comparisons to make, and one test that asks for
`row`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pytest_benchmark.utils import get_tag

from engines.interrupt import forget_interrupt
from engines.ops.random import step_key
from engines.registry import check_engine
from engines.value import EngineError
from suites.harness import exits
from suites.harness.agreement import check
from suites.harness.cell import Cell
from suites.harness.conductor import Conductor, Limits
from suites.harness.contender import Contender, everyone, is_slow, variants
from suites.harness.effort import EFFORTS, Effort
from suites.harness.environment import environment
from suites.harness.measure import measure
from suites.harness.progress import Progress
from suites.harness.replay import RunRow, replay
from suites.harness.row import Row
from suites.harness.session import BY_THE_USER, Session, Wanted, group_of
from suites.harness.store import Journal, leftovers, rescue, save
from suites.harness.summary import summary
from suites.harness.watch import Watch
from suites.workloads import UnknownWorkloadError, load_workload

DEVICES = {"cpu": ("cpu",), "cuda": ("cuda",), "all": ("cpu", "cuda")}
LARGEST_UNTIMED_KNOB = 1000
SHARE_OF_MEMORY = 0.8
NO_CUDA = "no CUDA device on this machine"
ORDERLY = {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}
"""How pytest ends when it has come to the last test."""

SESSION = pytest.StashKey[Session]()
TAG = pytest.StashKey[str]()
STORED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suites' options."""
    group = parser.getgroup("tape-vs-graph")
    group.addoption("--device", default="cpu", help="cpu, cuda or all; what is not there is stored as skipped")
    group.addoption("--effort", default="quick", help=f"how much time to take: {', '.join(EFFORTS)}")
    group.addoption("--workload", action="append", default=[], help="only this workload (may be given again)")
    group.addoption("--engine", action="append", default=[], help="only this engine (may be given again)")
    group.addoption("--results", default="results", help="folder to store runs in")
    group.addoption(
        "--interpreter",
        action="append",
        default=[],
        metavar="ENGINE=PYTHON",
        help="run this engine's worker under another Python (may be given again)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse bad options at once, and decide whether this run measures or only tries everything once."""
    _check_choice("--device", config.getoption("device"), DEVICES)
    _check_choice("--effort", config.getoption("effort"), EFFORTS)
    try:
        for name in config.getoption("workload"):
            load_workload(name)
        for name in config.getoption("engine"):
            check_engine(name)
    except (UnknownWorkloadError, EngineError) as error:
        raise pytest.UsageError(str(error)) from None
    measuring, results = config.getoption("benchmark_only"), Path(config.getoption("results"))
    if measuring:
        _check_writable(results)
        config.stash[TAG] = config.option.benchmark_save or get_tag()
        config.option.benchmark_save = config.option.benchmark_autosave = None  # we store, see pytest_sessionfinish
        config.option.benchmark_storage = f"file://{results}"
        config.option.timeout = 0  # a cell takes what its effort says; workers have limits of their own
    else:
        config.option.benchmark_disable = True
    config.stash[STORED] = []
    journal = Journal(results, lambda line: _tell(config, line)) if measuring else None
    conductor = Conductor(Limits(memory_bytes=_memory_limit(config.getoption("device"))))
    ours = config.stash[SESSION] = Session(EFFORTS[config.getoption("effort")], Progress(0, None), conductor, journal)
    if measuring:
        _end_by_sigterm_too(config, ours)


def _end_by_sigterm_too(config: pytest.Config, ours: Session) -> None:
    """Have SIGTERM end this run as Ctrl-C does, so that what was measured is stored and no worker is left."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return  # nobody's to decide here

    def end(*_: object) -> None:
        ours.interrupted = "by SIGTERM"
        raise KeyboardInterrupt

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, end)
    config.add_cleanup(restore)


def _memory_limit(device: str) -> int | None:
    """Most bytes that one worker may use, so that none drives the machine into swap. CUDA maps more than it uses."""
    return round(SHARE_OF_MEMORY * psutil.virtual_memory().total) if device == "cpu" else None


def _check_choice(option: str, found: str, allowed: Any) -> None:
    if found not in allowed:
        raise pytest.UsageError(f"{option}: found {found!r}, expected one of {', '.join(allowed)}")


def _check_writable(folder: Path) -> None:
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        pytest.exit(f"results folder {folder} cannot be written: {error.strerror}", exits.UNWRITABLE_RESULTS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each engine of each cell that a suite asks for."""
    cells: Callable[..., list[Cell]] | None = getattr(metafunc.module, "cells", None)
    if cells is None or "row" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    workloads, effort = option("workload"), EFFORTS[option("effort")]
    chosen = [
        (cell, engine)
        for device in DEVICES[option("device")]
        for cell in cells(effort, device)
        if not workloads or cell.workload in workloads
        for engine in _engines(metafunc.module, cell, effort, option("engine"))
        if not option("engine") or engine in option("engine")
    ]
    metafunc.parametrize(("cell", "engine"), chosen, ids=[f"{cell.name}-{engine}" for cell, engine in chosen])


def _engines(module: Any, cell: Cell, effort: Effort, asked: Sequence[str]) -> tuple[str, ...]:
    """Who takes part in a cell, by name: as its suite says, for this cell (`engines`) or for all (`ENGINES`).

    With them their variants, as far as the command line has `asked` for these.
    """
    if hasattr(module, "engines"):
        for_cell: Callable[[Cell, Effort], tuple[str, ...]] = module.engines
        named = for_cell(cell, effort)
    else:
        named = getattr(module, "ENGINES", everyone(cell.device, slow=effort.name != "quick"))
    return (*named, *variants(asked, named))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Learn which engines of each cell are wanted, -k and all, so that a cell is measured for just those."""
    config = session.config
    ours = config.stash[SESSION]
    for item in session.items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        cell, engine = params.get("cell"), params.get("engine")
        if isinstance(item, pytest.Function) and isinstance(cell, Cell) and isinstance(engine, str):
            ours.wanted.append(Wanted(item.name, item.nodeid, cell, _contender(config, item.module, engine)))
    ours.conductor.expect((one.contender for one in ours.wanted), {one.cell.device for one in ours.wanted})
    ours.progress = Progress(len({wanted.cell for wanted in ours.wanted}), _terminal_line(config))
    if ours.journal is not None and ours.wanted and not config.getoption("collectonly"):
        ours.journal.write("header", {**_header(config), "wanted": ours.not_run("the run was cut off")})
        ours.watch = Watch.start()


def _contender(config: pytest.Config, module: Any, engine: str) -> Contender:
    """Who runs for this engine's rows, as its suite says (`contender`) and the command line."""
    made: Callable[[str], Contender] = getattr(module, "contender", Contender)
    interpreters = dict(one.split("=", 1) for one in config.getoption("interpreter"))
    return replace(made(engine), python=interpreters.get(engine, sys.executable))


def _terminal_line(config: pytest.Config) -> Callable[[str], None] | None:
    """A function that replaces the terminal's last line, or None where there is no terminal."""
    reporter, capture = (config.pluginmanager.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
    if reporter is None or capture is None or not reporter.isatty or not config.getoption("benchmark_only"):
        return None

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.rewrite(line[: shutil.get_terminal_size().columns - 1], erase=True)

    return write


def _tell(config: pytest.Config, line: str) -> None:
    """Say on a line of its own what cannot wait for the end of the run."""
    reporter, capture = (config.pluginmanager.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
    if reporter is None or capture is None:
        return
    with capture.global_and_fixture_disabled():
        reporter.write_line(f"\nwarning: {line}", yellow=True)


@pytest.fixture
def row(request: pytest.FixtureRequest, cell: Cell, engine: str) -> RunRow:
    """Measure this row, with its whole cell, and give the function that hands its samples to `benchmark`."""
    config, session, node = request.config, request.config.stash[SESSION], request.node
    contender = _contender(config, request.module, engine)
    there = not cell.device.startswith("cuda") or torch.cuda.is_available()
    if not config.getoption("benchmark_only"):
        return _once(cell, contender) if there else pytest.skip(NO_CUDA)
    if there:
        found = session.row(cell, contender, getattr(request.module, "measure_cell", measure))
    else:
        found = Row(engine, contender.load(cell).style, formulation=contender.formulation)
        found.refuse("skipped", NO_CUDA)
    if found.status == "measured":
        return replay(request, group_of(cell), found.samples, found.extra_info(cell), session.measured)
    session.miss(node.name, node.nodeid, cell, found.extra_info(cell))
    if found.status == "skipped":
        pytest.skip(found.reason or "")
    pytest.fail(f"{found.status}: {found.reason}", pytrace=False)


def _once(cell: Cell, contender: Contender) -> RunRow:
    """A row as a plain test: the engine agrees with the reference, and runs once under `benchmark`."""
    if any(value > LARGEST_UNTIMED_KNOB for _, value in cell.knobs):
        pytest.skip(f"untimed, sizes above {LARGEST_UNTIMED_KNOB} show nothing that smaller ones do not")
    if is_slow(contender):
        pytest.skip("untimed, tests try what is slow to get ready on something small")
    task, made = cell.task(), contender.load(cell)
    if not contender.yardstick:
        found = check(made.prepare(cell.checked_task()), cell)
        assert not found.wrong, f"{found.worst} is off by {found.error}, {found.allowed} is allowed"
    program = made.prepare(task)
    placed = program.place(task.batch, step_key(0, 1))
    return lambda benchmark: benchmark(program.run, placed)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Our environment beside pytest-benchmark's."""
    machine_info["environment"] = environment(config.getoption("effort"))


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Beside the rows that have a number: those without, each with its reason, and what the controls say."""
    output_json.update(config.stash[SESSION].facts())


def _header(config: pytest.Config) -> dict[str, Any]:
    """A run without rows, in pytest-benchmark's own form."""
    hook, facts = config.hook, {"config": config}
    machine = hook.pytest_benchmark_generate_machine_info(**facts)
    hook.pytest_benchmark_update_machine_info(**facts, machine_info=machine)
    made: dict[str, Any] = hook.pytest_benchmark_generate_json(
        **facts,
        benchmarks=[],
        include_data=True,
        machine_info=machine,
        commit_info=hook.pytest_benchmark_generate_commit_info(**facts),
    )
    return made


def pytest_keyboard_interrupt() -> None:
    """A Ctrl-C strikes anywhere, and what it leaves open there is no mistake of the run's."""
    forget_interrupt()
    warnings.simplefilter("ignore", ResourceWarning)
    warnings.simplefilter("ignore", pytest.PytestUnraisableExceptionWarning)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """End the workers, store what was measured, and tell wrong numerics and nothing measured apart."""
    config = session.config
    ours = config.stash[SESSION]
    if ours.watch is not None:
        ours.cautions = ours.watch.finish(ours.sampled())
    ours.conductor.close()
    if ours.journal is not None and ours.wanted and not config.getoption("collectonly"):
        interrupted = _ended_early(session, exitstatus)
        ours.miss_the_rest(_reason(interrupted))
        session.exitstatus = _store(config, ours, exitstatus, interrupted)
    return (yield)


def _ended_early(session: pytest.Session, exitstatus: int) -> str | None:
    """By what a run was ended before its last row, if it was."""
    if session.shouldfail or session.shouldstop:  # -x, --maxfail, or a plugin
        return f"by pytest: {session.shouldfail or session.shouldstop}"
    if exitstatus == pytest.ExitCode.INTERRUPTED:
        return session.config.stash[SESSION].interrupted
    if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        return "by an internal error of pytest"
    return None if exitstatus in ORDERLY else f"with exit code {int(exitstatus)}"


def _reason(interrupted: str | None) -> str:
    """Why a wanted row was not come to."""
    if interrupted is None:
        return "its test ended without a row"
    return "the run was interrupted" + ("" if interrupted == BY_THE_USER else f" {interrupted}")


def _store(config: pytest.Config, ours: Session, exitstatus: int, interrupted: str | None) -> int:
    """Store the run, and say where; gives the exit code."""
    assert ours.journal is not None
    if exitstatus == pytest.ExitCode.INTERRUPTED and not ours.benchmarks:
        ours.journal.discard()
        config.stash[STORED].append("interrupted before a row was measured: nothing is stored")
        return exits.NOTHING_MEASURED
    run = {**_header(config), "benchmarks": ours.benchmarks}
    run["interrupted"] = interrupted
    config.hook.pytest_benchmark_update_json(config=config, benchmarks=[], output_json=run)
    said, folder = config.stash[STORED], Path(config.getoption("results"))
    try:
        said.append(f"stored in {save(run, folder, config.stash[TAG])}")
    except OSError as error:
        said.append(f"results folder {folder} cannot be written: {error.strerror}; {_rescued(config, run)}")
        return exits.UNWRITABLE_RESULTS
    ours.journal.discard()
    if exitstatus not in ORDERLY:
        return exitstatus
    if ours.wrong:
        return exits.WRONG_NUMERICS
    return exitstatus if ours.benchmarks else exits.NOTHING_MEASURED


def _rescued(config: pytest.Config, run: Mapping[str, Any]) -> str:
    try:
        return f"the run is kept in {rescue(dict(run), config.stash[TAG])}"
    except OSError as error:
        return f"and so cannot {error.filename}: {error.strerror}; the run is lost"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the controls allow one to claim, rows without a number, and where the run is stored."""
    ours = config.stash[SESSION]
    if ours.journal is None or not ours.wanted:
        return
    terminalreporter.section("tape vs graph")
    said = [*config.stash[STORED], *([f"caution: {ours.journal.fault}"] if ours.journal.fault else [])]
    for line in (*summary(ours), *said, *_told_leftovers(Path(config.getoption("results")))):
        terminalreporter.write_line(line)


def _told_leftovers(folder: Path) -> Iterator[str]:
    for path in leftovers(folder):
        yield f"an earlier run was cut off; to store what it measured: python -m suites.recover {path}"
