"""The tape: right gradients, what it keeps and for how long, what it refuses."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engines.engine import Task
from engines.ops import KERNELS
from engines.ops.conv import conv2d_gradients
from engines.tape import Tape, Tensor
from engines.tape.engine import TapeEngine
from engines.tape.tape import LEAF, Freed
from engines.value import EngineError
from tests.programs import array, assert_same_bits, at, tensor

Refs = list["weakref.ref[torch.Tensor]"]


def ref(value: Tensor) -> weakref.ref[torch.Tensor]:
    return weakref.ref(value.data)


def alive(refs: Refs) -> int:
    return sum(r() is not None for r in refs)


def spy(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[[], None] = lambda: None) -> list[Any]:
    """Every result of the kernel `name` that gradient rules ask for, as weak references."""
    kernel, results = getattr(KERNELS, name), []

    def call(*operands: Any, **attrs: Any) -> Any:
        before()
        out = kernel(*operands, **attrs)
        results.append(weakref.ref(out[0] if isinstance(out, tuple) else out))
        return out

    monkeypatch.setitem(KERNELS.__dict__, name, call)
    return results


# Right gradients


def network(ops: Any, batch: Any, weights: Any) -> Any:
    (x, label), (w1, b1, w2, b2) = batch, weights
    hidden = ops.tanh(ops.linear(x, w1, b1))
    return ops.cross_entropy(ops.linear(hidden * hidden + hidden, w2, b2), label)


def torch_network(batch: Any, weights: Any) -> torch.Tensor:
    (x, label), (w1, b1, w2, b2) = batch, weights
    hidden = torch.tanh(torch.nn.functional.linear(x, w1, b1))
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden * hidden + hidden, w2, b2), label)


def network_arrays() -> tuple[list[Any], list[Any]]:
    shapes = ((6, 5), (6,), (3, 6), (3,))
    weights = [array(*shape, seed=n, dtype=np.float64) for n, shape in enumerate(shapes)]
    return weights, [array(8, 5, seed=9, dtype=np.float64), np.array([0, 2, 1, 1, 0, 2, 2, 0])]


def test_gradients_of_a_network_are_those_of_torch(tape: Tape) -> None:
    weights, batch = network_arrays()
    ours = [tape.parameter(w) for w in weights]
    found = tape.gradients(network(tape.ops, map(tape.constant, batch), ours), ours)
    with torch.inference_mode(mode=False):
        theirs = [torch.tensor(w, requires_grad=True) for w in weights]
        expected = torch.autograd.grad(torch_network(map(torch.tensor, batch), theirs), theirs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12)


def test_gradients_of_gradients(tape: Tape) -> None:
    x = tape.parameter(np.array(1.5))
    y = x**4.0
    for expected in (4 * 1.5**3, 12 * 1.5**2, 24 * 1.5):
        (y,) = tape.gradients(y, [x], record=True)
        assert float(y) == pytest.approx(expected, rel=1e-15)


def test_a_hessian_vector_product_is_that_of_torch(tape: Tape) -> None:
    weights, batch = network_arrays()
    ours = [tape.parameter(w) for w in weights]
    first = tape.gradients(network(tape.ops, map(tape.constant, batch), ours), ours, record=True)
    found = tape.gradients(tape.ops.sum(first[0] * weights[0]), ours)
    with torch.inference_mode(mode=False):
        theirs = [torch.tensor(w, requires_grad=True) for w in weights]
        grads = torch.autograd.grad(torch_network(map(torch.tensor, batch), theirs), theirs, create_graph=True)
        expected = torch.autograd.grad((grads[0] * torch.tensor(weights[0])).sum(), theirs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-14)


def test_a_gradient_that_was_recorded_may_join_a_loss(tape: Tape) -> None:
    w = tape.parameter(np.array([1.0, 2.0]))
    (g,) = tape.ops.gradients(tape.ops.sum(w * w * w), [w])
    (found,) = tape.gradients(tape.ops.sum(g * g), [w])  # g = 3 w^2, so d sum(g^2) = 36 w^3
    assert found.numpy().tolist() == [36.0, 288.0]


def test_gradient_with_respect_to_an_intermediate_value(tape: Tape) -> None:
    w = tape.parameter(np.array(3.0))
    middle = w * 2.0
    loss = middle * middle
    by_w, by_middle = tape.gradients(loss, [w, middle], retain=True)
    assert (float(by_w), float(by_middle)) == (24.0, 12.0)
    (by_middle,) = tape.gradients(loss, [middle])
    assert float(by_middle) == 12.0


def test_gradient_with_respect_to_one_of_several_outputs(tape: Tape) -> None:
    w = tape.parameter(array(2, 4))
    left, right = tape.ops.split(w * 1.5, sizes=(1, 3), dim=1)
    by_right, by_left = tape.gradients(tape.ops.sum(right * 2.0) + tape.ops.sum(left), [right, left])
    assert by_right.numpy().tolist() == [[2.0] * 3] * 2
    assert by_left.numpy().tolist() == [[1.0]] * 2


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_loss_that_is_one_of_several_outputs(tape: Tape, number: int) -> None:
    w = tape.parameter(np.array([5.0, 6.0, 7.0]))
    (found,) = tape.gradients(tape.ops.split(w, sizes=(1, 1, 1))[number], [w])
    assert found.numpy().tolist() == [float(i == number) for i in range(3)]


def test_an_unused_parameter_gets_zeros(tape: Tape) -> None:
    used, before = tape.parameter(array(2)), tape.parameter(array(3))
    loss = tape.ops.sum(used)
    after = tape.parameter(array(4))
    found = tape.gradients(loss, [after, used, before])
    assert [g.numpy().tolist() for g in found] == [[0.0] * 4, [1.0] * 2, [0.0] * 3]


def test_a_value_used_twice_gets_both_gradients(tape: Tape) -> None:
    w = tape.parameter(np.array(3.0))
    assert float(tape.gradients(w * w + w, [w])[0]) == 7.0


class Sums(TorchDispatchMode):
    """Counts the sums that torch is asked for: anew, and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.anew = self.in_place = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.anew += func is torch.ops.aten.add.Tensor
        self.in_place += func is torch.ops.aten.add_.Tensor
        return func(*args, **(kwargs or {}))


