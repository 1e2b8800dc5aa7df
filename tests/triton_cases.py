"""Graphs for the Triton lowering, and two ways to try their kernels with no GPU, each in a process of its own.

    TRITON_INTERPRET=1 python -m tests.triton_cases run         # in Triton's interpreter, against the kernels
    python -m tests.triton_cases compile                        # to machine code, by Triton's own compiler

Both print what is wrong with each case, by its name, as JSON: null where nothing is.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from engines.graph import PIPELINE, Graph, differentiate, trace, update
from engines.graph.fused import FUSED, inline
from engines.graph.lower.aten import lower
from engines.graph.lower.triton import Module, fits, kernels, load, on_gpu
from engines.graph.passes import fuse
from engines.op import kernels_only
from engines.optim import Sgd
from tests.programs import assert_near, on_graph, on_tape, random_program, run, spec, tensor, traced
from tests.test_native import ELEMENTWISE, ODD, REDUCED

Case = tuple[Graph, list[torch.Tensor], tuple[float, float]]
NEAR = (2e-5, 2e-6)
EXACT = (1e-12, 1e-13)
"""For float64: a kernel that computes it in float32 is off by more."""
LABEL = torch.int64


def elementwise(name: str, dtype: torch.dtype) -> Case:
    model = ELEMENTWISE[name]
    x, y = ODD.to(dtype).repeat(40)[:, None], ODD.to(dtype).flip(0).repeat(2)
    graph = traced(
        lambda ops, x, y: model(ops, x + 0.0 * y, y + 0.0 * x), spec(440, 1, dtype=dtype), spec(22, dtype=dtype)
    )
    return graph, [x, y], NEAR if dtype == torch.float32 else EXACT


def of_two(one: tuple[int, ...], other: tuple[int, ...]) -> Case:
    graph = traced(lambda ops, x, y: ops.tanh(x * y) + x, spec(*one), spec(*other))
    return graph, [tensor(*one), tensor(*other, seed=1)], NEAR


def reduced(name: str, shape: tuple[int, ...]) -> Case:
    return traced(REDUCED[name], spec(*shape)), [tensor(*shape)], (1e-5, 1e-4)


def sums_of_every_kind() -> Case:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.tanh(s["x"]) * 2.0
        return {"all": ops.sum(y), "rows": ops.mean(y, dim=1), "columns": ops.sum_to(y, shape=(70,)), "y": y}

    return trace(loss, {"x": spec(300, 70)}), [tensor(300, 70)], (1e-5, 1e-3)


def classifier(rows: int, columns: int) -> Case:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.cross_entropy(s["x"] + s["b"], s["label"]) + ops.mean(s["x"] * s["x"])}

    specs = {"x": spec(rows, columns), "b": spec(columns), "label": spec(rows, dtype=LABEL)}
    graph = differentiate(trace(loss, specs), "loss", ["x", "b"])
    return graph, [tensor(rows, columns), tensor(columns, seed=1), torch.arange(rows) % columns], NEAR


def softmax(rows: int, columns: int) -> Case:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.softmax(s["x"] * 2.0, dim=1) * s["x"])}

    return differentiate(trace(loss, {"x": spec(rows, columns)}), "loss", ["x"]), [tensor(rows, columns)], (2e-5, 1e-5)


def mask(shape: tuple[int, ...], key: int) -> Case:
    graph = traced(lambda ops, key: ops.dropout_mask(key, shape=shape, rate=0.3, stream=5), spec(dtype=LABEL))
    return graph, [torch.tensor(key)], (0.0, 0.0)


def step() -> Case:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.tanh(s["a"])) + ops.sum(s["b"] * s["a"][0])}

    graph = differentiate(trace(loss, {"a": spec(7000), "b": spec(3)}), "loss", ["a", "b"])
    inputs = [tensor(7000), tensor(3, seed=1), tensor(7000, seed=2), tensor(3, seed=3)]
    return update(graph, Sgd(lr=0.5, momentum=0.25), ["a", "b"]), inputs, (2e-5, 1e-3)


def long_chain() -> Case:
    def model(ops: Any, x: Any) -> Any:
        for n in range(200):
            x = ops.tanh(x) * (1.0 + 1.0 / (n + 2))
        return x

    return traced(model, spec(5)), [tensor(5)], NEAR


def out_of_order() -> Case:
    return traced(lambda ops, x: ops.tanh(x) * 2.0, spec(4, 3)), [tensor(3, 4).T], NEAR


SHAPES = [(), (1,), (3,), (5000,), (3, 5), (5, 1, 7), (1, 1)]
BROADCASTS = [((4, 5), (5,)), ((4, 1), (1, 5)), ((3, 4, 5), (4, 1)), ((), (3, 3)), ((7, 1, 90), (8, 1))]
LARGE = (40, 50, 60)

CASES: dict[str, Callable[[], Case]] = {
    **{
        f"{name} in {str(dtype)[6:]}": lambda name=name, dtype=dtype: elementwise(name, dtype)
        for name in ELEMENTWISE
        for dtype in (torch.float32, torch.float64)
        if (name, dtype) != ("comparisons", torch.float64)
    },
    **{f"of shape {shape}": lambda shape=shape: of_two(shape, shape) for shape in SHAPES},
    **{f"{one} with {other}": lambda one=one, other=other: of_two(one, other) for one, other in BROADCASTS},
    **{
        f"sum, {name}, of {shape}": lambda name=name, shape=shape: reduced(name, shape)
        for name in REDUCED
        for shape in ((2, 3, 4), (1, 3, 1), (12, 50, 20))
    },
    "a sum in steps": lambda: reduced("to a bias", LARGE),
    "sums of every kind": sums_of_every_kind,
    **{f"classifier of {size}": lambda size=size: classifier(*size) for size in ((1, 1), (300, 7), (3, 2000))},
    **{f"softmax of {size}": lambda size=size: softmax(*size) for size in ((1, 1), (64, 10), (5, 500))},
    **{
        f"mask of {shape} from {key}": lambda shape=shape, key=key: mask(shape, key)
        for shape in ((1,), (5,), (64, 128), (3, 2, 1, 1))
        for key in (0, -1, 2**62 + 7)
    },
    "step": step,
    "long chain": long_chain,
    "out of order": out_of_order,
}
PROGRAMS = range(3000, 3006)
"""Seeds of random programs, which are tried as cases too."""

NAMES = [*CASES, *(f"program {seed}" for seed in PROGRAMS)]
COMPILED = [
    "unary in float32",
    "choices in float64",
    "a sum in steps",
    "classifier of (300, 7)",
    "step",
]
"""Cases that are compiled to machine code."""

TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bool: "*i1", torch.int64: "*i64"}


def run_case(name: str) -> None:
    """Run the fused graph with Triton's kernels, and hold it against the plain ones."""
    if name.startswith("program"):
        program = random_program(int(name.split()[1]), length=20)
        expected = on_tape(program)
        assert_near(in_triton(on_graph(program, passes=PIPELINE).graph, program.inputs()), expected)
        return
    graph, inputs, (rtol, atol) = CASES[name]()
    expected_outputs = run(graph, *(x.clone() for x in inputs))
    found = in_triton(fuse(graph), inputs)
    torch.testing.assert_close(found, expected_outputs, rtol=rtol, atol=atol, equal_nan=True)


