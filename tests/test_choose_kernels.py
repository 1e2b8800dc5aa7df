"""Formulations give the same as the op they stand for; the fastest is chosen, remembered, and kept when saved."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from engines.graph import Executable, Graph, trace, trial, verify
from engines.graph.formulations import (
    HAS_ONEDNN,
    direct_of,
    few_rows_of,
    onednn_of,
    patches_of,
    weight_direct_of,
    winograd_of,
)
from engines.graph.fused import inline, readers_of, region_node
from engines.graph.ir import Node, Var
from engines.graph.lower import compiler
from engines.graph.passes import choose_kernels, enclose, fuse, pool
from engines.graph.trial import fastest
from engines.ops.conv import pair
from tests.programs import assert_near, run, spec, tensor, text, traced

PASS = sys.modules[choose_kernels.__module__]
IN_C = r"(conv2d_(winograd|direct|weight_direct|weight_bias_direct)|(linear|matmul)_few_rows)_[0-9a-f]{16}\("
"""A call of a C function, which is named by its text."""
CONVOLUTION = (spec(2, 8, 6, 8), spec(16, 8, 3, 3), spec(16))


def pooled(ops: Any, x: Any, w: Any, b: Any) -> Any:
    return ops.max_pool2d(ops.conv2d(x, w, b), kernel_size=2)


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the last formulation had been the fastest."""
    monkeypatch.setattr(PASS, "fastest", lambda contests: [len(graphs) - 1 for graphs in contests])


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(trial, "cache_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.usefixtures("last")
def test_a_convolution_and_the_pooling_that_alone_reads_it_become_one_region() -> None:
    graph = traced(pooled, *CONVOLUTION)
    expected = """
        graph f(x: f32[2,8,6,8], y: f32[16,8,3,3], z: f32[16]) {
          %0: f32[2,16,2,3] = fused(a0=x, a1=y, a2=z) {
            %0: f32[2,16,4,6] = conv2d_winograd(a0, a1, a2)
            %1: f32[2,16,2,3], %2: i64[2,16,2,3] = max_pool2d_with_indices(%0, kernel_size=2)
            return r0=%1
          }
          return out=%0
        }
    """
    for before in (graph, pool(graph)):
        assert text(verify(choose_kernels(before))) == dedent(expected).strip()


@pytest.mark.usefixtures("last")
def test_a_convolution_too_small_for_winograd_becomes_a_plain_sum_with_the_relu_that_alone_reads_it() -> None:
    small = (spec(2, 3, 6, 8), spec(4, 3, 3, 3), spec(4))
    graph = traced(lambda ops, x, w, b: ops.relu(ops.conv2d(x, w, b, padding=1)), *small)
    expected = """
        graph f(x: f32[2,3,6,8], y: f32[4,3,3,3], z: f32[4]) {
          %0: f32[2,4,6,8] = fused(a0=x, a1=y, a2=z) {
            %0: f32[2,4,6,8] = conv2d_direct(a0, a1, a2, padding=1)
            %1: f32[2,4,6,8] = relu(%0)
            return r0=%1
          }
          return out=%0
        }
    """
    assert text(verify(choose_kernels(graph))) == dedent(expected).strip()


@pytest.mark.usefixtures("last")
@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch is built without oneDNN")
def test_matrix_products_may_be_by_onednn() -> None:
    graph = traced(lambda ops, x, w: ops.matmul(ops.linear(x, w), w), spec(128, 128), spec(128, 128))
    chosen = verify(choose_kernels(graph))
    expected = """
        graph f(x: f32[128,128], y: f32[128,128]) {
          %0: f32[128,128] = linear_onednn(x, y)
          %1: f32[128,128] = matmul_onednn(%0, y)
          return out=%1
        }
    """
    assert text(inline(chosen)) == dedent(expected).strip()
    inputs = [tensor(128, 128, seed=seed) for seed in range(2)]
    assert_as_sums(Executable.build(chosen)(*inputs), run(graph, *inputs))


@pytest.mark.usefixtures("last")
def test_products_of_few_rows_are_read_once_also_in_a_loop_that_python_runs() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        def body(h: Any, x: Any) -> tuple[Any, None]:
            return ops.linear(h + x, s["w"], s["b"]), None

        h, _ = ops.scan(body, s["h"], s["x"])
        return {"y": ops.matmul(h, s["w"])}

    shapes = {"h": spec(2, 200), "x": spec(3, 2, 200), "w": spec(200, 200), "b": spec(200)}
    graph = trace(model, shapes)
    chosen = verify(choose_kernels(graph))
    expected = """
        graph f(h: f32[2,200], x: f32[3,2,200], w: f32[200,200], b: f32[200]) {
          %0: f32[2,200] = scan(carry0=h, x0=x, a0=w, a1=b, length=3) {
            body {
              %0: f32[2,200] = add(carry0, x0)
              %1: f32[2,200] = fused(a0=%0, a1=a0, a2=a1) {
                %0: f32[2,200] = linear_few_rows(a0, a1, a2)
                return r0=%0
              }
              return carry0=%1
            }
          }
          %1: f32[2,200] = fused(a0=%0, a1=w) {
            %0: f32[2,200] = matmul_few_rows(a0, a1)
            return r0=%0
          }
          return y=%1
        }
    """
    assert text(chosen) == dedent(expected).strip()
    inputs = [tensor(*var.spec.shape, seed=seed) * 0.05 for seed, var in enumerate(graph.inputs.values())]
    assert_as_sums(Executable.build(chosen)(*inputs), run(graph, *inputs))
    small = {name: spec(*(20 if size == 200 else size for size in each.shape)) for name, each in shapes.items()}
    whole = enclose(trace(model, small))
    assert whole.nodes[0].attrs["whole"]
    assert choose_kernels(whole) is whole


def weight(ops: Any, g: Any, x: Any, out: int = 6, window: int = 3, **attrs: Any) -> Any:
    return ops.conv2d_weight(g, x, shape=(out, x.spec.shape[1], window, window), **attrs)


@pytest.mark.usefixtures("last")
def test_the_gradient_by_a_small_weight_may_be_one_product() -> None:
    graph = traced(lambda ops, g, x: weight(ops, g, x, padding=1), spec(2, 6, 5, 4), spec(2, 8, 5, 4))
    expected = """
        graph f(x: f32[2,6,5,4], y: f32[2,8,5,4]) {
          %0: f32[6,8,3,3] = conv2d_weight_patches(x, y, shape=(6, 8, 3, 3), padding=1)
          return out=%0
        }
    """
    assert text(inline(verify(choose_kernels(graph)))) == dedent(expected).strip()


@pytest.mark.usefixtures("last")
def test_the_gradient_by_a_weight_takes_the_relu_along_that_it_alone_comes_from() -> None:
    shapes = [spec(2, 6, 5, 4), spec(2, 6, 5, 4), spec(2, 3, 5, 4)]
    graph = traced(lambda ops, g, y, x: weight(ops, ops.relu_backward(g, y), x, padding=1), *shapes)
    expected = """
        graph f(x: f32[2,6,5,4], y: f32[2,6,5,4], z: f32[2,3,5,4]) {
          %0: f32[6,3,3,3] = fused(a0=x, a1=y, a2=z) {
            %0: f32[2,6,5,4] = relu_backward(a0, a1)
            %1: f32[6,3,3,3] = conv2d_weight_direct(%0, a2, shape=(6, 3, 3, 3), padding=1)
            return r0=%1
          }
          return out=%0
        }
    """
    assert text(verify(choose_kernels(graph))) == dedent(expected).strip()


@pytest.mark.usefixtures("last")
def test_a_gradient_of_relu_that_others_read_is_left_where_it_is() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        g = ops.relu_backward(s["g"], s["y"])
        return {"w": weight(ops, g, s["x"], padding=1), "g": g}

    graph = trace(model, {"g": spec(2, 6, 5, 4), "y": spec(2, 6, 5, 4), "x": spec(2, 3, 5, 4)})
    chosen = verify(choose_kernels(graph))
    assert [node.op.name for node in chosen.nodes] == ["relu_backward", "fused"]
    inputs = [tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(graph.inputs.values())]
    assert_as_sums(Executable.build(chosen)(*inputs), run(graph, *inputs))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("image", "out", "attrs"),
    [
        ((1, 1, 7, 6), 4, {}),
        ((3, 5, 8, 7), 2, {"padding": 1}),
        ((2, 3, 9, 8), 6, {"padding": (0, 2), "stride": (2, 1)}),
        ((2, 2, 8, 8), 3, {"stride": 2}),
    ],
)
def test_patches_give_what_the_gradient_gives(
    image: tuple[int, ...], out: int, attrs: Mapping[str, Any], bias: bool
) -> None:
    steps, pads = (((v, v) if isinstance(v := attrs.get(n, d), int) else v) for n, d in (("stride", 1), ("padding", 0)))
    seen = [(image[d] + 2 * pads[d - 2] - 3) // steps[d - 2] + 1 for d in (2, 3)]

    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        op, shape = ops.conv2d_weight_bias if bias else ops.conv2d_weight, (out, image[1], 3, 3)
        found = op(s["g"], s["x"], shape=shape, **attrs)
        return {"w": found[0], "b": found[1]} if bias else {"w": found}

    graph = trace(model, {"g": spec(image[0], out, *seen), "x": spec(*image)})
    (node,) = graph.nodes
    other = patches_of(node)
    assert other is not None
    inputs = [tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(graph.inputs.values())]
    assert_as_sums(Executable.build(graph.with_nodes((other,)))(*inputs), run(graph, *inputs))


LEFT_ALONE: dict[str, Callable[..., Any]] = {
    "stride": lambda ops, x, w, b: ops.conv2d(x, w, b, stride=2),
    "dilation": lambda ops, x, w, b: ops.conv2d(x, w, b, dilation=2),
    "a dilated gradient": lambda ops, x, w, b: weight(ops, ops.conv2d(x, w, b, dilation=2), x, 16, dilation=2),
    "a gradient with many patches": lambda ops, x, w, b: weight(
        ops, ops.full_like(b, shape=(99, 16, 8, 8), value=1.0), ops.full_like(b, shape=(99, 8, 10, 10), value=1.0), 16
    ),
    "a small product": lambda ops, x, w, b: ops.matmul(ops.reshape(x, shape=(16, 48)), ops.reshape(w, shape=(48, 24))),
}


@pytest.mark.usefixtures("last")
@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_has_no_other_formulation_is_left_alone(name: str) -> None:
    graph = traced(LEFT_ALONE[name], *CONVOLUTION)
    assert choose_kernels(graph) is graph


@pytest.mark.usefixtures("last")
def test_a_convolution_that_nobody_reads_is_left_to_dce() -> None:
    def model(ops: Any, x: Any, w: Any, b: Any) -> Any:
        ops.max_pool2d(ops.conv2d(x, w, b), kernel_size=2)
        return x * 2.0

    graph = traced(model, *CONVOLUTION)
    assert choose_kernels(graph) is graph


@pytest.mark.usefixtures("last")
def test_a_convolution_that_others_read_keeps_its_result() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.conv2d(s["x"], s["w"], s["b"])
        return {"y": y, "p": ops.max_pool2d(y, kernel_size=2)}

    graph = trace(model, dict(zip("xwb", CONVOLUTION, strict=True)))
    chosen = verify(choose_kernels(graph))
    assert [node.op.name for node in chosen.nodes] == ["fused", "max_pool2d_with_indices"]


@pytest.mark.usefixtures("last")
def test_nothing_is_chosen_where_determinism_is_asked_for() -> None:
    graph = traced(pooled, *CONVOLUTION)
    torch.use_deterministic_algorithms(True)
    try:
        assert choose_kernels(graph) is graph
    finally:
        torch.use_deterministic_algorithms(False)


SIZES: list[tuple[tuple[int, ...], int, int | tuple[int, int]]] = [
    ((3, 32, 26, 26), 64, 0),  # whole vectors, rows without a gap
    ((9, 8, 6, 6), 16, 1),  # many images: a band is an image
    ((1, 9, 7, 9), 10, 1),  # vectors filled up, an odd row and column
    ((2, 17, 9, 8), 33, (0, 1)),
    ((2, 48, 11, 5), 48, 2),  # three vectors at once
]


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("with_pool", [False, True])
@pytest.mark.parametrize(("image", "outs", "padding"), SIZES)
def test_winograd_gives_what_the_convolution_gives(
    image: tuple[int, ...], outs: int, padding: int | tuple[int, int], with_pool: bool
) -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.conv2d(s["x"], s["w"], s["b"], padding=padding)
        return dict(zip("pi", ops.max_pool2d_with_indices(y, kernel_size=2), strict=True)) if with_pool else {"y": y}

    graph = trace(model, {"x": spec(*image), "w": spec(outs, image[1], 3, 3), "b": spec(outs)})
    assert_the_same(graph, winograd_of)


SMALL: list[tuple[tuple[int, ...], tuple[int, ...], int | tuple[int, int]]] = [
    ((1, 1, 28, 28), (6, 1, 5, 5), 0),  # rows of 24: with AVX-512 the second vector lies over the first
    ((3, 6, 12, 12), (16, 6, 5, 5), 0),  # vectors of 8, rows by four
    ((2, 3, 7, 9), (5, 3, 3, 2), (1, 2)),  # a window that is no square, a border, seven rows, one channel at a time
    ((70, 4, 9, 6), (8, 4, 4, 3), (0, 1)),  # vectors of 4, of which two share columns, and threads
    ((2, 16, 20, 20), (3, 16, 1, 1), 0),
]


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("with_relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("image", "window", "padding"), SMALL)
def test_a_plain_sum_gives_what_the_convolution_gives(
    image: tuple[int, ...], window: tuple[int, ...], padding: int | tuple[int, int], with_bias: bool, with_relu: bool
) -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.conv2d(s["x"], s["w"], s.get("b"), padding=padding)
        return {"y": ops.relu(y) if with_relu else y}

    bias = {"b": spec(window[0])} if with_bias else {}
    assert_the_same(trace(model, {"x": spec(*image), "w": spec(*window), **bias}), direct_of)


ROUNDING = 2.0**-24
"""What float32 is off by at most when it rounds a number, relative."""

PRODUCTS: list[tuple[int, int, int]] = [
    (1, 256, 1024),
    (1, 1024, 33),  # columns that neither vectors nor blocks fill
    (2, 515, 130),  # numbers left over from the vectors along a row
    (3, 64, 520),
    (4, 9, 4000),
    (4, 8200, 4),
    (8, 301, 130),  # a vector of sums for each row and no more
]


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("with_bias", [False, True, None])
@pytest.mark.parametrize(("rows", "inner", "columns"), PRODUCTS)
def test_a_product_of_few_rows_is_the_product(rows: int, inner: int, columns: int, with_bias: bool | None) -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": ops.matmul(s["x"], s["w"]) if with_bias is None else ops.linear(s["x"], s["w"], s.get("b"))}

    matrix = spec(inner, columns) if with_bias is None else spec(columns, inner)
    bias = {"b": spec(columns)} if with_bias else {}
    assert_the_same(trace(model, {"x": spec(rows, inner), "w": matrix, **bias}), few_rows_of, terms=inner)


WRONG_PRODUCTS: dict[str, Callable[[Node], Node]] = {
    "a bias as long as a row": lambda node: replace(node, inputs=(*node.inputs[:2], node.inputs[0])),
    "the matrix for both": lambda node: replace(node, inputs=(node.inputs[1], *node.inputs[1:])),
    "a small result": lambda node: replace(node, outputs=(Var(spec(2, 100)),)),
}


@pytest.mark.parametrize("name", WRONG_PRODUCTS)
def test_a_stored_product_with_other_shapes_does_not_become_c(name: str) -> None:
    graph = traced(lambda ops, x, w, b: ops.linear(x, w, b), spec(2, 300), spec(200, 300), spec(200))
    other = few_rows_of(graph.nodes[0])
    assert other is not None
    assert re.search(IN_C, Executable.build(as_region(graph.with_nodes((other,)))).source)
    wrong = WRONG_PRODUCTS[name](other)
    changed = graph.with_nodes((wrong,), {"out": wrong.outputs[0]})
    assert not re.search(IN_C, Executable.build(as_region(changed)).source)


FEW: list[tuple[tuple[int, ...], tuple[int, ...], int | tuple[int, int]]] = [
    ((9, 1, 28, 28), (32, 1, 3, 3), 0),  # rows of 26, of which some columns lie in two vectors
    ((2, 3, 7, 9), (5, 3, 3, 2), (1, 2)),  # a window that is no square, a border, one channel at a time
    ((70, 4, 9, 6), (8, 4, 4, 3), (0, 1)),  # vectors of 4, and threads
    ((3, 1, 30, 40), (6, 1, 5, 5), 2),
    ((2, 2, 6, 30), (3, 2, 1, 13), 0),  # more columns of a window than there are registers for
]


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("with_relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("image", "window", "padding"), FEW)
def test_the_sums_of_a_weight_are_its_gradient(
    image: tuple[int, ...], window: tuple[int, ...], padding: int | tuple[int, int], with_bias: bool, with_relu: bool
) -> None:
    graph, plain, compiled = weight_gradient(image, window, padding, with_bias, with_relu)
    inputs = [tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(compiled.graph.inputs.values())]
    assert re.search(IN_C, compiled.source)
    assert_as_sums(compiled(*inputs), sums_of_a_weight(inputs, pair(padding))[: 1 + with_bias])
    assert_as_sums(plain(*inputs), run(graph, *inputs))
    if with_relu:
        inputs[1][0, 0, 0, 0] = float("nan")  # which relu takes for positive
        assert_as_sums(compiled(*inputs), sums_of_a_weight(inputs, pair(padding))[: 1 + with_bias])


@pytest.mark.parametrize("wanted", ["w", "b"])
def test_of_the_gradients_by_weight_and_bias_one_alone_may_be_read(wanted: str) -> None:
    graph, *_ = weight_gradient(*FEW[0], with_bias=True, with_relu=True)
    graph = graph.with_nodes(graph.nodes, {wanted: graph.outputs[wanted]})
    inputs = [tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(graph.inputs.values())]
    compiled = Executable.build(written_out(graph))
    assert re.search(IN_C, compiled.source)
    assert_as_sums(compiled(*inputs), [dict(zip("wb", sums_of_a_weight(inputs, (0, 0)), strict=True))[wanted]])


@pytest.mark.usefixtures("last")
def test_a_gradient_of_relu_that_is_the_image_too_is_left_where_it_is() -> None:
    shape = spec(2, 3, 6, 8)
    graph = traced(lambda ops, g, y: weight(ops, h := ops.relu_backward(g, y), h, out=3, padding=1), shape, shape)
    chosen = choose_kernels(graph)
    inputs = [tensor(2, 3, 6, 8, seed=seed) for seed in (0, 1)]
    assert_as_sums(Executable.build(chosen)(*inputs), run(graph, *inputs))


@pytest.mark.usefixtures("processor")
def test_an_infinity_in_a_column_that_two_vectors_see_stays_one() -> None:
    image, window, padding = FEW[0]
    *_, compiled = weight_gradient(image, window, padding, with_bias=True, with_relu=False)
    g, x = (tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(compiled.graph.inputs.values()))
    inputs = [g.abs(), x.index_fill(3, torch.tensor([20]), float("inf"))]
    assert compiled(*inputs)[0].isinf().all()
    assert_as_sums(compiled(*inputs), sums_of_a_weight(inputs, pair(padding)))


def weight_gradient(
    image: tuple[int, ...], window: tuple[int, ...], padding: int | tuple[int, int], with_bias: bool, with_relu: bool
) -> tuple[Graph, Executable, Executable]:
    """A graph that gives a weight's gradient, the same by sums on the kernels, and all as one region in C."""
    pads = pair(padding)
    seen = (image[0], window[0], *(image[d] + 2 * pads[d - 2] - window[d] + 1 for d in (2, 3)))

    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        g = ops.relu_backward(s["g"], s["y"]) if with_relu else s["g"]
        op = ops.conv2d_weight_bias if with_bias else ops.conv2d_weight
        found = op(g, s["x"], shape=window, padding=padding)
        return {"w": found[0], "b": found[1]} if with_bias else {"w": found}

    relu = {"y": spec(*seen)} if with_relu else {}
    graph = trace(model, {"g": spec(*seen), **relu, "x": spec(*image)})
    region = written_out(graph)
    return graph, Executable.build(inline(region)), Executable.build(region)


def written_out(graph: Graph) -> Graph:
    """All of a graph that ends with a weight's gradient as one region, with the sums in its place."""
    other = weight_direct_of(graph.nodes[-1])
    assert other is not None
    plain = graph.with_nodes((*graph.nodes[:-1], other))
    return plain.with_nodes((region_node(plain.nodes, readers_of(plain)),))


def sums_of_a_weight(inputs: Sequence[torch.Tensor], pads: Sequence[int]) -> list[torch.Tensor]:
    """The gradients by weight and bias from g, what relu gave, if there is one, and x, summed in double precision."""
    g, *y, x = inputs
    slopes = (torch.where(y[0] <= 0, 0.0, g) if y else g).double()
    padded = torch.nn.functional.pad(x.double(), (pads[1], pads[1], pads[0], pads[0]))
    patches = padded.unfold(2, g.shape[2], 1).unfold(3, g.shape[3], 1)
    return [torch.einsum("norq,ncijrq->ocij", slopes, patches).float(), slopes.sum((0, 2, 3)).float()]


def assert_the_same(graph: Graph, rule: Callable[[Node], Node | None], terms: int = 0) -> None:
    """On the kernels and in C a formulation gives what the node gives, in which a NaN is one afterwards, too."""
    kernels, compiled = formulated(graph, rule)
    inputs = [tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(graph.inputs.values())]
    expected = run(graph, *inputs)
    assert re.search(IN_C, compiled.source)
    assert_as_sums(compiled(*inputs), expected, terms)
    assert_as_sums(kernels(*inputs), expected, terms)
    inputs[0][(0, 0, 2, 3) if inputs[0].ndim == 4 else (0, 3)] = float("nan")
    assert_as_sums(compiled(*inputs), run(graph, *inputs), terms)


def assert_as_sums(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], terms: int = 0) -> None:
    """Equal within what the order of a long sum may change, against the largest of the sums.

    The roundings of a sum of n terms add up like a random walk's steps: to about sqrt(n) of them.
    """
    within = max(1e-6, terms**0.5 * ROUNDING)
    for one, other in zip(found, expected, strict=True):
        largest = float(other.nan_to_num().abs().max()) if other.is_floating_point() else 0.0
        torch.testing.assert_close(one, other, rtol=0, atol=within * largest, equal_nan=True)


def formulated(graph: Graph, rule: Callable[[Node], Node | None]) -> tuple[Executable, Executable]:
    """A formulation of the first node on the kernels, and all as one region in C."""
    first, *rest = graph.nodes
    other = rule(first)
    assert other is not None
    plain = graph.with_nodes((other, *rest))
    return Executable.build(plain), Executable.build(plain.with_nodes((region_node(plain.nodes, readers_of(plain)),)))


@pytest.mark.parametrize(("rule", "channels"), [(winograd_of, 8), (direct_of, 3)])
@pytest.mark.parametrize("wrong", ["bias", "padding", "relu"])
def test_a_stored_region_with_other_shapes_does_not_become_c(
    rule: Callable[[Node], Node | None], channels: int, wrong: str
) -> None:
    image = (spec(2, channels, 10, 10), spec(16, channels, 3, 3), spec(16))
    graph = traced(lambda ops, x, w, b: ops.relu(ops.conv2d(x, w, b)), *image)
    node, relu = graph.nodes
    if rule is winograd_of:
        graph = graph.with_nodes((node,), {"out": node.outputs[0]})
    plain = rule(node)
    assert plain is not None
    rest = [] if rule is winograd_of else [relu]
    assert re.search(IN_C, Executable.build(as_region(graph.with_nodes((plain, *rest)))).source)
    x, w, _ = plain.inputs
    if wrong == "bias":
        changed = [replace(plain, inputs=(x, w, w)), *rest]
    elif wrong == "padding":
        out = Var(spec(2, 16, 6, 12))
        changed = [replace(plain, attrs={"padding": (-1, 2)}, outputs=(out,))]
        graph = graph.with_nodes(tuple(changed), {"out": out})
    else:
        small = Var(spec(1))
        changed = [plain, replace(relu, inputs=plain.outputs, outputs=(small,))]
        graph = graph.with_nodes(tuple(changed), {"out": small})
    assert not re.search(IN_C, Executable.build(as_region(graph.with_nodes(tuple(changed)))).source)


def as_region(graph: Graph) -> Graph:
    """All of a graph as one region."""
    return graph.with_nodes((region_node(graph.nodes, readers_of(graph)),))


WRONG: dict[str, Callable[[Node, Node], tuple[Node, Node]]] = {
    "the image is another's result": lambda relu, node: (relu, replace(node, inputs=(node.inputs[0],) * 2)),
    "a number for what relu gave": lambda relu, node: (replace(relu, inputs=(relu.inputs[0], 1.0)), node),
    "a border below nothing": lambda relu, node: (relu, replace(node, attrs={**node.attrs, "padding": (-1, 1)})),
    "another weight": lambda relu, node: (relu, replace(node, attrs={**node.attrs, "shape": (6, 3, 3, 5)})),
    "a small result": lambda relu, node: (relu, replace(node, outputs=(Var(spec(1)),))),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_stored_gradient_by_a_weight_with_other_shapes_does_not_become_c(name: str) -> None:
    shapes = [spec(2, 6, 8, 8), spec(2, 6, 8, 8), spec(2, 3, 8, 8)]
    graph = traced(lambda ops, g, y, x: weight(ops, ops.relu_backward(g, y), x, padding=1), *shapes)
    relu, node = graph.nodes
    other = weight_direct_of(node)
    assert other is not None
    assert re.search(IN_C, Executable.build(as_region(graph.with_nodes((relu, other)))).source)
    nodes = WRONG[name](relu, other)
    wrong = graph.with_nodes(nodes, {"out": nodes[1].outputs[0]})
    assert not re.search(IN_C, Executable.build(as_region(wrong)).source)


def test_a_region_that_was_tried_alone_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(PASS, "fastest", lambda contests: [_tried(graphs) for graphs in contests])
    compiled: list[str] = []
    compile_to = compiler.compile_to
    monkeypatch.setattr(compiler, "compile_to", lambda *a: (compiled.append(a[1]), compile_to(*a)))
    graph = traced(lambda ops, x, w, b: ops.exp(pooled(ops, x, w, b)) * 2.0, *CONVOLUTION)
    Executable.build(choose_kernels(graph))
    assert sum("conv2d_winograd_" in source for source in compiled) == 1


def _tried(graphs: Sequence[Graph]) -> int:
    for graph in graphs:
        Executable.build(graph)
    return len(graphs) - 1


# The race


def graphs() -> list[Graph]:
    slow = traced(lambda ops, x: ops.sum(ops.sqrt(ops.exp(ops.tanh(x)))), spec(256, 256))
    return [slow, traced(lambda ops, x: ops.sum(x), spec(256, 256))]


def test_the_fastest_is_chosen_and_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest([graphs()]) == [1]
    (kept,) = folder.iterdir()
    monkeypatch.setattr(trial, "_race", lambda _: pytest.fail("measured again"))
    assert fastest([graphs()]) == [1]
    assert kept.suffix == ".choice"


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((1.0, 0.92), 0), ((1.0, 0.88), 1), ((1.0, 0.88, 0.8), 2), ((1.0, 2.0), 0)]
)
def test_a_small_advantage_is_chance(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float], chosen: int
) -> None:
    monkeypatch.setattr(trial, "_race", lambda _: list(seconds))
    assert fastest([[graphs()[0]] * len(seconds)]) == [chosen]


