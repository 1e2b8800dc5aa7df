"""From a loss to executables: what each quantity gives, and one executable per set of shapes and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import PIPELINE, Compiled, Executable, compile_loss, verify
from engines.graph.fused import inline
from engines.optim import Sgd
from engines.value import EngineError, Spec
from tests.programs import KEY, array, assert_near, assert_same_bits, on_graph, on_tape, random_program, spec, tensor


def loss(ops: Any, parameters: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
    x = ops.dropout(batch["x"], key, rate=0.5)
    return ops.mean((x @ parameters["w"] - batch["y"]) ** 2.0)


def data(rows: int = 4, dtype: Any = np.float32) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    parameters = {"w": tensor(3, 2, seed=1, dtype=dtype)}
    return parameters, {"x": tensor(rows, 3, seed=2, dtype=dtype), "y": tensor(rows, 2, seed=3, dtype=dtype)}


def by_torch(parameters: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The loss without dropout, and its gradient."""
    w = parameters["w"].clone().requires_grad_()
    value = ((batch["x"] @ w - batch["y"]) ** 2.0).mean()
    value.backward()
    assert w.grad is not None
    return [value.detach(), w.grad]


# Quantities


def test_forward_gives_the_loss() -> None:
    parameters, batch = data()
    found = Compiled(loss, quantity="forward")(parameters, batch, None)
    assert list(found) == ["loss"]
    torch.testing.assert_close(found["loss"], by_torch(parameters, batch)[0])


def test_loss_and_grad_gives_gradients_by_name() -> None:
    parameters, batch = data()
    found = Compiled(loss)(parameters, batch, None)
    assert list(found) == ["loss", "grad.w"]
    torch.testing.assert_close(list(found.values()), by_torch(parameters, batch))


def test_a_step_updates_parameters_and_velocities_in_place() -> None:
    parameters, batch = data()
    state = {"w.velocity": torch.full((3, 2), 2.0)}
    before, (expected, gradient) = parameters["w"].clone(), by_torch(parameters, batch)
    step = Compiled(loss, quantity="step", optimizer=Sgd(lr=0.5, momentum=0.25))
    found = step({**parameters, **state}, batch, None)
    assert list(found) == ["loss", "w", "w.velocity"]
    torch.testing.assert_close(found["loss"], expected)
    assert found["w"].data_ptr() == parameters["w"].data_ptr()
    torch.testing.assert_close(state["w.velocity"], 0.5 + gradient)
    torch.testing.assert_close(parameters["w"], before - 0.5 * (0.5 + gradient))


def test_a_key_gives_the_same_mask_again_and_another_key_another_one() -> None:
    parameters, batch = data(rows=50)
    compiled = Compiled(loss)
    first, again, other = (compiled(parameters, batch, key) for key in (KEY, KEY.clone(), KEY + 1))
    assert_same_bits(list(first.values()), list(again.values()))
    assert not torch.equal(first["loss"], other["loss"])
    assert len(compiled.executables) == 1


@pytest.mark.parametrize("seed", range(15))
def test_the_whole_pipeline_keeps_every_bit_of_the_tape_on_kernels_and_is_near_in_c(seed: int) -> None:
    program = random_program(seed + 500, length=15)
    executable = on_graph(program, passes=PIPELINE)
    assert_same_bits(Executable.build(inline(executable.graph))(*program.inputs()), on_tape(program))
    assert_near(executable(*program.inputs()), on_tape(program))


@pytest.mark.parametrize("quantity", ["forward", "loss_and_grad", "step"])
def test_what_is_compiled_verifies(quantity: Any) -> None:
    specs = {"w": spec(3, 2)}, {"x": spec(4, 3), "y": spec(4, 2)}, Spec.of(KEY)
    phases: dict[str, float] = {}
    executable = compile_loss(loss, *specs, quantity=quantity, optimizer=Sgd(lr=0.5), phases=phases)
    verify(executable.graph)
    added = {"forward": [], "loss_and_grad": ["autodiff"], "step": ["autodiff", "update"]}[quantity]
    assert list(phases) == ["trace", *added, *(step.__name__ for step in PIPELINE), "lower"]
    assert all(seconds >= 0.0 for seconds in phases.values())


# The cache


def test_one_executable_per_set_of_shapes_and_dtypes() -> None:
    compiled = Compiled(loss)
    counts = []
    for rows, dtype in ((4, np.float32), (4, np.float32), (5, np.float32), (4, np.float64), (5, np.float32)):
        parameters, batch = data(rows, dtype)
        found = compiled(parameters, batch, None)
        torch.testing.assert_close(list(found.values()), by_torch(parameters, batch))
        counts.append(len(compiled.executables))
    assert counts == [1, 1, 2, 3, 3]


def test_with_and_without_a_key_are_two_executables() -> None:
    parameters, batch = data()
    compiled = Compiled(loss)
    without, with_key = compiled(parameters, batch, None), compiled(parameters, batch, KEY)
    assert len(compiled.executables) == 2
    assert not torch.equal(without["loss"], with_key["loss"])


def test_the_model_runs_once_per_executable() -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return loss(*arguments)

    compiled = Compiled(counted)
    for rows in (4, 4, 5, 5, 4):
        compiled(*data(rows), None)
    assert len(calls) == 2


# Refusals


def test_a_step_needs_an_optimizer() -> None:
    with pytest.raises(EngineError, match="quantity 'step' needs an optimizer, found None"):
        Compiled(loss, quantity="step")(*data(), None)


@pytest.mark.parametrize(
    ("parameters", "batch", "key"),
    [({"w": 0, "x": 0}, {"x": 0}, False), ({"key": 0}, {"x": 0}, True), ({"w": 0}, {"key": 0}, True)],
)
def test_a_name_is_given_once(parameters: dict[str, Any], batch: dict[str, Any], key: bool) -> None:
    specs = dict.fromkeys(parameters, spec(3)), dict.fromkeys(batch, spec(3)), spec() if key else None
    with pytest.raises(EngineError, match=r"names of parameters \[.*\] and batch \[.*\] clash"):
        compile_loss(loss, *specs)


def test_a_parameter_named_as_an_output_is_refused() -> None:
    def same(ops: Any, parameters: Any, _batch: Any, _key: Any) -> Any:
        return ops.sum(parameters["loss"])

    with pytest.raises(EngineError, match="the name 'loss' of a parameter or its velocity is taken"):
        compile_loss(same, {"loss": spec(3)}, {}, None, quantity="step", optimizer=Sgd(lr=0.5))


def test_a_step_without_velocities_says_so() -> None:
    step = Compiled(loss, quantity="step", optimizer=Sgd(lr=0.5))
    with pytest.raises(EngineError, match=r"input 'w\.velocity' is missing"):
        step(*data(), None)


def test_an_integer_parameter_is_refused_as_on_the_tape() -> None:
    with pytest.raises(EngineError, match=r"needs a float dtype, found i64\[3\]"):
        compile_loss(lambda ops, p, b, k: ops.sum(p["w"] * array(3)), {"w": spec(3, dtype=torch.int64)}, {}, None)
