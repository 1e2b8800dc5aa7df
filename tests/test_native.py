"""Regions in C: the kernels' numbers for every formula, shape and stride; accuracy; the cache; life without C."""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph
from engines.graph.domain import MAPS, REDUCTIONS
from engines.graph.domain import UPDATES as FUSIBLE_UPDATES
from engines.graph.fused import inline
from engines.graph.lower import compiler, loops
from engines.graph.lower.formulas import FORMULAS, ROWS, UPDATES
from engines.graph.lower.prelude import PRELUDE
from engines.graph.lower.walk import SUMS
from engines.graph.passes import fuse
from engines.graph.passes import fuse as fuse_pass
from engines.graph.stored import CONSTANTS, DIGEST, GRAPH
from suites.harness.conductor import Limits
from tests.programs import assert_near, assert_same_bits, on_graph, on_tape, random_program, run, spec, tensor, traced

Model = Callable[..., Any]
ODD = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 1e-42, 3e38, float("inf"), -float("inf"), float("nan")])


def in_c(graph: Graph) -> Executable:
    executable = Executable.build(fuse(graph))
    assert "fused_0" in executable.source
    return executable


def test_every_op_that_may_be_fused_has_a_formula_and_the_other_way_round() -> None:
    assert set(FORMULAS) | set(ROWS) - SUMS == MAPS
    assert SUMS == REDUCTIONS
    assert set(UPDATES) == FUSIBLE_UPDATES


ELEMENTWISE: dict[str, Model] = {
    "arithmetic": lambda ops, x, y: (x + y) * (x - y) / (y * 3.0) - (-x),
    "numbers on the left": lambda ops, x, y: 2.0 - x + 1.5 / y,
    "slopes": lambda ops, x, y: ops.tanh_backward(x, y) + ops.sigmoid_backward(x, y) + ops.relu_backward(x, y),
    "unary": lambda ops, x, y: ops.abs(x) + ops.sign(y) + ops.exp(x) + ops.tanh(y) + ops.sigmoid(x) + ops.relu(y),
    "roots and powers": lambda ops, x, y: ops.sqrt(x) + x**2.0 + y**3.0 + x**-1.0 + y**-2.0 + x**0.5 + x**-0.5,
    "larger and smaller": lambda ops, x, y: ops.maximum(x, y) + ops.minimum(x * 2.0, y),
    "choices": lambda ops, x, y: ops.where(ops.logical_not(x > y), x, 0.25) + ops.where(x < 0.0, y, x),
    "comparisons": lambda ops, x, y: (
        ops.cast(ops.equal(x, y), dtype="float32")
        + ops.cast(x != y, dtype="float32") * 2.0
        + ops.cast(x <= y, dtype="float32") * 4.0
        + ops.cast(x >= y, dtype="float32") * 8.0
    ),
    "a fill": lambda ops, x, y: ops.full_like(x, value=0.1) * y,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_formulas_give_what_the_kernels_give_for_numbers_of_every_kind(name: str, dtype: torch.dtype) -> None:
    x = ODD.to(dtype).repeat(40)[:, None]
    y = ODD.to(dtype).flip(0).repeat(2)
    model = ELEMENTWISE[name]
    if dtype == torch.float64 and name == "comparisons":
        pytest.skip("casts to float32, another width")
    graph = traced(
        lambda ops, x, y: model(ops, x + 0.0 * y, y + 0.0 * x), spec(440, 1, dtype=dtype), spec(22, dtype=dtype)
    )
    assert_near(in_c(graph)(x, y), run(graph, x, y))


SHAPES = [(), (1,), (3,), (17,), (1000,), (3, 5), (2, 3, 4), (70000,), (300, 300), (5, 1, 7), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_regions_of_any_shape(shape: tuple[int, ...]) -> None:
    graph = traced(lambda ops, x, y: ops.tanh(x * y) + x, spec(*shape), spec(*shape))
    x, y = tensor(*shape), tensor(*shape, seed=1)
    assert_near(in_c(graph)(x, y), run(graph, x, y))


BROADCASTS = [
    ((4, 5), (5,)),
    ((4, 1), (1, 5)),
    ((3, 4, 5), (4, 1)),
    ((), (3, 3)),
    ((2, 3, 4, 5), (2, 3, 1, 1)),
    ((70, 1, 90), (80, 1)),
]


@pytest.mark.parametrize(("one", "other"), BROADCASTS)
def test_operands_are_broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    graph = traced(lambda ops, x, y: ops.tanh(x * y) + x, spec(*one), spec(*other))
    x, y = tensor(*one), tensor(*other, seed=1)
    assert_near(in_c(graph)(x, y), run(graph, x, y))


REDUCED: dict[str, Model] = {
    "all": lambda ops, x: ops.sum(x * 2.0),
    "mean": lambda ops, x: ops.mean(x * 2.0),
    "first": lambda ops, x: ops.sum(x * 2.0, dim=0),
    "middle, kept": lambda ops, x: ops.mean(x * 2.0, dim=1, keepdim=True),
    "last": lambda ops, x: ops.sum(x * 2.0, dim=-1),
    "all but one": lambda ops, x: ops.sum(x * 2.0, dim=(0, 2)),
    "to a bias": lambda ops, x: ops.sum_to(x * 2.0, shape=(x.shape[2],)),
    "to a column": lambda ops, x: ops.sum_to(x * 2.0, shape=(x.shape[1], 1)),
}


@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 1), (40, 50, 60)])
def test_reductions_end_a_region(name: str, shape: tuple[int, ...]) -> None:
    graph = traced(REDUCED[name], spec(*shape))
    (found,), (expected,) = in_c(graph)(tensor(*shape)), run(graph, tensor(*shape))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_a_long_sum_is_nearer_to_the_truth_than_a_float_could_be() -> None:
    graph = traced(lambda ops, x: ops.sum(x * 1.0), spec(1_000_000))
    x = torch.full((1_000_000,), 0.1)
    assert abs(float(in_c(graph)(x)[0]) - 1_000_000 * float(np.float32(0.1))) < 0.1


