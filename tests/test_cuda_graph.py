"""A run as a CUDA graph: what is copied, captured again or refused, with a stand-in; and on a GPU if there is one."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, trace, update
from engines.graph.autodiff import differentiate
from engines.graph.compile import compile_loss
from engines.graph.engine import GraphEngine
from engines.graph.lower.aten import Run
from engines.graph.lower.compiler import say_once
from engines.graph.lower.cuda_graph import BOUNDARY_BYTES, MOST_CAPTURES, Captured, Recording, Tensors
from engines.op import kernels_only
from engines.optim import Sgd
from engines.registry import load_workload
from engines.value import EngineError, Spec
from tests.programs import assert_near, spec, tensor

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class Stand:
    """What CUDA does with a capture: nothing runs until a replay, which works on the same tensors each time."""

    def __init__(self, *updated: torch.Tensor) -> None:
        self.updated = updated
        self.warm_ups = self.captures = self.replays = 0

    def on_device(self) -> AbstractContextManager[object]:
        return nullcontext()

    def warm_up(self, act: Callable[[], object]) -> None:
        self.warm_ups += 1
        act()

    def capture(self, act: Callable[[], Tensors]) -> Recording:
        self.captures += 1
        before = [value.clone() for value in self.updated]
        results = act()
        for value, old in zip(self.updated, before, strict=True):
            value.copy_(old)
        for result in results:
            if not any(result is value for value in self.updated):
                result.zero_()

        def replay() -> None:
            self.replays += 1
            for result, found in zip(results, act(), strict=True):
                result.copy_(found)

        return Recording(replay, results, arena_bytes=1000, kept_bytes=100)

    def follow(self) -> None:
        pass


def plain(graph: Graph) -> Run:
    return Executable.build(graph)._run


def loss_of(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"loss": ops.mean(ops.dropout(ops.tanh(s["x"] * s["w"]), s["key"], rate=0.5))}


SPECS = {"w": spec(50), "x": spec(50), "key": spec(dtype=torch.int64)}


def gradients() -> Graph:
    return differentiate(trace(loss_of, SPECS), "loss", ["w"])


def step() -> Graph:
    return update(gradients(), Sgd(lr=0.1, momentum=0.9), ["w"])


def keys(count: int) -> list[torch.Tensor]:
    return [torch.tensor(n * 1234567) for n in range(count)]


def test_steps_replayed_are_steps_taken() -> None:
    """Parameters are updated where they lie, masks differ, and neither warming up nor capturing changes anything."""
    graph = step()
    ours, theirs = ([tensor(50), torch.zeros(50)] for _ in range(2))
    recorder = Stand(*ours)
    captured, run = Captured(plain(graph), graph, {"w"}, recorder), plain(graph)
    with kernels_only():
        for n, key in enumerate(keys(4)):
            x = tensor(50, seed=n)
            found, expected = captured(ours[0], x, key, ours[1]), run(theirs[0], x, key, theirs[1])
            assert_near(found, expected)
            assert found[1] is ours[0]
    assert_near(ours, theirs)
    assert (recorder.captures, recorder.replays) == (1, 4)


def test_results_outlive_the_next_replay_and_inputs_may_be_reused() -> None:
    graph = gradients()
    recorder = Stand()
    captured, run = Captured(plain(graph), graph, {"w"}, recorder), plain(graph)
    w, x, key = tensor(50), tensor(50, seed=1), torch.tensor(5)
    with kernels_only():
        expected = run(w, x, key)
        found = captured(w, x, key)
        x.zero_()
        captured(w, x, key)
    assert_near(found, expected)


def test_what_is_held_is_read_where_it_lies() -> None:
    graph = gradients()
    captured, run = Captured(plain(graph), graph, {"w"}, Stand()), plain(graph)
    w, x, key = tensor(50), tensor(50, seed=1), torch.tensor(5)
    with kernels_only():
        captured(w, x, key)
        w.mul_(2.0)
        assert_near(captured(w, x, key), run(w, x, key))


def test_other_parameters_are_captured_again_and_too_many_are_refused() -> None:
    graph = gradients()
    recorder = Stand()
    captured, run = Captured(plain(graph), graph, {"w"}, recorder), plain(graph)
    x, key = tensor(50, seed=1), torch.tensor(5)
    say_once.cache_clear()
    parameters = [tensor(50, seed=n) for n in range(MOST_CAPTURES + 2)]
    with kernels_only():
        for w in parameters[:MOST_CAPTURES]:
            assert_near(captured(w, x, key), run(w, x, key))
            captured(w, x, key)
        assert recorder.captures == MOST_CAPTURES
        with pytest.warns(RuntimeWarning, match="cannot be captured as a CUDA graph: its parameters lay elsewhere"):
            assert_near(captured(parameters[-1], x, key), run(parameters[-1], x, key))
        assert_near(captured(parameters[0], x, key), run(parameters[0], x, key))
    assert recorder.captures == MOST_CAPTURES


def test_the_same_address_in_another_order_is_another_parameter() -> None:
    graph = trace(lambda ops, s: {"y": ops.matmul(s["w"], s["x"])}, {"w": spec(3, 3), "x": spec(3)})
    recorder = Stand()
    captured = Captured(plain(graph), graph, {"w"}, recorder)
    w, x = tensor(3, 3), tensor(3)
    with kernels_only():
        assert_near(captured(w, x), [w @ x])
        assert_near(captured(w.T, x), [w.T @ x])
    assert recorder.captures == 2


class Unwilling(Stand):
    def capture(self, act: Callable[[], Tensors]) -> Recording:
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might ...")


def test_a_capture_that_fails_is_said_once_and_kernels_are_launched() -> None:
    graph = step()
    run = plain(graph)
    ours, theirs = ([tensor(50), torch.zeros(50)] for _ in range(2))
    say_once.cache_clear()
    captured = Captured(run, graph, {"w"}, Unwilling(*ours))
    x, key = tensor(50, seed=1), torch.tensor(5)
    with kernels_only():
        with pytest.warns(
            RuntimeWarning, match="f cannot be captured .*: operation not permitted .* one by one$"
        ) as said:
            captured(ours[0], x, key, ours[1])
        captured(ours[0], x, key, ours[1])
        for _ in range(2):
            run(theirs[0], x, key, theirs[1])
    assert len(said) == 1
    assert_near(ours, theirs)
    assert captured.refusal == "operation not permitted when stream is capturing"


class Broken(Stand):
    """As torch: what ends a capture that an error broke tells of that error only that there was one."""

    def capture(self, act: Callable[[], Tensors]) -> Recording:
        try:
            raise RuntimeError("a kernel that waits")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_of_a_broken_capture_the_cause_is_told() -> None:
    graph = gradients()
    captured = Captured(plain(graph), graph, {"w"}, Broken())
    with kernels_only(), pytest.warns(RuntimeWarning, match="a kernel that waits: its kernels are launched"):
        captured(tensor(50), tensor(50), torch.tensor(5))
    assert captured.refusal == "a kernel that waits"


def off_a_boundary(*shape: int) -> torch.Tensor:
    return torch.zeros(math.prod(shape) + 1)[1:].view(shape).copy_(tensor(*shape))


def test_kernels_warm_up_on_memory_that_lies_as_what_is_captured() -> None:
    """Triton compiles a kernel apart for what begins off a boundary, which a capture would forbid."""
    graph = step()
    run, seen = plain(graph), []

    def spied(*inputs: torch.Tensor) -> Tensors:
        seen.append([t.data_ptr() for t in inputs])
        return run(*inputs)

    captured = Captured(spied, graph, {"w"}, Stand())
    w, x, momentum = off_a_boundary(50), off_a_boundary(50), torch.zeros(50)
    with kernels_only():
        captured(w, x, torch.tensor(5), momentum)
    *warm_ups, capture, _replay = seen
    assert capture[0] == w.data_ptr()
    assert all(warm_up[0] != w.data_ptr() for warm_up in warm_ups)
    assert capture[1] != x.data_ptr()
    for warm_up in warm_ups:
        assert [at % BOUNDARY_BYTES for at in warm_up] == [at % BOUNDARY_BYTES for at in capture]
    assert [w.data_ptr() % BOUNDARY_BYTES, capture[1] % BOUNDARY_BYTES] == [4, 0]


def test_no_memory_for_an_input_is_a_refusal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_tensor: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("engines.graph.lower.cuda_graph._copy", full)
    graph = gradients()
    captured, w, x, key = Captured(plain(graph), graph, {"w"}, Stand()), tensor(50), tensor(50), torch.tensor(5)
    with kernels_only(), pytest.warns(RuntimeWarning, match="CUDA out of memory"):
        assert_near(captured(w, x, key), plain(graph)(w, x, key))


def test_what_kernels_refuse_is_not_taken_for_a_capture_that_fails() -> None:
    graph = trace(
        lambda ops, s: {"y": ops.nll_loss(s["x"], s["label"])}, {"x": spec(2, 3), "label": spec(2, dtype=torch.int64)}
    )
    recorder = Stand()
    captured = Captured(plain(graph), graph, (), recorder)
    with kernels_only():
        with pytest.raises(IndexError, match="out of bounds"):
            captured(tensor(2, 3), torch.tensor([0, 3]))
        assert captured(tensor(2, 3), torch.tensor([0, 2]))[0].isfinite()
    assert (captured.refusal, recorder.captures) == (None, 1)


def test_its_memory_is_that_of_the_capture_and_of_none_there_is_none() -> None:
    graph = gradients()
    captured = Captured(plain(graph), graph, {"w"}, Stand())
    assert captured.memory() == {"arena_bytes": 0, "arena_kept_bytes": 0}
    with kernels_only():
        captured(tensor(50), tensor(50), torch.tensor(5))
    assert captured.memory() == {"arena_bytes": 1000, "arena_kept_bytes": 100}


def test_an_input_that_is_given_back_is_the_caller_s_own() -> None:
    graph = trace(lambda ops, s: {"x": s["x"], "y": ops.tanh(s["x"])}, {"x": spec(3)})
    captured = Captured(plain(graph), graph, (), Stand())
    x = tensor(3)
    with kernels_only():
        assert captured(x)[0] is x


def test_branches_are_not_captured() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": ops.cond(ops.sum(s["x"]) > 0.0, ops.exp, ops.tanh, s["x"])}

    graph = trace(model, {"x": spec(3)})
    recorder = Stand()
    say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"cond waits for a value .* at test_cuda_graph\.py:\d+"):
        captured = Captured(plain(graph), graph, (), recorder)
    with kernels_only():
        assert_near(captured(tensor(3)), Executable.build(graph)(tensor(3)))
    assert recorder.warm_ups == 0


def test_two_threads_take_turns() -> None:
    graph = gradients()
    captured, run = Captured(plain(graph), graph, {"w"}, Stand()), plain(graph)
    w, key = tensor(50), torch.tensor(5)
    xs = [tensor(50, seed=n) for n in range(2)]
    with kernels_only():
        expected = [run(w, x, key)[0] for x in xs]
    wrong: list[int] = []

    def work(number: int) -> None:
        with kernels_only():
            wrong.extend(n for n in range(100) if not torch.equal(captured(w, xs[number], key)[0], expected[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_on_a_processor_nothing_is_captured() -> None:
    executable = Executable.build(gradients())
    assert executable.as_cuda_graph(held={"w"}) is executable
    executable.prepare(tensor(50), tensor(50), torch.tensor(1))
    assert executable._captured is None


# On a GPU


def on_gpu(value: Spec) -> Spec:
    return value._replace(device="cuda:0")


@needs_cuda
@pytest.mark.parametrize("passes", [(), PIPELINE])
def test_training_on_a_gpu_is_the_same_captured_or_not(passes: Any) -> None:
    def loss(ops: Any, parameters: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
        return loss_of(ops, {**parameters, **batch, "key": key})["loss"]

    parameters, batch = {"w": on_gpu(SPECS["w"])}, {"x": on_gpu(SPECS["x"])}
    states: list[list[torch.Tensor]] = []
    for capture in (False, True):
        executable = compile_loss(
            loss,
            parameters,
            batch,
            on_gpu(SPECS["key"]),
            quantity="step",
            optimizer=Sgd(lr=0.1, momentum=0.9),
            passes=passes,
        )
        if capture:
            executable.as_cuda_graph(held=parameters)
        w, v = tensor(50).cuda(), torch.zeros(50, device="cuda:0")
        losses = [executable(w, tensor(50, seed=n).cuda(), key.cuda(), v)[0] for n, key in enumerate(keys(4))]
        if capture:
            assert executable._captured is not None
            assert executable._captured.refusal is None
        states.append([w, v, *losses])
    assert_near(*states)


@needs_cuda
def test_a_capture_keeps_what_plain_launches_take_anew() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": ops.matmul(ops.matmul(s["x"], s["x"]), s["x"])}

    size = 1 << 20
    executable = Executable.build(trace(model, {"x": on_gpu(spec(512, 512))})).as_cuda_graph()
    executable(torch.ones(512, 512, device="cuda:0"))
    counters = executable.counters()
    assert counters["arena_kept_bytes"] == size
    assert 2 * size <= counters["arena_bytes"] <= 2 * size + (64 << 20)  # a library's scratch space may be in it


@needs_cuda
def test_a_task_with_a_branch_is_launched_kernel_by_kernel_and_says_so_by_a_count_alone() -> None:
    for workload, captured in (("many_paths", 0), ("cnn", 1)):
        task = load_workload(workload).task("loss_and_grad", 4)
        program = GraphEngine().prepare(replace(task, device="cuda"))
        program.run(program.place(task.batch, 7))
        assert program.counters["cuda_graphs"] == captured


@needs_cuda
def test_a_wrong_input_on_a_gpu_is_refused_before_anything_is_captured() -> None:
    graph = trace(lambda ops, s: {"y": ops.tanh(s["x"])}, {"x": on_gpu(spec(3))})
    with pytest.raises(EngineError, match="is compiled for"):
        Executable.build(graph).as_cuda_graph()(tensor(3))
