"""Measuring: what is found slower, what is not, what gets no time, and that one engine's fault costs only its row."""

from __future__ import annotations

import math
import os
import platform
import signal
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from suites.harness import heap
from suites.harness.cell import Cell
from suites.harness.clock import SHORTEST_SAMPLE_SECONDS
from suites.harness.conductor import Conductor, Limits
from suites.harness.contender import Contender
from suites.harness.effort import EFFORTS
from suites.harness.measure import Arm, Measuring, _is_open, _watched, measure
from suites.harness.overhead import ENDED
from suites.harness.progress import Progress
from suites.harness.row import Row
from suites.harness.session import Session, Wanted
from tests.faulty import LOADER

CELL = Cell("backward", "chain", "loss_and_grad", knobs=(("elements", 4), ("ops", 10)))
QUICK, STANDARD = EFFORTS["quick"], EFFORTS["standard"]
BRIEF = replace(QUICK, seconds_per_engine=0.3, warm_up_seconds=0.1, max_rounds=20)


@pytest.fixture(scope="module")
def conductor():
    limits = Limits(request_seconds=60, sample_seconds=3, memory_bytes=4 << 30)
    with Conductor(limits) as made:
        made.expect([Contender("tape"), Contender("right", loader=LOADER)])
        yield made


def contenders(*names: str) -> list[Contender]:
    return [Contender(name, loader=LOADER) for name in names]


def rows_of(conductor, names, cell=CELL, effort=BRIEF):
    who = [name if isinstance(name, Contender) else Contender(name, loader=LOADER) for name in names]
    return measure(Measuring(conductor, cell, who, effort, lambda _: None))


def ratio(rows, name, other):
    (found,) = [one for one in rows[name].ratios if one["to"] == other]
    return found


@pytest.mark.parametrize(("slow", "effort"), [("3 ms + 10 %", QUICK), ("3 ms + 3 %", STANDARD)])
def test_an_engine_slowed_by_a_known_share_is_found_slower(conductor, slow, effort):
    rows = rows_of(conductor, ["3 ms", slow], effort=effort)
    found = ratio(rows, slow, "3 ms")
    assert found["verdict"] == "slower"
    assert ratio(rows, "3 ms", slow)["verdict"] == "faster"
    share = 1.1 if slow.endswith("10 %") else 1.03
    assert found["low"] <= share * 1.005
    assert found["high"] >= share * 0.995


def test_of_forty_cells_with_the_same_engine_twice_at_most_two_are_called_different(conductor):
    same = [Contender("tape"), Contender("other", engine="tape")]
    called = []
    for number in range(40):
        cell = replace(CELL, knobs=(("elements", 4), ("ops", 20 + number)))
        rows = rows_of(conductor, same, cell, replace(BRIEF, min_rounds=12))
        called.append(ratio(rows, "other", "tape")["verdict"])
    assert len(called) == 40
    assert sum(verdict in {"faster", "slower"} for verdict in called) <= 2, called


def test_a_yardstick_is_timed_with_the_others_and_checked_against_nothing(conductor):
    yardstick = Contender("nan", loader=LOADER, yardstick=True)
    rows = rows_of(conductor, ["3 ms", yardstick])
    assert rows["nan"].agreement.verdict == "unchecked"
    assert len(rows["nan"].samples) == len(rows["3 ms"].samples) >= BRIEF.min_rounds
    assert ratio(rows, "3 ms", "nan")["value"] > 1
    assert rows["3 ms"].agreement.verdict == "agrees"


def test_a_slow_first_call_costs_no_samples_and_stands_in_its_own_row(conductor):
    rows = rows_of(conductor, ["3 ms", "slow first call"])  # the first of them runs twice
    slow, fast = rows["slow first call"], rows["3 ms"]
    assert len(slow.samples) == len(fast.samples) >= BRIEF.min_rounds
    assert max(slow.samples) < 0.1
    preparing = replace(CELL, question="preparing", quantity="prepare", rounds=2, cold=True)
    cold = rows_of(conductor, ["3 ms", "slow first call"], preparing)
    assert {tuple(row.launches) for row in cold.values()} == {(1, 1)}  # each round in a process of its own
    assert cold["slow first call"].phases["first call"] == pytest.approx(1.5, rel=0.1)
    assert min(cold["slow first call"].samples) > 1.5
    assert np.median(cold["slow first call"].samples) - np.median(cold["3 ms"].samples) > 1.0


