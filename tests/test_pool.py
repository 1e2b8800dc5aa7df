"""Max-pooling: the rewrites before and after, where they must not be made, and the sparse gradients in C."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import pytest
import torch

from engines.graph import Executable, Graph, differentiate, trace, verify
from engines.graph.fused import FUSED, inline
from engines.graph.passes import dce, fold, pool
from tests.programs import assert_near, assert_same_bits, run, spec, tensor, text, traced


def regions(graph: Graph) -> list[list[str]]:
    return [[part.op.name for part in node.attrs["body"].nodes] for node in graph.nodes if node.op is FUSED]


def network(shape: tuple[int, ...], weight: tuple[int, ...], **window: Any) -> Graph:
    """The gradients of a small loss behind a convolution, relu and max-pool."""

    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.max_pool2d(ops.relu(ops.conv2d(s["x"], s["w"], s["b"])), **window)
        return {"loss": ops.sum(ops.tanh(y))}

    inputs = {"x": spec(*shape), "w": spec(*weight), "b": spec(weight[0])}
    return fold(differentiate(trace(loss, inputs), "loss", ["x", "w", "b"]))


def inputs_of(graph: Graph) -> list[torch.Tensor]:
    return [tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(graph.inputs.values())]


def test_signs_and_maxima_come_first_and_gradients_are_one_region() -> None:
    graph = network((2, 3, 8, 8), (4, 3, 3, 3), kernel_size=2)
    expected = """
        graph f(x: f32[2,3,8,8], w: f32[4,3,3,3], b: f32[4]) {
          const0: f32[] = constant
          const1: f32[1,1,1,1] = constant
          const2: f32[2,4,3,3] = constant
          %0: f32[2,4,6,6] = conv2d(x, w, b)
          %1: f32[2,4,3,3], %2: i64[2,4,3,3] = fused(a0=%0) {
            %0: f32[2,4,3,3], %1: i64[2,4,3,3] = max_pool2d_with_indices(a0, kernel_size=2)
            return r0=%0, r1=%1
          }
          %3: f32[2,4,3,3] = relu(%1)
          %4: f32[2,4,3,3] = tanh(%3)
          %5: f32[] = sum(%4)
          %6: f32[2,4,3,3] = tanh_backward(const2, %4)
          %7: f32[2,4,3,3] = relu_backward(%6, %3)
          %8: f32[4,3,3,3], %9: f32[4], %10: f32[2,3,8,8] = fused(a0=%7, a1=%2, a2=x, a3=w) {
            %0: f32[2,4,6,6] = max_pool2d_backward(a0, a1, shape=(2, 4, 6, 6), kernel_size=2)
            %1: f32[4,3,3,3], %2: f32[4] = conv2d_weight_bias(%0, a2, shape=(4, 3, 3, 3))
            %3: f32[2,3,8,8] = conv2d_input(%0, a3, shape=(2, 3, 8, 8))
            return r0=%1, r1=%2, r2=%3
          }
          return loss=%5, grad.x=%10, grad.w=%8, grad.b=%9
        }
    """
    assert text(verify(pool(graph))) == dedent(expected).strip()


SIZES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 8, 8), (4, 3, 3, 3), {"kernel_size": 2}),
    ((1, 1, 9, 7), (1, 1, 1, 1), {"kernel_size": (3, 2)}),
    ((3, 6, 12, 12), (16, 6, 5, 5), {"kernel_size": 2}),
    ((2, 40, 10, 11), (5, 40, 3, 2), {"kernel_size": 2, "stride": 1}),
    ((2, 33, 9, 9), (3, 33, 3, 3), {"kernel_size": 3, "stride": 2}),
    ((9, 32, 26, 26), (64, 32, 3, 3), {"kernel_size": 2}),
    ((1, 2, 30, 30), (2, 2, 7, 7), {"kernel_size": 2}),  # more taps than registers: kernels
    ((2, 2, 8, 8), (2, 2, 3, 3), {"kernel_size": 2, "padding": 1}),  # padded: kernels
]


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize(("shape", "weight", "window"), SIZES)
def test_gradients_behind_a_pool_are_the_kernels(shape: Any, weight: Any, window: Any) -> None:
    graph = network(shape, weight, **window)
    pooled, inputs = verify(dce(pool(graph))), inputs_of(graph)
    expected = run(graph, *inputs)
    assert_same_bits(run(inline(pooled), *inputs), expected)
    for found, wanted in zip(run(pooled, *inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("wrt", [["w"], ["x"], ["w", "x"], ["b", "w"]])
def test_gradients_of_a_part(wrt: list[str]) -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.tanh(ops.max_pool2d(ops.conv2d(s["x"], s["w"], s["b"]), kernel_size=2)))}

    graph = trace(loss, {"x": spec(2, 3, 8, 8), "w": spec(4, 3, 3, 3), "b": spec(4)})
    graph = differentiate(graph, "loss", wrt)
    assert_near(run(verify(pool(graph)), *inputs_of(graph)), run(graph, *inputs_of(graph)))


def test_nan_and_infinities_are_chosen_as_the_kernel_does() -> None:
    graph = traced(lambda ops, x: ops.max_pool2d(x, kernel_size=2), spec(1, 1, 4, 6))
    x = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1.0]).repeat(4).reshape(1, 1, 4, 6)
    assert_same_bits(run(pool(graph), x), run(graph, x))


def test_a_relu_that_others_read_stays_where_it_is() -> None:
    def model(ops: Any, x: Any) -> Any:
        y = ops.relu(x)
        return ops.sum(ops.max_pool2d(y, kernel_size=2)) + ops.sum(y)

    graph = pool(traced(model, spec(1, 1, 4, 4)))
    assert [node.op.name for node in graph.nodes][:2] == ["relu", "fused"]


def test_indices_that_others_read_keep_relu_before_the_pool() -> None:
    def model(ops: Any, x: Any) -> Any:
        return ops.max_pool2d_with_indices(ops.relu(x), kernel_size=2)[1]

    graph = traced(model, spec(1, 1, 4, 4))
    x = -torch.arange(1.0, 17.0).flip(0).reshape(1, 1, 4, 4)
    assert_same_bits(run(pool(graph), x), run(graph, x))


def test_a_gradient_that_others_read_is_laid_out() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.conv2d(s["x"], s["w"])
        (grad,) = ops.gradients(ops.sum(ops.tanh(ops.max_pool2d(y, kernel_size=2))), [y])
        return {"grad": grad, "by_w": ops.conv2d_weight(grad, s["x"], shape=(2, 1, 3, 3))}

    graph = trace(loss, {"x": spec(1, 1, 6, 6), "w": spec(2, 1, 3, 3)})
    assert ["max_pool2d_with_indices"] in regions(pool(graph))
    assert len(regions(pool(graph))) == 1


def test_indices_out_of_the_plane_write_nowhere() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        back = ops.max_pool2d_backward(s["g"], s["i"], shape=(1, 1, 4, 4), kernel_size=2)
        return {"out": ops.conv2d_weight(back, s["x"], shape=(1, 1, 3, 3))}

    specs = {"g": spec(1, 1, 2, 2), "i": spec(1, 1, 2, 2, dtype=torch.int64), "x": spec(1, 1, 6, 6)}
    executable = Executable.build(pool(trace(model, specs)))
    assert "fused_0" in executable.source
    with pytest.raises(Exception, match=r"max_pool2d_backward: .*from test_pool\.py"):
        executable(tensor(1, 1, 2, 2), torch.tensor([[[[0, 2], [8, 99]]]]), tensor(1, 1, 6, 6))
