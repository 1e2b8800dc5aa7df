"""Every op of the table, on both engines, against torch's autograd, finite differences, and each other.

All of it is driven by the cases of op_cases.py; an op without a case fails.
"""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, trace
from engines.graph.fused import inline
from engines.op import Namespace, Op, operand_names
from engines.ops import COMPOSITES, KERNELS, TABLE, pool
from engines.peers import torch_eager
from engines.tape import Tape, Tensor
from engines.value import Spec
from tests.op_cases import CASES
from tests.op_harness import (
    Values,
    by_tape,
    by_torch,
    call,
    check_close,
    check_same_bits,
    first_by_tape,
    given,
    is_float,
    operands,
    place,
    reference,
    traced,
    weighted,
    weighted_outputs,
)
from tests.op_inputs import Case

ALL = [pytest.param(name, case, id=f"{name}-{case.id}") for name, cases in CASES.items() for case in cases]
SMOOTH = [param for param in ALL if param.values[1].finite_differences]
PRIMITIVE = [param for param in ALL if param.values[0] in TABLE]
EXTREMES = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -2.5, 1e-310, 1e300)
every_case = pytest.mark.parametrize(("name", "case"), ALL)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by being shared out, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def graph_of(name: str, id: str) -> Graph:
    """Outputs, gradients, and gradients of gradients of one case."""
    case = next(case for case in CASES[name] if case.id == id)
    return traced(name, case, given(case))


def optimised(graph: Graph) -> Graph:
    for step in PIPELINE:
        graph = step(graph)
    return graph


