"""Regions as Triton kernels: their text, their numbers in Triton's interpreter, machine code, life without Triton."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from engines.graph import Executable, Graph, differentiate, trace, update
from engines.graph.domain import MAPS
from engines.graph.domain import UPDATES as FUSIBLE_UPDATES
from engines.graph.fused import FUSED
from engines.graph.lower import triton
from engines.graph.lower.compiler import say_once
from engines.graph.lower.triton import kernels
from engines.graph.lower.triton_formulas import FORMULAS, ROWS, UPDATES
from engines.graph.lower.walk import SUMS
from engines.graph.passes import fuse
from engines.optim import Sgd
from engines.value import Spec
from tests.programs import traced
from tests.triton_cases import COMPILED, NAMES, long_chain

FOLDER = Path(__file__).parent.parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed, which has no package for this system"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Spec:
    return Spec(shape, dtype, "cuda:0")


def text(graph: Graph) -> str:
    """The kernels of a graph's regions, without the prelude and the lines that they come from."""
    regions = [node.attrs["body"] for node in fuse(graph).nodes if node.op is FUSED]
    module = triton.Module()
    for number, body in enumerate(regions):
        assert triton.fits(body)
        module.add(f"fused_{number}", list(kernels(body)))
    kernel_text = str(module).partition("@triton.jit\ndef fused_0")[2]
    return re.sub(r"  # \S+", "", f"@triton.jit\ndef fused_0{kernel_text}").strip()


def test_every_op_that_may_be_fused_has_a_formula_and_the_other_way_round() -> None:
    assert set(FORMULAS) | set(ROWS) - SUMS == MAPS
    assert set(UPDATES) == FUSIBLE_UPDATES


# Text


def test_a_chain_is_one_kernel() -> None:
    expected = """
        @triton.jit
        def fused_0(a0, a1, a2, numbers):
            program = tl.program_id(0)
            k0 = tl.load(numbers + 0)
            x = program * 1024 + tl.arange(0, 1024)
            inside = x < 3000
            x0 = x // 30
            x1 = x % 30
            v0 = tl.load(a0 + x0 * 30 + x1, inside)
            v1 = tl.load(a1 + x1, inside)
            v2 = v0 * v1
            v3 = tanh(v2)
            v4 = divide(v3, k0)
            tl.store(a2 + x0 * 30 + x1, v4, inside)
    """
    assert text(traced(lambda ops, x, y: ops.tanh(x * y) / 3.0, gpu(100, 30), gpu(30))) == dedent(expected).strip()


def test_a_sum_has_parts_that_another_kernel_adds_up() -> None:
    expected = """
        @triton.jit
        def fused_0_0(a0, a1):
            program = tl.program_id(0)
            y = tl.arange(0, 32)[:, None]
            rows = y < 20
            x = (program * 32 + tl.arange(0, 32))[None, :]
            columns = x < 50
            inside = rows & columns
            v0 = tl.load(a0 + y + x * 20, inside)
            v1 = tanh(v0)
            v2 = tl.where(inside, v1, 0.0)
            tl.store(a1 + program * 20 + y, tl.sum(v2, 1, keep_dims=True), rows)


        @triton.jit
        def fused_0_1(a0, a1):
            y = tl.arange(0, 32)[:, None]
            rows = y < 20
            x = tl.arange(0, 2)[None, :]
            columns = x < 2
            inside = rows & columns
            v0 = tl.load(a0 + y + x * 20, inside)
            v1 = tl.where(inside, v0, 0.0)
            tl.store(a1 + y, tl.sum(v1, 1, keep_dims=True), rows)
    """
    assert text(traced(lambda ops, x: ops.sum(ops.tanh(x), dim=0), gpu(50, 20))) == dedent(expected).strip()


def test_a_loss_by_rows_and_its_gradient_are_one_kernel() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.cross_entropy(s["x"] * 2.0, s["label"])}

    expected = """
        @triton.jit
        def fused_0(a0, a1, a2, numbers):
            y = tl.arange(0, 64)[:, None]
            rows = y < 64
            k0 = tl.load(numbers + 0)
            v3 = tl.load(a1 + y, rows)
            k1 = tl.load(numbers + 1)
            x = tl.arange(0, 16)[None, :]
            columns = x < 10
            inside = rows & columns
            v0 = tl.load(a0 + y * 10 + x, inside)
            v1 = v0 * k0
            v2 = log_softmax(v1, inside)
            v4 = tl.where(rows, -at_label(v2, v3, x, 10), 0.0)
            tl.store(a2, divide(tl.sum(v4), k1))
    """
    graph = trace(loss, {"x": gpu(64, 10), "label": gpu(64, dtype=torch.int64)})
    assert text(graph) == dedent(expected).strip()


