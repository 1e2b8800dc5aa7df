"""The pytest side of the suites: options, one test per row, and how rows get into pytest-benchmark's file.

    pytest suites --benchmark-only                          # measure, store under results/
    pytest suites --benchmark-only --workload cnn --effort standard -k "tape or torch_eager"
    pytest suites                                           # each row once, untimed, as a test

A suite is a file `test_QUESTION.py` with `cells(effort)`, the comparisons to make, and one test that asks for `row`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.logger import Logger
from pytest_benchmark.storage.file import FileStorage
from pytest_benchmark.utils import get_machine_id, get_tag

from engines.ops.random import step_key
from engines.registry import ENGINES, load_engine
from engines.value import EngineError
from suites.harness import exits
from suites.harness.agreement import check
from suites.harness.cell import Cell
from suites.harness.effort import EFFORTS
from suites.harness.environment import environment
from suites.harness.measure import Load, Row, by_name, measure
from suites.harness.progress import Progress
from suites.harness.replay import RunRow, replay
from suites.harness.session import Session
from suites.workloads import UnknownWorkloadError, load_workload

DEVICES = {"cpu": ("cpu",), "cuda": ("cuda",), "all": ("cpu", "cuda")}
LARGEST_UNTIMED_KNOB = 1000
NO_CUDA = "no CUDA device on this machine"

SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suites' options."""
    group = parser.getgroup("tape-vs-graph")
    group.addoption("--device", default="cpu", help="cpu, cuda or all; what is not there is stored as skipped")
    group.addoption("--effort", default="quick", help=f"how much time to take: {', '.join(EFFORTS)}")
    group.addoption("--workload", action="append", default=[], help="only this workload (may be given again)")
    group.addoption("--engine", action="append", default=[], help="only this engine (may be given again)")
    group.addoption("--results", default="results", help="folder to store runs in")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse bad options at once, and decide whether this run measures or only tries everything once."""
    _check_choice("--device", config.getoption("device"), DEVICES)
    _check_choice("--effort", config.getoption("effort"), EFFORTS)
    try:
        for name in config.getoption("workload"):
            load_workload(name)
        for name in config.getoption("engine"):
            load_engine(name)
    except (UnknownWorkloadError, EngineError) as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[SESSION] = Session(EFFORTS[config.getoption("effort")], Progress(0, None))
    if config.getoption("benchmark_only"):
        results = Path(config.getoption("results"))
        _check_writable(results)
        config.option.benchmark_storage = f"file://{results}"
        config.option.benchmark_autosave = config.option.benchmark_save or get_tag()
        config.option.benchmark_save_data = True
    else:
        config.option.benchmark_disable = True


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
    workloads, engines = option("workload"), getattr(metafunc.module, "ENGINES", tuple(ENGINES))
    chosen = [
        (cell, engine)
        for device in DEVICES[option("device")]
        for cell in cells(EFFORTS[option("effort")], device)
        if not workloads or cell.workload in workloads
        for engine in engines
        if not option("engine") or engine in option("engine")
    ]
    metafunc.parametrize(("cell", "engine"), chosen, ids=[f"{cell.name}-{engine}" for cell, engine in chosen])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Learn which engines of each cell are wanted, -k and all, so that a cell is measured for just those."""
    ours = session.config.stash[SESSION]
    for item in session.items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        cell, engine = params.get("cell"), params.get("engine")
        if isinstance(cell, Cell) and isinstance(engine, str):
            ours.wanted[cell].append(engine)
    ours.progress = Progress(len(ours.wanted), _terminal_line(session.config))


def _terminal_line(config: pytest.Config) -> Callable[[str], None] | None:
    """A function that replaces the terminal's last line, or None where there is no terminal."""
    reporter, capture = (config.pluginmanager.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
    if reporter is None or capture is None or not reporter.isatty or not config.getoption("benchmark_only"):
        return None

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.rewrite(line[: shutil.get_terminal_size().columns - 1], erase=True)

    return write


@pytest.fixture
def row(request: pytest.FixtureRequest, cell: Cell, engine: str) -> RunRow:
    """Measure this row, with its whole cell, and give the function that hands its samples to `benchmark`."""
    config, session = request.config, request.config.stash[SESSION]
    load = getattr(request.module, "load", by_name)
    there = not cell.device.startswith("cuda") or torch.cuda.is_available()
    if not config.getoption("benchmark_only"):
        return _once(cell, engine, load) if there else pytest.skip(NO_CUDA)
    if there:
        found = session.row(cell, engine, getattr(request.module, "measure_cell", measure), load)
    else:
        found = Row(engine, load(cell, engine).style)
        found.refuse("skipped", NO_CUDA)
    group = f"{cell.question}: {cell.name}"
    if found.status == "measured":
        session.measured += 1
        return replay(request, group, found.samples, found.extra_info(cell))
    session.miss(request.node.name, request.node.nodeid, group, found.extra_info(cell))
    if found.status == "skipped":
        pytest.skip(found.reason or "")
    pytest.fail(f"{found.status}: {found.reason}", pytrace=False)


def _once(cell: Cell, engine: str, load: Load) -> RunRow:
    """A row as a plain test: the engine agrees with the reference, and runs once under `benchmark`."""
    if any(value > LARGEST_UNTIMED_KNOB for _, value in cell.knobs):
        pytest.skip(f"untimed, sizes above {LARGEST_UNTIMED_KNOB} show nothing that smaller ones do not")
    task, made = cell.task(), load(cell, engine)
    found = check(made.prepare(cell.checked_task()), cell)
    assert not found.wrong, f"{found.worst} is off by {found.error}, {found.allowed} is allowed"
    program = made.prepare(task)
    placed = program.place(task.batch, step_key(0, 1))
    return lambda benchmark: benchmark(program.run, placed)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Our environment beside pytest-benchmark's."""
    machine_info["environment"] = environment(config.getoption("effort"))


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Rows without a number stand beside those with one, each with its reason."""
    output_json["missing"] = config.stash[SESSION].missing


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Tell wrong numerics and nothing measured apart from other failures."""
    ours = session.config.stash[SESSION]
    if not session.config.getoption("benchmark_only") or exitstatus not in (0, 1, 5):
        return
    if ours.wrong:
        session.exitstatus = exits.WRONG_NUMERICS
    elif not ours.measured:
        session.exitstatus = exits.NOTHING_MEASURED
        if ours.missing:
            _store_missing(session.config)


def _store_missing(config: pytest.Config) -> None:
    """Store a run in which no row has a number; pytest-benchmark stores only runs that have one."""
    hook, facts = config.hook, {"config": config}
    machine = hook.pytest_benchmark_generate_machine_info(**facts)
    hook.pytest_benchmark_update_machine_info(**facts, machine_info=machine)
    run = hook.pytest_benchmark_generate_json(
        **facts,
        benchmarks=[],
        include_data=True,
        machine_info=machine,
        commit_info=hook.pytest_benchmark_generate_commit_info(**facts),
    )
    hook.pytest_benchmark_update_json(**facts, benchmarks=[], output_json=run)
    storage = FileStorage(config.getoption("results"), Logger(config=config), get_machine_id())
    storage.save(run, get_tag())