def check_near(found: Values, expected: Values) -> None:
    """C rounds in another order, but is NaN where the kernels are, and infinite where they are."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-9, atol=1e-12, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_every_op_has_a_case_and_every_case_an_op() -> None:
    assert list(CASES) == [*TABLE, *(composite.__name__ for composite in COMPOSITES)]
    for name, cases in CASES.items():
        assert cases, name
        assert len({case.id for case in cases}) == len(cases), name


WITHOUT_EMPTY = {"var": "of nothing is NaN, and torch warns", "batch_norm_train": "nothing has no statistics"}
WITHOUT_EMPTY |= dict.fromkeys(
    ("batch_norm", "batch_norm_backward", "batch_norm_gradients"), WITHOUT_EMPTY["batch_norm_train"]
)
WITHOUT_EMPTY |= {"sgd_update": "a parameter holds something"}


@pytest.mark.parametrize("name", CASES)
def test_every_op_is_tried_on_nothing_on_size_1_and_on_an_odd_size(name: str) -> None:
    shapes = [shape for case in CASES[name] for shape in shapes_of(case)]
    assert (0 in {math.prod(shape) for shape in shapes}) == (name not in WITHOUT_EMPTY)
    assert any(1 in shape or shape == () for shape in shapes)
    assert any(size % 2 and size > 1 for shape in shapes for size in shape)


def shapes_of(case: Case) -> list[tuple[int, ...]]:
    """Of inputs and outputs."""
    outs = reference(case, inputs := case.build())
    return [tuple(value.shape) for value in (*inputs, *outs) if isinstance(value, torch.Tensor)]


@every_case
def test_it_does_not_matter_how_inputs_lie_in_memory(name: str, case: Case) -> None:
    """Elements with others between them, on the tape and in a compiled graph: what dense ones give."""
    values, lying_apart = given(case), {key: apart(value) for key, value in given(case).items()}
    expected = by_torch(case, values)
    names = [key for key in expected if case.twice or not key.startswith("second")]
    found = by_tape(name, case, lying_apart)
    check_near({key: found[key] for key in names}, {key: expected[key] for key in names})
    lying_apart = {key: apart(value) for key, value in given(case).items()}
    found = Executable.build(optimised(graph_of(name, case.id))).run_named(lying_apart)
    check_near({key: found[key] for key in names}, {key: expected[key] for key in names})


def apart(value: torch.Tensor) -> torch.Tensor:
    """The same elements, every second one of a tensor twice as large in each dimension."""
    wide = torch.full([2 * size for size in value.shape], 7 if value.dtype != torch.bool else True, dtype=value.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in value.shape)]
    return view.copy_(value)


def test_whatever_is_left_out_says_why() -> None:
    assert all(case.why for cases in CASES.values() for case in cases if not (case.finite_differences and case.twice))


@every_case
def test_forward_and_gradients_agree_with_torch(name: str, case: Case) -> None:
    values = given(case)
    expected = by_torch(case, values)
    found = by_tape(name, case, values)
    check_close(found, expected, "out", rtol=1e-12, atol=1e-13)
    check_close(found, expected, "first", rtol=1e-10, atol=1e-12)
    if case.twice:
        check_close(found, expected, "second", rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "case", "index"),
    [
        pytest.param(name, case, key.removeprefix("seed"), id=f"{name}-{case.id}-{key}")
        for name, op in TABLE.items()
        for case in (CASES[name] if op.outputs != 1 else ())
        for key in given(case)
        if key.startswith("seed")
    ],
)
def test_gradients_through_one_output_alone(name: str, case: Case, index: str) -> None:
    values = {key: v for key, v in given(case).items() if not key.startswith("seed") or key == f"seed{index}"}
    expected = by_torch(case, values)
    found = by_tape(name, case, values)
    check_close(found, expected, "first", rtol=1e-10, atol=1e-12)
    check_close(found, expected, "second", rtol=1e-9, atol=1e-11)
    check_same_bits(Executable.build(traced(name, case, values)).run_named(values), found)


@pytest.mark.parametrize(
    ("name", "case", "wanted"),
    [
        pytest.param(name, case, f"x{i}", id=f"{name}-{case.id}-x{i}")
        for name, op in TABLE.items()
        for case in CASES[name][:2]
        for i in range(len(op.vjps) if len(op.vjps) > 1 else 0)
        if {"seed0", f"dir{i}"} <= given(case).keys()
    ],
)
def test_gradients_of_one_input_alone(name: str, case: Case, wanted: str) -> None:
    """Whether the other inputs are constants, or parameters that nobody asked about: the same bits, on both engines."""

    def run(ops: Namespace, name: str, case: Case, symbols: Values) -> Values:
        loss = weighted_outputs(ops, name, case, symbols)
        return {f"first.{wanted}": ops.gradients(loss, [symbols[wanted]])[0]}

    expected = {k: v for k, v in by_torch(case, given(case)).items() if k == f"first.{wanted}"}
    found = first_by_tape(name, case, given(case), [wanted])
    check_close(found, expected, "first", rtol=1e-10, atol=1e-12)
    check_same_bits(first_by_tape(name, case, given(case), [wanted], others=False), found)
    check_same_bits(Executable.build(traced(name, case, given(case), run)).run_named(given(case)), found)


@pytest.mark.parametrize(("name", "case"), SMOOTH)
def test_gradients_agree_with_finite_differences(name: str, case: Case) -> None:
    values, step, rng = given(case), 1e-5, np.random.default_rng(0)

    def loss(changed: Values) -> float:
        with Tape() as tape:
            outs = [out.data for out in call(tape.ops, name, case, place(tape, changed))]
        return float(weighted(torch.sum, outs, [changed.get(f"seed{i}") for i in range(len(outs))]))

    for key, gradient in first_by_tape(name, case, values).items():
        x = values[key.removeprefix("first.")]
        directions = [torch.tensor(rng.standard_normal(x.shape))]
        for element in rng.permutation(x.numel())[:3]:
            directions += [(torch.arange(x.numel()) == element).to(x.dtype).reshape(x.shape)]
        for direction in directions:
            ends = [loss(values | {key.removeprefix("first."): x + sign * step * direction}) for sign in (1, -1)]
            expected = (ends[0] - ends[1]) / (2 * step)
            assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-7), key


@every_case
def test_both_engines_agree_to_the_bit(name: str, case: Case) -> None:
    expected = by_tape(name, case, given(case))
    check_same_bits(
        first_by_tape(name, case, given(case)), {k: v for k, v in expected.items() if k.startswith("first")}
    )
    graph = graph_of(name, case.id)
    check_same_bits(Executable.build(graph).run_named(given(case)), expected)
    check_same_bits(Executable.build(inline(optimised(graph))).run_named(given(case)), expected)
    check_near(Executable.build(optimised(graph)).run_named(given(case)), expected)


@every_case
def test_both_engines_agree_on_nan_and_infinity(name: str, case: Case) -> None:
    def extreme() -> Values:
        rng, values = np.random.default_rng(3), given(case)
        return {
            k: torch.tensor(rng.choice(EXTREMES, v.shape)).to(v.dtype) if is_float(v) else v for k, v in values.items()
        }

    expected = by_tape(name, case, extreme())
    graph = graph_of(name, case.id)
    check_same_bits(Executable.build(graph).run_named(extreme()), expected)
    check_same_bits(Executable.build(inline(optimised(graph))).run_named(extreme()), expected)
    check_near(Executable.build(optimised(graph)).run_named(extreme()), expected)


@every_case
def test_inferred_specs_are_those_of_the_kernels(name: str, case: Case) -> None:
    graph = graph_of(name, case.id)
    inferred = {f"{i}.{k}": var for i, node in enumerate(graph.nodes) for k, var in enumerate(node.outputs)}
    found = Executable.build(graph.with_nodes(graph.nodes, inferred)).run_named(given(case))
    for key, var in inferred.items():
        assert Spec.of(found[key]) == var.spec, graph.nodes[int(key.split(".")[0])].op


@every_case
def test_float32_is_close_to_float64(name: str, case: Case) -> None:
    exact, values = by_torch(case, given(case)), given(case, torch.float32)
    with Tape() as tape:
        rough = {f"out{i}": out.data for i, out in enumerate(call(tape.ops, name, case, place(tape, values)))}
    rough |= first_by_tape(name, case, given(case, torch.float32))
    for key, value in rough.items():
        torch.testing.assert_close(value.to(exact[key].dtype), exact[key], rtol=2e-4, atol=2e-5, equal_nan=True)
        if key.startswith("first"):
            assert value.dtype is torch.float32


def test_powers_have_second_derivatives_at_zero() -> None:
    """By hand, of a**b: d2/da2 is b (b - 1) a**(b - 2), and d2/dadb is (1 + b log a) a**(b - 1)."""
    with Tape() as tape:
        a, b = (tape.parameter(torch.tensor(v, dtype=torch.float64)) for v in ([0.0, 2.0, 0.5], [2.0, 0.0, 0.0]))
        (first,) = tape.gradients(tape.ops.sum(a**b), [a], record=True)
        by_a, by_b = tape.gradients(tape.ops.sum(first), [a, b])
        assert (by_a.data.tolist(), by_b.data.tolist()) == ([2.0, 0.0, 0.0], [0.0, 0.5, 2.0])


def test_no_gradient_flows_through_integers() -> None:
    def model(ops: Namespace, values: Values) -> Values:
        x = values["x"]
        y = ops.sum(ops.cast(ops.cast(x * 2.0, dtype="int64"), dtype="float64") * x)
        return {"gradient": ops.gradients(y, [x])[0]}

    x = torch.tensor([0.7, 1.6], dtype=torch.float64)
    found = Executable.build(trace(model, {"x": Spec.of(x)})).run_named({"x": x})
    with Tape() as tape:
        assert model(tape.ops, {"x": tape.parameter(x)})["gradient"].data.tolist() == [1.0, 3.0]
    assert found["gradient"].tolist() == [1.0, 3.0]


# Where another of torch's kernels is taken than torch would take


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pooling_with_channels_last_gives_the_bits_of_torch_where_maxima_tie_or_are_nan(dtype: torch.dtype) -> None:
    x = torch.randint(-2, 3, (3, 16, 24, 26), generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 0, :5], x[1, 2, 3], x[1, 3] = torch.nan, torch.inf, -torch.inf
    assert x.numel() >= pool.FEWEST_NUMBERS
    for window, pads, gaps in (([2, 2], [0, 0], [1, 1]), ([3, 3], [1, 1], [1, 2])):
        attrs = {"kernel_size": tuple(window), "stride": 2, "padding": tuple(pads), "dilation": tuple(gaps)}
        found = KERNELS.max_pool2d_with_indices(x, **attrs)
        expected = torch.ops.aten.max_pool2d_with_indices(x, window, [2, 2], pads, gaps)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.isnan(), theirs.isnan())
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
            assert ours.stride() == theirs.stride()


def test_pytorch_eager_calls_what_its_users_call() -> None:
    assert (torch_eager.OPS.linear, torch_eager.OPS.matmul) == (torch.nn.functional.linear, torch.matmul)
    assert torch_eager.OPS.max_pool2d is torch.nn.functional.max_pool2d


# What rules read. A rule's parameter names say what is kept alive for it; here each name has to be true.

RULES = [
    pytest.param(op, index, id=f"{op.name}-{index}")
    for op in TABLE.values()
    for index, rule in enumerate(op.vjps)
    if rule is not None
]


def kind_of(parameter: str) -> str:
    plain = parameter.removeprefix("*")
    if plain.startswith("_"):
        return "nothing"
    return "shape" if plain.endswith(("_shape", "_shapes")) else "spec" if plain.endswith("_spec") else "value"


class Untouchable:
    """Stands for a shape or spec: whatever is done with it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")

    def refuse(self, *_: Any) -> Any:
        raise AssertionError("it was used")

    __eq__ = __iter__ = __len__ = __getitem__ = refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def tried(op: Op, index: int, salt: int = 0) -> Iterator[tuple[Case, list[Any], list[Any]]]:
    """Each case in which a rule runs: what it may read, in order, and the gradients that outputs may get."""
    for case in CASES[op.name]:
        values = given(case, salt=salt)
        inputs = operands(case, values)
        if not (is_float(inputs[0 if op.variadic else index]) and "seed0" in values):
            continue
        attrs = op.complete(case.attrs)
        out = op.kernel(inputs, **attrs) if op.variadic else op.kernel(*inputs, **attrs)
        outs = [out] if op.outputs == 1 else list(out)
        seeds = [values.get(f"seed{i}") for i in range(len(outs))]
        alone = [tuple(seed if i == k else None for i, seed in enumerate(seeds)) for k in range(len(seeds))]
        usable = (
            seeds if op.outputs == 1 else [g for g in (tuple(seeds), *alone) if any(part is not None for part in g)]
        )
        yield case, [*(outs if op.outputs is not None else []), *inputs], usable