def test_a_machine_that_drifts_leaves_the_ratio_at_one(conductor):
    drifting = [Contender(name, "drifts", LOADER) for name in ("one", "two")]
    rows = rows_of(conductor, drifting, effort=replace(BRIEF, min_rounds=30, max_rounds=30, seconds_per_engine=9))
    first, last = np.median(rows["one"].samples[:5]), np.median(rows["one"].samples[-5:])
    assert last > 1.05 * first
    assert ratio(rows, "two", "one")["value"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["one element off", "nan", "wrong shape", "no gradients"])
def test_a_wrong_engine_gets_no_time_and_its_worst_tensor_is_named(conductor, name):
    rows = rows_of(conductor, [name, "right"])
    assert rows[name].status == "wrong"
    assert rows[name].samples == []
    assert rows[name].agreement.worst == ("loss" if name in {"nan", "wrong shape"} else "grad.x")
    assert rows[name].agreement.worst in rows[name].reason
    assert rows["right"].status == "measured"


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("fails in prepare", "failed", "EngineError: no such op"),
        ("fails", "failed", "ValueError: broken"),
        ("fails in a round", "failed", "ValueError: broken in a round"),
        ("killed", "crashed", "worker killed by SIGKILL at 'sample'"),
        ("hangs", "timed out", "no answer to 'sample' within"),
        ("out of memory", "out of memory", "allocate"),
        ("babbles", "failed", "nonsense from the worker: found 'here is what I think of your protocol'"),
    ],
)
def test_what_an_engine_does_wrong_costs_its_row_and_no_other(conductor, name, status, reason):
    rows = rows_of(conductor, ["3 ms", name, "right"])
    assert (rows[name].status, rows[name].samples, rows[name].ratios) == (status, [], [])
    assert reason in rows[name].reason
    for other in ("3 ms", "right"):
        assert rows[other].status == "measured"
        assert len(rows[other].samples) >= BRIEF.min_rounds
    assert ratio(rows, "right", "3 ms")["rounds"] == len(rows["right"].samples)
    assert rows["3 ms"].control is not None


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        (
            "killed in split",
            {"split": "crashed: worker killed by SIGKILL at 'split'", "counters": "failed: RuntimeError"},
        ),
        ("fails in split", {"split": "failed: ValueError: broken in a round"}),
        ("uncountable", {"counters": "failed: ValueError: nobody counts"}),
    ],
)
def test_what_fails_after_all_samples_costs_what_it_would_have_found_and_is_noted(conductor, name, notes):
    rows = rows_of(conductor, ["right", name], effort=replace(BRIEF, max_rounds=12, seconds_per_engine=0.1))
    row = rows[name]
    assert row.status == "measured"
    assert len(row.samples) == len(rows["right"].samples) >= BRIEF.min_rounds
    assert ratio(rows, name, "right")["rounds"] == len(row.samples)
    assert row.notes.keys() == notes.keys()
    for stage, said in notes.items():
        assert row.notes[stage].startswith(said)
    assert row.split is None or "split" not in notes
    assert row.extra_info(CELL)["notes"] == row.notes
    assert rows["right"].notes == {}
    assert list(rows["right"].split) == ["forward", "backward"]


def test_what_an_engine_warns_of_while_it_gets_ready_is_noted(conductor):
    rows = rows_of(conductor, ["right", "warns"], replace(CELL, rounds=2), replace(BRIEF, warm_up_seconds=0.0))
    assert rows["warns"].status == "measured"
    assert rows["warns"].notes == {"prepare": "RuntimeWarning: no compiler"}
    assert rows["right"].notes == {}


def test_a_worker_that_died_is_started_again_for_the_next_cell(conductor):
    killed = Contender("mortal", "killed", LOADER)
    first = rows_of(conductor, ["right", killed])
    assert first["mortal"].status == "crashed"
    assert conductor.worker(killed).pid == 0
    second = rows_of(conductor, ["right", killed], replace(CELL, rounds=2), replace(BRIEF, warm_up_seconds=0.0))
    assert second["mortal"].status == "measured"
    assert conductor.worker(killed).pid != 0


def test_every_engine_comes_equally_often_in_every_position(conductor):
    rows = rows_of(conductor, ["3 ms", "right", "drifts"], effort=replace(BRIEF, min_rounds=16, max_rounds=16))
    assert len(rows) == 4  # the control among them
    for row in rows.values():
        assert len(row.positions) == len(row.samples)
        counts = [row.positions.count(place) for place in range(4)]
        assert counts == [len(row.samples) / 4] * 4


LAUNCHED = replace(BRIEF, launches=(3, 4), min_rounds=3, max_rounds=3, seconds_per_engine=0.0)


