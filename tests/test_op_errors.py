"""What ops say when they are refused: the op, what was found, and the line of the model, on both engines.

One row per fault: the operands, the call, and what the text must contain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from engines.graph import Executable, trace
from engines.op import Namespace
from engines.ops import TABLE
from engines.tape import Tape
from engines.value import EngineError, Spec
from tests.op_cases import CASES
from tests.op_harness import Values, call, given, is_float, place
from tests.op_inputs import Case


class Refusal(NamedTuple):
    id: str
    operands: tuple[torch.Tensor, ...]
    call: Callable[..., Any]
    says: tuple[str, ...]


def f32(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


def f64(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.float64)


def i64(*values: int) -> torch.Tensor:
    return torch.tensor(values)


SHAPES = (
    Refusal("matmul", (f32(8, 5), f32(4, 3)), lambda ops, a, b: a @ b, ("matmul: ", "(f32[8,5], f32[4,3])")),
    Refusal(
        "linear",
        (f32(2, 5), f32(3, 4)),
        lambda ops, x, w: ops.linear(x, w, None),
        ("linear: ", "(f32[2,5], f32[3,4], None)"),
    ),
    Refusal(
        "conv2d channels",
        (f32(1, 2, 5, 5), f32(3, 4, 3, 3)),
        lambda ops, x, w: ops.conv2d(x, w, None, stride=2),
        ("conv2d: ", "4", "f32[1,2,5,5], f32[3,4,3,3]", "stride=2"),
    ),
    Refusal("add", (f32(2, 3), f32(4)), lambda ops, a, b: a + b, ("add: ", "(f32[2,3], f32[4])")),
    Refusal(
        "concat",
        (f32(2, 3), f32(2, 4)),
        lambda ops, a, b: ops.concat([a, b], dim=0),
        ("concat: ", "f32[2,3], f32[2,4]", "dim=0"),
    ),
    Refusal(
        "stack", (f32(2, 3), f32(3, 2)), lambda ops, a, b: ops.stack([a, b]), ("concat: ", "f32[1,2,3], f32[1,3,2]")
    ),
    Refusal(
        "reshape", (f32(2, 3),), lambda ops, x: ops.reshape(x, shape=(4,)), ("reshape: ", "f32[2,3]", "shape=(4,)")
    ),
    Refusal("no such dim", (f32(2, 3),), lambda ops, x: ops.sum(x, dim=2), ("sum: ", "f32[2,3]", "dim=2")),
    Refusal(
        "nll_loss of images",
        (f32(2, 3, 4), i64(0, 1)),
        lambda ops, x, label: ops.nll_loss(x, label),
        ("nll_loss: ", "(batch, classes)", "(f32[2,3,4], i64[2])"),
    ),
)

WIDTHS = (
    Refusal("add", (f64(3), f32(3)), lambda ops, a, b: a + b, ("add: float widths differ: f64[3] and f32[3]", "cast")),
    Refusal(
        "where",
        (i64(0, 1), f32(2), f64(2)),
        lambda ops, c, a, b: ops.where(c == 0, a, b),
        ("where: float widths differ: f32[2] and f64[2]",),
    ),
    Refusal(
        "concat",
        (f32(2), f64(3)),
        lambda ops, a, b: ops.concat([a, b]),
        ("concat: float widths differ: f32[2] and f64[3]",),
    ),
    Refusal("matmul", (f32(2, 3), f64(3, 2)), lambda ops, a, b: a @ b, ("matmul: ", "f32[2,3]", "f64[3,2]")),
)

ATTRIBUTES = (
    Refusal(
        "unknown",
        (f32(2, 3),),
        lambda ops, x: ops.sum(x, axis=0),
        ("sum: no attribute 'axis'; it takes ['dim', 'keepdim']",),
    ),
    Refusal(
        "unknown, none known", (f32(2),), lambda ops, x: ops.exp(x, dim=0), ("exp: no attribute 'dim'; it takes none",)
    ),
    Refusal("missing", (f32(2, 3),), lambda ops, x: ops.softmax(x), ("softmax: attribute 'dim' is required",)),
    Refusal("unknown op", (f32(2),), lambda ops, x: ops.rellu(x), ("no op named 'rellu'; did you mean 'relu'?",)),
    Refusal(
        "dropout of all",
        (f32(2), torch.tensor(5)),
        lambda ops, x, key: ops.dropout(x, key, rate=1.0),
        ("dropout_mask: rate must be from 0 to below 1, found 1.0",),
    ),
    Refusal(
        "negative rate",
        (f32(2), torch.tensor(5)),
        lambda ops, x, key: ops.dropout(x, key, rate=-0.5),
        ("dropout_mask: rate must be from 0 to below 1, found -0.5",),
    ),
)

ELEMENTS = (
    Refusal(
        "label -1",
        (f64(2, 3), i64(0, -1)),
        lambda ops, x, label: ops.nll_loss(x, label),
        ("nll_loss: ", "-1", "(f64[2,3], i64[2])"),
    ),
    Refusal(
        "label -100",
        (f64(2, 3), i64(0, -100)),
        lambda ops, x, label: ops.cross_entropy(x, label),
        ("nll_loss: ", "-100", "(f64[2,3], i64[2])"),
    ),
    Refusal(
        "label as many as classes",
        (f64(2, 3), i64(0, 3)),
        lambda ops, x, label: ops.nll_loss(x, label),
        ("nll_loss: ", "3", "(f64[2,3], i64[2])"),
    ),
    Refusal(
        "row of no weight",
        (f64(4, 2), i64(0, 4)),
        lambda ops, w, index: ops.embedding(w, index),
        ("embedding: ", "(f64[4,2], i64[2])"),
    ),
    Refusal(
        "column of no x",
        (f64(1, 3), i64(0, 3)),
        lambda ops, x, index: ops.gather(x, ops.reshape(index, shape=(1, 2)), dim=1),
        ("gather: ", "3", "(f64[1,3], i64[1,2], dim=1)"),
    ),
)
"""Faults that only elements show, so that a graph cannot know of them before it runs."""


def check(message: str, refusal: Refusal) -> None:
    for part in refusal.says:
        assert part in message
    line = refusal.call.__code__.co_firstlineno
    assert f" {Path(__file__).name}:{line}" in message
    assert "\n" not in message


@pytest.mark.parametrize("refusal", [*SHAPES, *WIDTHS, *ATTRIBUTES, *ELEMENTS], ids=lambda refusal: refusal.id)
@pytest.mark.parametrize("recorded", [True, False], ids=["parameters", "constants"])
def test_the_tape_says_what_it_refuses(refusal: Refusal, recorded: bool) -> None:
    with Tape() as tape:
        values = [
            tape.parameter(value) if recorded and value.is_floating_point() else tape.constant(value)
            for value in refusal.operands
        ]
        with pytest.raises(EngineError) as caught:
            refusal.call(tape.ops, *values)
    check(str(caught.value), refusal)


@pytest.mark.parametrize("refusal", [*SHAPES, *WIDTHS, *ATTRIBUTES], ids=lambda refusal: refusal.id)
def test_a_trace_says_what_it_refuses(refusal: Refusal) -> None:
    def model(ops: Namespace, symbols: dict[str, Any]) -> dict[str, Any]:
        return {"y": refusal.call(ops, *symbols.values())}

    with pytest.raises(EngineError) as caught:
        trace(model, {f"x{i}": Spec.of(value) for i, value in enumerate(refusal.operands)})
    check(str(caught.value), refusal)


@pytest.mark.parametrize("refusal", ELEMENTS, ids=lambda refusal: refusal.id)
def test_a_run_of_a_graph_says_what_it_refuses(refusal: Refusal) -> None:
    def model(ops: Namespace, symbols: dict[str, Any]) -> dict[str, Any]:
        return {"y": refusal.call(ops, *symbols.values())}

    graph = trace(model, {f"x{i}": Spec.of(value) for i, value in enumerate(refusal.operands)})
    with pytest.raises(EngineError) as caught:
        Executable.build(graph)(*refusal.operands)
    check(str(caught.value), refusal._replace(says=refusal.says[:-1]))  # the shapes stand in the graph


def mixed_widths() -> Iterator[tuple[str, Case, Values]]:
    """Every op of several float inputs, each time with one of them in float32 and the others in float64."""
    for name, op in TABLE.items():
        case = CASES[name][0]
        values = {key: value for key, value in given(case).items() if key.startswith("x")}
        floats = [key for key, value in values.items() if is_float(value)]
        for key in floats if len(floats) > 1 else ():
            yield op.name, case, values | {key: values[key].float()}


def test_no_op_of_the_tape_mixes_float_widths() -> None:
    accepted = set()
    for name, case, values in mixed_widths():
        with Tape() as tape, contextlib.suppress(EngineError):
            call(tape.ops, name, case, place(tape, values))
            accepted.add(name)
    assert not accepted


def test_no_op_of_a_trace_mixes_float_widths() -> None:
    accepted = set()
    for name, case, values in mixed_widths():
        with contextlib.suppress(EngineError):
            specs = {key: Spec.of(value) for key, value in values.items()}
            trace(lambda ops, symbols, name=name, case=case: {"y": call(ops, name, case, symbols)[0]}, specs)
            accepted.add(name)
    assert not accepted
