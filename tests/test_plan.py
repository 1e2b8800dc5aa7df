"""Memory planned ahead: where results may stand, what a call may never see, and recomputing under a budget."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, Var, differentiate, trace, update, verify
from engines.graph.check_plan import check_plan
from engines.graph.compile import run_passes
from engines.graph.engine import GraphEngine
from engines.graph.lifetimes import Memory
from engines.graph.lower import compiler
from engines.graph.lower.into import INTO, into
from engines.graph.passes import choose_kernels, order, plan_memory, rematerialise
from engines.graph.plan_memory import PLAIN, SLACK, demand
from engines.op import kernels_only
from engines.ops import TABLE
from engines.ops.random import step_key
from engines.optim import Sgd
from engines.value import EngineError
from suites.harness.allocator import traced as allocations_of
from suites.workloads import WORKLOADS
from tests.op_cases import CASES
from tests.programs import assert_near, assert_same_bits, on_graph, random_program, run, spec, tensor, text, traced

UNPLANNED = tuple(step for step in PIPELINE if step is not plan_memory)
NAN = 255
"""The byte of which every float is NaN."""


def deep(ops: Any, x: Any, y: Any) -> Any:
    """What is small is squeezed between what is large."""
    a = ops.tanh(x @ y)
    b = ops.tanh(a @ y)
    return ops.sum(b @ y) + ops.sum(a)


# Plans as text


def test_a_plan_writes_over_dead_operands_and_shares_the_arena() -> None:
    graph = verify(plan_memory(traced(deep, spec(64, 64), spec(64, 64))))
    expected = """
        graph f(x: f32[64,64], y: f32[64,64]) {
          arena of 49152 bytes, 49280 at the peak
          %0: f32[64,64] at 0 = matmul(x, y)
          %1: f32[64,64] in %0 = tanh(%0)
          %2: f32[64,64] at 16384 = matmul(%1, y)
          %3: f32[64,64] in %2 = tanh(%2)
          %4: f32[64,64] at 32768 = matmul(%3, y)
          %5: f32[] = sum(%4)
          %6: f32[] = sum(%1)
          %7: f32[] in %5 = add(%5, %6)
          return out=%7
        }
    """
    assert text(graph) == dedent(expected).strip()
    assert plan_memory(graph) is graph


def test_a_plan_is_dropped_with_the_nodes_that_it_was_made_for() -> None:
    graph = plan_memory(traced(deep, spec(64, 64), spec(64, 64)))
    assert graph.plan is not None
    assert graph.with_nodes(graph.nodes).plan is graph.plan
    assert graph.with_nodes(graph.nodes[:-1]).plan is None
    assert replace(graph, outputs={}).plan is None


def training_step() -> Graph:
    """A fused step of two layers whose gradients are much larger than all else."""

    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": ops.sum(ops.tanh(ops.tanh(s["x"] @ s["v"]) @ s["w"]))}

    graph = trace(loss, {"v": spec(64, 64), "w": spec(64, 64), "x": spec(4, 64)})
    return run_passes(update(differentiate(graph, "loss", ["v", "w"]), Sgd(lr=0.5), ["v", "w"]), UNPLANNED, {})


def test_order_updates_a_parameter_as_soon_as_its_gradient_is_there() -> None:
    before = training_step()
    after = verify(order(before))
    assert order(after) is after
    assert Memory.of(after).peak_bytes < 0.6 * Memory.of(before).peak_bytes
    inputs = [tensor(*var.spec.shape, seed=n) for n, var in enumerate(after.inputs.values())]
    assert_same_bits(run(after, *(x.clone() for x in inputs)), run(before, *(x.clone() for x in inputs)))
    expected = """
          %10: f32[64,64] = matmul(%4, %7)
          %11: f32[64,64], %12: f32[64,64] = fused(a0=w, a1=w.velocity, a2=%10) {
            %0: f32[64,64], %1: f32[64,64] = sgd_update(a0, a1, a2, lr=0.5)
            return r0=%0, r1=%1
          }
          %13: f32[64,64] = matmul(%1, %9)
          %14: f32[64,64], %15: f32[64,64] = fused(a0=v, a1=v.velocity, a2=%13) {
            %0: f32[64,64], %1: f32[64,64] = sgd_update(a0, a1, a2, lr=0.5)
            return r0=%0, r1=%1
          }
          return loss=%6, v=%14, v.velocity=%15, w=%11, w.velocity=%12
        }
    """
    lines = [line.strip() for line in dedent(expected).strip().splitlines()]
    assert [line.strip() for line in text(after).splitlines()][-len(lines) :] == lines


def spread(ops: Any, x: Any, w: Any) -> Any:
    """What is large and cheap lies idle while more that is large is made."""
    early = ops.exp(x)
    return ops.sum(early * ops.sum((early @ w) @ w))


def test_rematerialise_computes_again_what_lay_idle() -> None:
    graph = traced(spread, spec(64, 64), spec(64, 64))
    assert max(demand(graph)) == 3 * 16384
    within = verify(rematerialise(2 * 16384 + 1024)(graph))
    expected = """
        graph f(x: f32[64,64], y: f32[64,64]) {
          %0: f32[64,64] = exp(x)
          %1: f32[64,64] = matmul(%0, y)
          %2: f32[64,64] = matmul(%1, y)
          %3: f32[] = sum(%2)
          %4: f32[64,64] = exp(x)
          %5: f32[64,64] = mul(%4, %3)
          %6: f32[] = sum(%5)
          return out=%6
        }
    """
    assert text(within) == dedent(expected).strip()
    inputs = tensor(64, 64), tensor(64, 64, seed=1)
    assert_same_bits(run(within, *inputs), run(graph, *inputs))


def test_a_graph_within_its_budget_is_left_alone_and_a_planned_one_is_planned_again() -> None:
    graph = traced(spread, spec(64, 64), spec(64, 64))
    assert rematerialise(3 * 16384 + 1024)(graph) is graph
    again = rematerialise(2 * 16384 + 1024)(plan_memory(graph))
    assert again.plan is not None
    assert again.plan.peak_bytes <= 2 * 16384 + 1024
    verify(again)


def test_a_budget_that_cannot_be_kept_is_refused_with_the_least() -> None:
    graph = traced(spread, spec(64, 64), spec(64, 64))
    with pytest.raises(
        EngineError, match=r"the budget is 20000 bytes, the least found is \d+; .* from test_plan\.py:\d+"
    ):
        rematerialise(20_000)(graph)


def test_what_an_update_has_overwritten_is_not_read_again() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        early = ops.exp(ops.broadcast_to(s["x"], shape=(64, 64)))
        stepped, velocity = ops.sgd_update(s["x"], s["v"], s["v"] * 2.0, lr=0.5, momentum=0.5)
        return {"out": ops.sum(early * ops.sum((early @ s["w"]) @ s["w"])), "x": stepped, "v": velocity}

    graph = trace(model, {"x": spec(64), "v": spec(64), "w": spec(64, 64)})
    graph = verify(replace(graph, donated=frozenset({"x", "v"})))
    with pytest.raises(EngineError, match="the least found is 49"):
        rematerialise(2 * 16384 + 1024)(graph)


# What runs


@pytest.mark.parametrize("seed", range(12))
def test_a_planned_program_gives_the_same_bits_though_its_arena_is_full_of_nan(seed: int) -> None:
    program = random_program(seed, length=25)
    expected = on_graph(program, passes=())(*program.inputs())
    executable = on_graph(program, passes=(plan_memory,))
    verify(executable.graph)
    for _ in range(2):
        assert_same_bits(executable(*program.inputs()), expected)
        assert executable.frames.fill(NAN) == ("p0" in executable.source)


@pytest.mark.parametrize("name", ["cnn", "lenet5", "mlp"])
def test_a_planned_step_gives_the_same_bits_though_its_arena_is_full_of_nan(name: str) -> None:
    task = WORKLOADS[name].task("step", 3)
    found = []
    for passes in (UNPLANNED, PIPELINE, (*UNPLANNED, order, plan_memory)):
        program = GraphEngine(passes=passes).prepare(task)
        verify(program.executable.graph)
        losses = []
        for step in range(3):
            losses.append(program.run(program.place(task.batch, step_key(0, step))).loss)
            program.executable.frames.fill(NAN)
        found.append([*losses, *program.parameters.values()])
    assert_same_bits(found[1], found[0])
    assert_same_bits(found[2], found[0])


def test_without_a_compiler_the_nodes_that_run_get_a_plan_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = run_passes(traced(lambda ops, x: ops.exp((x @ x) * 2.0) @ ops.tanh(x @ x), spec(64, 64)), PIPELINE, {})
    assert any(node.op.name == "fused" for node in graph.nodes)
    monkeypatch.setattr(compiler, "load", lambda _: None)
    executable = Executable.build(graph)
    assert "exp_into" in executable.source or "mul_into" in executable.source
    unplanned = Executable.build(replace(graph, plan=None))
    for _ in range(2):
        assert_same_bits(executable(tensor(64, 64)), unplanned(tensor(64, 64)))
        executable.frames.fill(NAN)


def test_what_a_caller_holds_is_not_touched_by_the_next_call() -> None:
    executable = Executable.build(
        plan_memory(traced(lambda ops, x, y: ops.tanh(x @ y) @ y, spec(64, 64), spec(64, 64)))
    )
    (first,) = executable(tensor(64, 64), tensor(64, 64, seed=1))
    kept = first.clone()
    executable(tensor(64, 64, seed=2), tensor(64, 64, seed=3))
    executable.frames.fill(NAN)
    assert_same_bits([first], [kept])


def test_calls_at_the_same_time_have_an_arena_each() -> None:
    executable = Executable.build(plan_memory(traced(deep, spec(64, 64), spec(64, 64))))
    inputs = [(tensor(64, 64, seed=n), tensor(64, 64, seed=n + 9)) for n in range(4)]
    expected = [executable(*pair) for pair in inputs]
    taken = executable.frames.take()  # as a call would that is under way
    found: list[Any] = [None] * len(inputs)
    together = threading.Barrier(len(inputs))

    def work(number: int) -> None:
        together.wait()
        for _ in range(30):
            found[number] = executable(*inputs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)
    assert all(
        torch.empty(0).set_(p.untyped_storage()).data_ptr() != q.untyped_storage().data_ptr()
        for p in taken
        for q in executable.frames.take()
    )


def test_inputs_that_are_not_contiguous_are_right_too() -> None:
    for passes in ((plan_memory,), PIPELINE):
        graph = run_passes(
            traced(lambda ops, x, y: ops.exp(ops.tanh(x) * 2.0) @ y, spec(64, 32), spec(32, 8)), passes, {}
        )
        x, y = tensor(32, 64).T, tensor(8, 32, seed=1).T
        plain = Executable.build(graph)(x.contiguous(), y.contiguous())
        assert_near(Executable.build(graph)(x, y), plain)


def test_a_saved_executable_is_planned_when_it_is_loaded(tmp_path: Path) -> None:
    executable = Executable.build(plan_memory(traced(deep, spec(64, 64), spec(64, 64))))
    executable.save(tmp_path / "deep")
    loaded = Executable.load(tmp_path / "deep")
    assert text(loaded.graph) == text(executable.graph)
    assert loaded.source == executable.source


# Bytes


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_a_plan_takes_no_more_memory_than_the_values_alive_at_once(name: str) -> None:
    task = WORKLOADS[name].task("step", 16)
    peaks = []
    for passes in (UNPLANNED, PIPELINE):
        program = GraphEngine(passes=passes).prepare(task)
        placed = program.place(task.batch, 1)
        program.run(placed)
        peaks.append(allocations_of(lambda p=program, b=placed: p.run(b), "cpu")[0].peak_bytes)  # type: ignore[misc]
    counters = program.counters
    assert counters["arena_bytes"] + peaks[1] <= (1 + SLACK) * peaks[0]
    assert counters["bound_bytes"] <= counters["arena_bytes"] + peaks[1] <= 1.02 * counters["planned_bytes"]


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_of_a_training_step_some_results_lie_where_others_lay(name: str) -> None:
    task = WORKLOADS[name].task("step", 16)
    unchosen = tuple(step for step in UNPLANNED if step is not choose_kernels)  # the same kernels both times
    bare, planned = (GraphEngine(passes=p).prepare(task).counters for p in (unchosen, (*unchosen, plan_memory)))
    assert planned["own_results"] < bare["own_results"]


def test_the_memory_of_a_graph_by_hand() -> None:
    def model(ops: Any, x: Any) -> Any:
        doubled = x * 2.0  # 400 bytes
        turned = ops.transpose(doubled, dim0=0, dim1=1)  # a view
        more = ops.concat([turned, turned], dim=1)  # 800, the last read of doubled
        return ops.sum(more)  # 4

    memory = Memory.of(traced(model, spec(25, 4)))
    assert memory.levels == (400, 400, 1200, 804)
    assert memory.peak_bytes == 1200


# Kernels that write where they are told


CASES_INTO = [pytest.param(name, case, id=f"{name}-{case.id}") for name in INTO for case in CASES[name]]


@pytest.mark.parametrize(("name", "case"), CASES_INTO)
def test_a_kernel_that_writes_into_given_memory_gives_the_same_bits(name: str, case: Any) -> None:
    inputs = [
        v.to(torch.float32) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in case.build(0)
    ]
    inputs += [None] * (len(TABLE[name].vjps) - len(inputs))
    names = [f"x{n}" for n, v in enumerate(inputs) if isinstance(v, torch.Tensor)]
    specs = {n: spec(*inputs[int(n[1:])].shape, dtype=inputs[int(n[1:])].dtype) for n in names}

    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"out": getattr(ops, name)(*(s.get(f"x{n}", v) for n, v in enumerate(inputs)))}

    (node,) = trace(model, specs).nodes
    found = into(node)
    if found is None:
        return
    with kernels_only():
        expected = TABLE[name].kernel(*inputs)
        out = torch.full(expected.shape, 1).to(expected.dtype) if expected.dtype == torch.bool else expected * torch.nan
        assert found.kernel(*inputs, out=out) is not None
    assert_same_bits([out], [expected])
    if not found.elementwise or all(i.is_contiguous() for i in inputs if isinstance(i, torch.Tensor)):
        assert expected.is_contiguous()


def test_convolutions_of_contiguous_images_are_contiguous() -> None:
    for name in sorted(PLAIN):
        for case in CASES[name]:
            inputs = [v.contiguous() if isinstance(v, torch.Tensor) else v for v in case.build(0)]
            with kernels_only():
                outs = TABLE[name].run(
                    inputs + [None] * (len(TABLE[name].vjps) - len(inputs)), TABLE[name].complete(case.attrs)
                )
            assert all(out.is_contiguous() for out in outs), (name, case.id)


# Plans that would go wrong are seen


def broken(change: Callable[[Graph, dict[Var, int | Var]], None]) -> Graph:
    graph = plan_memory(traced(deep, spec(64, 64), spec(64, 64)))
    assert graph.plan is not None
    places = dict(graph.plan.places)
    change(graph, places)
    return replace(graph, plan=replace(graph.plan, places=places))


def made(graph: Graph, number: int) -> Var:
    return graph.nodes[number].outputs[0]


BROKEN: dict[str, tuple[Callable[[Graph, dict[Var, int | Var]], None], str]] = {
    "over a value": (lambda g, p: p.update({made(g, 2): 8192}), "writes %2 over %1, which is needed still"),
    "over an operand, not in its place": (lambda g, p: p.update({made(g, 4): 16384}), "writes %4 over %3"),
    "in an operand read later": (lambda g, p: p.update({made(g, 2): made(g, 1)}), "writes %2 over %1"),
    "in an input": (lambda g, p: p.update({made(g, 0): g.inputs["x"]}), "no operand of its size"),
    "in no operand": (lambda g, p: p.update({made(g, 4): made(g, 0)}), "no operand of its size"),
    "beyond the arena": (lambda g, p: p.update({made(g, 4): 40000}), "bytes 40000 to 56384 of an arena of 49152"),
    "an output": (lambda g, p: p.update({made(g, 7): 0}), "output 'out' stands in the arena"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plan_that_destroys_a_value_is_refused(name: str) -> None:
    change, message = BROKEN[name]
    with pytest.raises(EngineError, match=message):
        check_plan(broken(change))
