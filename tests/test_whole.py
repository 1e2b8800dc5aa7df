"""Loops that become C as a whole give what their kernels give; what does not fit stays with the kernels."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, differentiate, trace, verify
from engines.graph.compile import run_passes
from engines.graph.control import LOOPS, SCAN, all_nodes
from engines.graph.ir import Var
from engines.graph.lower import blas, compiler
from engines.graph.lower.call import FEWEST_TRIPS, bound_loop
from engines.graph.lower.places import VIEWED
from engines.graph.lower.written import LARGEST_PRODUCT, LARGEST_SMALL, NARROW, WRITTEN
from engines.graph.passes.enclose import enclose
from engines.value import EngineError, Spec

Body = Callable[[Any, Any, Any, dict[str, Any]], Any]

BODIES: dict[str, Body] = {
    "elementwise, broadcast": lambda ops, c, v, s: ops.tanh(c * v[0] + s["w"][:3, :1]) * ops.exp(-ops.abs(c)) + 0.5,
    "comparison and choice": lambda ops, c, v, s: ops.where(c > v, c * 0.5, ops.maximum(c, v) + 1.0),
    "truth of truths": lambda ops, c, v, s: ops.where(
        ops.logical_or(ops.logical_and(c > v, c > 0.0), ops.logical_not(v < 0.5)), c * 0.5, v * c
    ),
    "sum, mean, sum_to": lambda ops, c, v, s: (
        c * 0.1 + ops.sum(c, dim=1, keepdim=True) - ops.mean(v, dim=0) + ops.sum_to(v, shape=(1, 4))
    ),
    "matmul, permute": lambda ops, c, v, s: (
        ops.tanh(ops.matmul(ops.matmul(c, s["w"]), ops.transpose(s["w"], dim0=0, dim1=1))) + v
    ),
    "linear with a bias": lambda ops, c, v, s: ops.sigmoid(ops.linear(c, s["w"], v[1])) - ops.linear(v, s["w"]),
    "reshape of a view": lambda ops, c, v, s: ops.reshape(ops.transpose(c, dim0=0, dim1=1), shape=(3, 4)) * 0.5 + v,
    "concat, split": lambda ops, c, v, s: ops.concat(ops.split(c, sizes=(1, 3), dim=1)[::-1], dim=1) * 0.5 + v,
    "unstack, stop_gradient": lambda ops, c, v, s: c * ops.unstack(v, dim=0)[2] + ops.stop_gradient(v[1]),
    "slices": lambda ops, c, v, s: (
        ops.concat([c[1:], v[None, 0, :]], dim=0) * ops.reshape(c[:, ::2], shape=(3, 2))[:, :1]
    ),
    "broadcast_to, copy": lambda ops, c, v, s: ops.copy(
        ops.concat([ops.broadcast_to(v[:1, :1], shape=(1, 4)), c[1:]], dim=0)
    ),
    "softmax, log_softmax": lambda ops, c, v, s: (
        ops.softmax(c * v, dim=1) + ops.log_softmax(ops.transpose(ops.reshape(c, shape=(4, 3)), dim0=0, dim1=1), dim=1)
    ),
    "embedding": lambda ops, c, v, s: c * 0.5 + ops.embedding(ops.stop_gradient(v), s["i"]),
    "gather, scatter_add": lambda ops, c, v, s: ops.scatter_add(
        c * 0.5, s["i"][:, None], ops.gather(v, ops.reshape(s["i"], shape=(3, 1)), dim=1), dim=1
    ),
    "narrow products by a wide matrix": lambda ops, c, v, s: ops.tanh(
        ops.linear(ops.matmul(c, s["wide"]), s["wide"], v[0]) * 1e-3
    ),
    "narrow products by a tall matrix": lambda ops, c, v, s: (
        ops.tanh(
            ops.matmul(ops.transpose(ops.linear(s["tall"], c, ops.stop_gradient(v[:, 1])), dim0=0, dim1=1), s["tall"])
            * 1e-3
        )
        + v
    ),
}
"""From a carry (3, 4), a row (3, 4) and the rest to the next carry: a weight (4, 4), an index (3,), long matrices."""

LONG = 6003


def given(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"c": (3, 4), "v": (5, 3, 4), "w": (4, 4), "wide": (4, LONG), "tall": (LONG, 4)}
    values = {name: torch.randn(shape, dtype=dtype, generator=generator) for name, shape in shapes.items()}
    return values | {"i": torch.randint(3, (5, 3), generator=generator)}


def differentiated(body: Body, specs: dict[str, Spec]) -> Graph:
    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        def trip(c: Any, rows: Any) -> Any:
            v, i = rows
            return body(ops, c, v, {**s, "i": i}), c * v

        carry, ys = ops.scan(trip, s["c"], (s["v"], s["i"]), reverse=True)
        return {"loss": ops.sum(carry * carry) + ops.sum(ys)}

    return differentiate(trace(model, specs), "loss", ["c", "v", "w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_loop_in_c_gives_what_its_kernels_give_there_and_back(body: Body, dtype: torch.dtype) -> None:
    values = given(dtype)
    graph = differentiated(body, {name: Spec.of(value) for name, value in values.items()})
    optimised = verify(run_passes(graph, PIPELINE, {}))
    loops = [node for node in all_nodes(optimised) if node.op in LOOPS]
    assert len(loops) == 2
    assert all(node.attrs["whole"] for node in loops)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]
    for found, expected in zip(
        Executable.build(optimised)(*values.values()), Executable.build(graph)(*values.values()), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_every_op_that_c_knows_is_tried() -> None:
    specs = {name: Spec.of(value) for name, value in given(torch.float32).items()}
    graphs = [run_passes(differentiated(body, specs), PIPELINE[:-1], {}) for body in BODIES.values()]
    inside = {node.op.name for graph in graphs for loop in graph.nodes if loop.op in LOOPS for node in _flat(loop)}
    assert {*VIEWED, *WRITTEN} <= inside


def _flat(loop: Any) -> list[Any]:
    nodes = []
    for part in loop.attrs["body"]:
        for node in part.nodes:
            nodes += node.attrs["body"].nodes if node.op.name == "fused" else [node]
    return nodes


def test_a_while_loop_in_c_stops_where_it_should_and_at_its_limit() -> None:
    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        def body(c: Any) -> Any:
            return c[0] * 1.5, c[1] + 1

        y, trips = ops.while_loop(lambda c: ops.sum(c[0] * c[0]) < 1e6, body, (s["x"], s["n"]), limit=40)
        return {"y": y, "trips": trips}

    graph = trace(model, {"x": Spec((3,), torch.float64, "cpu"), "n": Spec((), torch.int64, "cpu")})
    optimised = run_passes(graph, PIPELINE, {})
    assert [node.attrs["whole"] for node in optimised.nodes if node.op in LOOPS] == [True]
    compiled, replayed = Executable.build(optimised), Executable.build(graph)
    for x in (torch.ones(3, dtype=torch.float64), torch.full((3,), 1e9, dtype=torch.float64)):
        for found, expected in zip(compiled(x, torch.tensor(5)), replayed(x, torch.tensor(5)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    with pytest.raises(EngineError, match=r"still holds after 40 trips, the limit, at test_whole.py"):
        compiled(torch.full((3,), 1e-30, dtype=torch.float64), torch.tensor(0))


def differentiated_while(nested: bool = False) -> Graph:
    """A loop that goes on as data decide, and in `nested` a scan around it; with gradients of all that it reads."""

    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        def body(c: Any) -> Any:
            return {"x": ops.tanh(ops.matmul(c["x"], s["w"])) * 1.1 + c["x"], "n": c["n"] + 1}

        def loop(x: Any, most: Any) -> Any:
            found = ops.while_loop(lambda c: c["n"] < most, body, {"x": x, "n": most * 0}, limit=300)
            return found["x"]

        y = ops.scan(lambda x, most: (loop(x, most), None), s["x"], s["most"])[0] if nested else loop(s["x"], s["most"])
        return {"loss": ops.sum(y * y), "y": y}

    most = Spec((4,) if nested else (), torch.int64, "cpu")
    specs = {"x": Spec((2, 3), torch.float64, "cpu"), "w": Spec((3, 3), torch.float64, "cpu"), "most": most}
    return differentiate(trace(model, specs), "loss", ["x", "w"])


def whole_loops(graph: Graph) -> list[bool]:
    return [node.attrs["whole"] for node in all_nodes(graph) if node.op in LOOPS]


def test_a_while_loop_in_c_keeps_what_its_gradient_reads_however_long_it_goes() -> None:
    graph = differentiated_while()
    optimised = verify(run_passes(graph, PIPELINE, {}))
    assert whole_loops(optimised) == [True, True]
    compiled, replayed = Executable.build(optimised), Executable.build(graph)
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = torch.eye(3, dtype=torch.float64) * 0.1
    trips = [0, 1, FEWEST_TRIPS - 1, FEWEST_TRIPS, FEWEST_TRIPS + 1, 150, 7, 151]
    kept = []
    for most in map(torch.tensor, trips):
        found, expected = compiled(x, w, most), replayed(x, w, most)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
        kept.append((found, expected))
    for found, expected in kept:  # what has been given is nobody else's memory
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    with pytest.raises(EngineError, match=r"still holds after 300 trips, the limit, at test_whole.py"):
        compiled(x, w, torch.tensor(301))
    torch.testing.assert_close(compiled(x, w, torch.tensor(300)), replayed(x, w, torch.tensor(300)))


def test_while_loops_in_c_may_go_round_within_another_loop_and_as_often_as_each_will() -> None:
    graph = differentiated_while(nested=True)
    optimised = verify(run_passes(graph, PIPELINE, {}))
    assert sorted(whole_loops(optimised)) == [False, False, True, True]
    compiled, replayed = Executable.build(optimised), Executable.build(graph)
    x, w = torch.full((2, 3), 0.1, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 0.05
    for trips in ([3, 0, 40, 1], [0, 0, 0, 0], [5, 5, 5, 5]):
        most = torch.tensor(trips)
        torch.testing.assert_close(compiled(x, w, most), replayed(x, w, most), rtol=1e-11, atol=1e-11)


def test_a_loop_in_c_reads_rows_in_one_piece_and_no_further_than_all_of_them_go() -> None:
    optimised = run_passes(differentiated_while(), PIPELINE, {})
    (back,) = (node for node in optimised.nodes if node.op is SCAN)
    lengths: list[int] = []

    def function(pointers: bytes) -> int:
        *_, counts = struct.unpack(f"{len(pointers) // 8}P", pointers)
        lengths.append(ctypes.c_int64.from_address(counts).value)
        return 0

    def given(trips: list[int]) -> list[Any]:
        rows = iter(trips)
        carried, end = back.attrs["carried"], back.attrs["carried"] + back.attrs["scanned"]
        shapes = [(var.spec.shape, var.spec.dtype) for var in back.inputs if isinstance(var, Var)]
        return [
            [torch.zeros(shape[1:], dtype=dtype) for _ in range(next(rows))]
            if carried <= i < end
            else torch.zeros(shape, dtype=dtype)
            for i, (shape, dtype) in enumerate(shapes)
        ]

    assert back.attrs["scanned"] > 1
    run = bound_loop(function, back, "loop")
    run(*given([3] * back.attrs["scanned"]))
    run(*given([0] * back.attrs["scanned"]))
    assert lengths == [3, 0]
    with pytest.raises(EngineError, match=r"its xs have \[3, 4\] rows, from .*test_whole.py"):
        run(*given([4, *[3] * (back.attrs["scanned"] - 1)]))


def test_a_loop_for_which_there_is_no_compiler_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        return {"y": ops.scan(lambda c, _: (c[None, 0] * 0.5 + s["x"], None), s["x"], length=3)[0]}

    graph = run_passes(trace(model, {"x": Spec((3,), torch.float64, "cpu")}), PIPELINE, {})
    (loop,) = (node for node in graph.nodes if node.op in LOOPS)
    assert loop.attrs["whole"]
    assert "regions_on_kernels" not in Executable.build(graph).counters()
    compiler.say_once.cache_clear()
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    with pytest.warns(RuntimeWarning, match="fused regions run as single kernels"):
        assert Executable.build(graph).counters()["regions_on_kernels"] >= 1


@pytest.mark.parametrize("product", ["linear", "matmul"])
def test_products_that_threads_share_give_what_a_blas_gives(product: str) -> None:
    rows, size = 41, 70
    assert LARGEST_SMALL < rows * size * size < LARGEST_PRODUCT
    assert rows not in NARROW

    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        def trip(c: Any, _: Any) -> Any:
            return ops.tanh(ops.linear(c, s["w"], s["b"]) if product == "linear" else ops.matmul(c, s["w"])), None

        return {"loss": ops.mean(ops.scan(trip, s["c"], length=3)[0])}

    shapes = {"c": (rows, size), "w": (size, size), "b": (size,)}
    values = {name: torch.randn(shape, dtype=torch.float64) * 0.2 for name, shape in shapes.items()}
    wanted = ["c", "w", "b"] if product == "linear" else ["c", "w"]
    graph = differentiate(trace(model, {name: Spec.of(value) for name, value in values.items()}), "loss", wanted)
    optimised = run_passes(graph, PIPELINE, {})
    assert whole_loops(optimised) == [True, True]
    found, expected = Executable.build(optimised)(*values.values()), Executable.build(graph)(*values.values())
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


LARGE: dict[str, Body] = {
    "matmul": lambda ops, c, v, s: ops.matmul(c, s["w"]) * 0.1,
    "of a turned one": lambda ops, c, v, s: ops.matmul(ops.transpose(c, dim0=0, dim1=1), s["w"]) * 0.1,
    "by a turned one": lambda ops, c, v, s: ops.matmul(c, ops.transpose(s["w"], dim0=0, dim1=1)) * 0.1,
    "linear": lambda ops, c, v, s: ops.linear(c, s["w"]) * 0.1,
    "linear with a bias": lambda ops, c, v, s: ops.tanh(ops.linear(c, s["w"], v)),
    "by every second column": lambda ops, c, v, s: ops.concat([ops.matmul(c, s["w"][:, ::2])] * 2, dim=1) * 0.1,
    "of a row spread out": lambda ops, c, v, s: ops.matmul(ops.broadcast_to(v[None, :], shape=c.shape), s["w"]) + c,
}
"""From a carry (size, size), a row (size,) and a weight (size, size) to the next carry, by a product that is large."""


@pytest.mark.skipif(not blas.available(), reason="PyTorch shows no BLAS here")
@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_large_products_are_made_by_the_blas_of_pytorch(body: Body) -> None:
    size = 2 * round((2 * LARGEST_PRODUCT) ** (1 / 3) / 2) + 2  # even, and large by half as many columns

    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        return {"loss": ops.mean(ops.scan(lambda c, v: (body(ops, c, v, s), None), s["c"], s["v"])[0])}

    shapes = {"c": (size, size), "w": (size, size), "v": (2, size)}
    values = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    specs = {name: Spec.of(value) for name, value in values.items()}
    graph = differentiate(trace(model, specs), "loss", ["c", "w"])
    optimised = run_passes(graph, PIPELINE, {})
    compiled = Executable.build(optimised)
    assert whole_loops(optimised) == [True, True]
    assert "gemm_d(" in compiled.code
    found, expected = compiled(*values.values()), Executable.build(graph)(*values.values())
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.skipif(not blas.available(), reason="PyTorch shows no BLAS here")
@pytest.mark.parametrize("rows", [41, 90])
def test_products_of_threads_and_of_the_blas_begin_with_a_bias(rows: int) -> None:
    size = 90

    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        return {"y": ops.scan(lambda c, _: (ops.linear(c, s["w"], s["b"][0]), None), s["c"], length=2)[0]}

    shapes = {"c": (rows, size), "w": (size, size), "b": (3, size)}
    values = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    graph = trace(model, {name: Spec.of(value) for name, value in values.items()})
    marked = enclose(graph)  # before other passes, which add a bias elsewhere
    compiled = Executable.build(marked)
    assert whole_loops(marked) == [True]
    assert ("gemm_d(" in compiled.code) == (rows == size)
    torch.testing.assert_close(compiled(*values.values()), Executable.build(graph)(*values.values()))


def test_where_pytorch_shows_no_blas_large_products_stay_with_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "available", lambda: False)
    size = round(LARGEST_PRODUCT ** (1 / 3)) + 2

    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        return {"y": ops.scan(lambda c, _: (ops.matmul(c, s["x"]), None), s["x"], length=3)[0]}

    graph = run_passes(trace(model, {"x": Spec((size, size), torch.float32, "cpu")}), PIPELINE, {})
    assert whole_loops(graph) == [False]


@pytest.mark.parametrize("wrong", [-1, 3, 1 << 40])
@pytest.mark.parametrize("op", ["embedding", "gather", "scatter_add"])
def test_an_index_outside_is_named_as_the_kernels_name_it(op: str, wrong: int) -> None:
    bodies: dict[str, Callable[..., Any]] = {
        "embedding": lambda ops, c, i: c + ops.embedding(c, i),
        "gather": lambda ops, c, i: c + ops.gather(c, i[:, None], dim=1),
        "scatter_add": lambda ops, c, i: ops.scatter_add(c, i[:, None], c[:, :1], dim=1),
    }

    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        return {"y": ops.scan(lambda c, i: (bodies[op](ops, c, i), None), s["c"], s["i"])[0]}

    graph = trace(model, {"c": Spec((3, 3), torch.float32, "cpu"), "i": Spec((5, 3), torch.int64, "cpu")})
    optimised = run_passes(graph, PIPELINE, {})
    assert [node.attrs["whole"] for node in optimised.nodes if node.op in LOOPS] == [True]
    c, i = torch.ones(3, 3), torch.zeros(5, 3, dtype=torch.int64)
    compiled = Executable.build(optimised)
    right = compiled(c, i)
    i[3, 1] = wrong
    with pytest.raises(EngineError, match=rf"{op}: index .*test_whole.py:\d+"):
        compiled(c, i)
    i[3, 1] = 0
    torch.testing.assert_close(compiled(c, i), right)
