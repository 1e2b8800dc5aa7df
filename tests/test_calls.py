"""Calling executables: from two threads at once, and ten thousand times."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from engines.graph import PIPELINE, Executable, differentiate, trace
from engines.graph.compile import run_passes
from engines.graph.engine import GraphEngine
from engines.graph.fused import inline
from engines.graph.passes import fuse
from engines.ops.random import step_key
from engines.value import EngineError
from suites.workloads import load_workload
from tests.programs import assert_near, spec, tensor, traced

LOWERINGS: Mapping[str, Callable[[Any], Any]] = {"kernels": inline, "C": lambda graph: graph}

CALLS, ROUNDS = 10_000, 3

LEAK_BYTES = 64
"""Of a call: less than any object that could be left behind."""

# Threads


def prepared(lowering: str) -> Executable:
    """Loss and gradients of a network with convolutions, dropout and a row of losses."""
    task = load_workload("lenet5").task("loss_and_grad", 4)
    graph = GraphEngine("optimised", passes=PIPELINE).prepare(task).executable.graph
    return Executable.build(LOWERINGS[lowering](graph))


def inputs(executable: Executable, seed: int) -> list[torch.Tensor]:
    """Parameters and a batch of this seed."""
    task = load_workload("lenet5").task("loss_and_grad", 4, seed=seed)
    given = {**task.parameters, **task.batch, "key": np.asarray(step_key(seed, 0))}
    return [torch.tensor(given[name]) for name in executable.graph.inputs]


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("count", [1, 2], ids=["one executable", "two executables"])
def test_calls_from_two_threads_do_not_disturb_each_other(count: int, lowering: str) -> None:
    executables = [prepared(lowering) for _ in range(count)] * (3 - count)
    given = [inputs(executable, seed) for seed, executable in enumerate(executables)]
    expected = [executable(*each) for executable, each in zip(executables, given, strict=True)]
    found: list[list[Sequence[torch.Tensor]]] = [[], []]
    start = threading.Barrier(2)

    def work(number: int) -> None:
        start.wait()
        for _ in range(40):
            found[number].append(executables[number](*given[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 40
        for outputs in results:
            assert_near(outputs, wanted)
    assert not torch.allclose(expected[0][0], expected[1][0], rtol=1e-3)  # or a mix-up would not show


# Leaks


def young_tensors() -> int:
    """Tensors that live and were made after the last `gc.freeze`, whatever other tests of this process let go of."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def check_nothing_is_left(call: Callable[[], object]) -> None:
    """No tensor, and no memory: a leak would show in every round, an allocator's whim in one."""
    for _ in range(CALLS // 10):
        call()
    grown = []
    gc.collect()
    gc.freeze()
    try:
        for _ in range(ROUNDS):
            before = psutil.Process().memory_info().rss
            for _ in range(CALLS):
                call()
            assert young_tensors() == 0
            grown.append(psutil.Process().memory_info().rss - before)
            if grown[-1] < LEAK_BYTES * CALLS:
                return
    finally:
        gc.unfreeze()
    pytest.fail(f"{CALLS} calls leave {grown} bytes behind, round by round")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Kernels on one thread: on a busy machine two wait for each other ten thousand times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_ten_thousand_calls_leave_nothing_behind(lowering: str, one_thread: None) -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        x = ops.dropout(ops.relu(ops.linear(s["x"], s["w"], s["b"])), s["key"], rate=0.5)
        return {"loss": ops.cross_entropy(ops.tanh(x) * 0.5, s["label"])}

    integers = spec(3, dtype=torch.int64)
    specs = {"w": spec(5, 4), "b": spec(5), "x": spec(3, 4), "label": integers, "key": integers._replace(shape=())}
    graph = run_passes(differentiate(trace(model, specs), "loss", ["w", "b"]), PIPELINE, {})
    executable = Executable.build(LOWERINGS[lowering](graph))
    given = [tensor(5, 4), tensor(5), tensor(3, 4), torch.tensor([4, 0, 1]), torch.tensor(7)]
    check_nothing_is_left(lambda: executable(*given))


def test_ten_thousand_refused_calls_leave_nothing_behind(one_thread: None) -> None:
    rows = fuse(traced(lambda ops, x, y: ops.tanh(ops.embedding(x, y)) * 2.0, spec(3, 2), spec(2, dtype=torch.int64)))
    executable = Executable.build(rows)
    wrong = [(tensor(3, 2), torch.tensor([0, 3])), (tensor(3, 1), torch.tensor([0, 0]))]

    def call() -> None:
        for given in wrong:
            with pytest.raises(EngineError, match=r"embedding|compiled for"):
                executable(*given)

    check_nothing_is_left(call)