def test_each_launch_gives_everyone_a_new_process_that_is_checked_and_made_ready_in_another_order(conductor):
    conductor.end_workers()
    before = len(conductor.log)
    rows = rows_of(conductor, ["3 ms", "right"], effort=replace(LAUNCHED, launches=(4, 4)))
    log = conductor.log[before:]
    assert [row.launches for row in rows.values()] == [[3] * 4] * 3
    assert {len(row.samples) for row in rows.values()} == {12}
    pids = {(event.worker, event.pid) for event in log if event.what == "sample"}
    assert len(pids) == len({pid for _, pid in pids}) == 3 * 4
    for what in ("prepare", "results", "first_call", "warm_up"):
        assert {(event.worker, event.pid) for event in log if event.what == what} == pids
    orders = [tuple(e.worker for e in log if e.what == "prepare")[3 * launch : 3 * launch + 3] for launch in range(4)]
    for place in zip(*orders[:3], strict=True):
        assert len(set(place)) == 3  # everyone once in every place
    assert {one["launches"] for row in rows.values() for one in row.ratios} == {4}
    assert rows["right"].control["launches"] == 4


def test_launches_end_when_they_agree_or_there_have_been_the_most(conductor):
    precise = rows_of(conductor, ["3 ms", "3 ms + 10 %"], effort=replace(LAUNCHED, precision=0.5))["3 ms"]
    assert (precise.stopped["why"], len(precise.launches)) == ("precise", 3)
    moody = rows_of(conductor, ["3 ms", "moody"], effort=replace(LAUNCHED, precision=0.005))["moody"]
    assert (moody.stopped["why"], len(moody.launches)) == ("budget", 4)
    assert moody.stopped["rounds"] == len(moody.samples) == 12


def test_an_interval_over_launches_holds_the_moods_of_processes(conductor):
    moody = [Contender(name, "moody", LOADER) for name in ("one", "two")]
    rows = rows_of(conductor, moody, effort=replace(LAUNCHED, launches=(8, 8)))
    found = ratio(rows, "two", "one")
    assert found["high"] - found["low"] > 0.02  # its rounds agree far better
    assert found["verdict"] not in {"faster", "slower"}
    (split,) = {len(row.launches) for row in rows.values()}
    medians = [np.median(part) for part in np.split(np.asarray(rows["one"].samples), split)]
    assert max(medians) / min(medians) > 1.01


def test_a_worker_that_dies_in_a_later_launch_costs_its_row_and_no_other(conductor):
    mortal = Contender("mortal", "right", LOADER)
    shown = []

    def kill(line):
        shown.append(line)
        if "launch 2 of at most 4, round 2" in line and line.endswith(": mortal"):
            os.kill(conductor.worker(mortal).pid, signal.SIGKILL)

    job = Measuring(conductor, CELL, [*contenders("3 ms", "right"), mortal], LAUNCHED, kill)
    rows = measure(job)
    assert (rows["mortal"].status, rows["mortal"].samples, rows["mortal"].launches) == ("crashed", [], [])
    assert rows["mortal"].reason.startswith("worker killed by SIGKILL at 'sample'")
    assert [sum(rows[name].launches) for name in ("3 ms", "right")] == [len(rows["3 ms"].samples)] * 2
    assert ratio(rows, "right", "3 ms")["launches"] == len(rows["right"].launches) >= 3
    assert not [line for line in shown if "launch 3" in line and line.endswith(": mortal")]


def test_samples_are_long_enough_for_the_clock_and_warm_ups_are_kept(conductor):
    rows = rows_of(conductor, ["3 ms", "right"])
    for row in rows.values():
        assert row.clock["share_of_sample"] < 0.001
        assert 0 < row.clock["resolution_seconds"] < 1e-5
        assert row.calls_per_sample * np.median(row.samples) > 0.003
        assert row.first_call_seconds > 0
        assert row.warm_up["seconds"]
    assert rows["3 ms"].calls_per_sample == math.ceil(SHORTEST_SAMPLE_SECONDS / 3e-3)
    assert rows["3 ms"].warm_up["stable"]
    assert rows["right"].calls_per_sample > rows["3 ms"].calls_per_sample