def test_the_updates_of_all_parameters_are_one_kernel() -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.matmul(s["a"], s["b"]))}

    graph = differentiate(trace(loss, {"a": gpu(1, 3000), "b": gpu(3000, 1)}), "loss", ["a", "b"])
    graph = update(graph, Sgd(lr=0.5, momentum=0.25), ["a", "b"])
    expected = """
        @triton.jit
        def fused_0(a0, a1, a2, a3, a4, a5, numbers):
            program = tl.program_id(0)
            k0 = tl.load(numbers + 0)
            k1 = tl.load(numbers + 1)
            if (program >= 0) & (program < 3):
                x = program * 1024 + tl.arange(0, 1024)
                inside = x < 3000
                v0 = tl.load(a0 + x, inside)
                v1 = tl.load(a1 + x, inside)
                v2 = tl.load(a2 + x, inside)
                v1 = v1 * k1 + v2
                v0 = v0 - k0 * v1
                tl.store(a0 + x, v0, inside)
                tl.store(a1 + x, v1, inside)
            if (program >= 3) & (program < 6):
                x = (program - 3) * 1024 + tl.arange(0, 1024)
                inside = x < 3000
                v3 = tl.load(a3 + x, inside)
                v4 = tl.load(a4 + x, inside)
                v5 = tl.load(a5 + x, inside)
                v4 = v4 * k1 + v5
                v3 = v3 - k0 * v4
                tl.store(a3 + x, v3, inside)
                tl.store(a4 + x, v4, inside)
    """
    assert text(graph) == dedent(expected).strip()


def test_pieces_of_a_long_chain_share_one_text() -> None:
    (node,) = fuse(long_chain()[0]).nodes
    plan = list(kernels(node.attrs["body"]))
    assert len(plan) == -(-400 // triton.LONGEST)
    assert len(set(triton.Module().add("fused", plan))) == 2  # the last is shorter


def test_a_large_tensor_has_long_indices() -> None:
    assert "tl.program_id(0).to(tl.int64)" in text(traced(lambda ops, x: ops.tanh(x) * 2.0, gpu(1 << 31)))


# Numbers


def outcome(act: str, folder: Path, **settings: str) -> dict[str, str | None]:
    """What is wrong with each case, tried in a process of its own."""
    command = [sys.executable, "-m", "tests.triton_cases", act]
    variables = {**os.environ, "TRITON_CACHE_DIR": str(folder), **settings}
    done = subprocess.run(command, cwd=FOLDER, env=variables, check=True, capture_output=True, text=True)
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    return outcome("run", tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.parametrize("name", NAMES)
def test_kernels_give_what_those_of_torch_give(name: str, interpreted: dict[str, str | None]) -> None:
    assert interpreted[name] is None, interpreted[name]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    return outcome("compile", tmp_path_factory.mktemp("triton"))


@needs_triton
@pytest.mark.parametrize("name", COMPILED)
def test_kernels_become_machine_code(name: str, compiled: dict[str, str | None]) -> None:
    assert compiled[name] is None, compiled[name]


@needs_cuda
@needs_triton
def test_regions_run_on_a_gpu() -> None:
    graph = traced(lambda ops, x, y: ops.sum(ops.tanh(x * y) * 2.0, dim=0), gpu(100, 30), gpu(30))
    x, y = torch.rand(100, 30, device="cuda:0"), torch.rand(30, device="cuda:0")
    executable = Executable.build(fuse(graph))
    assert "fused_0" in executable.source
    torch.testing.assert_close(executable(x, y)[0], (torch.tanh(x * y) * 2.0).sum(0), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "elsewhere"), [("cpu", False), ("cuda", False), ("cuda:1", False), ("cuda:0", True)]
)
def test_kernels_are_launched_on_their_own_device(
    device: str, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert triton.is_elsewhere(torch.device(device)) == elsewhere


# Without


def no_triton(_: str) -> Mapping[str, Any]:
    raise ModuleNotFoundError("No module named 'triton'")


class Refusing:
    """A kernel that does not compile."""

    def warmup(self, *_: Any, **__: Any) -> None:
        raise ValueError("no active driver\nand much more")


class Unloadable:
    """A kernel that compiles, and that the device cannot take."""

    def warmup(self, *_: Any, **__: Any) -> Unloadable:
        return self

    def _init_handles(self) -> None:
        raise RuntimeError("out of resource: shared memory")


BROKEN: dict[str, tuple[Callable[[str], Any], str]] = {
    "not installed": (no_triton, "No module named 'triton'"),
    "no driver": (lambda _: {"fused_0": Refusing()}, "no active driver"),
    "too large for the device": (lambda _: {"fused_0": Unloadable()}, "out of resource"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_where_triton_cannot_be_used_that_is_said_once_and_kernels_run(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, reason = BROKEN[how]
    say_once.cache_clear()
    monkeypatch.setattr(triton, "load", load)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    graph = fuse(traced(lambda ops, x: ops.tanh(x) * ops.exp(x), gpu(5)))
    with pytest.warns(RuntimeWarning, match=f"Triton cannot be used: {reason}.*: fused regions run as") as said:
        sources = [Executable.build(graph).source for _ in range(2)]
    assert len(said) == 1
    assert "tanh(x)" in sources[0]