def test_from_the_third_on_what_is_added_to_a_gradient_is_added_in_place(tape: Tape) -> None:
    w = tape.parameter(array(4))
    loss = tape.ops.sum(tape.ops.concat([tape.ops.exp(w) for _ in range(10)]))
    with Sums() as sums:
        (found,) = tape.gradients(loss, [w])
    assert (sums.anew, sums.in_place) == (1, 8)
    np.testing.assert_allclose(found.numpy(), 10 * np.exp(array(4)), rtol=1e-6)


def test_what_is_added_in_place_is_nobody_else_s(tape: Tape) -> None:
    """A sum hands its own gradient to both its terms; what comes to one of them later must not reach the other."""
    a, b, weight = tape.parameter(array(4)), tape.parameter(array(4, seed=1)), array(4, seed=2)
    others = [tape.ops.exp(a) for _ in range(3)]
    loss = tape.ops.sum((a + b) * weight) + tape.ops.sum(tape.ops.concat(others))
    by_a, by_b = (g.numpy() for g in tape.gradients(loss, [a, b]))
    np.testing.assert_allclose(by_a, weight + 3 * np.exp(array(4)), rtol=1e-5)
    np.testing.assert_array_equal(by_b, weight)


def test_the_same_parameter_may_be_asked_for_twice(tape: Tape) -> None:
    w = tape.parameter(np.array(3.0))
    assert [float(g) for g in tape.gradients(w * w, [w, w])] == [6.0, 6.0]


def test_a_seed_weighs_the_loss(tape: Tape) -> None:
    w = tape.parameter(np.array([1.0, 2.0]))
    (found,) = tape.gradients(w * w, [w], seed=np.array([10.0, 100.0]))
    assert found.numpy().tolist() == [20.0, 400.0]


def test_a_chain_of_100000_ops_walks_back(tape: Tape) -> None:
    w = tape.parameter(np.array([1.0, -2.0]))
    factors = np.random.default_rng(0).uniform(0.9999, 1.0001, 50_000)
    y, expected = w, np.ones(2)
    for factor in factors:
        y = y * factor + 0.5
    for factor in reversed(factors):
        expected = expected * factor
    (found,) = tape.gradients(tape.ops.sum(y), [w])
    assert len(tape.entries) == 100_002
    np.testing.assert_array_equal(found.numpy(), expected)


