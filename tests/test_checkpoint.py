"""Checkpoints: the same gradients to the bit, with nothing kept from inside the part, on every engine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from engines.engine import Task
from engines.ops import CONTROL
from engines.ops.random import step_key
from engines.registry import load_engine
from engines.tape import Tape
from engines.value import EngineError
from suites.harness.contender import everyone
from tests.programs import KEY, array, assert_same_bits, at

Model = Callable[[Any, Any, Mapping[str, Any], Any], Any]
"""A model of (ops, mark, parameters, x), where `mark` marks a part or, for comparison, just runs it."""


def given(ops: Any, mark: Any, p: Mapping[str, Any], x: Any) -> Any:
    """All that the part reads is handed to it."""
    return ops.sum(mark(lambda x, w, b: ops.tanh(ops.linear(x, w, b)) * x, x, p["w"], p["b"]) * p["w"][0])


def captured(ops: Any, mark: Any, p: Mapping[str, Any], x: Any) -> Any:
    """Parameters are captured; the same ones are used before, inside and after."""
    x = ops.tanh(ops.linear(x, p["w"], p["b"]))
    x = mark(lambda x: ops.tanh(ops.linear(x * p["b"], p["w"], p["b"])) + x * x, x)
    return ops.sum(ops.linear(x, p["w"], p["b"]) * x)


def masked(ops: Any, mark: Any, p: Mapping[str, Any], x: Any) -> Any:
    def part(x: Any) -> Any:
        return ops.dropout(ops.relu(ops.linear(x, p["w"], p["b"])), p["key"], rate=0.5, stream=3)

    return ops.sum(mark(part, mark(part, x)) * x)


def nested(ops: Any, mark: Any, p: Mapping[str, Any], x: Any) -> Any:
    def inner(x: Any) -> Any:
        return ops.tanh(ops.linear(x, p["w"], p["b"]))

    def outer(x: Any) -> Any:
        return mark(inner, mark(inner, x) * p["b"]) * x

    return ops.sum(mark(outer, x) * p["b"])


def several(ops: Any, mark: Any, p: Mapping[str, Any], x: Any) -> Any:
    """Two outputs, one of them made from the other, one given back twice, and one that was there before."""

    def part(x: Any) -> Any:
        h = ops.tanh(x * p["b"])
        left, right = ops.split(ops.exp(h), sizes=(1, 3), dim=1)
        return h, ops.concat([right, left], dim=1), h, p["b"]

    h, y, again, b = mark(part, x)
    return ops.sum(h * y + again * b * 0.3) + ops.sum(h)


def half_used(ops: Any, mark: Any, p: Mapping[str, Any], x: Any) -> Any:
    used, _ = mark(lambda x: (ops.tanh(x * p["b"]), ops.exp(x * p["w"][0])), x)
    return ops.sum(used)


def summed(ops: Any, mark: Any, p: Mapping[str, Any], x: Any) -> Any:
    """Values used several times, at the same slots in both parts; the gradient of a sum is that of both its terms."""

    def part(x: Any) -> Any:
        a, b = ops.tanh(x * p["b"]), ops.exp(x)
        c = a * a
        return (a + b) * c

    return ops.sum(mark(part, mark(part, x)) * p["w"][0])


MODELS = {model.__name__: model for model in (given, captured, masked, nested, several, half_used, summed)}


def arrays() -> dict[str, Any]:
    return {"w": array(4, 4), "b": array(4, seed=1), "unused": array(2, seed=2)}


def plain(function: Callable[..., Any], *values: Any) -> Any:
    return function(*values)


def run(model: Model, *, marked: bool, wrt: tuple[str, ...] = ("w", "b", "unused", "x"), **options: Any) -> list[Any]:
    """Loss and gradients, differentiated twice where options ask for it."""
    with Tape() as tape:
        p = {name: tape.parameter(value) for name, value in arrays().items()}
        x = tape.parameter(array(3, 4, seed=3))
        everything = {**p, "key": tape.constant(KEY)}
        loss = model(tape.ops, tape.checkpoint if marked else plain, everything, x)
        asked = [{**p, "x": x}[name] for name in wrt]
        found = tape.gradients(loss, asked, **options)
        if options.get("record"):
            squares = tape.ops.sum(found[0] * found[0]) + tape.ops.sum(found[1])
            found += tape.gradients(squares, asked)
        return [loss.data, *(g.data for g in found)]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_equal_to_the_bit_with_and_without(name: str) -> None:
    assert_same_bits(run(MODELS[name], marked=True), run(MODELS[name], marked=False))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wrt", [("w",), ("b",), ("x",), ("unused", "b")], ids=str)
def test_gradients_for_some_parameters_are_equal_to_the_bit(name: str, wrt: tuple[str, ...]) -> None:
    assert_same_bits(run(MODELS[name], marked=True, wrt=wrt), run(MODELS[name], marked=False, wrt=wrt))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_gradients_go_through_a_checkpoint(name: str) -> None:
    found, expected = (run(MODELS[name], marked=marked, record=True) for marked in (True, False))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert_same_bits(found[:5], expected[:5])


@pytest.mark.parametrize("engine", everyone("cpu", slow=False))
@pytest.mark.parametrize("name", MODELS)
def test_one_model_text_runs_on_every_engine(engine: str, name: str) -> None:
    def loss(ops: Any, parameters: Any, batch: Any, key: Any) -> Any:
        return MODELS[name](ops, ops.checkpoint, {**parameters, "key": key}, batch["x"])

    program = {
        quantity: load_engine(engine).prepare(Task(loss, arrays(), {"x": array(3, 4, seed=3)}, quantity))
        for quantity in ("forward", "loss_and_grad")
    }
    placed = program["forward"].place({"x": array(3, 4, seed=3)}, step_key(3, 1))
    assert placed.key is not None
    assert placed.key == KEY
    expected, *gradients = run(MODELS[name], marked=False, wrt=("w", "b"))
    torch.testing.assert_close(program["forward"].run(placed).loss, expected)
    found = program["loss_and_grad"].run(placed)
    torch.testing.assert_close(found.loss, expected)
    for key, gradient in zip(("w", "b"), gradients, strict=True):
        ours = found.gradients[key]  # torch gives None for a parameter that is not used
        torch.testing.assert_close(torch.zeros_like(gradient) if ours is None else ours, gradient)


def test_nothing_from_inside_is_alive_after_forward(tape: Tape, no_collector: None) -> None:
    refs: list[weakref.ref[Any]] = []

    def part(x: Any) -> Any:
        for _ in range(5):
            x = tape.ops.tanh(x)
            refs.append(weakref.ref(x.data))
        return x

    w = tape.parameter(array(3))
    y = tape.checkpoint(part, w)
    assert [r() is not None for r in refs] == [False] * 4 + [True]
    assert len(tape.entries) == 2
    (found,) = tape.gradients(tape.ops.sum(y), [w])
    del y
    assert len(refs) == 10
    assert not any(r() is not None for r in refs)
    assert len(tape.entries) == 3
    with torch.inference_mode(mode=False):
        x = expected = torch.tensor(array(3), requires_grad=True)
        for _ in range(5):
            expected = torch.tanh(expected)
        torch.testing.assert_close(found.data, torch.autograd.grad(expected.sum(), x)[0])


def test_while_a_part_runs_forward_it_holds_one_value_at_a_time(tape: Tape, no_collector: None) -> None:
    refs: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def part(x: Any) -> Any:
        for _ in range(5):
            x = tape.ops.tanh(x)
            refs.append(weakref.ref(x.data))
            alive.append(sum(r() is not None for r in refs))
        return x

    tape.checkpoint(part, tape.parameter(array(3)))
    assert alive == [1] * 5


def test_a_part_that_is_not_asked_for_is_not_run_again(tape: Tape) -> None:
    runs: list[int] = []

    def part(x: Any) -> Any:
        runs.append(1)
        return tape.ops.exp(x)

    v, w = tape.parameter(array(3)), tape.parameter(array(3, seed=1))
    y = tape.checkpoint(part, v)
    tape.gradients(tape.ops.sum(tape.ops.stop_gradient(y) * w), [v, w])
    assert len(runs) == 1


def test_a_retained_record_with_a_checkpoint_is_walked_twice(tape: Tape) -> None:
    w = tape.parameter(array(3))
    loss = tape.ops.sum(tape.checkpoint(lambda x: tape.ops.exp(x) * w, w))
    first = tape.gradients(loss, [w], retain=True)
    second = tape.gradients(loss, [w])
    assert_same_bits([first[0].data], [second[0].data])
    with pytest.raises(EngineError, match="freed by the backward pass"):
        tape.gradients(loss, [w])


def test_of_constants_and_under_no_grad_a_checkpoint_leaves_no_trace(tape: Tape) -> None:
    w = tape.parameter(array(3))
    tape.checkpoint(tape.ops.exp, tape.constant(array(3)))
    with tape.no_grad():
        tape.checkpoint(tape.ops.exp, w)
    assert tape.checkpoint(lambda x: x, w) is w
    assert len(tape.entries) == 1


def test_numbers_and_structures_pass_through(tape: Tape) -> None:
    w = tape.parameter(array(3))
    y = tape.ops.checkpoint(lambda x, p, n, none: x * p["w"] * n if none is None else x, w, {"w": w}, 2.0, None)
    (found,) = tape.gradients(tape.ops.sum(y), [w])
    np.testing.assert_allclose(found.numpy(), array(3) * 4.0, rtol=1e-6)


def test_checkpoint_is_all_that_runs_a_part_of_a_model() -> None:
    steering = {"cond", "switch", "while_loop", "scan", "without_gradient"}  # these are in test_control.py
    assert {function.__name__ for function in CONTROL} - steering == {"checkpoint"}


# Refusals


def test_an_error_inside_names_the_line_forward_and_backward(tape: Tape) -> None:
    w = tape.parameter(array(2, 3))
    with pytest.raises(EngineError, match=rf"matmul: .* at {at('bad at once')}"):
        tape.checkpoint(lambda x: tape.ops.matmul(x, x), w)  # bad at once
    runs: list[int] = []

    def fickle(x: Any) -> Any:
        runs.append(1)
        return tape.ops.tanh(x) if len(runs) == 1 else tape.ops.matmul(x, x)  # bad later

    y = tape.checkpoint(fickle, w)  # marked here
    with pytest.raises(EngineError, match=rf"matmul: .* at {at('bad later')}; in the part .* at {at('marked here')}"):
        tape.gradients(tape.ops.sum(y), [w])


@pytest.mark.parametrize("again", [lambda ops, x: ops.sum(x), lambda ops, x: (x * 2.0, x * 3.0), lambda ops, x: x])
def test_a_function_that_gives_something_else_the_second_time_is_refused(tape: Tape, again: Callable[..., Any]) -> None:
    runs: list[int] = []

    def part(x: Any) -> Any:
        runs.append(1)
        return tape.ops.tanh(x) if len(runs) == 1 else again(tape.ops, x)

    w = tape.parameter(array(3))
    y = tape.checkpoint(part, w)
    with pytest.raises(EngineError, match=r"the function gave \(f32\[3\]\) at first, \(.*\) this time; in the part"):
        tape.gradients(tape.ops.sum(y), [w])


def test_a_value_that_escapes_from_a_part_is_refused(tape: Tape) -> None:
    kept: list[Any] = []

    def part(x: Any) -> Any:
        kept.append(tape.ops.exp(x))
        return kept[-1] * x

    w = tape.parameter(array(3))
    y = tape.checkpoint(part, w)
    with pytest.raises(EngineError, match=rf"mul: reads a value .* inside a checkpoint .* {at('in another part')}"):
        tape.checkpoint(lambda x: x * kept[0], w)  # in another part
    loss = tape.ops.sum(y * kept[0])
    for wrt in ([w], [y]):
        with pytest.raises(EngineError, match=r"mul: reads a value that was made inside a checkpoint"):
            tape.gradients(loss, wrt, retain=True)
    for bad, asked in ((tape.ops.sum(w), kept[:1]), (kept[0], [w])):
        with pytest.raises(EngineError, match=r"gradients: reads a value that was made inside a checkpoint"):
            tape.gradients(bad, asked, retain=True)


def test_what_a_part_may_not_do(tape: Tape) -> None:
    w = tape.parameter(array(3))
    for part, message in (
        (lambda x: tape.gradients(tape.ops.sum(x), [x])[0], "gradients: asked for inside a checkpoint"),
        (lambda x: x * tape.parameter(array(3)), "parameter: made inside a checkpoint"),
        (lambda _: 3.0, "gives a value of the tape or a tuple of them, found 3.0"),
        (lambda _: None, "gives a value of the tape or a tuple of them, found None"),
    ):
        with pytest.raises(EngineError, match=rf"{message}.* at test_checkpoint\.py:\d+"):
            tape.checkpoint(part, w)
    assert float(tape.gradients(tape.ops.sum(w), [w])[0][0]) == 1.0


def test_ops_checkpoint_finds_its_tape_among_the_values(tape: Tape) -> None:
    w = tape.parameter(array(3))
    with pytest.raises(EngineError, match=r"checkpoint: no value of a tape among those given \(2.0\) at test_check"):
        tape.ops.checkpoint(lambda n: w * n, 2.0)
    assert len(tape.entries) == 1
