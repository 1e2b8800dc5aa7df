"""Products with picked matrices: the rewrite before and after, where it must not be made, and the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from engines.engine import Varying
from engines.graph import Compiled, Executable, Graph, Symbolic, differentiate, trace, update, verify
from engines.graph.passes import cse, dce, pick, simplify
from engines.graph.picked import PICKED, PICKED_WEIGHT
from engines.optim import Sgd
from engines.value import EngineError
from tests.programs import assert_same_bits, run, spec, tensor, text
from tests.test_orders import traced as traced_step

HIGH, WIDE = 128, 64
PICKS = [[0, 0, 2, 2, 2], [2, 0, 2, 1, 0], [1, 1, 1, 1, 1], [2]]


def experts(ops: Any, s: Mapping[str, Any]) -> Any:
    """Blocks of x, each through the matrix that it picks."""
    picked = ops.embedding(s["t"], s["i"])
    return ops.matmul(s["x"], ops.reshape(picked, shape=(s["i"].shape[0], HIGH, WIDE)))


def graph_of(blocks: int = 5, model: Any = experts, **others: Any) -> Graph:
    specs = {"x": spec(blocks, 3, HIGH), "t": spec(3, HIGH * WIDE), "i": spec(blocks, dtype=torch.int64), **others}
    graph = trace(lambda ops, s: {"loss": ops.sum(ops.tanh(model(ops, s)))}, specs)
    return cse(simplify(differentiate(graph, "loss", [name for name in specs if name not in ("i", "y")])))


def inputs_of(picks: list[int]) -> list[torch.Tensor]:
    x, table = tensor(len(picks), 3, HIGH, seed=1), tensor(3, HIGH * WIDE, seed=2) / 8
    return [x, table, torch.tensor(picks)]


def test_matrices_are_read_where_they_lie() -> None:
    expected = """
        graph f(x: f32[5,3,128], t: f32[3,8192], i: i64[5]) {
          %0: f32[5,3,64] = matmul_picked(x, t, i, shape=(128, 64))
          %1: f32[5,3,64] = tanh(%0)
          %2: f32[] = sum(%1)
          %3: f32[] = full_like(%2, value=1.0)
          %4: f32[1,1,1] = reshape(%3, shape=(1, 1, 1))
          %5: f32[5,3,64] = broadcast_to(%4, shape=(5, 3, 64))
          %6: f32[5,3,64] = tanh_backward(%5, %1)
          %7: f32[5,3,128] = matmul_picked(%6, t, i, shape=(128, 64), turned=True)
          %8: f32[3,8192] = matmul_picked_weight(x, %6, i, rows=3)
          return loss=%2, grad.x=%7, grad.t=%8
        }
    """
    assert text(verify(dce(pick(graph_of())))) == dedent(expected).strip()


@pytest.mark.parametrize("picks", PICKS)
def test_what_is_picked_in_place_gives_what_copies_give(picks: list[int]) -> None:
    graph = graph_of(len(picks))
    for found, expected in zip(run(dce(pick(graph)), *inputs_of(picks)), run(graph, *inputs_of(picks)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_one_graph_picks_for_every_number_of_samples() -> None:
    def model(ops: Any, p: Mapping[str, Any], batch: Mapping[str, Any], _: Any) -> Any:
        return ops.sum(ops.tanh(experts(ops, {**p, **batch})))

    varying = (Varying("n", (("x", 0), ("i", 0)), least=2, most=40),)
    compiled = Compiled(model, policy=Symbolic(), varying=varying, quantity="loss_and_grad")
    plain = Compiled(model, quantity="loss_and_grad", passes=())
    for picks in ([0, 2], PICKS[0], PICKS[1] * 3):
        x, table, index = inputs_of(picks)
        found, expected = (each({"t": table}, {"x": x, "i": index}, None) for each in (compiled, plain))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert compiled.counters["compilations"] == 1


def test_a_matrix_that_nobody_picks_has_no_gradient() -> None:
    _, _, by_table = run(dce(pick(graph_of(2))), *inputs_of([2, 2]))
    assert not by_table[:2].any()
    assert by_table[2].all()


@pytest.mark.parametrize(("picks", "wrong"), [([0, 3, 1], 3), ([-1, 0, 0], -1)])
def test_an_index_that_names_no_row_is_refused(picks: list[int], wrong: int) -> None:
    x, table, index = inputs_of(picks)
    with pytest.raises(IndexError, match=rf"index {wrong} is none of the 3 rows, 0 to 2"):
        PICKED.kernel(x, table, index, shape=(HIGH, WIDE), turned=False)
    with pytest.raises(IndexError, match=rf"index {wrong} is none of the 3 rows, 0 to 2"):
        PICKED_WEIGHT.kernel(x, x, index, rows=3)


def test_an_executable_names_the_line_of_an_index_that_names_no_row() -> None:
    with pytest.raises(EngineError, match=r"matmul_picked: index 3 is none of the 3 rows.* from test_pick\.py:\d+"):
        run(dce(pick(graph_of(2))), *inputs_of([0, 3]))


def small(ops: Any, s: Mapping[str, Any]) -> Any:
    return ops.matmul(s["y"], ops.reshape(ops.embedding(s["t"], s["i"]), shape=(5, HIGH * WIDE // 4, 4)))


def one_for_all(ops: Any, s: Mapping[str, Any]) -> Any:
    """A product of one x with all that are picked, which matmul broadcasts."""
    return ops.matmul(s["x"][:1], ops.reshape(ops.embedding(s["t"], s["i"]), shape=(5, HIGH, WIDE)))


def by_a_table_of_indices(ops: Any, s: Mapping[str, Any]) -> Any:
    picked = ops.embedding(s["t"], ops.reshape(s["i"], shape=(1, 5)))
    return ops.matmul(s["x"], ops.reshape(picked, shape=(5, HIGH, WIDE)))


def test_small_matrices_are_copied() -> None:
    graph = graph_of(t=spec(3, 64 * 64), y=spec(5, 2, HIGH * WIDE // 4), model=lambda ops, s: s["y"])
    assert pick(graph) is graph


@pytest.mark.parametrize("model", [one_for_all, by_a_table_of_indices])
def test_other_products_stay(model: Any) -> None:
    names = [node.op.name for node in pick(graph_of(model=model)).nodes]
    forward = names[: names.index("tanh")]
    assert "matmul" in forward
    assert "matmul_picked" not in forward


def test_a_gpu_would_have_to_wait_for_the_index() -> None:
    specs = {"x": spec(5, 3, HIGH), "t": spec(3, HIGH * WIDE), "i": spec(5, dtype=torch.int64)}
    there = {name: value._replace(device="cuda:0") for name, value in specs.items()}
    graph = differentiate(trace(lambda ops, s: {"loss": ops.sum(experts(ops, s))}, there), "loss", ["x", "t"])
    assert pick(graph) is graph


def test_gradients_that_somebody_else_reads_are_computed_one_by_one() -> None:
    graph = graph_of()
    (product,) = (node for node in graph.nodes if node.op.name == "matmul" and node.outputs[0].spec.shape[1] == HIGH)
    graph = graph.with_nodes(graph.nodes, {**graph.outputs, "each": product.outputs[0]})
    names = [node.op.name for node in dce(pick(graph)).nodes]
    assert names.count("matmul_picked_weight") == 0
    assert names.count("embedding_backward") == 1


def test_no_table_is_read_after_its_update() -> None:
    gradients = graph_of()
    graph = update(gradients, Sgd(lr=0.1), ["t"])
    late = next(node for node in graph.nodes if gradients.outputs["grad.x"] in node.outputs)
    turned = next(node for node in graph.nodes if late.inputs[1] in node.outputs)
    moved = graph.with_nodes((*(node for node in graph.nodes if node not in (turned, late)), turned, late))
    names = [node.op.name for node in verify(pick(verify(moved))).nodes]
    assert names[-1] == "matmul"
    assert names.count("matmul_picked") == 1


def test_experts_pick_theirs() -> None:
    case = traced_step("moe")
    names = [node.op.name for node in verify(dce(pick(simplify(case.graph)))).nodes]
    assert (names.count("matmul_picked"), names.count("matmul_picked_weight")) == (3, 2)
    assert names.count("embedding_backward") == 1  # of what the experts said


def test_a_saved_graph_may_hold_them(tmp_path: Path) -> None:
    executable, inputs = Executable.build(dce(pick(graph_of()))), inputs_of(PICKS[0])
    executable.save(tmp_path / "model")
    assert_same_bits(Executable.load(tmp_path / "model")(*inputs), executable(*inputs))