def by_rule(op: Op, index: int, case: Case, g: Any, args: Sequence[Any]) -> Any:
    rule = op.rule(index)
    assert rule is not None
    return rule(KERNELS, g, *args, **op.complete(case.attrs), **({"index": index} if op.variadic else {}))


def kinds_of(op: Op, index: int, values: Sequence[Any]) -> list[str]:
    """For each output and input, what the rule reads of it."""
    kinds = [kind_of(name) for name in operand_names(op.rule(index), op.attrs)]
    return kinds + kinds[-1:] * (len(values) - len(kinds))


@pytest.mark.parametrize(("op", "index"), RULES)
def test_a_rule_is_given_what_its_names_say(op: Op, index: int) -> None:
    for _, values, _ in tried(op, index):
        picked = op.pickers[index](*values)
        for kind, got, value in zip(kinds_of(op, index, values), picked, values, strict=True):
            wanted = {"nothing": None, "value": value}
            if kind in {"shape", "spec"}:
                assert got == (value.shape if kind == "shape" else Spec.of(value))
            else:
                assert got is wanted[kind]


@pytest.mark.parametrize("op", [op for op in TABLE.values() if op.joints], ids=lambda op: op.name)
def test_a_joint_rule_reads_nothing_that_its_inputs_rules_do_not(op: Op) -> None:
    for joint in op.joints:
        alone = [map(kind_of, operand_names(op.rule(i), op.attrs)) for i in joint.inputs]
        together = map(kind_of, operand_names(joint.rule, op.attrs))
        for read, reads in zip(together, zip(*alone, strict=True), strict=True):
            assert read == "nothing" or read in reads


