"""Fusion: regions before and after, what may not join, and that regions run node by node keep every bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import Executable, Graph, differentiate, trace, update, verify
from engines.graph.fused import FUSED, inline
from engines.graph.passes import dce, fold, fuse, narrow, simplify
from engines.optim import Sgd
from engines.value import EngineError
from tests.programs import assert_near, assert_same_bits, run, spec, tensor, text, traced


def regions(graph: Graph) -> list[list[str]]:
    """The ops of each region."""
    return [[part.op.name for part in node.attrs["body"].nodes] for node in graph.nodes if node.op is FUSED]


def same(graph: Graph, *inputs: torch.Tensor) -> Graph:
    """The fused graph, after a look at what it gives on kernels and in C."""
    fused = verify(dce(fuse(graph)))
    expected = run(graph, *(x.clone() for x in inputs))
    assert_same_bits(run(inline(fused), *(x.clone() for x in inputs)), expected)
    assert_near(run(fused, *(x.clone() for x in inputs)), expected)
    return fused


def test_a_chain_forward_and_backward_is_one_region() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.tanh(s["x"]) * 1.5)}

    graph = differentiate(trace(loss, {"x": spec(5000)}), "loss", ["x"])
    for step in (simplify, narrow, fold, dce):
        graph = verify(step(graph))
    before = """
        graph f(x: f32[5000]) {
          const0: f32[1] = constant
          %0: f32[5000] = tanh(x)
          %1: f32[5000] = mul(%0, 1.5)
          %2: f32[] = sum(%1)
          %3: f32[5000] = tanh_backward(const0, %0)
          return loss=%2, grad.x=%3
        }
    """
    after = """
        graph f(x: f32[5000]) {
          const0: f32[1] = constant
          %0: f32[], %1: f32[5000] = fused(a0=x, a1=const0) {
            %0: f32[5000] = tanh(a0)
            %1: f32[5000] = mul(%0, 1.5)
            %2: f32[] = sum(%1)
            %3: f32[5000] = tanh_backward(a1, %0)
            return r0=%2, r1=%3
          }
          return loss=%0, grad.x=%1
        }
    """
    assert text(graph) == dedent(before).strip()
    assert text(same(graph, tensor(5000))) == dedent(after).strip()


def test_bias_and_activation_and_mask_join_in_one_region() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": ops.dropout(ops.relu(ops.linear(s["x"], s["w"], s["b"])), s["key"], rate=0.5, stream=3)}

    graph = trace(model, {"x": spec(4, 3), "w": spec(5, 3), "b": spec(5), "key": spec(dtype=torch.int64)})
    fused = verify(fuse(graph))
    expected = """
        graph f(x: f32[4,3], w: f32[5,3], b: f32[5], key: i64[]) {
          %0: f32[4,5] = linear(x, w)
          %1: f32[4,5] = fused(a0=%0, a1=b, a2=key) {
            %0: f32[4,5] = add(a0, a1)
            %1: f32[4,5] = relu(%0)
            %2: f32[4,5] = dropout_mask(a2, shape=(4, 5), rate=0.5, stream=3)
            %3: f32[4,5] = mul(%1, %2)
            return r0=%3
          }
          return y=%1
        }
    """
    assert text(fused) == dedent(expected).strip()
    inputs = tensor(4, 3), tensor(5, 3, seed=1), tensor(5, seed=2), torch.tensor(99)
    assert_near(run(fused, *inputs), run(graph, *inputs))


def test_log_softmax_and_nll_forward_and_backward_are_one_region() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.cross_entropy(s["x"] * 2.0, s["label"])}

    graph = fold(differentiate(trace(loss, {"x": spec(6, 5), "label": spec(6, dtype=torch.int64)}), "loss", ["x"]))
    fused = same(graph, tensor(6, 5), torch.tensor([0, 1, 2, 3, 4, 0]))
    assert regions(fused) == [["mul", "log_softmax", "nll_loss", "nll_loss_backward", "log_softmax_backward", "mul"]]


def test_the_updates_of_all_parameters_are_one_region_after_every_reader() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.tanh(s["a"])) + ops.sum(s["b"] * s["a"][0])}

    graph = differentiate(trace(loss, {"a": spec(7), "b": spec(3)}), "loss", ["a", "b"])
    graph = update(graph, Sgd(lr=0.5, momentum=0.25), ["a", "b"])
    fused = same(graph, tensor(7), tensor(3, seed=1), tensor(7, seed=2), tensor(3, seed=3))
    assert regions(fused)[-1] == ["sgd_update", "sgd_update"]
    assert fused.nodes[-1].attrs["body"].donated == {"a0", "a1", "a3", "a4"}


APART: dict[str, tuple[Callable[..., Any], list[list[str]]]] = {
    "a sum is whole only after its region": (
        lambda ops, x: ops.tanh(x) / ops.sum(ops.tanh(x) * 2.0) * 3.0,
        [["tanh", "mul", "sum"], ["tanh", "div", "mul"]],
    ),
    "what comes back through another op": (
        lambda ops, x: ops.tanh(ops.exp(x) * 2.0) * (ops.tanh(ops.exp(x) * 2.0) @ np.ones((4, 4), np.float32)),
        [["exp", "mul", "tanh", "exp", "mul", "tanh"]],
    ),
    "integers": (lambda ops, x: ops.cast(ops.argmax(x, dim=1) + 1, dtype="float32"), []),
    "powers that are no products": (lambda ops, x: ops.exp(x) ** 1.7 + ops.exp(x) ** x, [["exp", "exp"]]),
    "one node alone": (lambda ops, x: ops.exp(x), []),
    "no elements": (lambda ops, x: ops.exp(x[:0]) * 2.0, []),
}


@pytest.mark.parametrize("name", APART)
def test_what_belongs_apart_stays_apart(name: str) -> None:
    model, expected = APART[name]
    fused = same(traced(model, spec(4, 4)), tensor(4, 4))
    assert regions(fused) == expected


def test_inlining_undoes_fusing() -> None:
    graph = traced(lambda ops, x: ops.sum(ops.tanh(x) * 2.0), spec(5))
    assert text(inline(fuse(graph))) == text(graph)
    assert inline(graph) is graph


def test_a_region_that_is_refused_names_the_line_of_the_model() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.cross_entropy(s["x"], s["label"])}

    graph = trace(model, {"x": spec(2, 3), "label": spec(2, dtype=torch.int64)})
    with pytest.raises(EngineError, match=r"nll_loss: Target 3 is out of bounds.* from test_fuse\.py:\d+"):
        Executable.build(fuse(graph))(tensor(2, 3), torch.tensor([0, 3]))


def test_a_broken_body_is_refused() -> None:
    fused = fuse(traced(lambda ops, x: ops.tanh(x) * 2.0, spec(5)))
    (node,) = fused.nodes
    body = node.attrs["body"]
    node.attrs["body"] = body.with_nodes(tuple(reversed(body.nodes)))
    with pytest.raises(EngineError, match=r"graph fused: mul .* uses %\d before it is defined"):
        verify(fused)
