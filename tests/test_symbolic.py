"""Symbolic graphs: formulas found from examples, graphs brought together, one executable for all, and refusals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from engines.engine import Varying
from engines.graph import Compiled, Exact, Symbolic
from engines.graph.shapes.formula import Formula, solve
from engines.graph.shapes.probes import probes
from engines.graph.shapes.symbolic import SymbolicExecutable
from engines.optim import Sgd
from engines.value import EngineError
from tests.programs import KEY, assert_same_bits, at, tensor, text

B = Varying("b", (("x", 0),), least=2, most=30)
N = Varying("n", (("x", 1),), least=2, most=50)
VARYING = (B, N)
GENERIC, CORNERS = probes(VARYING, frozenset({4}))
PROBES = [*GENERIC, *CORNERS]

FORMULAS: dict[str, Callable[[int, int], Any]] = {
    "7": lambda b, n: 7,
    "n": lambda b, n: n,
    "(4 * b * n)": lambda b, n: 4 * b * n,
    "(b * n**2)": lambda b, n: b * n * n,
    "(n - 1)": lambda b, n: n - 1,
    "(b + n)": lambda b, n: b + n,
    "(3 * b + -2 * n + 7)": lambda b, n: 3 * b - 2 * n + 7,
    "((b - 1) * (n + 3))": lambda b, n: (b - 1) * (n + 3),
    "(-1 * b)": lambda b, n: -b,
    "(1.0 / (b * n))": lambda b, n: 1.0 / (b * n),
    "(-1.0 / b)": lambda b, n: -1.0 / b,
    "(2.0 / (n - 1))": lambda b, n: 2.0 / (n - 1),
    "(1.0 / n**0.5)": lambda b, n: 1.0 / math.sqrt(n),
    "(0.1 * b)": lambda b, n: 0.1 * b,
}
NO_FORMULA: dict[str, Callable[[int, int], Any]] = {
    "half, rounded down": lambda b, n: n // 2,
    "a quarter, rounded up": lambda b, n: (n + 3) // 4,
    "the larger": lambda b, n: b if b > n else n,
    "the smaller": lambda b, n: n if b > n else b,
    "a threshold": lambda b, n: b if n > 40 else 2 * b,
    "odd or even": lambda b, n: n % 2,
    "a truth": lambda b, n: n > 20,
    "a logarithm": lambda b, n: math.log(n),
}


def sizes_of(b: int, n: int) -> dict[str, int]:
    return {"b": b, "n": n}


@pytest.mark.parametrize("wanted", FORMULAS)
def test_a_formula_is_found_and_holds_everywhere_to_the_bit(wanted: str) -> None:
    function = FORMULAS[wanted]
    found = solve([function(**sizes) for sizes in PROBES], PROBES)
    assert repr(found) == wanted
    for b in range(2, 31):
        for n in range(2, 51):
            value = found.at(sizes_of(b, n)) if isinstance(found, Formula) else found
            assert value == function(b, n)
            assert type(value) is type(function(b, n))


@pytest.mark.parametrize("name", NO_FORMULA)
def test_what_is_no_formula_is_not_taken_for_one(name: str) -> None:
    assert solve([NO_FORMULA[name](**sizes) for sizes in PROBES], PROBES) is None


def test_probes_keep_away_from_other_sizes_and_reach_every_corner() -> None:
    found = [sizes[name] for sizes in GENERIC for name in sizes]
    assert not set(found) & {0, 1, 4}
    assert not {sizes["b"] for sizes in GENERIC} & {sizes["n"] for sizes in GENERIC}
    assert [(sizes["b"], sizes["n"]) for sizes in CORNERS] == [(2, 2), (2, 50), (30, 2), (30, 50)]
    base, check, beside = GENERIC[0], *GENERIC[-2:]
    assert all(beside[name] == check[name] + 1 and check[name] > base[name] + 1 for name in base)


@pytest.mark.parametrize("most", [5, 6, 7, None])
def test_few_sizes_or_no_maximum_are_enough(most: int | None) -> None:
    generic, corners = probes((Varying("b", (("x", 0),), least=2, most=most),), frozenset({3, 4}))
    assert len({sizes["b"] for sizes in generic}) == 4
    assert all(2 <= sizes["b"] <= (most or 102) for sizes in [*generic, *corners])


def test_fewer_sizes_are_refused() -> None:
    with pytest.raises(EngineError, match="b is declared from 2 to 4, which is fewer than 4 sizes, at test_symbolic"):
        probes((Varying("b", (("x", 0),), least=2, most=4),), frozenset())


# Models


def sized(ops: Any, p: Any, batch: Any, key: Any) -> Any:
    """Sizes in shapes, keys, widths, counts and numbers."""
    x = batch["x"]
    rows, columns = x.shape
    flat = ops.reshape(x, shape=(rows * columns, 1)) * p["w"]
    wide = ops.pad(ops.reshape(flat, shape=(rows, columns, 4)), widths=((0, 0), (1, 0), (0, 0)), value=0.5)
    near = wide[1:, : columns - 1] * (1.0 / math.sqrt(columns)) + p["w"][0]
    spread = ops.dropout(near, key, rate=0.25) + ops.full_like(p["w"], shape=(columns - 1, 4), value=0.25)
    return ops.mean(ops.softmax(ops.transpose(spread, dim0=1, dim1=2), dim=2) ** 2.0) + ops.mean(ops.var(x, dim=0))


def normed(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    """Joint rules, several outputs, broadcasting both ways."""
    y = ops.batch_norm(ops.reshape(batch["x"], shape=(-1, 1)) * p["w"])
    left, right = ops.split(y, sizes=(1, 3), dim=1)
    return ops.sum(ops.concat([right * left, left], dim=1) ** 2.0) / batch["x"].shape[0]


def both(model: Any, rows: int, columns: int, quantity: Any, compiled: Compiled) -> tuple[Any, Any]:
    """The outputs of a symbolic executable, and of one made for this shape with no passes."""
    parameters = {"w": tensor(1, 4, seed=1, dtype=np.float64), "w.velocity": tensor(1, 4, seed=2, dtype=np.float64)}
    other = {name: value.clone() for name, value in parameters.items()}
    batch = {"x": tensor(rows, columns, seed=rows * columns, dtype=np.float64)}
    exact = Compiled(model, quantity=quantity, optimizer=Sgd(lr=0.5, momentum=0.5), passes=())
    return compiled(parameters, batch, KEY), exact(other, batch, KEY)


@pytest.mark.parametrize("quantity", ["forward", "loss_and_grad", "step"])
@pytest.mark.parametrize("model", [sized, normed])
def test_one_executable_gives_for_every_size_the_bits_of_one_made_for_it(model: Any, quantity: Any) -> None:
    options = {"quantity": quantity, "optimizer": Sgd(lr=0.5, momentum=0.5)}
    compiled = Compiled(model, policy=Symbolic(), varying=VARYING, **options)
    for rows, columns in ((2, 2), (3, 50), (30, 2), (17, 17), (30, 50), (7, 4), (4, 7)):
        found, wanted = both(model, rows, columns, quantity, compiled)
        assert found.keys() == wanted.keys()
        assert_same_bits(list(found.values()), list(wanted.values()))
    assert compiled.counters["compilations"] == 1


def scaled(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    x = ops.reshape(batch["x"], shape=(batch["x"].shape[0] * batch["x"].shape[1],))
    return ops.sum(ops.tanh(x * p["w"]) / x.shape[0])


def test_a_symbolic_graph_and_its_source_read_well() -> None:
    compiled = Compiled(scaled, quantity="forward", policy=Symbolic(), varying=VARYING)
    executable = SymbolicExecutable(compiled.prepare({"w": tensor(1)}, {"x": tensor(3, 5)}, None), ["b", "n"])
    assert text(executable.graph) == (
        "graph test_symbolic(w: f32[1], x: f32[size_b,size_n], size_b: i64[], size_n: i64[]) {\n"
        "  %0: f32[(size_b * size_n)] = reshape(x, shape=((size_b * size_n),))\n"
        "  %1: f32[(size_b * size_n)] = mul(%0, w)\n"
        "  %2: f32[(size_b * size_n)] = tanh(%1)\n"
        "  %3: f32[(size_b * size_n)] = div(%2, (size_b * size_n))\n"
        "  %4: f32[] = sum(%3)\n"
        "  return loss=%4\n"
        "}"
    )
    assert re.search(r"reshape\(x, shape=\(\(size_b \* size_n\),\)\)  # test_symbolic.py:\d+", executable.source)


# Refusals


def branch(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    x = batch["x"] * p["w"]
    if x.shape[1] > 20:
        return ops.sum(ops.tanh(x))  # the long way
    return ops.sum(ops.exp(x))  # the short way


def loop(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    total = batch["x"][:, 0] * p["w"]
    for index in range(1, batch["x"].shape[1]):
        total = ops.tanh(total) + batch["x"][:, index]  # in the loop
    return ops.sum(total)


def halved(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    return ops.sum(batch["x"][:, : batch["x"].shape[1] // 2] * p["w"])  # rounded down


def crosswise(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    return ops.sum(batch["x"][:, : batch["x"].shape[0]] * p["w"])  # as wide as high


def table(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    return ops.sum(batch["x"] * np.arange(batch["x"].shape[1], dtype=np.float32) * p["w"])  # as long as x


def parts(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    first, *_ = ops.split(batch["x"] * p["w"], sizes=(1,) * batch["x"].shape[1], dim=1)  # into columns
    return ops.sum(first)


def chosen(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
    x = batch["x"] * p["w"]
    return ops.sum(ops.cond(ops.sum(x) > 0.0, ops.tanh, ops.exp, x))  # one of two


@pytest.mark.parametrize(
    ("model", "told", "line"),
    [
        (branch, "the model makes other graphs for other sizes", at("the short way")),
        (loop, "the model makes other graphs for other sizes", at("in the loop")),
        (halved, "key of getitem is no formula that can be found of the sizes", at("rounded down")),
        (crosswise, "the shape of the result of getitem is no formula", at("as wide as high")),
        (table, "a constant, or how many there are, differs with the sizes", at("as long as x")),
        (parts, "sizes of split is no formula", at("into columns")),
        (chosen, "cond has graphs of its own, which sizes do not reach", at("one of two")),
    ],
)
def test_what_no_one_graph_serves_is_refused_at_the_user_s_line(model: Any, told: str, line: str) -> None:
    with pytest.raises(EngineError) as caught:
        Compiled(model, policy=Symbolic(), varying=VARYING)({"w": tensor(1)}, {"x": tensor(5, 7)}, None)
    assert str(caught.value).startswith(f"symbolic: {told}")
    assert line in str(caught.value)
    assert "one graph for each shape (Exact)" in str(caught.value)


def test_what_is_refused_symbolically_runs_exactly() -> None:
    for model in (branch, loop, halved, crosswise, table, parts, chosen):
        Compiled(model, policy=Exact(), varying=VARYING)({"w": tensor(1)}, {"x": tensor(5, 7)}, None)


def test_a_kernel_that_refuses_at_run_time_names_line_and_sizes() -> None:
    def pick(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
        return ops.sum(ops.embedding(p["w"], batch["x"]))  # the lookup

    compiled = Compiled(pick, policy=Symbolic(), varying=VARYING)
    with pytest.raises(EngineError, match=r"embedding: .* where b is 3 and n is 5, from") as caught:
        compiled({"w": tensor(2, 3)}, {"x": torch.full((3, 5), 7)}, None)
    assert at("the lookup") in str(caught.value)


def test_an_error_of_the_model_says_at_which_sizes_it_came() -> None:
    def short(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
        return ops.sum(batch["x"] * p["w"][: batch["x"].shape[1]])

    with pytest.raises(EngineError, match=r"mul: .* at test_symbolic.py:\d+; where b is \d+ and n is \d+"):
        Compiled(short, policy=Symbolic(), varying=VARYING)({"w": tensor(10)}, {"x": tensor(5, 7)}, None)


def test_a_name_that_a_size_takes_is_refused() -> None:
    def named(ops: Any, p: Any, batch: Any, _key: Any) -> Any:
        return ops.sum(batch["x"] * p["size_b"])

    with pytest.raises(EngineError, match="the name 'size_b' of an input is taken by a size"):
        Compiled(named, policy=Symbolic(), varying=VARYING)({"size_b": tensor(1)}, {"x": tensor(5, 7)}, None)
