"""Lowering: the source that runs, how long its values live, and its size for large graphs."""

from __future__ import annotations

import ast
import keyword
import math
import re
import sys
import weakref
from collections.abc import Callable, Mapping
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, Node, Var, differentiate, trace
from engines.graph.fused import inline
from engines.graph.lower.aten import lower
from engines.ops import TABLE
from engines.value import Location
from tests.programs import assert_same_bits, on_graph, random_program, run, spec, tensor, traced


def source_of(graph: Graph) -> str:
    """The source, without the lines that its statements come from."""
    return re.sub(r"  # \S+", "", lower(graph)[0])


def body_of(source: str) -> list[ast.stmt]:
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    return function.body


def names_in(statement: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


# The source


def test_a_statement_for_each_node_and_a_del_after_each_last_use() -> None:
    def model(ops: Any, x: Any, y: Any) -> Any:
        planes, _ = ops.max_pool2d_with_indices(ops.relu(ops.conv2d(x, y, padding=1)), kernel_size=2)
        left, right = ops.split(-(2.0**planes) * np.ones(1, np.float32), sizes=(1, 1), dim=1)
        return ops.where(left > 0.0, right, ops.concat([left, right], dim=1))

    expected = """
        def run(x, y):
            v0 = conv2d(x, y, None, stride=1, padding=1, dilation=1, groups=1)
            v1 = relu(v0); del v0
            v2, _ = max_pool2d_with_indices(v1, kernel_size=2, stride=None, padding=0, dilation=1); del v1, _
            v4 = 2.0 ** v2; del v2
            v5 = -v4; del v4
            v6 = v5 * c0; del v5
            v7, v8 = split(v6, sizes=(1, 1), dim=1); del v6
            v9 = v7 > 0.0
            v10 = concat([v7, v8], dim=1); del v7
            v11 = where(v9, v8, v10); del v9, v8, v10
            return (v11,)
    """
    assert source_of(traced(model, spec(1, 2, 4, 4), spec(2, 2, 3, 3))) == dedent(expected).strip()


def test_each_statement_says_where_it_comes_from() -> None:
    source, _ = lower(traced(lambda ops, x: ops.relu(x), spec(2)))
    assert re.search(r"v0 = relu\(x\)  # test_lower\.py:\d+$", source, re.MULTILINE)


def test_outputs_and_inputs_are_not_deleted() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.tanh(s["x"])
        return {"y": y, "z": y * y, "x": s["x"], "again": y}

    expected = """
        def run(x):
            v0 = tanh(x)
            v1 = v0 * v0
            return (v0, v1, x, v0)
    """
    assert source_of(trace(model, {"x": spec(2)})) == dedent(expected).strip()


def test_a_value_that_nobody_uses_does_not_stay() -> None:
    def model(ops: Any, x: Any) -> Any:
        ops.exp(x)
        ops.split(x, sizes=(1, 1))
        return ops.split(x, sizes=(2,))[0]

    expected = """
        def run(x):
            _ = exp(x); del _
            _, _ = split(x, sizes=(1, 1), dim=0); del _
            v3, = split(x, sizes=(2,), dim=0)
            return (v3,)
    """
    assert source_of(traced(model, spec(2))) == dedent(expected).strip()


@pytest.mark.parametrize(
    ("model", "infix"),
    [
        (lambda ops, x, y: -(2.0**x), "-v0"),
        (lambda ops, x, y: (-2.0) ** x, "(-2.0) ** x"),
        (lambda ops, x, y: x**-2.0, "x ** (-2.0)"),
        (lambda ops, x, y: x - -1, "x - (-1)"),
        (lambda ops, x, y: -1.5 - x, "(-1.5) - x"),
        (lambda ops, x, y: (-x) ** 2.0, "v0 ** 2.0"),
        (lambda ops, x, y: -(x**2.0), "-v0"),
        (lambda ops, x, y: (x - y) - (y - x), "v0 - v1"),
        (lambda ops, x, y: x / (y / x), "x / v0"),
        (lambda ops, x, y: x * -0.0, "x * (-0.0)"),
        (lambda ops, x, y: x * math.inf, "x * inf"),
        (lambda ops, x, y: x * -math.inf, "x * (-inf)"),
        (lambda ops, x, y: x + math.nan, "x + nan"),
        (lambda ops, x, y: x * 1e-300, "x * 1e-300"),
        (lambda ops, x, y: ops.full_like(x, value=-math.inf), "value=-inf"),
        (lambda ops, x, y: ops.pad(x, widths=((-1, 2),), value=-1.5), "widths=((-1, 2),), value=-1.5"),
        (lambda ops, x, y: x[-2:, None], "key=((-2, None, None), None)"),
        (lambda ops, x, y: ops.equal(x, True), "x == True"),
    ],
)
def test_operators_and_numbers_read_back_as_they_were(model: Callable[..., Any], infix: str) -> None:
    graph = traced(model, spec(3), spec(3))
    assert infix in lower(graph)[0]
    x, y = tensor(3), tensor(3, seed=1)
    assert_same_bits(run(graph, x, y), [model(TORCH, x, y)])


class TORCH:
    """The few ops of the test above, in torch itself."""

    full_like = staticmethod(lambda x, *, value: torch.full_like(x, value))
    pad = staticmethod(lambda x, widths, value: torch.nn.functional.pad(x, widths[0], value=value))
    equal = staticmethod(lambda x, y: x == y)


ODD_NAMES = [
    *("def", "None", "__debug__", "0", "3d", "", "_", "c0", "c1", "v0", "v12", "run", "inf", "nan"),
    *("tanh", "tanh_", "a b", "a_b", "a_b_", "a.b", "a-b", "x\ny", "x; y", "x²", "ß", "µ", "μ", "in_def", "in_c0"),
    *("print", "self", "torch", "del", "conv1.weight", "#", "'", '"""'),
]


def test_inputs_may_have_any_names() -> None:
    graph = trace(
        lambda ops, s: {n: ops.tanh(v) * 2.0 + np.ones(1, np.float32) for n, v in s.items()},
        dict.fromkeys(ODD_NAMES, spec(1)),
    )
    inputs = [torch.full((1,), 0.01 * n) for n in range(len(ODD_NAMES))]
    assert_same_bits(run(graph, *inputs), [torch.tanh(x) * 2.0 + 1.0 for x in inputs])
    (function,) = ast.parse(lower(graph)[0]).body
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args]
    assert len(set(names)) == len(ODD_NAMES)
    assert not any(keyword.iskeyword(name) or name in TABLE for name in names)