class Timed:
    """What a race sees of an executable, each run of which takes so long by the race's own clock."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.graph, self.clock, self.seconds, self.runs = traced(lambda ops, x: x * 2.0, spec(2)), clock, seconds, 0

    def __call__(self, *_: torch.Tensor) -> None:
        self.runs += 1
        self.clock[0] += self.seconds


@pytest.mark.parametrize(
    ("first", "other", "rounds"),
    [
        (1e-3, 1.1e-3, trial.FEWEST_ROUNDS),  # ahead: the other cannot win any more
        (1e-3, 0.95e-3, trial.MOST_ROUNDS),  # open
        (1e-3, 0.4e-3, 2),  # beyond any chance
        (1.0, 0.95, trial.FEWEST_ROUNDS),  # open, and slow
    ],
)
def test_a_race_is_as_long_as_it_is_open(
    first: float, other: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(trial.time, "perf_counter", lambda: clock[0])
    racers: Any = [Timed(clock, first), Timed(clock, other)]
    assert trial._race(racers) == pytest.approx([first, other])
    assert [racer.runs for racer in racers] == [1 + rounds] * 2  # the first run of each is not timed


def test_the_longest_c_is_compiled_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Graph] = []
    monkeypatch.setattr(trial.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(trial.Executable, "build", built.append)
    monkeypatch.setattr(trial, "_race", lambda executables: [1.0] * len(executables))
    models: list[Callable[..., Any]] = [
        lambda ops, x: ops.exp(x * 2.0),
        lambda ops, x: ops.tanh(ops.exp(ops.sqrt(x * 2.0)) + x),
        lambda ops, x: ops.exp(x * 2.0) + x,
    ]
    contests = [[fuse(traced(model, spec(4, 4)))] for model in models]
    lengths = {graph: len("".join(trial.regions_in_c(graph))) for (graph,) in contests}
    assert len({*lengths.values()}) == len(models)
    fastest(contests)
    assert [lengths[graph] for graph in built] == sorted(lengths.values(), reverse=True)
    assert len(list(folder.iterdir())) == len(contests)


@pytest.mark.parametrize("damage", ["", "{}", '{"chosen": 2}', '{"chosen": true}', "[]"])
def test_a_damaged_memory_is_measured_again(folder: Path, damage: str) -> None:
    assert fastest([graphs()]) == [1]
    (kept,) = folder.iterdir()
    kept.write_text(damage)
    assert fastest([graphs()]) == [1]
    assert '"chosen": 1' in kept.read_text()


@pytest.mark.usefixtures("last")
def test_a_choice_is_kept_in_a_saved_executable(tmp_path: Path) -> None:
    chosen = choose_kernels(traced(pooled, *CONVOLUTION))
    Executable.build(chosen).save(tmp_path / "model")
    loaded = Executable.load(tmp_path / "model")
    assert text(loaded.graph) == text(chosen)
    inputs = [tensor(*var.spec.shape, seed=seed) for seed, var in enumerate(chosen.inputs.values())]
    assert_near(loaded(*inputs), Executable.build(inline(chosen))(*inputs))


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch is built without oneDNN")
def test_products_of_three_dimensions_stay_with_torch() -> None:
    (node,) = traced(lambda ops, a, b: ops.matmul(a, b), spec(64, 64, 64), spec(64, 64, 64)).nodes
    assert onednn_of(node) is None