@pytest.mark.parametrize(("op", "index"), RULES)
def test_a_rule_needs_whatever_it_reads(op: Op, index: int) -> None:
    """In some case another value gives another gradient, and a shape or spec is looked at."""
    names = operand_names(op.rule(index), op.attrs)
    needless = {position for position, name in enumerate(names) if kind_of(name) != "nothing"}
    for (case, values, gradients), (_, others, _) in zip(tried(op, index), tried(op, index, salt=1), strict=True):
        kinds, args, changed = kinds_of(op, index, values), op.pickers[index](*values), op.pickers[index](*others)
        for g, position in itertools.product(gradients, sorted(needless)):
            other = [new if kind == "value" else Untouchable() for kind, new in zip(kinds, changed, strict=True)]
            end = None if op.variadic else position + 1
            try:
                same = torch.equal(
                    by_rule(
                        op,
                        index,
                        case,
                        g,
                        [*args[:position], *other[position:end], *args[len(args) if end is None else end :]],
                    ),
                    by_rule(op, index, case, g, args),
                )
            except (AssertionError, TypeError):
                same = False
            if not same:
                needless.discard(position)
    assert not needless, f"rule {index} of {op.name} keeps {[names[i] for i in needless]} for no reason"


@pytest.mark.parametrize(("name", "case"), PRIMITIVE)
def test_the_tape_keeps_alive_only_what_rules_read(name: str, case: Case) -> None:
    op, values = TABLE[name], given(case)
    with Tape() as tape:
        placed = place(tape, values)
        outs = call(tape.ops, name, case, placed)
        inputs = operands(case, placed)
        tensors = [*(outs if op.outputs is not None else ()), *inputs]
        read = set()
        for index in (i for i, value in enumerate(inputs) if is_float(value) and op.rule(i) is not None):
            read |= {
                id(t.data)
                for t, k in zip(tensors, kinds_of(op, index, tensors), strict=True)
                if k == "value" and isinstance(t, Tensor)
            }
        references = {id(t.data): weakref.ref(t.data) for t in tensors if isinstance(t, Tensor)}
        del values, placed, outs, inputs, tensors
        assert {key for key, alive in references.items() if alive() is not None} == read