def test_plain_names_are_kept() -> None:
    graph = trace(lambda ops, s: {"y": s["conv1_weight"] + s["x"]}, {"conv1_weight": spec(1), "x": spec(1)})
    assert lower(graph)[0].startswith("def run(conv1_weight, x):")


@pytest.mark.parametrize("file", ["a\nraise SystemExit", "a\rraise SystemExit", "a\0", "a\u2028b", "a\x0c\nb", "é"])
def test_a_file_name_cannot_end_its_comment(file: str) -> None:
    x, y = Var(spec(2)), Var(spec(2))
    node = Node(TABLE["tanh"], (x,), {}, (y,), Location(file, 1))
    graph = Graph("f", {"x": x}, (node,), {"y": y})
    assert len(lower(graph)[0].splitlines()) == 3
    assert_same_bits(run(graph, tensor(2)), [torch.tanh(tensor(2))])


# How long values live


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("optimised", [False, True])
def test_every_value_is_deleted_right_after_its_last_use(seed: int, optimised: bool) -> None:
    graph = inline(on_graph(random_program(seed), passes=PIPELINE if optimised else ()).graph)
    alive: set[str] = set()
    *statements, returned = body_of(lower(graph)[0])  # "_" is what nobody uses, and may come again
    last_use = {name: n for n, s in enumerate(statements) for name in names_in(s, ast.Load) | names_in(s, ast.Store)}
    for number, statement in enumerate(statements):
        if isinstance(statement, ast.Delete):
            gone = names_in(statement, ast.Del)
            assert all(last_use[name] == number - 1 for name in gone - {"_"})
            alive -= gone
        else:
            assert {n for n in names_in(statement, ast.Load) if re.fullmatch(r"v\d+", n)} <= alive
            alive |= names_in(statement, ast.Store)
    assert alive <= names_in(returned, ast.Load)