@pytest.mark.parametrize("shape", [(1,), (5,), (64, 128), (3, 2, 1, 1)])
def test_masks_are_the_kernel_s_to_the_bit(shape: tuple[int, ...]) -> None:
    graph = traced(lambda ops, key: ops.dropout_mask(key, shape=shape, rate=0.3, stream=5), spec(dtype=torch.int64))
    for key in (0, -1, 2**62 + 7):
        assert_same_bits(in_c(graph)(torch.tensor(key)), run(graph, torch.tensor(key)))


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_through_the_pipeline_and_c(seed: int) -> None:
    program = random_program(seed + 3000, length=5 + seed)
    executable = on_graph(program, passes=PIPELINE)
    assert_near(executable(*program.inputs()), on_tape(program))


def test_a_long_chain_is_cut_into_pieces_that_are_shared() -> None:
    def model(ops: Any, x: Any) -> Any:
        for n in range(2000):
            x = ops.tanh(x) * (1.0 + 1.0 / (n + 2))
        return x

    executable = in_c(traced(model, spec(5)))
    assert executable.code.count("static void piece_") < 6
    assert_near(executable(tensor(5)), run(inline(executable.graph), tensor(5)))


def test_inputs_that_do_not_lie_in_order_are_read_right() -> None:
    graph = traced(lambda ops, x: ops.tanh(x) * 2.0, spec(4, 3))
    x = tensor(3, 4).T
    assert_near(in_c(graph)(x), run(graph, x))


# Accuracy

FUNCTIONS = (
    PRELUDE
    + """
void tanh_of(const float *x, float *y, long n) { _Pragma("omp simd") for (long i = 0; i < n; i++) y[i] = tanh_f(x[i]); }
void exp_of(const float *x, float *y, long n) { _Pragma("omp simd") for (long i = 0; i < n; i++) y[i] = exp_f(x[i]); }
"""
)


@pytest.mark.parametrize(("name", "reference", "low", "high"), [("tanh", np.tanh, -12, 12), ("exp", np.exp, -87, 88)])
def test_functions_are_within_one_unit_in_the_last_place(name: str, reference: Any, low: float, high: float) -> None:
    library = compiler.load(FUNCTIONS)
    assert library is not None
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(low, high, 200_000), rng.normal(size=200_000)]).astype(np.float32)
    y = np.empty_like(x)
    getattr(library, f"{name}_of")(
        x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(x.size)
    )
    exact = reference(x.astype(np.float64))
    assert np.max(np.abs(y - exact) / np.spacing(np.abs(exact).astype(np.float32))) < 1.0


# Compiling


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiler, "cache_folder", lambda: tmp_path)
    compiler.say_once.cache_clear()
    return tmp_path


def small() -> Graph:
    return fuse(traced(lambda ops, x: ops.tanh(x) * 2.0, spec(5)))