def test_rounds_stop_when_the_interval_is_narrow_or_the_budget_is_spent_and_say_which(conductor, monkeypatch):
    precise = rows_of(conductor, ["3 ms", "3 ms + 3 %"], effort=replace(QUICK, precision=0.1))["3 ms"]
    assert precise.stopped["why"] == "precise"
    assert precise.stopped["width"] <= precise.stopped["wanted"] == 0.1
    spent = rows_of(conductor, ["3 ms", "right"], effort=replace(BRIEF, precision=1e-9, max_rounds=12))["right"]
    assert spent.stopped["why"] == "budget"
    assert spent.stopped["rounds"] == len(spent.samples) == 12
    monkeypatch.setattr("suites.harness.measure._is_open", lambda *_: True)
    untold = rows_of(conductor, ["3 ms", "right"], effort=replace(BRIEF, precision=1e9, seconds_per_engine=60.0))[
        "right"
    ]
    of_three = 3 * math.ceil(BRIEF.min_rounds / 3)  # whole blocks, the control's place among them
    assert (untold.stopped["why"], untold.stopped["rounds"]) == ("precise", of_three)  # in one launch by width alone
    untold = rows_of(conductor, ["3 ms", "right"], effort=replace(BRIEF, precision=1e9, launches=(3, 4)))["right"]
    assert (untold.stopped["why"], len(untold.launches)) == ("budget", 4)
    fixed = rows_of(conductor, ["3 ms", "right"], replace(CELL, rounds=4))["right"]
    assert (fixed.stopped["why"], len(fixed.samples)) == ("fixed", 4)


def test_a_step_is_split_into_parts_that_add_up_where_an_engine_allows_it(conductor):
    cell = Cell("step", "lenet5", "step", 16)
    rows = rows_of(conductor, [Contender("tape"), Contender("graph"), Contender("torch_eager")], cell)
    for name in ("tape", "torch_eager"):
        assert list(rows[name].split) == ["forward", "backward", "update"]
        check = rows[name].split_check
        assert check["sum_seconds"] == pytest.approx(sum(rows[name].split.values()))
        assert check["total_seconds"] == pytest.approx(np.median(rows[name].samples))
    assert rows["graph"].split is None


def test_phases_of_a_preparation_add_up_or_the_row_says_so(conductor):
    cell = Cell("preparing", "lenet5", "prepare", 4, rounds=3)
    rows = rows_of(conductor, [Contender("tape"), Contender("graph")], cell)
    graph = rows["graph"]
    assert list(graph.phases)[:3] == ["place", "trace", "autodiff"]
    assert list(graph.phases)[-2:] == ["place batch", "first call"]
    for row in rows.values():
        check = row.phases_check
        off = abs(check["sum_seconds"] - check["total_seconds"]) / check["total_seconds"]
        assert check["closes"] == (off <= 0.05)
        assert sum(row.phases.values()) == pytest.approx(check["sum_seconds"])
    assert graph.phases_check["closes"]
    assert graph.counters["nodes"] > 0


def test_the_control_runs_in_the_same_schedule_and_is_no_row_of_the_comparison(conductor):
    rows = rows_of(conductor, [Contender("tape"), Contender("torch_eager")])
    twin = rows["tape again"]
    assert len(twin.samples) == len(rows["tape"].samples)
    assert {one["to"] for row in rows.values() for one in row.ratios} == {"tape", "torch_eager"}
    found = rows["torch_eager"].control
    assert found["engine"] == "tape"
    assert found["low"] <= found["value"] <= found["high"]
    assert found["false_alarm"] == (not found["low"] <= 1 <= found["high"])
    assert conductor.worker(Contender("tape")).pid != conductor.worker(Contender("tape").again()).pid


def test_the_log_proves_the_order_of_execution(conductor):
    conductor.end_workers()
    before = len(conductor.log)
    rows_of(conductor, [Contender("tape"), Contender("torch_eager")])
    measure(Measuring(conductor, Cell("memory", "mlp", "step", 4), [Contender("tape")], BRIEF, lambda _: None))
    log = conductor.log[before:]
    ended = [(event.what, event.ended) for event in log if event.worker == "conductor"]
    assert ended == [("store", CELL.name), ("store", "mlp-b4-step-cpu")]
    tape = [event.what for event in log if event.worker == "tape"]
    stages = [what for number, what in enumerate(tape) if what not in tape[:number]]
    assert stages == [
        "start", "prepare", "results", "first_call", "warm_up", "sample", "split", "counters", "memory",
    ]  # fmt: skip
    order = {what: [e.began_seconds for e in log if e.what == what] for what in (*stages, "judge")}
    for before, after in (("results", "judge"), ("judge", "first_call"), ("warm_up", "sample"), ("sample", "memory")):
        assert max(order[before]) < min(order[after]) or before == "results"
    memory = next(event for event in log if event.what == "memory")
    assert memory.pid not in {event.pid for event in log if event.what == "sample"}
    for one, next_one in pairwise(log):
        assert one.began_seconds + one.took_seconds <= next_one.began_seconds + 1e-3 or next_one.what == "start"


