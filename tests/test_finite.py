"""Where a NaN or an infinity first appears: both engines name the op, the user's line, and the trip of a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, differentiate, trace
from engines.graph.compile import run_passes
from engines.ops.finite import NotFiniteError
from engines.tape import Tape
from engines.value import Spec

X = torch.tensor([1.0, 0.5, 3.0])
NANS = X * float("nan")


def born_at_once(ops: Any, x: Any) -> Any:
    return ops.sum(ops.log(x - 1.0) * 2.0)


def born_in_a_loop(ops: Any, x: Any) -> Any:
    """0.5 - 0.75 sqrt(0.5) is below 0, so the second trip takes its root."""
    carry, _ = ops.scan(lambda c, _: (c - ops.sqrt(c) * 0.75, None), x, length=6)
    return ops.sum(carry)


def born_in_a_branch_of_a_loop(ops: Any, x: Any) -> Any:
    small = ops.while_loop(
        lambda c: ops.sum(c) < 1e30,
        lambda c: ops.cond(ops.sum(c) > 40.0, lambda: c / (c - c), lambda: c * 2.0),
        x,
        limit=50,
    )
    return ops.sum(small)


def born_on_the_way_back(ops: Any, x: Any) -> Any:
    """The slope of a root at 0."""
    return ops.sum(ops.sqrt(x - x))


CASES = {
    "at once": (born_at_once, True, "log: gives the first", ""),
    "in a loop": (born_in_a_loop, "nan", "sqrt: gives the first NaN, in 1 of 3 elements", ", in trip 1 of scan"),
    "in a branch": (born_in_a_branch_of_a_loop, True, "div: gives the first infinity", ", in trip 4 of while_loop"),
}


def traced(model: Callable[..., Any]) -> Graph:
    return trace(lambda ops, s: {"loss": model(ops, s["x"])}, {"x": Spec.of(X)})


@pytest.mark.parametrize(("model", "what", "said", "trip"), CASES.values(), ids=CASES)
def test_both_engines_name_the_op_the_line_and_the_trip(
    model: Callable[..., Any], what: Any, said: str, trip: str
) -> None:
    with Tape(check_finite=what) as tape, pytest.raises(NotFiniteError) as on_tape:
        model(tape.ops, tape.parameter(X))
    for passes in ((), PIPELINE):
        with pytest.raises(NotFiniteError) as on_graph:
            Executable.checked(run_passes(traced(model), passes, {}), what)(X)
        for message in (str(on_tape.value), str(on_graph.value)):
            assert message.startswith(said)
            assert message.endswith(trip)
            assert "at test_finite.py:" in message
    line = str(on_tape.value).split("test_finite.py:")[1].split(",")[0]
    assert f"test_finite.py:{line}" in str(on_graph.value)


def test_the_way_back_is_checked_too() -> None:
    with Tape(check_finite=True) as tape:
        x = tape.parameter(X)
        loss = born_on_the_way_back(tape.ops, x)
        with pytest.raises(NotFiniteError, match="gradient of sqrt: gives the first infinity"):
            tape.gradients(loss, [x])
    graph = differentiate(traced(born_on_the_way_back), "loss", ["x"])
    with pytest.raises(NotFiniteError, match=r"div: gives the first infinity.*test_finite.py"):
        Executable.checked(graph)(X)


def test_what_is_finite_passes_and_what_came_from_outside_is_said_to() -> None:
    def model(ops: Any, x: Any) -> Any:
        return ops.sum(ops.exp(x) * 2.0)

    plain = Executable.build(traced(model))(X)
    assert torch.equal(plain[0], Executable.checked(traced(model))(X)[0])
    with Tape(check_finite=True) as tape:
        assert torch.equal(model(tape.ops, tape.parameter(X)).data, plain[0])
    with pytest.raises(NotFiniteError, match=r"exp: gives the first NaN.*being given one from outside"):
        Executable.checked(traced(model))(NANS)
    with Tape(check_finite=True) as tape, pytest.raises(NotFiniteError, match="being given one from outside"):
        model(tape.ops, tape.parameter(NANS))


def test_infinities_pass_where_only_nan_is_looked_for() -> None:
    def model(ops: Any, x: Any) -> Any:
        return ops.sum(ops.exp(x * 1000.0))

    assert torch.isinf(Executable.checked(traced(model), "nan")(X)[0])
    with Tape(check_finite="nan") as tape:
        assert torch.isinf(model(tape.ops, tape.parameter(X)).data)