def test_integers_take_part_and_get_no_gradient(tape: Tape) -> None:
    table, index = tape.parameter(array(3, 2)), tape.constant(np.array([2, 2]))
    (found,) = tape.gradients(tape.ops.sum(tape.ops.embedding(table, index)), [table])
    assert found.numpy().tolist() == [[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]


# Recording


def test_no_grad_records_nothing(tape: Tape) -> None:
    w = tape.parameter(np.array(2.0))
    with tape.no_grad():
        constant = w * w
        with tape.no_grad():
            pass
        constant = constant * w
    assert (len(tape.entries), constant.slot) == (1, -1)
    assert float(tape.gradients(constant * w, [w])[0]) == 8.0


def test_no_grad_ends_where_its_block_raises(tape: Tape) -> None:
    with pytest.raises(ZeroDivisionError), tape.no_grad():
        raise ZeroDivisionError
    assert tape.recording


def test_nothing_is_recorded_for_constants_or_where_no_gradient_flows(tape: Tape) -> None:
    w, x = tape.parameter(array(3)), tape.constant(array(3))
    tape.ops.exp(x * 2.0 + x)
    tape.ops.argmax(w)
    tape.ops.stop_gradient(w)
    tape.ops.where(w > 0.0, x, 1.0)
    assert tape.entries == [LEAF]


def test_attributes_with_zeros_of_both_signs_are_told_apart(tape: Tape) -> None:
    x = tape.constant(array(1))
    signs = [bool(np.signbit(tape.ops.full_like(x, value=v).numpy()[0])) for v in (0.0, -0.0, 0.0, -0.0)]
    assert signs == [False, True, False, True]


def test_torch_records_nothing_of_its_own() -> None:
    theirs = torch.ones(3, requires_grad=True)
    with Tape() as tape:
        w = tape.parameter(theirs)
        y = tape.ops.exp(w * theirs)
        assert not w.data.requires_grad
        assert not y.data.requires_grad
    assert not torch.is_inference_mode_enabled()


# What is kept, and for how long


KEPT = {
    "add": (lambda ops, a, b: a + b, [False, False, False]),
    "sub": (lambda ops, a, b: a - b, [False, False, False]),
    "mul": (lambda ops, a, b: a * b, [True, True, False]),
    "div": (lambda ops, a, b: a / b, [False, True, True]),
    "neg": (lambda ops, a, b: -a, [False, False, False]),
    "exp": (lambda ops, a, b: ops.exp(a), [False, False, True]),
    "log": (lambda ops, a, b: ops.log(a), [True, False, False]),
    "tanh": (lambda ops, a, b: ops.tanh(a), [False, False, True]),
    "relu": (lambda ops, a, b: ops.relu(a), [False, False, True]),
    "gelu": (lambda ops, a, b: ops.gelu(a), [True, False, False]),
    "matmul": (lambda ops, a, b: ops.matmul(a, b), [True, True, False]),
    "sum": (lambda ops, a, b: ops.sum(a), [False, False, False]),
    "mean": (lambda ops, a, b: ops.mean(a), [False, False, False]),
    "softmax": (lambda ops, a, b: ops.softmax(a, dim=0), [False, False, True]),
    "reshape": (lambda ops, a, b: ops.reshape(a, shape=(9,)), [False, False, False]),
    "concat": (lambda ops, a, b: ops.concat([a, b]), [False, False, False]),
    "maximum": (lambda ops, a, b: ops.maximum(a, b), [True, True, False]),
}
"""Of an op on a and b: whether the record keeps a, b and the result alive."""


@pytest.mark.parametrize("name", KEPT)
def test_the_tape_keeps_what_rules_read_and_nothing_else(tape: Tape, no_collector: None, name: str) -> None:
    call, expected = KEPT[name]
    w = tape.parameter(np.abs(array(3, 3)) + 0.5)
    a, b = w + 1.0, w + 2.0
    out = call(tape.ops, a, b)
    refs = [ref(a), ref(b), ref(out)]
    del a, b, out
    assert [r() is not None for r in refs] == expected


def test_a_factor_that_needs_no_gradient_is_kept_for_the_other_one_only(tape: Tape, no_collector: None) -> None:
    w, constant = tape.parameter(array(3)) + 1.0, tape.constant(array(3))
    product = w * constant
    refs = [ref(w), ref(constant)]
    del w, constant, product
    assert [r() is not None for r in refs] == [False, True]


def test_entries_are_dropped_one_by_one_on_the_way_back(
    tape: Tape, no_collector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 20
    w = tape.parameter(array(3))
    y, refs = w, []
    for _ in range(length):
        y = tape.ops.tanh(y)
        refs.append(ref(y))
    loss = tape.ops.sum(y)
    del y
    seen: list[int] = []
    spy(monkeypatch, "tanh_backward", lambda: seen.append(alive(refs)))
    tape.gradients(loss, [w])
    assert seen == list(range(length, 0, -1))  # the one being walked, and those before it
    assert alive(refs) == 0


def test_gradients_are_dropped_as_soon_as_they_are_used(
    tape: Tape, no_collector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = tape.parameter(array(3))
    y = w
    for _ in range(20):
        y = tape.ops.tanh(y)
    loss = tape.ops.sum(y)
    seen: list[int] = []
    results = spy(monkeypatch, "tanh_backward", lambda: seen.append(alive(results)))
    tape.gradients(loss, [w])
    assert seen == [0] + [1] * 19


def test_parts_of_a_sum_of_gradients_are_dropped_once_added(
    tape: Tape, no_collector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = tape.parameter(array(1))
    loss = tape.ops.sum(tape.ops.concat([w * array(4, seed=n) for n in range(10)]))
    seen: list[int] = []
    results = spy(monkeypatch, "sum_to", lambda: seen.append(alive(results)))
    tape.gradients(loss, [w])
    assert seen == [0, 1] + [0] * 8  # the second alone stands beside the first, which is still the sum


def test_nothing_of_the_record_is_alive_after_backward(tape: Tape, no_collector: None) -> None:
    w = tape.parameter(array(3))
    y, refs = w, []
    for _ in range(5):
        y = tape.ops.exp(tape.ops.tanh(y) * w) / 3.0
        refs.append(ref(y))
    loss = tape.ops.sum(y)
    del y
    tape.gradients(loss, [w])
    assert alive(refs) == 0
    assert all(entry is LEAF or type(entry) is Freed for entry in tape.entries)


def test_nothing_of_the_record_is_alive_after_a_backward_for_some_parameters(tape: Tape, no_collector: None) -> None:
    v, w = tape.parameter(array(3)), tape.parameter(array(3, seed=1))
    branch = tape.ops.exp(v)
    refs = [ref(branch)]
    loss = tape.ops.sum(branch) + tape.ops.sum(tape.ops.exp(w))
    del branch
    tape.gradients(loss, [w])
    assert alive(refs) == 0


def test_retain_keeps_the_record(tape: Tape, no_collector: None) -> None:
    w = tape.parameter(array(3))
    y = tape.ops.exp(w)
    loss, refs = tape.ops.sum(y), [ref(y)]
    del y
    first = tape.gradients(loss, [w], retain=True)
    assert alive(refs) == 1
    second = tape.gradients(loss, [w])
    assert alive(refs) == 0
    assert first[0].numpy().tolist() == second[0].numpy().tolist()


@pytest.mark.parametrize("record", [False, True])
def test_reference_counts_alone_free_a_tape(no_collector: None, record: bool) -> None:
    def step() -> Refs:
        with Tape() as tape:
            w = tape.parameter(array(3))
            left, right = tape.ops.split(tape.ops.exp(w * w), sizes=(1, 2))
            (g,) = tape.gradients(tape.ops.sum(left * right), [w], record=record)
            with pytest.raises(EngineError):
                tape.ops.matmul(left, right)
            return [weakref.ref(tape), ref(left), ref(g)]  # type: ignore[list-item]

    assert alive(step()) == 0


def test_a_tape_without_backward_is_freed_too(no_collector: None) -> None:
    def step() -> Refs:
        with Tape() as tape:
            y = tape.ops.exp(tape.parameter(array(3)))
            return [weakref.ref(tape), ref(y)]  # type: ignore[list-item]

    assert alive(step()) == 0


# No rule runs for nothing


def test_the_first_layer_s_input_gets_no_gradient(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    by_input, by_weight = spy(monkeypatch, "conv2d_input"), spy(monkeypatch, "conv2d_weight")
    image = tape.constant(array(1, 2, 6, 6))
    w1, w2 = tape.parameter(array(3, 2, 3, 3)), tape.parameter(array(2, 3, 3, 3))
    loss = tape.ops.sum(tape.ops.conv2d(tape.ops.relu(tape.ops.conv2d(image, w1)), w2))
    tape.gradients(loss, [w1, w2])
    assert (len(by_input), len(by_weight)) == (1, 2)


@pytest.mark.parametrize(("wanted", "expected"), [("wb", (1, 0)), ("w", (0, 1)), ("b", (0, 0))])
def test_weight_and_bias_share_a_kernel_where_both_are_asked_for(
    tape: Tape, monkeypatch: pytest.MonkeyPatch, wanted: str, expected: tuple[int, int]
) -> None:
    together, alone = spy(monkeypatch, "conv2d_weight_bias"), spy(monkeypatch, "conv2d_weight")
    given = {"w": tape.parameter(array(3, 2, 3, 3)), "b": tape.parameter(array(3))}
    out = tape.ops.conv2d(tape.constant(array(1, 2, 5, 5)), given["w"], given["b"])
    found = tape.gradients(tape.ops.sum(out), [given[name] for name in wanted])
    assert [g.shape for g in found] == [given[name].shape for name in wanted]
    assert (len(together), len(alone)) == expected


def test_they_share_it_too_where_the_image_is_an_array(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    together = spy(monkeypatch, "conv2d_weight_bias")
    w, b, image = tape.parameter(array(3, 2, 3, 3)), tape.parameter(array(3)), array(1, 2, 5, 5, seed=1)
    by_array, by_value = (
        tape.gradients(tape.ops.sum(tape.ops.tanh(tape.ops.conv2d(x, w, b))), [w, b])
        for x in (image, tape.constant(image))
    )
    assert len(together) == 2
    for one, other in zip(by_array, by_value, strict=True):
        assert torch.equal(one.data, other.data)


@pytest.mark.parametrize("wanted", ["xwb", "wb", "xw", "xb"])
@pytest.mark.parametrize("images", [1, 2])
def test_all_of_a_convolution_s_gradients_come_from_one_call_where_all_are_asked_for(
    tape: Tape, monkeypatch: pytest.MonkeyPatch, images: int, wanted: str
) -> None:
    calls = spy(monkeypatch, "conv2d_gradients")
    given = {"x": array(images, 3, 90, 90), "w": array(4, 3, 3, 3, seed=1), "b": array(4, seed=2)}
    ours = {name: tape.parameter(value) for name, value in given.items()}
    out = tape.ops.conv2d(ours["x"], ours["w"], ours["b"], stride=2)
    g = array(*out.shape, seed=3)
    found = tape.gradients(out, [ours[name] for name in wanted], seed=g)
    assert len(calls) == (wanted == "xwb")
    expected = dict(
        zip("xwb", conv2d_gradients(KERNELS, *map(torch.tensor, (g, given["x"], given["w"])), stride=2), strict=True)
    )
    for name, gradient in zip(wanted, found, strict=True):
        torch.testing.assert_close(gradient.data, expected[name], rtol=1e-4, atol=1e-3)
        if wanted == "xwb":
            assert torch.equal(gradient.data, expected[name])


def test_a_branch_that_was_not_asked_for_is_not_walked(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy(monkeypatch, "tanh_backward")
    v, w = tape.parameter(array(3)), tape.parameter(array(3, seed=1))
    loss = tape.ops.sum(tape.ops.tanh(tape.ops.tanh(v)) * tape.ops.tanh(w))
    (found,) = tape.gradients(loss, [w])
    assert len(calls) == 1
    expected = np.tanh(np.tanh(array(3))) * (1 - np.tanh(array(3, seed=1)) ** 2)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_what_stands_before_an_intermediate_value_is_not_walked(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy(monkeypatch, "tanh_backward")
    middle = tape.ops.tanh(tape.parameter(array(3)))
    tape.gradients(tape.ops.sum(tape.ops.exp(middle)), [middle])
    assert calls == []


# Refusals


def test_a_second_backward_names_both_lines(tape: Tape) -> None:
    w = tape.parameter(array(3))
    loss = tape.ops.sum(w * w)
    tape.gradients(loss, [w])  # first backward
    with pytest.raises(EngineError, match=f"{at('first backward')}.*{at('second backward')}.*retain=True"):
        tape.gradients(loss, [w])  # second backward


def test_a_second_backward_for_some_parameters_is_refused(tape: Tape) -> None:
    v, w = tape.parameter(array(3)), tape.parameter(array(3))
    loss = tape.ops.sum(v * tape.ops.exp(w))
    tape.gradients(loss, [v])
    for wrt in ([v], [w], [v, w]):
        with pytest.raises(EngineError, match="freed by the backward pass"):
            tape.gradients(loss, wrt)


def test_a_second_backward_through_one_of_several_outputs_is_refused(tape: Tape) -> None:
    w = tape.parameter(array(4))
    left, right = tape.ops.split(w, sizes=(2, 2))
    tape.gradients(tape.ops.sum(left), [w])
    with pytest.raises(EngineError, match="freed by the backward pass"):
        tape.gradients(tape.ops.sum(right), [w])


def test_a_new_loss_on_a_freed_value_is_refused_where_it_needs_what_was_freed(tape: Tape) -> None:
    v, w = tape.parameter(array(3)), tape.parameter(array(3, seed=1))
    middle = tape.ops.exp(v)
    tape.gradients(tape.ops.sum(middle), [v])
    with pytest.raises(EngineError, match="freed by the backward pass"):
        tape.gradients(tape.ops.sum(middle * w), [v])


def test_a_freed_value_is_a_constant_for_what_comes_later(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    v = tape.parameter(np.array([[2.0]]))
    middle = v * 3.0
    tape.gradients(middle * middle, [v])
    w = tape.parameter(np.array([[5.0]]))
    products = spy(monkeypatch, "matmul")
    assert float(tape.gradients(middle @ w, [w])[0]) == 6.0
    assert len(products) == 1
    assert float(tape.gradients(middle * middle, [middle])[0]) == 12.0


def test_a_loss_that_is_not_a_scalar_needs_a_seed(tape: Tape) -> None:
    w = tape.parameter(array(2, 3))
    with pytest.raises(EngineError, match=rf"the loss is f32\[2,3\], not a scalar, at {at('no seed')}.*seed"):
        tape.gradients(w * w, [w])  # no seed


@pytest.mark.parametrize(
    ("seed", "found"),
    [(np.ones(2, np.float32), r"f32\[2\]"), (np.ones(3), r"f64\[3\]"), (1.0, r"f32\[\]")],
)
def test_a_seed_of_another_shape_or_dtype_is_refused(tape: Tape, seed: Any, found: str) -> None:
    w = tape.parameter(array(3))
    with pytest.raises(EngineError, match=rf"seed is {found}, the loss f32\[3\]"):
        tape.gradients(w * w, [w], seed=seed)


def test_values_of_another_tape_are_refused(tape: Tape) -> None:
    other = Tape()
    mine, theirs = tape.parameter(array(3)), other.parameter(array(3))
    with pytest.raises(EngineError, match=rf"mul: f32\[3\] belongs to another tape .* at {at('mixed')}"):
        mine * theirs  # mixed
    for loss, wrt, seed in (
        (tape.ops.sum(mine), [theirs], None),
        (other.ops.sum(theirs), [mine], None),
        (mine * 1.0, [mine], theirs),
    ):
        with pytest.raises(EngineError, match="belongs to another tape"):
            tape.gradients(loss, wrt, seed=seed)


def test_a_program_refuses_a_parameter_of_whole_numbers_before_it_runs() -> None:
    task = Task(lambda ops, p, batch, key: ops.sum(p["w"]), {"w": np.arange(2)}, {}, "loss_and_grad")
    with pytest.raises(EngineError, match=r"parameter: needs a float dtype, found i64\[2\]"):
        TapeEngine().prepare(task)


def test_a_loss_that_depends_on_no_parameter_is_refused(tape: Tape) -> None:
    w = tape.parameter(array(3))
    with tape.no_grad():
        loss = tape.ops.sum(w)
    with pytest.raises(EngineError, match="depends on no parameter"):
        tape.gradients(loss, [w])


def test_a_gradient_with_respect_to_a_constant_is_refused(tape: Tape) -> None:
    w, x = tape.parameter(array(3)), tape.constant(array(3))
    with pytest.raises(EngineError, match=r"f32\[3\] is not recorded"):
        tape.gradients(tape.ops.sum(w * x), [x])


@pytest.mark.parametrize("bad", [3.0, None, np.ones(3), torch.ones(3)])
def test_gradients_of_what_is_not_on_a_tape_are_refused(tape: Tape, bad: Any) -> None:
    w = tape.parameter(array(3))
    for act in (
        lambda: tape.gradients(bad, [w]),
        lambda: tape.gradients(tape.ops.sum(w), [bad]),
        lambda: tape.ops.gradients(bad, [w]),
    ):
        with pytest.raises(EngineError, match="needs values of"):
            act()


def test_an_integer_parameter_is_refused(tape: Tape) -> None:
    with pytest.raises(EngineError, match=r"parameter: needs a float dtype, found i64\[2\]"):
        tape.parameter(np.array([1, 2]))


def test_float_widths_are_not_mixed(tape: Tape) -> None:
    narrow, wide = tape.parameter(array(3)), tape.constant(array(3, dtype=np.float64))
    for act in (lambda: narrow + wide, lambda: wide + narrow, lambda: narrow * array(3, dtype=np.float64)):
        with pytest.raises(EngineError, match=r"float widths differ: f(32|64)\[3\] and f(32|64)\[3\] at test_tape"):
            act()


def test_devices_are_not_mixed(tape: Tape) -> None:
    elsewhere = torch.empty(3, device="meta")
    w = tape.parameter(array(3))
    with pytest.raises(EngineError, match=r"f32\[3\]@meta is on meta, the engine on cpu, at .*\.to\('cpu'\)"):
        w * elsewhere
    for place in (tape.parameter, tape.constant):
        with pytest.raises(EngineError, match=r"the tape is on cpu, found f32\[3\]@meta on meta"):
            place(elsewhere)
    with pytest.raises(EngineError, match=r"the tape is on meta, found .* on cpu"):
        Tape("meta").constant(torch.ones(3))


def test_what_a_kernel_refuses_names_operands_and_line(tape: Tape) -> None:
    w = tape.parameter(array(2, 3))
    with pytest.raises(EngineError, match=rf"matmul: .*f32\[2,3\], f32\[2,3\].* at {at('bad product')}"):
        tape.ops.matmul(w, w)  # bad product
    with pytest.raises(EngineError, match=rf"nll_loss: .* at {at('bad loss')}"):
        tape.ops.cross_entropy(w, w)  # bad loss


@pytest.mark.parametrize(
    "act",
    [
        lambda ops, w: ops.concat(w, w),
        lambda ops, w: ops.concat(w),
        lambda ops, w: ops.concat([]),
        lambda ops, w: ops.relu(w, slope=0.1),
        lambda ops, w: ops.reshape(w),
        lambda ops, w: ops.full_like(w, value=w),
        lambda ops, w: ops.cast(w, dtype="float23"),
        lambda ops, w: ops.rellu(w),
        lambda ops, w: ops.relu(3.0),
        lambda ops, w: ops.add(w, "text"),
        lambda ops, w: w[5],
        lambda ops, w: w["text"],
        lambda ops, w: w[w],
        lambda ops, w: w == None,  # noqa: E711
        lambda ops, w: len(ops.sum(w)),
    ],
)
def test_misuse_is_an_error_with_the_user_s_line(tape: Tape, act: Callable[..., Any]) -> None:
    w = tape.parameter(array(3))
    with pytest.raises(EngineError, match=r"at test_tape\.py:\d+"):
        act(tape.ops, w)


# Python and NumPy around it


@pytest.mark.parametrize(
    "other", [2, 2.5, np.float64(2.5), np.float32(2.5), np.int64(2), array(2, 3), tensor(2, 3)], ids=repr
)
def test_numbers_and_arrays_stand_on_both_sides(tape: Tape, other: Any) -> None:
    data = np.abs(array(2, 3)) + 0.5
    w = tape.parameter(data)
    y = np.asarray(other, dtype=np.float32)
    pairs = [
        (w + other, data + y),
        (other + w, y + data),
        (w - other, data - y),
        (other - w, y - data),
        (w * other, data * y),
        (other * w, y * data),
        (w / other, data / y),
        (other / w, y / data),
        (w**other, data**y),
        (w < other, data < y),
        (other < w, y < data),
        (w >= other, data >= y),
        (w == other, data == y),
    ]
    for found, expected in pairs:
        assert isinstance(found, Tensor)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
        assert found.numpy().dtype == expected.dtype
    (found,) = tape.gradients(tape.ops.sum(other * w), [w])
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(y, (2, 3)), rtol=1e-6)


def test_matrix_products_with_arrays_on_both_sides(tape: Tape) -> None:
    left, right = array(2, 3), array(3, 2)
    np.testing.assert_allclose((tape.constant(left) @ right).numpy(), left @ right, rtol=1e-6)
    np.testing.assert_allclose((left @ tape.constant(right)).numpy(), left @ right, rtol=1e-6)


def test_python_s_control_flow_works_on_values(tape: Tape) -> None:
    w = tape.parameter(np.array(3.0))
    y = w
    while y < 100.0:
        y = y * w if y > 5.0 else y + w
    assert float(y) == 162.0  # 3, 6, 18, 54, 162
    assert int(y) == 162
    assert y.item() == 162.0
    assert float(tape.gradients(y, [w])[0]) == 216.0  # of 2 w^4


def test_iterating_gives_the_rows(tape: Tape) -> None:
    w = tape.parameter(array(3, 2))
    total = sum(row * float(n) for n, row in enumerate(w))
    (found,) = tape.gradients(tape.ops.sum(total), [w])
    assert found.numpy().tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert len(w) == 3


def test_numpy_integers_index(tape: Tape) -> None:
    w = tape.constant(array(3, 2))
    assert w[np.int64(1)].numpy().tolist() == w[1].tolist() == array(3, 2)[1].tolist()
    assert w[np.int64(1) :, np.int32(0)].numpy().tolist() == array(3, 2)[1:, 0].tolist()


def test_numpy_makes_an_array_of_a_value(tape: Tape) -> None:
    w = tape.parameter(array(3, 2))
    np.testing.assert_array_equal(np.asarray(w), array(3, 2))
    assert np.asarray(w, dtype=np.float64).dtype == np.float64
    assert len(tape.entries) == 1


def test_a_parameter_is_a_copy_of_an_array_and_the_same_storage_as_a_tensor(tape: Tape) -> None:
    data, storage = array(3), tensor(3)
    assert not np.shares_memory(tape.parameter(data).data.numpy(), data)
    assert tape.parameter(storage).data.data_ptr() == storage.data_ptr()


def test_what_a_concatenation_records_grows_in_proportion_to_its_inputs(tape: Tape) -> None:
    grown = []
    for count in (100, 200):
        parts, before = [tape.parameter(array(1, 2)) for _ in range(count)], tape.record_bytes
        tape.ops.concat(parts)
        grown.append(tape.record_bytes - before)
    assert grown[1] < 2.5 * grown[0]


def test_values_hash_by_identity(tape: Tape) -> None:
    v, w = tape.parameter(array(3)), tape.parameter(array(3))
    assert {v: 1, w: 2}[w] == 2
    assert repr(w).startswith("Tensor(tensor([")


# What recording costs


def test_an_entry_is_one_flat_tuple_with_no_value_twice(tape: Tape) -> None:
    w, x = tape.parameter(array(3, 3)), tape.parameter(array(3, 3))
    y = tape.ops.tanh(w * x)
    tape.ops.linear(y, w, tape.parameter(array(3)))
    product, tanh, linear = (entry for entry in tape.entries if isinstance(entry, tuple))
    assert product[1:] == ({}, 0, 1, x.data, w.data)  # each factor's shape comes from the factor
    assert tanh[1:] == ({}, 2, y.data)
    assert linear[0].saved == ("x1", "x0", "x2.shape")
    assert [entry[0].slots(entry) for entry in (product, tanh, linear)] == [(0, 1), (2,), (3, 0, 4)]


def test_record_bytes_count_the_record_and_not_what_it_saves(tape: Tape) -> None:
    empty = tape.record_bytes
    small, large = tape.parameter(array(3)), tape.parameter(array(30_000))
    before = tape.record_bytes
    tape.ops.tanh(small)
    middle = tape.record_bytes
    tape.ops.tanh(large)
    assert empty < before < middle
    assert 0 < tape.record_bytes - middle < 500
    tape.gradients(tape.ops.sum(tape.ops.tanh(large)), [large, small])
    assert tape.record_bytes < middle + 200


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "number", [0.1, -0.0, 0.0, 3, -7, 1e-46, 1e300, 16_777_217, 2**40 + 1, float("inf"), float("nan")], ids=repr
)
def test_a_number_gives_the_bits_that_the_kernel_gives(tape: Tape, dtype: Any, number: float) -> None:
    data = np.array([0.0, -0.0, 1.7, -3.3, 1e-30], dtype)
    w = tape.parameter(data)
    for _ in range(2):  # met for the first time, and again
        for op in (operator.add, operator.sub, operator.mul, operator.truediv):
            assert_same_bits([op(w, number).data, op(number, w).data], [op(w.data, number), op(number, w.data)])


def test_a_number_beside_integers_is_left_to_torch(tape: Tape) -> None:
    whole = tape.constant(np.array([1, 2]))
    assert (whole * 0.5).dtype == torch.float32
    assert (whole * 2).dtype == torch.int64


def test_gradients_asked_for_after_the_tape_was_left_run_on_kernels_alone():
    with Tape() as tape:
        x = tape.parameter(np.arange(16.0).reshape(1, 1, 4, 4))
        loss = tape.ops.sum(tape.ops.max_pool2d(x, kernel_size=2))
    assert not torch.is_inference_mode_enabled()
    (gradient,) = tape.gradients(loss, [x])
    assert gradient.data.is_inference()
    assert gradient.numpy().ravel().nonzero()[0].tolist() == [5, 7, 13, 15]