def counted(run: Any, name: str) -> tuple[list[weakref.ref[torch.Tensor]], list[int]]:
    """Wrap a kernel of a lowered function: its results, and how many of them are alive at each call."""
    kernel, results, alive = run.__globals__[name], [], []

    def call(*operands: Any, **attrs: Any) -> Any:
        alive.append(sum(r() is not None for r in results))
        out = kernel(*operands, **attrs)
        results.append(weakref.ref(out))
        return out

    run.__globals__[name] = call
    return results, alive


@pytest.mark.parametrize("length", [10, 100])
def test_a_chain_holds_one_value_however_long_it_is(length: int) -> None:
    def chain(ops: Any, x: Any) -> Any:
        for _ in range(length):
            x = ops.tanh(x)
        return x

    _, function = lower(traced(chain, spec(3)))
    results, alive = counted(function, "tanh")
    out = function(tensor(3))
    assert alive == [0] + [1] * (length - 1)
    assert [r() for r in results if r() is not None] == [out[0]]


def test_forward_values_go_one_by_one_on_the_way_back() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = s["x"]
        for _ in range(10):
            y = ops.tanh(y)
        return {"loss": ops.sum(y)}

    _, function = lower(differentiate(trace(loss, {"x": spec(3)}), "loss", ["x"]))
    forward, _ = counted(function, "tanh")
    seen: list[int] = []
    kernel = function.__globals__["tanh_backward"]
    function.__globals__["tanh_backward"] = lambda g, y: (
        seen.append(sum(r() is not None for r in forward)),
        kernel(g, y),
    )[1]
    function(tensor(3))
    assert seen == list(range(10, 0, -1))


def test_reference_counts_alone_free_an_executable_and_its_constants(no_collector: None) -> None:
    graph = traced(lambda ops, x: ops.relu(x) * np.ones(3, np.float32), spec(3))
    executable = Executable.build(graph)
    executable(tensor(3))
    (constant,) = graph.constants.values()
    refs = [weakref.ref(constant), weakref.ref(executable)]
    del graph, executable, constant
    assert [r() for r in refs] == [None, None]


# Size


def chain_loss(length: int) -> Callable[..., Any]:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = s["x"]
        for _ in range(length // 2):
            y = ops.tanh(y) * 1.5
        return {"loss": ops.sum(y)}

    return loss


def everything(length: int) -> Executable:
    graph = differentiate(trace(chain_loss(length), {"x": spec(3)}), "loss", ["x"])
    for step in PIPELINE:
        graph = step(graph)
    executable = Executable.build(graph)
    str(graph)
    return executable


def calls_of(act: Callable[[], Any]) -> int:
    """How many functions, Python's and C's, are called: a clock that nothing else on the machine can disturb."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_of_compiling_grows_with_the_number_of_nodes() -> None:
    everything(10)  # whatever happens once only
    small, large = (calls_of(lambda n=n: everything(n)) for n in (400, 1600))
    assert large < 4.4 * small


def test_a_hundred_thousand_nodes_compile_run_and_print() -> None:
    graph = trace(chain_loss(100_000), {"x": spec(3)})
    assert len(graph.nodes) == 100_001
    expected = tensor(3)
    for _ in range(50_000):
        expected = torch.tanh(expected) * 1.5
    assert_same_bits(run(graph, tensor(3)), [expected.sum()])
    assert str(graph).count("\n") == 100_003
