"""The walk from the tape to the full compiler: what is switched in each row, the same numbers in all, one process."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from engines.graph.lower import compiler
from engines.graph.passes import CHANNELS_LAST, PIPELINE
from engines.ops.random import step_key
from engines.registry import load_engine
from suites import attribution
from suites.attribution import (
    BASE,
    CUDA_GRAPH,
    NATIVE,
    REPLAY,
    STRAIGHT,
    is_step,
    left_out,
    load_switched,
    put_in,
    switches_on,
    walk,
)
from suites.harness.agreement import check
from suites.harness.cell import Cell
from suites.harness.conductor import Conductor
from suites.harness.contender import Contender
from suites.harness.effort import EFFORTS
from suites.harness.measure import Measuring, measure
from suites.test_attribution import contender, measure_cell
from tests.faulty import LOADER

CELL = Cell("attribution", "lenet5", "step", 2)
WALK, WITHOUT, WITH = walk("cpu"), left_out("cpu"), put_in(CELL)
SWITCHES, FULL = WALK[1:], WALK[-1]
BRIEF = replace(EFFORTS["quick"], seconds_per_engine=0.1, warm_up_seconds=0.05, min_rounds=3, max_rounds=6)


def outputs(engine, quantity="loss_and_grad"):
    task = replace(CELL, quantity=quantity).task()
    program = engine.prepare(task)
    found = program.run(program.place(task.batch, step_key(0, 0)))
    return program, [found.loss, *found.gradients.values()]


def test_every_pass_is_a_switch_of_its_own_between_replaying_and_native_code():
    names = list(dict.fromkeys(step.__name__ for step in PIPELINE))
    assert [name for name in SWITCHES if name != NATIVE] == [REPLAY, STRAIGHT, *names]
    assert SWITCHES.index("fuse") < SWITCHES.index(NATIVE) == SWITCHES.index("choose_kernels") - 1
    assert [f"without {name}" for name in SWITCHES if name != REPLAY] == list(WITHOUT)
    assert WITH == ("with layout",)
    assert put_in(replace(CELL, workload="chain")) == ()


def test_a_loop_over_nodes_counts_the_regions_that_no_compiler_takes_too(monkeypatch):
    graph = load_engine("graph").prepare(CELL.task()).executable.graph
    assert "regions_on_kernels" not in attribution.looped(graph).counters()
    compiler.say_once.cache_clear()
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    with pytest.warns(RuntimeWarning, match="fused regions run as single kernels"):
        found = attribution.looped(graph).counters()["regions_on_kernels"]
    assert found == sum(node.op.name == "fused" for node in graph.nodes) > 0


def test_on_cuda_the_walk_ends_with_one_cuda_graph_and_no_row_before_has_one(monkeypatch):
    asked = {}
    monkeypatch.setattr(attribution, "GraphEngine", lambda name, *_, capture: asked.update({name: capture}))
    for cell in (CELL, replace(CELL, device="cuda")):
        for row in (*walk(cell.device)[1:], *left_out(cell.device), *put_in(cell)):
            load_switched(cell, row)
        on_cuda = cell.device == "cuda"
        captured = {*WITHOUT, *WITH, CUDA_GRAPH} if on_cuda else set()
        assert {row for row, capture in asked.items() if capture} == captured
        asked.clear()
    assert walk("cuda") == (*WALK, CUDA_GRAPH)
    assert left_out("cuda") == (*WITHOUT, f"without {CUDA_GRAPH}")
    assert switches_on(walk("cuda"), f"without {CUDA_GRAPH}") == frozenset(SWITCHES)


def test_each_row_of_the_walk_has_the_passes_up_to_its_own():
    def passes_of(row):
        program, _ = outputs(load_switched(CELL, row))
        return [name for name in program.phases if name in {*SWITCHES, "layout"}]

    names = list(dict.fromkeys(step.__name__ for step in PIPELINE))
    for place, name in enumerate(names):
        assert passes_of(name) == names[: place + 1]
        assert passes_of(f"without {name}") == [other for other in names if other != name]
    assert passes_of(REPLAY) == passes_of(STRAIGHT) == []
    assert passes_of(NATIVE) == names[: names.index("choose_kernels")]
    assert passes_of(f"without {NATIVE}") == [name for name in names if name != "choose_kernels"]
    assert passes_of(FULL) == names
    assert passes_of("with layout") == [step.__name__ for step in CHANNELS_LAST]


@pytest.mark.parametrize("row", [REPLAY, STRAIGHT])
def test_without_passes_every_bit_is_the_tape_s(row):
    _, wanted = outputs(load_engine("tape"))
    _, found = outputs(load_switched(CELL, row))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("row", [*WALK, *WITHOUT, *WITH])
def test_every_row_is_right(row):
    found = check(load_switched(CELL, row).prepare(CELL.checked_task()), CELL)
    assert found.verdict == "agrees", found


def test_fused_regions_are_c_only_where_native_code_is_on():
    for row in (*WALK[1:], *WITHOUT, *WITH):
        program, _ = outputs(load_switched(CELL, row))
        before = row in WALK[: WALK.index(NATIVE)]
        assert bool(program.executable.code) == (not before and row != f"without {NATIVE}"), row


def test_what_the_loop_has_read_for_the_last_time_is_freed():
    task = replace(CELL, quantity="forward").task()
    program = load_switched(CELL, REPLAY).prepare(task)
    placed = program.place(task.batch, step_key(0, 0))
    dispatched = []

    class Alive(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **kwargs or {})
            dispatched.append(weakref.ref(out) if isinstance(out, torch.Tensor) else None)
            alive.append(sum(ref is not None and ref() is not None for ref in dispatched))
            return out

    alive: list[int] = []
    with Alive():
        program.run(placed)
    assert len(alive) > 8
    assert max(alive) <= 4


def test_neighbours_of_the_walk_are_paired_and_what_is_left_out_with_the_full_set():
    assert is_step(WALK, STRAIGHT, REPLAY)
    assert is_step(WALK, STRAIGHT, BASE)
    assert not is_step(WALK, NATIVE, REPLAY)
    assert not is_step(WALK, REPLAY, STRAIGHT)
    for other in (f"without {SWITCHES[2]}", *WITH):
        assert is_step(WALK, other, WALK[-1])
        assert not is_step(WALK, other, SWITCHES[2])
        assert not is_step(WALK, NATIVE, other)
    assert is_step(walk("cuda"), CUDA_GRAPH, FULL)


def test_rows_share_one_process_and_have_equally_many_samples():
    chosen = [contender(name) for name in (BASE, REPLAY, FULL, f"without {NATIVE}")]
    with Conductor() as conductor:
        rows = measure_cell(Measuring(conductor, CELL, chosen, BRIEF, lambda _: None))
        pids = {event.pid for event in conductor.log if event.what == "sample"}
    assert len(pids) == 1
    assert {row.status for row in rows.values()} == {"measured"}
    assert len({len(row.samples) for row in rows.values()}) == 1
    assert [ratio["to"] for ratio in rows[REPLAY].ratios] == [BASE]
    assert {ratio["to"] for ratio in rows[f"without {NATIVE}"].ratios} == {BASE, FULL}
    assert rows[FULL].control["engine"] == BASE


def test_what_shares_a_process_is_launched_once_with_the_rounds_of_all_launches():
    effort = replace(BRIEF, launches=(2, 3))
    chosen = [contender(name) for name in (BASE, REPLAY)]
    with Conductor() as conductor:
        rows = measure_cell(Measuring(conductor, CELL, chosen, effort, lambda _: None))
        assert len({event.pid for event in conductor.log if event.what == "sample"}) == 1
    (counted,) = {tuple(row.launches) for row in rows.values()}
    assert len(counted) == 1
    assert 3 * effort.min_rounds <= counted[0] == len(rows[BASE].samples)


def test_guests_of_one_room_are_timed_each_on_its_own():
    cell = Cell("backward", "chain", "loss_and_grad", knobs=(("elements", 4), ("ops", 10)))
    chosen = [Contender(name, loader=LOADER, room="shared") for name in ("right", "3 ms")]
    with Conductor() as conductor:
        rows = measure(Measuring(conductor, cell, chosen, BRIEF, lambda _: None))
    assert min(rows["right"].samples) < 0.003 <= min(rows["3 ms"].samples)