def in_triton(graph: Graph, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    graph = replace(graph, plan=None)  # memory is planned on the CPU alone, and would come as further arguments
    functions, _ = on_gpu(graph)
    regions = [node.attrs["body"] for node in graph.nodes if node.op is FUSED]
    assert set(functions) == {body for body in regions if body.nodes[0].op.name != "max_pool2d_with_indices"}
    with kernels_only():
        return lower(inline(graph, lambda node: node.attrs["body"] not in functions), functions)[1](*inputs)


def compile_case(name: str) -> None:
    """Compile every kernel of a fused graph for a processor that need not be here."""
    triton, compiler = (importlib.import_module(module) for module in ("triton", "triton.backends.compiler"))
    for node in fuse(CASES[name]()[0]).nodes:
        if node.op is not FUSED or not fits(node.attrs["body"]):
            continue
        plan, module = list(kernels(node.attrs["body"])), Module()
        names = module.add("fused", plan)
        functions = load(str(module))
        for kernel, function in zip(plan, (functions[each] for each in names), strict=True):
            dtypes = [var.spec.dtype for var in kernel.values] + [kernel.dtype] * bool(kernel.numbers)
            signature = dict(zip(function.arg_names, (TYPES[dtype] for dtype in dtypes), strict=True))
            compiled = triton.compile(
                triton.compiler.ASTSource(function, signature=signature),
                target=compiler.GPUTarget("cuda", 90, 32),
                options={"num_warps": kernel.warps},
            )
            assert compiled.asm["cubin"]


def main() -> None:
    act, names = {"run": (run_case, NAMES), "compile": (compile_case, COMPILED)}[sys.argv[1]]
    wrong: dict[str, str | None] = {}
    for name in names:
        try:
            act(name)
            wrong[name] = None
        except Exception:
            wrong[name] = traceback.format_exc()
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
