"""The passes, as graphs before and after; what they must leave alone; and the verifier that watches over them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import PIPELINE, Graph, Node, Var, differentiate, trace, update, verify
from engines.graph.fused import inline
from engines.graph.ir import VIEWS
from engines.graph.passes import Pass, cse, dce, fold, narrow, plan_memory, simplify
from engines.graph.passes.fold import LARGEST
from engines.ops import TABLE
from engines.optim import Sgd
from engines.value import EngineError, Location, Spec
from tests.programs import assert_same_bits, on_graph, on_tape, random_program, run, spec, tensor, text, traced

Model = Callable[..., Any]
INT = torch.int64


def check(step: Pass, graph: Graph, before: str, after: str) -> None:
    assert text(graph) == dedent(before).strip()
    assert text(verify(step(graph))) == dedent(after).strip()


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


# Before and after


def test_simplify() -> None:
    check(
        simplify,
        traced(lambda ops, x: ops.relu(x * 1.0) / 1.0 + ops.full_like(x, value=-0.0), spec(4)),
        """
        graph f(x: f32[4]) {
          %0: f32[4] = mul(x, 1.0)
          %1: f32[4] = relu(%0)
          %2: f32[4] = div(%1, 1.0)
          %3: f32[4] = full_like(x, value=-0.0)
          %4: f32[4] = add(%2, %3)
          return out=%4
        }
        """,
        """
        graph f(x: f32[4]) {
          %0: f32[4] = relu(x)
          %1: f32[4] = full_like(x, value=-0.0)
          return out=%0
        }
        """,
    )


def test_narrow() -> None:
    check(
        narrow,
        traced(lambda ops, x, y: ops.exp(ops.broadcast_to(x, shape=(4, 3)) * 2.0) + y, spec(1, 3), spec(4, 1)),
        """
        graph f(x: f32[1,3], y: f32[4,1]) {
          %0: f32[4,3] = broadcast_to(x, shape=(4, 3))
          %1: f32[4,3] = mul(%0, 2.0)
          %2: f32[4,3] = exp(%1)
          %3: f32[4,3] = add(%2, y)
          return out=%3
        }
        """,
        """
        graph f(x: f32[1,3], y: f32[4,1]) {
          %0: f32[4,3] = broadcast_to(x, shape=(4, 3))
          %1: f32[1,3] = mul(x, 2.0)
          %2: f32[4,3] = broadcast_to(%1, shape=(4, 3))
          %3: f32[1,3] = exp(%1)
          %4: f32[4,3] = broadcast_to(%3, shape=(4, 3))
          %5: f32[4,3] = add(%3, y)
          return out=%5
        }
        """,
    )


@pytest.mark.parametrize(
    "model",
    [
        lambda ops, x: ops.broadcast_to(x, shape=(4, 3)) + np.ones((3,), np.float32),  # narrow in another way
        lambda ops, x: ops.sum(ops.broadcast_to(x, shape=(4, 3))),
        lambda ops, x: ops.broadcast_to(x, shape=(4, 3)) ** ops.broadcast_to(x, shape=(4, 3)),
    ],
)
def test_narrow_leaves_alone_what_needs_the_whole_shape(model: Model) -> None:
    graph = traced(model, spec(1, 3))
    assert narrow(graph) is graph


def test_fold() -> None:
    check(
        fold,
        traced(lambda ops, x: x * ops.exp(ops.full_like(x, value=0.5) + np.ones(2, np.float32)), spec(2)),
        """
        graph f(x: f32[2]) {
          const0: f32[2] = constant
          %0: f32[2] = full_like(x, value=0.5)
          %1: f32[2] = add(%0, const0)
          %2: f32[2] = exp(%1)
          %3: f32[2] = mul(x, %2)
          return out=%3
        }
        """,
        """
        graph f(x: f32[2]) {
          const0: f32[2] = constant
          const1: f32[2] = constant
          const2: f32[2] = constant
          const3: f32[2] = constant
          %0: f32[2] = mul(x, const3)
          return out=%0
        }
        """,
    )


def test_cse() -> None:
    check(
        cse,
        traced(lambda ops, x: ops.tanh(x * 2.0) + ops.tanh(x * 2.0), spec(4)),
        """
        graph f(x: f32[4]) {
          %0: f32[4] = mul(x, 2.0)
          %1: f32[4] = tanh(%0)
          %2: f32[4] = mul(x, 2.0)
          %3: f32[4] = tanh(%2)
          %4: f32[4] = add(%1, %3)
          return out=%4
        }
        """,
        """
        graph f(x: f32[4]) {
          %0: f32[4] = mul(x, 2.0)
          %1: f32[4] = tanh(%0)
          %2: f32[4] = add(%1, %1)
          return out=%2
        }
        """,
    )


def half(ops: Any, x: Any) -> Any:
    ops.exp(x)
    ops.sum(x * np.ones(4, np.float32))
    return ops.split(x, sizes=(2, 2))[0]


def test_dce() -> None:
    check(
        dce,
        traced(half, spec(4)),
        """
        graph f(x: f32[4]) {
          const0: f32[4] = constant
          %0: f32[4] = exp(x)
          %1: f32[4] = mul(x, const0)
          %2: f32[] = sum(%1)
          %3: f32[2], %4: f32[2] = split(x, sizes=(2, 2))
          return out=%3
        }
        """,
        """
        graph f(x: f32[4]) {
          %0: f32[2], %1: f32[2] = split(x, sizes=(2, 2))
          return out=%0
        }
        """,
    )


def test_the_whole_pipeline_on_a_training_step() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.relu(s["x"] @ s["w"]) * 1.0)}

    graph = trace(loss, {"w": spec(3, 2), "x": spec(4, 3)})
    graph = update(differentiate(graph, "loss", ["w"]), Sgd(lr=0.5), ["w"])
    for step in PIPELINE:
        graph = verify(step(graph))
    expected = """
        graph f(donated w: f32[3,2], x: f32[4,3], donated w.velocity: f32[3,2]) {
          arena of 128 bytes, 192 at the peak
          const0: f32[1,1] = constant
          %0: f32[4,2] at 0 = matmul(x, w)
          %1: f32[], %2: f32[4,2] in %0 = fused(a0=%0, a1=const0) {
            %0: f32[4,2] = relu(a0)
            %1: f32[] = sum(%0)
            %2: f32[4,2] = relu_backward(a1, %0)
            return r0=%1, r1=%2
          }
          %3: f32[3,4] = permute(x, dims=(1, 0))
          %4: f32[3,2] at 64 = matmul(%3, %2)
          %5: f32[3,2], %6: f32[3,2] = fused(a0=w, a1=w.velocity, a2=%4) {
            %0: f32[3,2], %1: f32[3,2] = sgd_update(a0, a1, a2, lr=0.5)
            return r0=%0, r1=%1
          }
          return loss=%1, w=%5, w.velocity=%6
        }
    """
    assert text(graph) == dedent(expected).strip()


# Simplify: every identity, and what looks like one and is not


IDENTITIES: dict[str, tuple[Model, list[str]]] = {
    "x * 1": (lambda ops, x: x * 1, []),
    "1.0 * x": (lambda ops, x: 1.0 * x, []),
    "x * ones": (lambda ops, x: x * ops.full_like(x, value=1.0), ["full_like"]),
    "ones * x": (lambda ops, x: ops.full_like(x, shape=(), value=1.0) * x, ["full_like"]),
    "x * ones, spread": (
        lambda ops, x: (
            x * ops.broadcast_to(ops.reshape(ops.full_like(x, shape=(), value=1.0), shape=(1, 1)), shape=(2, 3))
        ),
        ["full_like", "reshape", "broadcast_to"],
    ),
    "x / 1": (lambda ops, x: x / 1, []),
    "x / ones": (lambda ops, x: x / ops.full_like(x, value=1.0), ["full_like"]),
    "x ** 1": (lambda ops, x: x**1, []),
    "x ** 1.0": (lambda ops, x: x**1.0, []),
    "x - 0": (lambda ops, x: x - 0, []),
    "x - zeros": (lambda ops, x: x - ops.full_like(x, value=0.0), ["full_like"]),
    "x + (-0.0)": (lambda ops, x: x + -0.0, []),
    "(-0.0) + x": (lambda ops, x: -0.0 + x, []),
    "neg(neg(x))": (lambda ops, x: ops.neg(-x), ["neg"]),
    "relu(relu(x))": (lambda ops, x: ops.relu(ops.relu(x)), ["relu"]),
    "abs(abs(x))": (lambda ops, x: ops.abs(ops.abs(x)), ["abs"]),
    "reshape to itself": (lambda ops, x: ops.reshape(x, shape=(2, -1)), []),
    "broadcast_to itself": (lambda ops, x: ops.broadcast_to(x, shape=(2, 3)), []),
    "sum_to itself": (lambda ops, x: ops.sum_to(x, shape=(2, 3)), []),
    "cast to itself": (lambda ops, x: ops.cast(x, dtype="float32"), []),
    "permute nothing": (lambda ops, x: ops.permute(x, dims=(0, -1)), []),
    "reshape(reshape(x))": (
        lambda ops, x: ops.reshape(ops.reshape(x, shape=(6,)), shape=(3, 2)),
        ["reshape", "reshape"],
    ),
    "reshape and back": (lambda ops, x: ops.reshape(ops.reshape(x, shape=(6,)), shape=(2, 3)), ["reshape"]),
    "permute(permute(x))": (
        lambda ops, x: ops.permute(ops.permute(x[None], dims=(2, 0, 1)), dims=(1, 0, -1)),
        ["getitem", "permute", "permute"],
    ),
    "permute and back": (lambda ops, x: ops.permute(ops.permute(x, dims=(1, 0)), dims=(-1, -2)), ["permute"]),
    "concat([x])": (lambda ops, x: ops.concat([x]), []),
}
"""Each identity of simplify, and the nodes left of it (those that only dead code still needs among them)."""


@pytest.mark.parametrize("name", IDENTITIES)
def test_identities_are_applied(name: str) -> None:
    model, left = IDENTITIES[name]
    graph = traced(model, spec(2, 3))
    simple = verify(simplify(graph))
    assert ops_of(simple) == left
    assert len(ops_of(dce(simple))) < len(ops_of(graph))
    assert simplify(simple) is simple
    for x in (tensor(2, 3), torch.tensor([[0.0, -0.0, math.inf], [-math.inf, math.nan, 1e-42]])):
        assert_same_bits(run(simple, x), run(graph, x))


NOT_IDENTITIES: dict[str, tuple[Model, Spec]] = {
    "x + 0.0 makes 0.0 of -0.0": (lambda ops, x: x + 0.0, spec(3)),
    "x + 0 too": (lambda ops, x: x + 0, spec(3)),
    "x - (-0.0) too": (lambda ops, x: x - -0.0, spec(3)),
    "x + zeros too": (lambda ops, x: x + ops.full_like(x, value=0.0), spec(3)),
    "no integer is -0.0": (lambda ops, x: x + ops.full_like(ops.argmax(x), value=-0.0), spec(3)),
    "0 - x": (lambda ops, x: 0.0 - x, spec(3)),
    "1 / x": (lambda ops, x: 1.0 / x, spec(3)),
    "1 ** x": (lambda ops, x: 1.0**x, spec(3)),
    "x ** ones may turn a NaN's sign": (lambda ops, x: x ** ops.full_like(x, value=1.0), spec(3)),
    "x * 0 is not 0 for NaN": (lambda ops, x: x * 0.0, spec(3)),
    "x * 1 broadcast": (lambda ops, x: x * ops.full_like(x, shape=(2, 3), value=1.0), spec(3)),
    "x - 0 broadcast": (lambda ops, x: x - ops.full_like(x, shape=(2, 3), value=0.0), spec(3)),
    "a sum of ones is not one": (
        lambda ops, x: x * ops.sum_to(ops.full_like(x, shape=(2, 3), value=1.0), shape=(3,)),
        spec(3),
    ),
    "integer * 1.0 is a float": (lambda ops, x: x * 1.0, spec(3, dtype=INT)),
    "integer / 1 is a float": (lambda ops, x: x / 1, spec(3, dtype=INT)),
    "truth * 1 is an integer": (lambda ops, x: x * 1, spec(3, dtype=torch.bool)),
    "one of several parts": (lambda ops, x: ops.concat([x, x]), spec(3)),
    "two reshapes of two values": (
        lambda ops, x: ops.reshape(ops.neg(ops.reshape(x, shape=(3, 1))), shape=(3,)),
        spec(3),
    ),
    "relu of abs": (lambda ops, x: ops.relu(ops.abs(x)), spec(3)),
    "a cast there and back": (lambda ops, x: ops.cast(ops.cast(x, dtype="float16"), dtype="float32"), spec(3)),
    "sum_to a smaller shape": (lambda ops, x: ops.sum_to(x, shape=(1,)), spec(3)),
}


@pytest.mark.parametrize("name", NOT_IDENTITIES)
def test_what_is_no_identity_is_left_alone(name: str) -> None:
    model, given = NOT_IDENTITIES[name]
    graph = traced(model, given)
    assert simplify(graph) is graph


def test_a_value_may_lie_elsewhere_but_its_elements_are_the_same() -> None:
    graph = traced(lambda ops, x: ops.broadcast_to(x, shape=(5, 7)) * 1.0, spec(7))
    (found,), (expected,) = run(simplify(graph), tensor(7)), run(graph, tensor(7))
    assert (found.stride(), expected.stride()) == ((0, 1), (7, 1))
    assert_same_bits([found], [expected])


STEPS_OF_TWO: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "the gradient of a is b": lambda ops, s: ops.sum(s["a"] * s["b"]),
    "the gradient of a is a view of b": lambda ops, s: ops.sum(
        s["a"] * ops.reshape(ops.reshape(s["b"], shape=(4, 1)), shape=(4,))
    ),
    "the gradient of a is -(-b)": lambda ops, s: ops.sum(s["a"] * ops.neg(-s["b"])),
    "the loss is a": lambda ops, s: ops.sum(s["b"]) * 0.0 + s["a"][0] * 1.0,
}


@pytest.mark.parametrize("name", STEPS_OF_TWO)
def test_no_update_reads_what_another_has_overwritten(name: str) -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": STEPS_OF_TWO[name](ops, s)}

    graph = differentiate(trace(model, {"a": spec(4), "b": spec(4)}), "loss", ["a", "b"])
    graph = verify(update(graph, Sgd(lr=0.5, momentum=0.5), ["a", "b"]))

    def step(graph: Graph) -> list[torch.Tensor]:
        return [t.clone() for t in run(graph, tensor(4), tensor(4, seed=1), tensor(4, seed=2), tensor(4, seed=3))]

    optimised = graph
    for one in PIPELINE:
        optimised = verify(one(optimised))
    assert_same_bits(step(inline(optimised)), step(graph))
    torch.testing.assert_close(step(optimised), step(graph))


# Fold


@pytest.mark.parametrize(
    "model",
    [
        lambda ops, x: x + np.ones(3, np.float32),
        lambda ops, x: ops.full_like(x, shape=(LARGEST + 1,), value=1.0),
        lambda ops, x: ops.tanh(x) * 2.0,
    ],
)
def test_fold_leaves_alone_what_depends_on_inputs_or_is_large(model: Model) -> None:
    graph = traced(model, spec(3))
    assert fold(graph) is graph


def test_fold_makes_a_constant_as_large_as_it_may() -> None:
    graph = traced(lambda ops, x: ops.full_like(x, shape=(LARGEST,), value=1.0), spec(3))
    assert ops_of(fold(graph)) == []


def test_fold_runs_ops_of_many_inputs_and_outputs() -> None:
    def model(ops: Any, x: Any) -> Any:
        ones = ops.full_like(x, value=2.0)
        left, right = ops.split(ops.concat([ones, ones * 3.0]), sizes=(2, 4))
        return x * ops.sum(left) * ops.sum(right)

    graph = traced(model, spec(3))
    assert ops_of(verify(fold(graph))) == ["mul", "mul"]
    assert_same_bits(run(fold(graph), tensor(3)), run(graph, tensor(3)))


# Common subexpressions

DIFFERENT: dict[str, tuple[Model, Spec]] = {
    "1, 1.0 and True": (lambda ops, x: ops.cast(x * 1, dtype="float32") + x * 1.0 + (x * True), spec(3, dtype=INT)),
    "0.0 and -0.0": (lambda ops, x: ops.maximum(x + 0.0, x + -0.0), spec(3)),
    "0.0 and -0.0 as attributes": (
        lambda ops, x: 1.0 / ops.full_like(x, value=0.0) + 1.0 / ops.full_like(x, value=-0.0),
        spec(3),
    ),
    "1 and 1.0 as attributes": (lambda ops, x: ops.full_like(x, value=1) + ops.full_like(x, value=1.0), spec(3)),
    "attributes": (lambda ops, x: ops.sum(x, dim=0) + ops.sum(x, dim=1), spec(3, 3)),
    "operands' order": (lambda ops, x: (x / ops.exp(x)) * (ops.exp(-x) / x), spec(3)),
    "streams of randomness": (
        lambda ops, x: (
            ops.dropout_mask(x, shape=(3,), rate=0.5, stream=0) + ops.dropout_mask(x, shape=(3,), rate=0.5, stream=1)
        ),
        spec(dtype=INT),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_cse_tells_apart_what_is_not_the_same(name: str) -> None:
    model, given = DIFFERENT[name]
    graph = traced(model, given)
    assert cse(graph) is graph


def test_cse_merges_whole_chains_and_several_outputs() -> None:
    def model(ops: Any, x: Any) -> Any:
        first, second = ops.split(ops.exp(x), sizes=(1, 2)), ops.split(ops.exp(x), sizes=(1, 2))
        return first[0] * second[1] + second[0] * first[1]

    merged = verify(cse(traced(model, spec(3))))
    assert ops_of(merged) == ["exp", "split", "mul", "add"]


def test_cse_merges_nan_with_itself() -> None:
    graph = traced(lambda ops, x: (x * math.nan) + (x * math.nan), spec(3))
    assert ops_of(cse(graph)) == ["mul", "add"]


def sgd(parameter: Var, velocity: Var, gradient: Var) -> Node:
    outputs = (Var(parameter.spec), Var(parameter.spec))
    attrs = {"lr": 0.5, "momentum": 0.0}
    return Node(TABLE["sgd_update"], (parameter, velocity, gradient), attrs, outputs, Location("model.py", 1))


def test_updates_are_never_merged_or_folded() -> None:
    p, v, g = (Var(spec(2)) for _ in range(3))
    one, two = sgd(p, v, g), sgd(p, v, g)
    graph = Graph("f", {"p": p, "v": v, "g": g}, (one, two), {"a": one.outputs[0], "b": two.outputs[0]})
    assert cse(graph) is graph
    constants = replace(graph, inputs={}, constants={var: torch.ones(2) for var in (p, v, g)})
    assert fold(constants) is constants


# Dead code


def test_dce_keeps_constants_that_are_outputs() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"out": ops.full_like(s["x"], value=2.0), "x": s["x"]}

    graph = dce(fold(trace(model, {"x": spec(2)})))
    assert (len(graph.nodes), len(graph.constants)) == (0, 1)
    assert run(graph, tensor(2))[0].tolist() == [2.0, 2.0]


def test_dce_drops_what_only_dead_code_needs() -> None:
    def model(ops: Any, x: Any) -> Any:
        ops.exp(ops.tanh(x) * np.ones(3, np.float32))
        return x

    graph = dce(traced(model, spec(3)))
    assert (graph.nodes, dict(graph.constants)) == ((), {})


# All passes


@pytest.mark.parametrize("step", PIPELINE, ids=lambda step: step.__name__)
def test_a_pass_that_changes_nothing_gives_the_same_object(step: Pass) -> None:
    graph = traced(lambda ops, x, y: ops.tanh(x @ y) @ np.ones(2, np.float32), spec(3, 2), spec(2, 2))
    graph = plan_memory(graph)
    assert step(graph) is graph
    empty = traced(lambda ops, x: x, spec(3))
    assert step(empty) is empty


@pytest.mark.parametrize("seed", range(25))
def test_passes_in_any_order_keep_every_bit(seed: int) -> None:
    program = random_program(seed + 1000)
    traced_graph = verify(on_graph(program).graph)
    expected = on_tape(program)
    orders: list[list[Pass]] = [[step] for step in PIPELINE] + [list(PIPELINE)]
    orders += [random.Random(seed + n).choices(PIPELINE, k=4) for n in range(2)]  # 50 in all
    for order in orders:
        graph = traced_graph
        for step in order:
            graph = verify(step(graph))
            assert step(graph) is graph
        assert_same_bits(run(inline(graph), *program.inputs()), expected)


def test_a_graph_is_as_it_was_after_the_passes() -> None:
    graph = on_graph(random_program(5)).graph
    before, constants = str(graph), dict(graph.constants)
    for step in PIPELINE:
        step(graph)
    assert str(graph) == before
    assert dict(graph.constants) == constants


# The verifier


def node(name: str, inputs: tuple[Any, ...], *outputs: Var, **attrs: Any) -> Node:
    return Node(TABLE[name], inputs, attrs, outputs, Location("models/broken.py", 7))


def graph_of(*nodes: Node, **changes: Any) -> Graph:
    whole: dict[str, Any] = {"inputs": {"x": X, "v": V}, "outputs": {"out": Y}, **changes}
    return Graph("f", nodes=nodes, **whole)


X, V, Y, Z = (Var(spec(3)) for _ in range(4))
W, OTHER, P, Q = Var(spec(4)), Var(spec(3)), Var(spec(3)), Var(spec(3))
DONATED = frozenset({"x", "v"})
STEP = node("sgd_update", (X, V, Y), P, Q, lr=0.5, momentum=0.0)

BROKEN: dict[str, tuple[Graph, str]] = {
    "used before it is defined": (graph_of(node("tanh", (Z,), Y), node("exp", (X,), Z)), "tanh .* uses %1 before"),
    "a value of another graph": (graph_of(node("tanh", (OTHER,), Y)), "tanh .* uses a value of another graph"),
    "defined twice": (graph_of(node("tanh", (X,), Y), node("exp", (X,), Y)), r"exp .* defines %\d a second time"),
    "an input defined again": (
        graph_of(node("tanh", (V,), X), node("exp", (X,), Y)),
        "tanh .* defines .* a second time",
    ),
    "another shape": (
        graph_of(node("tanh", (X,), W), node("exp", (X,), Y)),
        r"tanh .* has outputs \['f32\[4\]'\], the kernel gives \['f32\[3\]'\]",
    ),
    "an output too many": (graph_of(node("tanh", (X,), Y, Z)), "tanh .* has outputs"),
    "an attribute too many": (graph_of(node("tanh", (X,), Y, dim=0)), r"tanh .* has attributes \['dim'\]"),
    "an attribute too few": (graph_of(node("softmax", (X,), Y)), r"softmax .* has attributes \[\].* \['dim'\]"),
    "an input too many": (graph_of(node("tanh", (X, X), Y)), "tanh .* has 2 inputs, the op takes 1"),
    "a kernel that refuses": (
        graph_of(node("add", (X, W), Y), inputs={"x": X, "w": W}),
        "add .* is refused by its kernel: add: ",
    ),
    "an output that nobody computes": (graph_of(node("tanh", (X,), Z)), "output 'out' is not defined"),
    "an input overwritten that was not given": (
        graph_of(node("tanh", (X,), Y), STEP, donated=frozenset({"x"})),
        "sgd_update .* overwrites input 1, which is not donated",
    ),
    "a computed value overwritten": (
        graph_of(node("tanh", (X,), Y), node("sgd_update", (Y, V, X), P, Q, lr=0.5, momentum=0.0), donated=DONATED),
        "sgd_update .* overwrites input 0, which is not donated",
    ),
    "a number overwritten": (
        graph_of(node("sgd_update", (1.0, V, X), P, Q, lr=0.5, momentum=0.0), donated=DONATED),
        "sgd_update",
    ),
    "read after an update": (
        graph_of(node("tanh", (X,), Y), STEP, node("exp", (X,), Z), donated=DONATED),
        "exp .* reads x after an update has overwritten it",
    ),
    "a view read after an update": (
        graph_of(
            node("tanh", (X,), Y), node("permute", (X,), Z, dims=(0,)), STEP, node("exp", (Z,), OTHER), donated=DONATED
        ),
        "exp .* reads %1 after an update has overwritten it",
    ),
    "a view of a view read after an update": (
        graph_of(
            node("permute", (X,), Y, dims=(0,)),
            node("reshape", (Y,), Z, shape=(3,)),
            replace(STEP, inputs=(X, V, V)),
            node("exp", (Z,), OTHER),
            donated=DONATED,
        ),
        "exp .* reads %1 after an update has overwritten it",
    ),
    "updated twice": (
        graph_of(node("tanh", (X,), Y), STEP, replace(STEP, outputs=(Z, OTHER)), donated=DONATED),
        "sgd_update .* reads x after an update",
    ),
    "an output overwritten": (
        graph_of(node("tanh", (X,), Y), STEP, outputs={"out": Y, "x": X}, donated=DONATED),
        "output 'x' is overwritten",
    ),
    "a view overwritten": (
        graph_of(node("reshape", (X,), Y, shape=(3,)), STEP, donated=DONATED),
        "output 'out' is overwritten",
    ),
    "a gift that is not there": (
        graph_of(node("tanh", (X,), Y), donated=frozenset({"w"})),
        "donates 'w', which is no input of",
    ),
    "a constant of another shape": (
        graph_of(node("tanh", (X,), Y), constants={Z: torch.ones(4)}),
        r"a constant is f32\[4\], declared f32\[3\]",
    ),
    "two inputs that are one": (
        graph_of(node("tanh", (X,), Y), inputs={"x": X, "v": X}),
        "two of its inputs and constants are one value",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_graph_is_refused(name: str) -> None:
    graph, message = BROKEN[name]
    with pytest.raises(EngineError, match=f"graph f: {message}"):
        verify(graph)


def test_a_broken_node_is_named_by_the_user_s_line() -> None:
    with pytest.raises(EngineError, match=r"tanh from broken\.py:7 has"):
        verify(BROKEN["another shape"][0])


def test_a_sound_graph_is_given_back() -> None:
    graph = graph_of(node("tanh", (X,), Y), STEP, outputs={"out": Y, "x": P, "v": Q}, donated=DONATED)
    assert verify(graph) is graph


VIEWING: dict[str, Model] = {
    "reshape": lambda ops, x: ops.reshape(x, shape=(6,)),
    "permute": lambda ops, x: ops.permute(x, dims=(1, 0)),
    "broadcast_to": lambda ops, x: ops.broadcast_to(x, shape=(4, 2, 3)),
    "getitem": lambda ops, x: x[1:],
    "split": lambda ops, x: ops.split(x, sizes=(1, 1))[1],
    "unstack": lambda ops, x: ops.unstack(x)[1],
    "sum_to": lambda ops, x: ops.sum_to(x, shape=(2, 3)),
    "cast": lambda ops, x: ops.cast(x, dtype="float32"),
    "stop_gradient": lambda ops, x: ops.stop_gradient(x),
}


def test_views_are_named_as_such() -> None:
    assert set(VIEWING) == VIEWS
    x = tensor(2, 3)
    for name, model in VIEWING.items():
        graph = traced(model, spec(2, 3))
        (out,) = run(graph, x)
        assert ops_of(graph) == [name]
        assert out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_no_other_op_gives_a_view() -> None:
    x, seen = tensor(2, 3), []
    for name in TABLE:
        try:
            graph = traced(lambda ops, x, name=name: getattr(ops, name)(x), spec(2, 3))
        except EngineError:
            continue  # takes more than one value, or attributes
        seen.append(name)
        (out,) = run(graph, x)
        assert (out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == (name in VIEWS), name
    assert len(seen) > 10