def test_each_cell_begins_with_new_processes_and_the_judge_stays(conductor):
    conductor.end_workers()
    before = len(conductor.log)
    session = Session(BRIEF, Progress(2, None), conductor)
    for cell in (CELL, replace(CELL, batch_size=2)):
        session.wanted = [Wanted(name, name, cell, Contender(name)) for name in ("tape", "torch_eager")]
        assert session.row(cell, Contender("tape"), measure).status == "measured"
        assert conductor.worker(Contender("tape")).pid == 0
    log = conductor.log[before:]
    ended = next(number for number, event in enumerate(log) if event.what == ENDED)
    first, second = ({(event.worker, event.pid) for event in part} for part in (log[:ended], log[ended:]))
    assert {who for who, _ in first & second} == {"conductor", "judge"}
    assert {"tape", "torch_eager", "tape again"} < {who for who, _ in first} == {who for who, _ in second}


def test_workers_that_begin_anew_leave_no_process_behind(conductor):
    worker = conductor.worker(Contender("tape"))
    pids = []
    for _ in range(3):
        worker.greet()
        pids.append(worker.pid)
        conductor.renew_workers()
        assert worker.pid == 0
    assert len(set(pids)) == 3
    assert len(conductor._leaving) == 1
    conductor.end_workers()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_worker_tells_who_it_is_and_what_becomes_of_freed_memory(conductor):
    worker = conductor.worker(Contender("tape"))
    rows_of(conductor, [Contender("tape"), "right"], replace(CELL, rounds=1))
    assert worker.facts["torch"] == torch.__version__
    assert worker.facts["pid"] == worker.pid
    assert worker.facts["allocator"] in {heap.KEPT, heap.AS_IT_IS}
    assert (worker.facts["allocator"] == heap.KEPT) == (platform.libc_ver()[0] == "glibc")


def test_a_fresh_worker_finds_no_compiler_s_cache(conductor):
    cell = replace(CELL, quantity="prepare", cold=True)
    with conductor.fresh(Contender("graph")) as worker:
        worker.ask("prepare_cold", cell=asdict(cell), contender=Contender("graph").data())
        (caches,) = (path.parent for path in conductor.folder.glob("*/xdg_cache_home"))
        assert list(caches.glob("xdg_cache_home/**/*.so"))  # what it compiled is in a folder of its own
    assert not caches.exists()


def test_a_worker_under_an_interpreter_that_is_not_there_costs_its_row(conductor):
    rows = rows_of(conductor, ["3 ms", Contender("elsewhere", "right", LOADER, python="/nowhere/python")])
    assert rows["elsewhere"].status == "failed"
    assert rows["elsewhere"].reason == "cannot start /nowhere/python: No such file or directory"
    assert rows["3 ms"].status == "measured"


def test_a_worker_may_run_under_another_interpreter(conductor, tmp_path):
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nOTHER=yes exec {sys.executable} "$@"\n')
    other.chmod(0o755)
    elsewhere = Contender("elsewhere", "right", LOADER, python=str(other))
    rows = rows_of(conductor, ["3 ms", elsewhere])
    assert rows["elsewhere"].status == "measured"
    assert b"OTHER=yes" in Path(f"/proc/{conductor.worker(elsewhere).pid}/environ").read_bytes()


def test_the_conductor_takes_little_time_of_its_own(conductor):
    import time

    rows_of(conductor, ["right", "3 ms"])  # everyone is started
    began, waited = time.monotonic(), conductor.waited_seconds
    rows = rows_of(conductor, ["right", "3 ms"])
    own = time.monotonic() - began - (conductor.waited_seconds - waited)
    assert own < 0.5
    assert min(rows["3 ms"].samples) == pytest.approx(0.003, rel=0.01)  # and none inside the rounds
    assert math.isfinite(own)


@pytest.mark.parametrize(
    ("other", "twin", "expected"),
    [
        ([1.05, 1.05, 1.05], [1.0, 1.0, 1.0], False),  # slower
        ([1.0, 1.001, 1.002], [1.0, 1.0, 1.0], False),  # no difference
        ([1.015, 1.02, 1.025], [1.0, 1.0, 1.0], True),  # on the line between
    ],
)
def test_launches_go_on_while_nothing_could_be_said(conductor, other, twin, expected):
    tape, graph = Contender("tape"), Contender("graph")
    job = Measuring(conductor, CELL, [tape, graph], STANDARD, lambda _: None)
    arms = [
        Arm(who, conductor.worker(who), Row(who.label, samples=list(samples), launches=[1, 1, 1]))
        for who, samples in ((tape, [1.0] * 3), (graph, other), (tape.again(), twin))
    ]
    assert _is_open(job, _watched(arms)) is expected
