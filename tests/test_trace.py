"""Tracing: what a graph takes from a model, and what it must refuse because nothing has been computed yet."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import Graph, Symbol, trace
from engines.tape import Tape
from engines.value import EngineError, Spec
from tests.programs import array, assert_same_bits, at, run, spec, tensor, traced

# What needs numbers that are not there


def branch(ops: Any, x: Any) -> Any:
    if ops.sum(x) > 0.0:  # here
        return x
    return -x


def loop(ops: Any, x: Any) -> Any:
    while ops.sum(x) < 1.0:  # here
        x = x * 2.0
    return x


def conjunction(ops: Any, x: Any) -> Any:
    return x[0] > 0.0 and x[1]  # here


def asserted(ops: Any, x: Any) -> Any:
    assert ops.sum(x) > 0.0  # here
    return x


def equality(ops: Any, x: Any) -> Any:
    return 1.0 in [x[0]] or x  # here


def to_float(ops: Any, x: Any) -> Any:
    return x * float(x[0])  # here


def to_int(ops: Any, x: Any) -> Any:
    return x * int(x[0])  # here


def to_range(ops: Any, x: Any) -> Any:
    return sum(x for _ in range(x[0]))  # here


def to_math(ops: Any, x: Any) -> Any:
    return x * math.sqrt(ops.sum(x))  # here


def read(ops: Any, x: Any) -> Any:
    return x * x[0].item()  # here


def listed(ops: Any, x: Any) -> Any:
    return sum(x.tolist())  # here


def printed(ops: Any, x: Any) -> Any:
    print("x is", x)  # here
    return x


def formatted(ops: Any, x: Any) -> Any:
    return f"{x}"  # here


def formatted_with_digits(ops: Any, x: Any) -> Any:
    return f"{ops.sum(x):.3f}"  # here


def to_text(ops: Any, x: Any) -> Any:
    return str(x)  # here


def to_numpy(ops: Any, x: Any) -> Any:
    return np.asarray(x)  # here


def numpy_function(ops: Any, x: Any) -> Any:
    return np.mean(x)  # here


SYMBOLIC = {
    branch: "ops.where",
    loop: "ops.where",
    conjunction: "ops.where",
    asserted: "ops.where",
    equality: "ops.where",
    to_float: "make the number an attribute or an input",
    to_int: "a Python number known before tracing",
    to_range: "a Python number known before tracing",
    to_math: "make the number an attribute or an input",
    read: "ops that decide in the graph",
    listed: "ops that decide in the graph",
    printed: "repr()",
    formatted: "repr()",
    formatted_with_digits: "repr()",
    to_text: "repr()",
    to_numpy: "the same function of ops",
    numpy_function: "the same function of ops",
}
"""Models that ask for elements, and what the message proposes."""


def offence(model: Callable[..., Any]) -> tuple[str, str]:
    """FILE:LINE and the source of the line of `model` marked `here`."""
    lines, first = inspect.getsourcelines(model)
    number = next(n for n, line in enumerate(lines) if line.endswith("# here\n"))
    return f"{Path(__file__).name}:{first + number}", lines[number].strip()


@pytest.mark.parametrize("model", SYMBOLIC, ids=lambda model: model.__name__)
def test_a_model_that_needs_elements_is_shown_its_line_and_a_way_out(model: Callable[..., Any]) -> None:
    where, source = offence(model)
    with pytest.raises(EngineError) as caught:
        traced(model, spec(3))
    message = str(caught.value)
    assert "is symbolic" in message
    assert SYMBOLIC[model] in message
    assert message.endswith(f"at {where}: {source}")


def test_the_shape_and_dtype_of_a_symbol_are_there() -> None:
    def model(ops: Any, x: Any) -> Any:
        assert repr(x) == "Symbol(f32[3,2])"
        assert (x.shape, x.ndim, len(x), x.dtype) == ((3, 2), 2, 3, torch.float32)
        return x

    traced(model, spec(3, 2))


# What a graph takes from a model


def out_spec(graph: Graph) -> Spec:
    return graph.outputs["out"].spec


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda ops, x, y: x @ y, spec(3, 5)),
        (lambda ops, x, y: x > 0.0, spec(3, 4, dtype=torch.bool)),
        (lambda ops, x, y: ops.argmax(x, dim=1), spec(3, dtype=torch.int64)),
        (lambda ops, x, y: ops.cast(x, dtype="bfloat16"), spec(3, 4, dtype=torch.bfloat16)),
        (lambda ops, x, y: ops.cast(x, dtype=torch.float64) + 1, spec(3, 4, dtype=torch.float64)),
        (lambda ops, x, y: ops.sum(x), spec()),
        (lambda ops, x, y: ops.split(x, sizes=(1, 3), dim=1)[1], spec(3, 3)),
        (lambda ops, x, y: x[..., None, 1:3], spec(3, 1, 2)),
        (lambda ops, x, y: x + np.ones((2, 1, 4), np.float32), spec(2, 3, 4)),
    ],
)
def test_shapes_and_dtypes_are_inferred(model: Callable[..., Any], expected: Spec) -> None:
    assert out_spec(traced(model, spec(3, 4), spec(4, 5))) == expected


def test_one_op_on_many_kinds_of_operands_is_inferred_each_time() -> None:
    def model(ops: Any, x: Any, y: Any) -> Any:
        assert [(x * n).dtype for n in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]
        assert [(y * n).shape for n in (1, y, y[:, None])] == [(3,), (3,), (3, 3)]
        assert [ops.sum(y[None], dim=d).shape for d in (0, 1, None)] == [(3,), (1,), ()]
        assert [ops.cast(x, dtype=d).dtype for d in ("bool", "float64")] == [torch.bool, torch.float64]
        return x

    traced(model, spec(2, dtype=torch.int64), spec(3))


def test_a_for_loop_over_rows_unrolls() -> None:
    graph = traced(lambda ops, x: sum(row * row for row in x), spec(3, 2))
    assert [node.op.name for node in graph.nodes] == ["getitem", "mul", "add"] * 3
    x = tensor(3, 2)
    assert_same_bits(run(graph, x), [0 + x[0] * x[0] + x[1] * x[1] + x[2] * x[2]])


def test_arrays_become_constants() -> None:
    data = array(2, 3)
    graph = traced(lambda ops, x: data * x + ops.matmul(x, array(3, 3)), spec(2, 3))
    assert [constant.spec for constant in graph.constants] == [spec(2, 3), spec(3, 3)]
    data[:] = 0.0  # a constant is a copy
    x = tensor(2, 3, seed=1)
    assert_same_bits(run(graph, x), [tensor(2, 3) * x + x @ tensor(3, 3)])


def test_numpy_s_numbers_become_python_s() -> None:
    graph = traced(lambda ops, x: np.float64(2.0) * x + np.float32(0.5) - np.int64(1), spec(2))
    numbers = [operand for node in graph.nodes for operand in node.inputs if not hasattr(operand, "spec")]
    assert [(type(n), n) for n in numbers] == [(float, 2.0), (float, 0.5), (int, 1)]
    assert_same_bits(run(graph, tensor(2)), [2.0 * tensor(2) + 0.5 - 1])


def test_optional_inputs_are_filled_with_none() -> None:
    graph = traced(lambda ops, x, y: ops.linear(x, y), spec(2, 3), spec(4, 3))
    assert graph.nodes[0].inputs[2] is None


def test_nodes_bear_the_line_of_the_model() -> None:
    def model(ops: Any, x: Any) -> Any:
        y = ops.relu(x)  # the relu
        return ops.cross_entropy(y, np.array([0, 1]))  # the loss

    graph = traced(model, spec(2, 3))
    assert [str(node.where) for node in graph.nodes] == [at("the relu"), at("the loss"), at("the loss")]
    assert {node.where.file for node in graph.nodes} == {__file__}


def test_an_input_may_be_an_output() -> None:
    graph = traced(lambda ops, x: x, spec(2))
    assert run(graph, x := tensor(2))[0] is x


# Refusals


def test_what_a_kernel_would_refuse_is_refused_with_the_user_s_line() -> None:
    def product(ops: Any, x: Any, y: Any) -> Any:
        return x @ y  # bad product

    def loss(ops: Any, x: Any, y: Any) -> Any:
        return ops.cross_entropy(x, y)  # bad loss

    with pytest.raises(EngineError, match=rf"matmul: .*f32\[2,3\], f32\[4,5\].* at {at('bad product')}"):
        traced(product, spec(2, 3), spec(4, 5))
    with pytest.raises(EngineError, match=rf"nll_loss: .* at {at('bad loss')}"):
        traced(loss, spec(2, 3), spec(4, 5))


def test_float_widths_are_not_mixed() -> None:
    with pytest.raises(EngineError, match=r"add: float widths differ: f32\[2\] and f64\[2\] at test_trace"):
        traced(lambda ops, x, y: x + y, spec(2), spec(2, dtype=torch.float64))


def test_a_symbol_of_another_trace_is_refused() -> None:
    kept: list[Symbol] = []

    def leak(ops: Any, x: Any) -> Any:
        kept.append(x)
        return x

    traced(leak, spec(3))
    with pytest.raises(EngineError, match=r"mul: f32\[3\] belongs to another trace, at test_trace"):
        traced(lambda ops, x: x * kept[0], spec(3))
    with pytest.raises(EngineError, match=r"output 'out' must be a symbol of this trace, found f32\[3\]"):
        traced(lambda ops, x: kept[0], spec(3))


@pytest.mark.parametrize(("value", "found"), [(3.0, "3.0"), (np.ones(2), r"f64\[2\]"), (None, "None")])
def test_an_output_that_is_no_symbol_is_refused(value: Any, found: str) -> None:
    with pytest.raises(EngineError, match=f"output 'out' must be a symbol of this trace, found {found}"):
        traced(lambda ops, x: value, spec(3))


def test_outputs_without_names_are_refused() -> None:
    with pytest.raises(EngineError, match=r"outputs by name, found f32\[3\]"):
        trace(lambda ops, s: s["x"], {"x": spec(3)})  # type: ignore[arg-type,return-value]


def test_inputs_on_two_devices_are_refused() -> None:
    specs = {"x": spec(3), "y": Spec((3,), torch.float32, "meta")}
    with pytest.raises(EngineError, match=re.escape("must be on one device, found ['cpu', 'meta']")):
        trace(lambda ops, s: s, specs)
    with pytest.raises(EngineError, match="found no inputs"):
        trace(lambda ops, s: s, {})


def test_a_tensor_on_another_device_is_refused() -> None:
    with pytest.raises(EngineError, match=r"f32\[3\]@meta is on meta, the engine on cpu"):
        traced(lambda ops, x: x * torch.empty(3, device="meta"), spec(3))


@pytest.mark.parametrize(
    "act",
    [
        lambda ops, x: ops.concat(x, x),
        lambda ops, x: ops.concat([]),
        lambda ops, x: ops.relu(x, x),
        lambda ops, x: ops.mul(x),
        lambda ops, x: ops.relu(x, slope=0.1),
        lambda ops, x: ops.reshape(x),
        lambda ops, x: ops.full_like(x, value=x),
        lambda ops, x: ops.full_like(x, value=torch.tensor(1.0)),
        lambda ops, x: ops.cast(x, dtype="float23"),
        lambda ops, x: ops.rellu(x),
        lambda ops, x: ops.relu(3.0),
        lambda ops, x: ops.add(x, "text"),
        lambda ops, x: x[5],
        lambda ops, x: x[x],
        lambda ops, x: x[: x[0]],
        lambda ops, x: x == None,  # noqa: E711
        lambda ops, x: x != None,  # noqa: E711
        lambda ops, x: len(x[0]),
    ],
)
def test_misuse_is_an_error_with_the_user_s_line(act: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match=r"at test_trace\.py:\d+"):
        traced(act, spec(3))


def test_an_unknown_op_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(EngineError, match=r"no op named 'rellu'; did you mean 'relu'\?"):
        traced(lambda ops, x: ops.rellu(x), spec(3))


def test_values_of_two_engines_do_not_mix():
    with Tape() as tape:
        x = tape.parameter(np.ones(3))
        specs = {"s": Spec((3,), torch.float64, "cpu")}
        with pytest.raises(
            EngineError, match=r"mul: engines differ: f64\[3\] belongs to tape, the other inputs to graph"
        ):
            trace(lambda ops, given: {"y": ops.mul(given["s"], x)}, specs)
        with pytest.raises(
            EngineError, match=r"mul: engines differ: f64\[3\] belongs to graph, the other inputs to tape"
        ):
            trace(lambda _, given: {"y": x * given["s"]}, specs)
