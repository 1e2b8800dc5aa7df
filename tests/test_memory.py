"""Memory of one call: what is counted, what moves it and by how much, and what is said where a figure is missing."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, replace

import pytest
import torch

from engines.engine import Outputs
from engines.graph.engine import GraphEngine
from engines.graph.passes import PIPELINE
from engines.graph.passes.fuse import fuse
from engines.graph.passes.pool import pool
from engines.ops.random import step_key
from engines.registry import load_engine, load_workload
from engines.tape.engine import TapeEngine
from suites.harness import memory
from suites.harness.allocator import Event, follow, thinned, traced
from suites.harness.cell import Cell
from suites.harness.conductor import Conductor
from suites.harness.contender import Contender, everyone
from suites.harness.effort import EFFORTS
from suites.harness.liveness import KernelCall, Recorder, lower_bound_bytes
from suites.harness.measure import Measuring, measure

IMAGES = Cell("memory", "lenet5", "step", 8)
MIB = 1 << 20


def chain(ops: int) -> Cell:
    return Cell("memory", "chain", "step", knobs=(("elements", 4), ("ops", ops)))


def touched(bytes_: int) -> torch.Tensor:
    return torch.empty(bytes_, dtype=torch.uint8).fill_(1)


class Altered:
    """The tape with something done around each run."""

    name, style = "altered", "dynamic"

    def __init__(self, around):
        self._around = around

    def prepare(self, task):
        program = TapeEngine().prepare(task)
        run = program.run
        program.run = lambda placed: self._around(lambda: run(placed))
        return program


@pytest.fixture(scope="module")
def of_images():
    """The memory of every engine on LeNet-5."""
    return {name: memory.memory_of(load_engine(name), IMAGES) for name in everyone("cpu", slow=False)}


# What moves the high-water mark


def test_the_heap_s_mark_moves_by_the_size_of_a_tensor_allocated_and_freed_inside_the_call():
    def peak(bytes_more):
        def call():
            kept = touched(8 * MIB)
            more = touched(bytes_more)
            del more, kept

        return memory.heap_of(call).peak_bytes

    # Both sizes are above 256, up to which Python keeps one object for all equal numbers, also those in saved shapes.
    small, large = peak(MIB), peak(65 * MIB)
    assert large - small == pytest.approx(64 * MIB, rel=0.01)
    assert small == pytest.approx(9 * MIB, rel=0.05)


def test_peak_and_curve_move_by_the_size_of_a_tensor_that_lives_inside_a_step(of_images):
    def around(run):
        more = touched(16 * MIB)
        outputs = run()
        del more
        return outputs

    plain, more = of_images["tape"], memory.memory_of(Altered(around), IMAGES)
    assert more.peak_bytes - plain.peak_bytes == pytest.approx(16 * MIB, rel=0.01)
    assert highest(more.curve) - highest(plain.curve) == pytest.approx(16 * MIB, rel=0.01)
    assert more.allocations == plain.allocations + 1
    assert more.allocated_bytes == plain.allocated_bytes + 16 * MIB
    assert more.live_bytes_before == pytest.approx(plain.live_bytes_before, abs=4096)


def test_a_tensor_freed_before_the_next_one_comes_does_not_add_up():
    def call():
        for _ in range(4):
            touched(8 * MIB)

    assert memory.heap_of(call).peak_bytes == pytest.approx(8 * MIB, rel=0.05)
    trace, _ = traced(call, "cpu")
    assert (trace.peak_bytes, trace.allocations, trace.allocated_bytes) == (8 * MIB, 4, 32 * MIB)
    assert trace.live_bytes[-1] == 0


def test_what_a_call_leaves_behind_is_held():
    heap = memory.heap_of(lambda: touched(8 * MIB))
    assert heap.held_bytes == pytest.approx(8 * MIB, rel=0.01)


# The curve


def highest(curve) -> int:
    return max(level for _, level in curve)


def level_at(curve, position) -> int:
    return max(point for point in curve if point[0] <= position)[1]


def halfway_back(found) -> int:
    """Live bytes where half of the backward pass has run."""
    return level_at(found.curve, (found.backward_from + found.curve[-1][0]) // 2)


def late_in_backward(found) -> float:
    """Mean live bytes over the second half of the backward pass, event by event."""
    end = found.curve[-1][0]
    events = range((found.backward_from + end) // 2, end)
    return sum(level_at(found.curve, event) for event in events) / len(events)


@pytest.fixture
def freeing_and_retaining(monkeypatch):
    """The memory of the tape as it is, and of one that frees nothing on the way back."""

    def measure(cell):
        freeing = memory.memory_of(TapeEngine(), cell)
        with monkeypatch.context() as patch:
            patch.setattr("engines.tape.engine.THROWN_AWAY", None)
            return freeing, memory.memory_of(TapeEngine(), cell)

    return measure


def test_where_half_of_a_chain_s_backward_has_run_the_tape_holds_half(freeing_and_retaining):
    cell = Cell("memory", "chain", "loss_and_grad", knobs=(("elements", 10_000), ("ops", 50)))
    freeing, retaining = freeing_and_retaining(cell)
    assert halfway_back(freeing) == pytest.approx(highest(freeing.curve) / 2, rel=0.15)
    assert halfway_back(retaining) > 0.9 * highest(retaining.curve)


def test_late_in_the_backward_pass_the_tape_has_freed_activations(freeing_and_retaining):
    freeing, retaining = freeing_and_retaining(replace(IMAGES, quantity="loss_and_grad", batch_size=64))
    forward = level_at(freeing.curve, freeing.backward_from)
    assert forward == level_at(retaining.curve, retaining.backward_from)
    assert late_in_backward(retaining) - late_in_backward(freeing) > 0.25 * forward
    assert late_in_backward(freeing) < 0.8 * highest(freeing.curve)
    numbers = sum(value.size for value in load_workload("lenet5").task("loss_and_grad", 1).parameters.values())
    assert freeing.curve[-1][1] == 4 * (numbers + 1)  # gradients and the loss, in float32


def test_the_curve_s_maximum_is_what_the_real_allocator_saw_less_what_is_not_a_tensor(of_images):
    kernels = GraphEngine(passes=tuple(step for step in PIPELINE if step not in {pool, fuse}))
    on_kernels = {**of_images, "graph": memory.memory_of(kernels, IMAGES)}  # C takes its scratch by itself
    for name, found in on_kernels.items():
        assert highest(found.curve) <= found.peak_bytes, name
        assert highest(found.curve) == pytest.approx(found.peak_bytes, rel=0.15), name


def test_scratch_that_generated_c_takes_is_in_the_peak_and_not_on_the_curve(of_images):
    with_c = of_images["graph"]
    assert with_c.lower_bound_bytes <= highest(with_c.curve) < with_c.peak_bytes


def test_events_are_followed_by_address_and_what_was_there_before_is_set_apart():
    trace = follow([Event(1, 100), Event(2, 50), Event(9, -30), Event(1, -100), Event(1, 60), Event(2, -50)])
    assert trace.live_bytes == (0, 100, 150, 50, 110, 60)
    assert (trace.peak_bytes, trace.allocations, trace.allocated_bytes, trace.released_bytes) == (150, 3, 210, 30)


@pytest.mark.parametrize("count", [1, 499, 500, 501, 2000, 100_003])
def test_a_thinned_curve_keeps_its_ends_and_its_extremes(count):
    levels = [(i * 7919) % 10_007 for i in range(count)]
    levels[count // 3] = 20_000
    curve = thinned(levels)
    assert len(curve) <= 502
    assert curve[0] == (0, levels[0])
    assert curve[-1] == (count - 1, levels[-1])
    assert highest(curve) == 20_000
    assert list(curve) == sorted(curve)
    assert all(levels[position] == level for position, level in curve)


# The lower bound


def kernel(reads, writes) -> KernelCall:
    return KernelCall("kernel", frozenset(reads), frozenset(writes))


def test_the_lower_bound_of_a_hand_made_sequence_is_the_figure_found_by_hand():
    # 0 was there before. Alive at each call: 1 | 1 2 | 2 3 | 2 3 4 | 4 5
    calls = [kernel({0}, {1}), kernel({1}, {2}), kernel({2}, {3}), kernel({2, 3}, {4}), kernel({0, 4}, {5})]
    sizes = {1: 100, 2: 30, 3: 60, 4: 20, 5: 70}
    assert lower_bound_bytes(calls, sizes, kept={5}) == 100 + 30
    assert lower_bound_bytes(calls, sizes, kept={1, 5}) == 100 + 30 + 60 + 20
    assert lower_bound_bytes(calls, {**sizes, 3: 90}, kept={5}) == 30 + 90 + 20
    assert lower_bound_bytes(calls, sizes, kept=set(sizes)) == 280


def test_a_value_overwritten_in_place_counts_once_and_lives_on():
    calls = [kernel({0}, {1}), kernel({1}, {1}), kernel({0}, {2}), kernel({1, 2}, {3})]
    assert lower_bound_bytes(calls, {1: 10, 2: 10, 3: 1}, kept={3}) == 21


@pytest.mark.parametrize("guard", [torch.inference_mode, torch.no_grad])
def test_the_lower_bound_of_real_kernels_knows_views_and_last_reads_and_what_was_there(guard):
    before = torch.ones(25, 4)  # 400 bytes

    def call():
        doubled = before * 2  # 400
        turned = doubled.t()  # a view
        more = torch.cat([turned, turned], dim=1)  # 800, with `doubled` 1200; the last read of `doubled`
        total = more.sum()  # 4, with `more` 804
        before.add_(1)
        wide = total.new_zeros(250)  # 1000, with `total` 1004
        again = wide + total  # 1000, with `wide` and `total` 2004
        more.reshape(200)  # a view reads nothing
        return again, doubled, turned

    with guard(), Recorder("cpu") as recorder:
        again, doubled, turned = call()
        del doubled, turned
    assert recorder.lower_bound_bytes() == 2004
    with guard(), Recorder("cpu") as recorder:
        kept = call()
    assert recorder.lower_bound_bytes() == 2404  # `doubled` is held to the end
    del again, kept


def test_no_engine_goes_below_the_lower_bound_and_the_same_kernels_have_the_same_one(of_images):
    for name, found in of_images.items():
        assert 0 < found.lower_bound_bytes <= highest(found.curve) <= found.peak_bytes, name
    tape, replay = of_images["tape"], of_images["graph_replay"]
    assert tape.lower_bound_bytes == replay.lower_bound_bytes


# Counts


@pytest.mark.parametrize("name", everyone("cpu", slow=False))
def test_two_calls_take_equally_many_blocks(name):
    task = IMAGES.task()
    program = load_engine(name).prepare(task)
    placed = program.place(task.batch, step_key(0, 0))
    for _ in range(3):
        program.run(placed)
    first, second = (traced(lambda: program.run(placed), "cpu")[0] for _ in range(2))
    assert first.allocations > 0
    assert (first.allocations, first.allocated_bytes) == (second.allocations, second.allocated_bytes)
    assert first.live_bytes == second.live_bytes


def test_calls_that_differ_have_no_count_and_the_note_says_what_was_seen():
    calls = []

    def around(run):
        calls.append(touched(64 * len(calls) + 64))
        return run()

    found = memory.memory_of(Altered(around), chain(4))
    assert found.allocated_bytes is None
    assert "calls differ: " in found.notes["allocated_bytes"]
    assert found.allocations is not None


def test_what_is_held_before_is_parameters_batch_and_state_and_the_gradients_of_the_step_before(of_images):
    task = IMAGES.task()
    parameters = sum(array.nbytes for array in task.parameters.values())
    batch = sum(array.nbytes for array in task.batch.values())
    held = 2 * parameters + batch  # as many velocities
    assert of_images["graph_replay"].live_bytes_before == held
    assert of_images["graph_replay"].released_bytes == 0
    eager = of_images["torch_eager"]
    assert eager.released_bytes == parameters
    assert eager.live_bytes_before == held + parameters


# The record


@pytest.mark.parametrize("name", ["tape", "graph", "torch_eager"])
def test_record_bytes_grow_linearly_with_the_ops_of_a_chain(name):
    small, middle, large = (memory.memory_of(load_engine(name), chain(ops)).record_bytes for ops in (100, 300, 500))
    assert middle > 2 * small
    assert large - middle == pytest.approx(middle - small, rel=0.1)


def test_the_tape_s_record_is_its_entries_and_torch_s_descriptors_of_what_they_save():
    task = chain(200).task()
    program = TapeEngine().prepare(task)
    tape = program.record(program.place(task.batch, 0))
    entries = [entry for entry in tape.entries if type(entry) is tuple and len(entry) > 1]
    saved = [value for entry in entries for value in entry[0].kept(entry)]
    tensors = {id(value): value for value in saved if isinstance(value, torch.Tensor)}
    objects = sum(map(sys.getsizeof, (tape.entries, *entries, *tensors.values())))
    found = memory.memory_of(TapeEngine(), chain(200))
    assert objects < found.record_bytes < objects + 600 * len(tensors)
    assert found.record_entries == len(tape.entries)


def test_a_record_does_not_count_the_elements_of_what_it_saves():
    small, large = (replace(chain(50), knobs=(("elements", elements), ("ops", 50))) for elements in (300, 100_000))
    few, many = (memory.memory_of(TapeEngine(), cell) for cell in (small, large))
    assert many.peak_bytes > 100 * few.peak_bytes
    assert many.record_bytes == pytest.approx(few.record_bytes, rel=0.05)


# What is missing, and the door


def test_every_missing_figure_has_its_reason(of_images):
    forward = memory.memory_of(load_engine("tape"), replace(IMAGES, quantity="forward"))
    for found in (*of_images.values(), forward):
        missing = {field.name for field in fields(found) if getattr(found, field.name) is None}
        assert missing <= set(found.notes)
    assert forward.notes["record_bytes"] == "a forward pass keeps no record"
    assert forward.peak_bytes < of_images["tape"].peak_bytes


def test_an_engine_that_runs_no_kernel_of_torch_has_no_curve_and_says_why():
    class Foreign(Altered):
        def prepare(self, task):
            program = super().prepare(task)
            loss = torch.ones(())
            program.run = lambda _: Outputs(loss, {})
            return program

    found = memory.memory_of(Foreign(None), chain(4))
    assert found.curve is found.allocations is found.lower_bound_bytes is None
    assert "torch's allocator" in found.notes["curve"]
    assert "no kernel of torch" in found.notes["lower_bound_bytes"]


def test_a_memory_row_is_measured_in_a_fresh_process_and_stored_as_plain_data(of_images):
    with Conductor() as conductor:
        rows = measure(Measuring(conductor, IMAGES, [Contender("tape")], EFFORTS["quick"], lambda _: None))
        pids = {event.pid for event in conductor.log if event.what == "memory"}
    found, here = rows["tape"], of_images["tape"]
    assert len(pids - {os.getpid()}) == 1
    assert (found.style, len(found.samples)) == ("dynamic", memory.CALLS)
    assert found.memory["peak_bytes"] == pytest.approx(here.peak_bytes, rel=0.02)
    assert [tuple(point) for point in found.memory["curve"]] == list(here.curve)
    assert found.memory["allocations"] == here.allocations
    assert json.loads(json.dumps(found.memory)) == found.memory


def test_of_graphs_that_torch_captured_the_pools_are_the_arena(monkeypatch):
    segments = [
        {"segment_pool_id": pool, "total_size": size, "allocated_size": used}
        for pool, size, used in (((0, 0), 100, 90), ((0, 1), 20, 7), ((2, 0), 4, 4))
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert memory._arena({}, "cuda:0") == (24, 11, True, True)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments[:1])
    assert memory._arena({}, "cuda:0") == (0, 0, False, False)
    own = {"arena_bytes": 50, "arena_kept_bytes": 5, "cuda_graphs": 1}  # who keeps an account is believed
    assert memory._arena(own, "cuda:0") == (50, 5, True, False)
    assert memory._arena({"arena_bytes": 50}, "cpu") == (50, 50, False, False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_gpu_the_peak_is_the_caching_allocator_s_and_its_events_agree():
    cell = replace(IMAGES, device="cuda")

    def around(run):
        more = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
        outputs = run()
        del more
        return outputs

    plain, more = memory.memory_of(TapeEngine(), cell), memory.memory_of(Altered(around), cell)
    assert "CUDA" in plain.method
    assert more.peak_bytes - plain.peak_bytes == pytest.approx(64 * MIB, rel=0.01)
    assert highest(more.curve) - highest(plain.curve) == pytest.approx(64 * MIB, rel=0.01)
    assert plain.lower_bound_bytes <= plain.peak_bytes <= plain.reserved_bytes
    assert plain.peak_bytes == pytest.approx(highest(plain.curve), rel=0.01)
    eager = memory.memory_of(load_engine("torch_eager"), cell)
    assert eager.peak_bytes == pytest.approx(highest(eager.curve), rel=0.01)