def test_a_library_is_compiled_once_and_nothing_else_is_left(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Executable.build(small())
    assert [path.suffix for path in empty_cache.iterdir()] == [".so"]
    monkeypatch.setattr(compiler, "compile_to", lambda *_: pytest.fail("compiled again"))
    assert_same_bits(Executable.build(small())(tensor(5)), first(tensor(5)))


def test_a_damaged_library_is_made_anew(empty_cache: Path) -> None:
    found = compiler.find_compiler()
    assert found is not None
    path = compiler.cached("int one(void) { return 1; }", found)
    path.write_bytes(b"no library")
    library = compiler.load("int one(void) { return 1; }")
    assert library is not None
    assert library.one() == 1


@pytest.mark.parametrize("broken", ["no compiler", "one that fails", "one that is none"])
def test_without_a_working_compiler_it_is_said_once_and_kernels_run(
    broken: str, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n" if broken == "one that fails" else "hello")
    script.chmod(0o755)
    monkeypatch.setattr(compiler, "find_compiler", lambda: None if broken == "no compiler" else str(script))
    with pytest.warns(RuntimeWarning, match="fused regions run as single kernels") as said:
        executables = [Executable.build(small()) for _ in range(2)]
    assert len(said) == 1
    assert "tanh(x)" in executables[0].source
    assert_same_bits(executables[1](tensor(5)), run(inline(small()), tensor(5)))
    assert [each.counters()["regions_on_kernels"] for each in executables] == [1, 1]
    monkeypatch.undo()
    assert "regions_on_kernels" not in Executable.build(small()).counters()


def test_what_takes_a_compiler_too_long_is_not_tried_again(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, tries = tmp_path / "cc", tmp_path / "tries"
    script.write_text(f"#!/bin/sh\necho >> {tries}\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(compiler, "find_compiler", lambda: str(script))
    monkeypatch.setattr(compiler, "LIMIT_SECONDS", 0.2)
    with pytest.warns(RuntimeWarning, match=r"timed out after 0\.2 seconds: fused regions run as single kernels"):
        assert compiler.load("int one(void) { return 1; }") is None
    assert len(tries.read_text().splitlines()) == 1
    monkeypatch.undo()
    assert Limits().request_seconds >= 2 * compiler.LIMIT_SECONDS


def test_two_processes_may_compile_the_same_source_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from engines.graph.lower import compiler\n"
        "compiler.cache_folder = lambda: Path(sys.argv[1])\n"
        "sys.exit(compiler.load('int one(void) { return 1; }').one() - 1)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parent.parent) for _ in "ab"
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_comment_cannot_be_left() -> None:
    assert loops.comment("a\nb\\") == "a?b?"


def test_one_executable_in_two_threads() -> None:
    graph = traced(lambda ops, x: ops.sum(ops.tanh(x) * 2.0), spec(3000))
    executable = in_c(graph)
    inputs = [tensor(3000, seed=n) for n in range(2)]
    expected = [executable(x)[0] for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        wrong.extend(n for n in range(300) if not torch.equal(executable(inputs[number])[0], expected[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_saved_region_comes_back_and_runs_in_c(tmp_path: Path) -> None:
    executable = Executable.build(small())
    executable.save(tmp_path / "saved")
    again = Executable.load(tmp_path / "saved")
    assert (str(again.graph), again.source, again.code) == (str(executable.graph), executable.source, executable.code)
    assert_same_bits(again(tensor(5)), executable(tensor(5)))
    assert fuse_pass(again.graph) is again.graph


def test_a_stored_region_that_is_not_what_it_says_never_becomes_c(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    Executable.build(small()).save(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    document = json.loads(parts[GRAPH])
    document["code"] = hashlib.sha256(b"").hexdigest()  # as if no region had become C

    def rewritten() -> Path:
        parts[GRAPH] = json.dumps(document).encode()
        parts[DIGEST] = hashlib.sha256(parts[GRAPH] + parts[CONSTANTS]).hexdigest().encode()
        with zipfile.ZipFile(path, "w") as file:
            for name, content in parts.items():
                file.writestr(name, content)
        return path

    body = document["graph"]["nodes"][0][2]["body"]
    body["specs"][-1][0] = document["graph"]["specs"][-1][0] = [5000]  # a result longer than what is computed
    assert "fused_0" not in Executable.load(rewritten()).source
    body["specs"] = [[[5000], *rest] for _, *rest in body["specs"]]  # sound in itself, but given less than it takes
    assert "fused_0" not in Executable.load(rewritten()).source
