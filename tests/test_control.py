"""Branches and loops: the same values on every engine, readable graphs, and errors that name the user's line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, differentiate, trace, verify
from engines.graph.compile import run_passes
from engines.graph.passes.choose import choose
from engines.graph.passes.cse import cse
from engines.graph.passes.dce import dce
from engines.graph.passes.fold import fold
from engines.graph.passes.gather import gather
from engines.graph.passes.hoist import hoist
from engines.graph.passes.prune import prune
from engines.ops import KERNELS
from engines.peers.torch_eager import OPS as TORCH
from engines.tape import Tape
from engines.value import EngineError, Spec
from tests.control_cases import CASES, Case

ALL = [pytest.param(case, n, id=f"{name} {n}") for name, case in CASES.items() for n in case.trips]


def inputs(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, w = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    return {"x": x, "w": w, "n": torch.tensor(n)}


def traced(model: Callable[..., Any], given: dict[str, torch.Tensor]) -> Graph:
    specs = {name: Spec.of(value) for name, value in given.items()}
    return verify(trace(lambda ops, symbols: {"y": model(ops, **symbols)}, specs))


@pytest.mark.parametrize(("case", "n"), ALL)
def test_every_engine_gives_what_plain_python_gives(case: Case, n: int) -> None:
    given = inputs(n)
    expected = case.plain(**given)
    with Tape() as tape:
        on_tape = case.model(tape.ops, **{name: tape.constant(value) for name, value in given.items()}).data
    graph = traced(case.model, given)
    (replayed,) = Executable.build(graph)(*given.values())
    optimised = verify(run_passes(graph, PIPELINE, {}))
    (compiled,) = Executable.build(optimised)(*given.values())
    torch.testing.assert_close(on_tape, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(on_tape, replayed)
    torch.testing.assert_close(compiled, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(case.model(KERNELS, **given), on_tape)
    assert torch.equal(case.model(TORCH, **given), on_tape)


@pytest.mark.parametrize("name", ["nested", "switch"])
def test_saved_and_loaded_it_is_the_same_graph(name: str, tmp_path: Path) -> None:
    case, given = CASES[name], inputs(2)
    for passes in ((), PIPELINE):
        executable = Executable.build(run_passes(traced(case.model, given), passes, {}))
        executable.save(tmp_path / "saved")
        loaded = Executable.load(tmp_path / "saved")
        assert str(loaded.graph) == str(executable.graph)
        assert torch.equal(loaded(*given.values())[0], executable(*given.values())[0])


def test_a_graph_shows_its_sub_graphs() -> None:
    def model(ops: Any, x: Any, w: Any, n: Any) -> Any:
        y = ops.cond(n > 2, lambda: x * w, lambda: x)
        return ops.while_loop(lambda c: ops.sum(c) < 9.0, lambda c: c + y, x, limit=7)

    text = str(traced(model, inputs(1)))
    lines = [line.split("  #")[0] for line in text.splitlines()]
    assert lines == [
        "graph f(x: f64[4], w: f64[4], n: i64[]) {",
        "  %0: bool[] = greater(n, 2)",
        "  %1: f64[4] = cond(%0, a0=x, a1=w) {",
        "    then {",
        "      %0: f64[4] = mul(a0, a1)",
        "      return r0=%0",
        "    }",
        "    otherwise {",
        "      return r0=a0",
        "    }",
        "  }",
        "  %2: f64[4] = while(carry0=x, a0=%1, limit=7) {",
        "    condition {",
        "      %0: f64[] = sum(carry0)",
        "      %1: bool[] = less(%0, 9.0)",
        "      return r0=%1",
        "    }",
        "    body {",
        "      %0: f64[4] = add(carry0, a0)",
        "      return carry0=%0",
        "    }",
        "  }",
        "  return y=%2",
        "}",
    ]


def test_a_thousand_trips_take_a_thousand_trips() -> None:
    given = inputs(1000)
    (y,) = Executable.build(traced(CASES["while"].model, given))(*given.values())
    assert torch.equal(y, CASES["while"].plain(**given))


def test_a_result_is_never_the_operand_itself() -> None:
    def model(ops: Any, x: Any, w: Any, n: Any) -> Any:
        same = ops.cond(n > 2, lambda: x, lambda: ops.reshape(x, shape=(4,)))
        unmoved = ops.while_loop(lambda c: n > 2, lambda c: c, x, limit=1)
        return ops.stack([same, unmoved])

    for n in (1,):
        given = inputs(n)
        graph = traced(lambda ops, x, w, n: ops.cond(n > 2, lambda: w, lambda: x), given)
        (y,) = Executable.build(graph)(*given.values())
        assert torch.equal(y, given["x"])
        assert y.data_ptr() != given["x"].data_ptr()
        verify(traced(model, given))


# Mistakes: (what is written, what the error says), alike on both engines unless only one can know


def loop(ops: Any, n: Any, body: Callable[..., Any], carry: Any, **options: Any) -> Any:
    return ops.while_loop(lambda c: n > 0, body, carry, **{"limit": 5, **options})


MISTAKES = {
    "predicate": (lambda ops, x, w, n: ops.cond(x > 0.0, lambda: x, lambda: w), "must be a scalar bool, found bool[4]"),
    "predicate dtype": (lambda ops, x, w, n: ops.cond(n, lambda: x, lambda: w), "must be a scalar bool, found i64[]"),
    "condition": (
        lambda ops, x, w, n: ops.while_loop(lambda c: c > 0.0, lambda c: c, x, limit=3),
        "while_loop: the predicate must be a scalar bool, found bool[4]",
    ),
    "index": (lambda ops, x, w, n: ops.switch(x, [lambda: x]), "must be a scalar integer, found f64[4]"),
    "index outside": (lambda ops, x, w, n: ops.switch(n, [lambda: x] * 2), "index 3 is none of the 2 branches"),
    "known index outside": (lambda ops, x, w, n: ops.switch(2, [lambda: x] * 2), "index 2 is none of the 2 branches"),
    "carry shape": (
        lambda ops, x, w, n: loop(ops, n, lambda c: {"h": ops.sum(c["h"])}, {"h": x}),
        "while_loop: carry['h'] is f64[4], the body makes it f64[]",
    ),
    "carry dtype": (
        lambda ops, x, w, n: loop(ops, n, lambda c: (ops.cast(c[0], dtype="float32"), c[1]), (x, w)),
        "while_loop: carry[0] is f64[4], the body makes it f32[4]",
    ),
    "carry structure": (
        lambda ops, x, w, n: loop(ops, n, lambda c: (c, c), x),
        "while_loop: the carry is value, the body gives (value, value)",
    ),
    "carry of numbers": (lambda ops, x, w, n: loop(ops, n, lambda c: c, (x, 1)), "carry[1] must be a value, found 1"),
    "scan carry": (
        lambda ops, x, w, n: ops.scan(lambda c, v: (c * w, None), ops.sum(x), x),
        "scan: carry is f64[], the body makes it f64[4]",
    ),
    "no pair": (lambda ops, x, w, n: ops.scan(lambda c, v: c, x, x), "must give a pair (carry, y), found value"),
    "no length": (lambda ops, x, w, n: ops.scan(lambda c, v: (c, c), x), "found no xs, length None"),
    "lengths": (
        lambda ops, x, w, n: ops.scan(lambda c, v: (c, c), x, (x, w[:2])),
        "found xs[0] f64[4], xs[1] f64[2], length None",
    ),
    "limit": (lambda ops, x, w, n: loop(ops, n, lambda c: c * 2.0, x), "still holds after 5 trips, the limit"),
    "option": (lambda ops, x, w, n: loop(ops, n, lambda c: c, x, gradient="keep"), "'recompute', found 'keep'"),
}


@pytest.mark.parametrize(("model", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_alike_on_both_engines_with_the_line(model: Callable[..., Any], said: str) -> None:
    given = inputs(3)
    messages = []
    with Tape() as tape, pytest.raises(EngineError) as on_tape:
        model(
            tape.ops,
            **{name: tape.parameter(v) if v.is_floating_point() else tape.constant(v) for name, v in given.items()},
        )
    messages.append(str(on_tape.value))
    with pytest.raises(EngineError) as on_graph:
        Executable.build(traced(model, given))(*given.values())
    messages.append(str(on_graph.value))
    for message in messages:
        assert said in message
        assert "test_control.py:" in message
    assert messages[0] == messages[1]


STATIC_MISTAKES = {
    "shapes": (
        lambda ops, x, w, n: ops.cond(n > 2, lambda: x, lambda: ops.sum(x)),
        "then gives f64[4], otherwise f64[]",
    ),
    "dtypes": (
        lambda ops, x, w, n: ops.switch(n, [lambda: x, lambda: ops.cast(x, dtype="float32")]),
        "branch 0 gives f64[4], branch 1 f32[4]",
    ),
    "structures": (
        lambda ops, x, w, n: ops.cond(n > 2, lambda: (x, w), lambda: x),
        "then gives (value, value), otherwise gives value",
    ),
    "in place": (
        lambda ops, x, w, n: ops.cond(n > 2, lambda: ops.sgd_update(x, w, x, lr=1.0)[0], lambda: x),
        "sgd_update: overwrites its inputs, which a branch or a body does not own",
    ),
}


@pytest.mark.parametrize(("model", "said"), STATIC_MISTAKES.values(), ids=STATIC_MISTAKES)
def test_what_a_graph_alone_can_know_it_tells(model: Callable[..., Any], said: str) -> None:
    with pytest.raises(EngineError) as found:
        traced(model, inputs(3))
    assert said in str(found.value)
    assert "test_control.py:" in str(found.value)


def test_what_was_made_inside_does_not_leave_by_a_back_door() -> None:
    def model(ops: Any, x: Any, w: Any, n: Any) -> Any:
        hidden: list[Any] = []
        ops.cond(n > 2, lambda: hidden.append(ops.exp(x)) or x, lambda: x)
        return hidden[0] + 1.0

    with pytest.raises(EngineError, match=r"add: f64\[4\] was made inside a branch or a body.*test_control.py"):
        traced(model, inputs(3))


# Gradients


def weighed(case: Case) -> Callable[..., Any]:
    """A loss that every element of a result has a weight of its own in."""
    return lambda ops, x, w, n: ops.sum(case.model(ops, x * 1.0, w, n) * WEIGHTS.numpy())


ANOTHER_ORDER = (CASES["scan without xs"],)
"""Where a value is two carries, or starts one and is used inside too: a tape adds to its gradient in another order."""

WEIGHTS = torch.tensor([1.5, -0.5, 2.0, 0.75], dtype=torch.float64)


def plain_gradients(case: Case, x: torch.Tensor, w: torch.Tensor, n: torch.Tensor) -> list[torch.Tensor]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    loss = (case.plain(x, w, n) * WEIGHTS).sum()
    found = torch.autograd.grad(loss, [x, w], allow_unused=True)
    return [torch.zeros(4, dtype=torch.float64) if g is None else g for g in found]


def differentiated(loss: Callable[..., Any], given: dict[str, torch.Tensor]) -> Graph:
    specs = {name: Spec.of(value) for name, value in given.items()}
    graph = trace(lambda ops, symbols: {"loss": loss(ops, **symbols)}, specs)
    return verify(differentiate(graph, "loss", ["x", "w"]))


@pytest.mark.parametrize(("case", "n"), ALL)
def test_gradients_are_those_of_plain_python_and_the_tapes_to_the_bit(case: Case, n: int) -> None:
    given = inputs(n)
    expected = plain_gradients(case, **given)
    with Tape() as tape:
        x, w = tape.parameter(given["x"]), tape.parameter(given["w"])
        on_tape = tape.gradients(weighed(case)(tape.ops, x, w, tape.constant(given["n"])), [x, w])
    graph = differentiated(weighed(case), given)
    _, *replayed = Executable.build(graph)(*given.values())
    _, *compiled = Executable.build(verify(run_passes(graph, PIPELINE, {})))(*given.values())
    for t, r, c, e in zip(on_tape, replayed, compiled, expected, strict=True):
        torch.testing.assert_close(t.data, e, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(c, e, rtol=1e-11, atol=1e-11)
        if case not in ANOTHER_ORDER:
            assert torch.equal(t.data, r)


@pytest.mark.parametrize(("case", "n"), ALL)
def test_gradients_are_slopes(case: Case, n: int) -> None:
    given = inputs(n)
    _, *found = Executable.build(differentiated(weighed(case), given))(*given.values())
    step = 1e-6
    for name, gradient in zip("xw", found, strict=True):
        for i in range(4):
            shift = torch.zeros(4, dtype=torch.float64)
            shift[i] = step
            up, down = ((case.plain(**{**given, name: given[name] + sign * shift}) * WEIGHTS).sum() for sign in (1, -1))
            assert float(gradient[i]) == pytest.approx(float((up - down) / (2 * step)), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("case", "n"), ALL)
def test_gradients_of_gradients(case: Case, n: int) -> None:
    given = inputs(n)

    def loss(ops: Any, x: Any, w: Any, n: Any) -> Any:
        gx, gw = ops.gradients(weighed(case)(ops, x, w, n), [x, w])
        return ops.sum(gx * gx * WEIGHTS.numpy()) + ops.sum(gw * gw)

    x, w = (given[name].clone().requires_grad_() for name in "xw")
    first = torch.autograd.grad(
        (case.plain(x, w, given["n"]) * WEIGHTS).sum(), [x, w], create_graph=True, allow_unused=True
    )
    gx, gw = (torch.zeros(4, dtype=torch.float64) * x if g is None else g for g in first)
    expected = torch.autograd.grad((gx * gx * WEIGHTS).sum() + (gw * gw).sum() + 0.0 * (x.sum() + w.sum()), [x, w])
    graph = differentiated(loss, given)
    _, *replayed = Executable.build(graph)(*given.values())
    _, *compiled = Executable.build(verify(run_passes(graph, PIPELINE, {})))(*given.values())
    for r, c, e in zip(replayed, compiled, expected, strict=True):
        torch.testing.assert_close(r, e, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(c, e, rtol=1e-9, atol=1e-9)


# Passes


def text_of(graph: Graph) -> list[str]:
    return [line.split("  #")[0] for line in str(verify(graph)).splitlines()]


def test_what_no_trip_changes_leaves_the_loop() -> None:
    def model(ops: Any, x: Any, w: Any, n: Any) -> Any:
        def body(c: Any) -> Any:
            return c[0] * ops.exp(w) + np.ones(4), ops.full_like(c[1], value=2.0) + c[1], c[2]

        carry = ops.while_loop(lambda c: ops.sum(c[0]) < ops.sum(ops.exp(w)), body, (x, x * 2.0, w * 3.0), limit=7)
        return carry[0] + carry[1] + carry[2]

    graph = traced(model, inputs(1))
    for step in (fold, hoist, cse):
        graph = step(graph)
    assert text_of(graph) == [
        "graph f(x: f64[4], w: f64[4], n: i64[]) {",
        "  const0: f64[4] = constant",
        "  const1: f64[4] = constant",
        "  %0: f64[4] = mul(x, 2.0)",
        "  %1: f64[4] = mul(w, 3.0)",
        "  %2: f64[4] = copy(%1)",
        "  %3: f64[4] = exp(w)",
        "  %4: f64[] = sum(%3)",
        "  %5: f64[4], %6: f64[4] = while("
        "carry0=x, carry1=%0, a0=w, a1=const0, a2=%1, a3=%4, a4=%3, a5=const1, limit=7) {",
        "    condition {",
        "      %0: f64[] = sum(carry0)",
        "      %1: bool[] = less(%0, a3)",
        "      return r0=%1",
        "    }",
        "    body {",
        "      %0: f64[4] = mul(carry0, a4)",
        "      %1: f64[4] = add(%0, a1)",
        "      %2: f64[4] = add(a5, carry1)",
        "      return carry0=%1, carry1=%2",
        "    }",
        "  }",
        "  %7: f64[4] = add(%5, %6)",
        "  %8: f64[4] = add(%7, %2)",
        "  return y=%8",
        "}",
    ]


def test_of_branches_on_what_is_known_one_is_left() -> None:
    def model(ops: Any, x: Any, w: Any, n: Any) -> Any:
        known = ops.greater(ops.full_like(ops.sum(x), value=2.0), 1.0)
        y = ops.cond(known, lambda: (ops.exp(x), w), lambda: (w, x))
        return y[0] * y[1]

    graph = traced(model, inputs(1))
    for step in (fold, choose, dce):
        graph = step(graph)
    assert text_of(graph) == [
        "graph f(x: f64[4], w: f64[4], n: i64[]) {",
        "  %0: f64[4] = exp(x)",
        "  %1: f64[4] = copy(w)",
        "  %2: f64[4] = mul(%0, %1)",
        "  return y=%2",
        "}",
    ]


def test_what_nobody_reads_is_left_out_of_branches_and_loops() -> None:
    def model(ops: Any, x: Any, w: Any, n: Any) -> Any:
        y, _ = ops.cond(n > 2, lambda: (x, ops.exp(w)), lambda: (w, ops.tanh(w)))
        carry, ys = ops.scan(lambda c, v: ((c[0] * v, c[1] + w, ops.tanh(c[2])), (c[0], c[2])), (y, x, w), x)
        return carry[0] + ops.sum(ys[0], dim=0)

    assert text_of(dce(prune(traced(model, inputs(1))))) == [
        "graph f(x: f64[4], w: f64[4], n: i64[]) {",
        "  %0: bool[] = greater(n, 2)",
        "  %1: f64[4] = cond(%0, a0=w, a1=x) {",
        "    then {",
        "      return r0=a1",
        "    }",
        "    otherwise {",
        "      return r0=a0",
        "    }",
        "  }",
        "  %2: f64[4], %3: f64[4,4] = scan(carry0=%1, x0=x, length=4) {",
        "    body {",
        "      %0: f64[4] = mul(carry0, x0)",
        "      return carry0=%0, y0=carry0",
        "    }",
        "  }",
        "  %4: f64[4] = sum(%3, dim=0)",
        "  %5: f64[4] = add(%2, %4)",
        "  return y=%5",
        "}",
    ]


def test_sums_over_trips_are_taken_behind_the_loop() -> None:
    size = 40

    def model(ops: Any, s: dict[str, Any]) -> dict[str, Any]:
        def body(h: Any, x: Any) -> Any:
            return ops.tanh(ops.linear(h, s["w"], s["b"]) + x), None

        return {"loss": ops.sum(ops.scan(body, s["h"], s["x"])[0])}

    for rows in (1, 3):
        shapes = {"h": (rows, size), "x": (6, rows, size), "w": (size, size), "b": (size,)}
        given = {name: torch.randn(shape, dtype=torch.float64) * 0.3 for name, shape in shapes.items()}
        graph = differentiate(trace(model, {name: Spec.of(v) for name, v in given.items()}), "loss", ["w", "b"])
        gathered = verify(gather(cse(graph)))
        carried = [node.attrs["carried"] for node in gathered.nodes if node.op.name == "scan"]
        assert carried == [1, 2]  # of the way back the gradients of h and of b, which is small
        assert [node.op.name for node in gathered.nodes].count("matmul") == 1
        for found, expected in zip(run_all(gathered, given), run_all(graph, given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def run_all(graph: Graph, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return Executable.build(graph)(*given.values())
