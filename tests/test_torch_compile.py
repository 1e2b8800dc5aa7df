"""torch.compile as a peer: the same numbers as eager mode, compiled anew for each program, or said not to be there."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from engines.engine import Quantity, Task
from engines.ops.random import step_key
from engines.optim import Sgd
from engines.peers.torch_compile import TorchCompile, reduce_overhead
from engines.peers.torch_eager import TorchEager
from engines.value import UnavailableError
from suites.harness.worker import refusal

QUANTITIES: tuple[Quantity, ...] = ("forward", "loss_and_grad", "step")


def loss(ops, params, batch, key):
    return ops.mean(ops.dropout(ops.tanh(ops.matmul(batch["x"], params["w"])), key, rate=0.5, stream=3))


def other_loss(ops, params, batch, key):
    return ops.sum(ops.exp(params["w"]) * 3.0)


def task(quantity: Quantity, text=loss, device="cpu") -> Task:
    rng = np.random.default_rng(0)
    w, x = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 5), (4, 3)))
    return Task(text, {"w": w}, {"x": x}, quantity, device, optimizer=Sgd(lr=0.1, momentum=0.5))


ON_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize(
    ("make", "device", "counters"),
    [
        (TorchCompile, "cpu", {}),
        pytest.param(TorchCompile, "cuda", {}, marks=ON_CUDA),
        pytest.param(reduce_overhead, "cuda", {"uncaptured": 0}, marks=ON_CUDA),
    ],
)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_its_numbers_and_masks_are_those_of_eager_mode_step_after_step(quantity, make, device, counters):
    compiled, eager = (engine.prepare(task(quantity, device=device)) for engine in (make(), TorchEager()))
    assert compiled.counters == {"graphs": 1, "graph_breaks": 0, **counters}
    for step in range(3):
        found, wanted = (
            program.run(program.place(task(quantity).batch, step_key(0, step))) for program in (compiled, eager)
        )
        torch.testing.assert_close(found.loss, wanted.loss)
        assert found.gradients.keys() == wanted.gradients.keys()
        for name, gradient in wanted.gradients.items():
            torch.testing.assert_close(found.gradients[name], gradient)
        torch.testing.assert_close(compiled.parameters["w"], eager.parameters["w"])


def test_getting_ready_compiles_both_passes_and_moves_no_parameter():
    program = TorchCompile().prepare(task("step"))
    assert list(program.phases) == [
        *("start compiler", "place", "make optimizer", "compile forward", "compile backward"),
    ]
    np.testing.assert_array_equal(program.parameters["w"].detach().numpy(), task("step").parameters["w"])
    assert program.parameters["w"].grad is None


def test_the_mode_that_replays_captures_while_it_gets_ready():
    program = reduce_overhead().prepare(task("loss_and_grad"))
    assert list(program.phases)[-2:] == ["capture forward", "capture backward"]
    assert program.counters["graphs"] == 1


@pytest.mark.parametrize(("make", "static"), [(TorchCompile, "[]"), (reduce_overhead, "[1]")])
def test_where_graphs_are_replayed_parameters_are_taken_to_stay_where_they_are(make, static, tmp_path, monkeypatch):
    """As the nn.Parameters of a module would be: of anything else a replay begins with a copy."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    told: list[str] = []
    log = torch._logging.getArtifactLogger("torch._inductor.compile_fx", "cudagraph_static_inputs")
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", lambda record: told.append(record.getMessage()))
    torch._logging.set_logs(cudagraph_static_inputs=True)
    log.addHandler(listener)
    try:
        make().prepare(task("forward"))
    finally:
        log.removeHandler(listener)
        torch._logging.set_logs()
    assert told == [f"static input idxs compile_fx_inner: {static}"]  # x is the first input, w the second


def test_each_program_of_a_process_is_compiled_anew():
    assert [TorchCompile().prepare(task("loss_and_grad")).counters["graphs"] for _ in range(3)] == [1, 1, 1]


def test_without_a_c_compiler_it_is_not_available_and_its_row_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler++",)}),
        pytest.raises(UnavailableError, match="found no C") as caught,
    ):
        TorchCompile().prepare(task("loss_and_grad", other_loss))
    assert refusal(caught.value) == ("skipped", "torch_compile: inductor found no C++ compiler")
