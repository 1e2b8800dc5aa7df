"""Differentiating graphs: the tape's gradients to the bit, of what was asked for and nothing else; SGD as torch's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import Executable, Graph, differentiate, trace, update, verify
from engines.graph.compile import compile_loss
from engines.optim import Sgd
from engines.tape import Tape
from engines.value import EngineError, Spec
from tests.programs import array, assert_same_bits, at, on_graph, on_tape, random_program, spec, tensor

Loss = Callable[[Any, Mapping[str, Any]], Any]


def loss_graph(loss: Loss, inputs: Mapping[str, Spec]) -> Graph:
    return trace(lambda ops, s: {"loss": loss(ops, s)}, inputs)


def ops_of(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes)


def both(loss: Loss, parameters: Mapping[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Loss and gradients from the tape, and from the graph with no passes."""
    with Tape() as tape:
        ours = {name: tape.parameter(value) for name, value in parameters.items()}
        value = loss(tape.ops, ours)
        on_the_tape = [value.data, *(g.data for g in tape.gradients(value, list(ours.values())))]
    tensors = {name: torch.as_tensor(value) for name, value in parameters.items()}
    graph = loss_graph(loss, {name: Spec.of(value) for name, value in tensors.items()})
    graph = verify(differentiate(graph, "loss", list(parameters)))
    return on_the_tape, list(Executable.build(graph)(*tensors.values()))


# The same numbers


@pytest.mark.parametrize("seed", range(80))
def test_gradients_of_random_programs_are_the_tape_s_to_the_bit(seed: int) -> None:
    program = random_program(seed)
    assert_same_bits(on_graph(program)(*program.inputs()), on_tape(program))


@pytest.mark.parametrize("seed", range(20))
def test_gradients_of_some_parameters_are_those_among_all(seed: int) -> None:
    program = random_program(seed + 200)
    names = list(program.parameters)
    loss, *gradients = on_tape(program)
    for some in ([names[seed % 4]], [names[seed % 3 + 1], names[seed % 3]]):
        assert_same_bits(on_tape(program, some), [loss, *(gradients[names.index(name)] for name in some)])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_loss_that_is_one_of_several_outputs(number: int) -> None:
    found, expected = both(lambda ops, p: ops.split(p["w"] * 2.0, sizes=(1, 1, 1))[number], {"w": array(3)})
    assert_same_bits(found, expected)
    assert found[1].tolist() == [2.0 * (i == number) for i in range(3)]


def penalised(ops: Any, p: Mapping[str, Any]) -> Any:
    """A loss with a penalty on the norm of its own gradient (Drucker and LeCun, 1992)."""
    loss = ops.mean(ops.tanh(ops.linear(array(5, 4), p["w"], p["b"])) ** 2.0)
    by_w, by_b = ops.gradients(loss, [p["w"], p["b"]])
    return loss + 0.5 * (ops.sum(by_w * by_w) + ops.sum(by_b * by_b))


def twice_penalised(ops: Any, p: Mapping[str, Any]) -> Any:
    loss = ops.sum(ops.sigmoid(p["w"]) * p["b"][:, None])
    (first,) = ops.gradients(loss, [p["w"]])
    (second,) = ops.gradients(ops.sum(first * first), [p["w"]])
    return loss + ops.sum(second * second)


def by_intermediate(ops: Any, p: Mapping[str, Any]) -> Any:
    middle = ops.exp(p["w"])
    (g,) = ops.gradients(ops.sum(middle * middle), [middle])
    return ops.sum(g * p["w"])


@pytest.mark.parametrize("loss", [penalised, twice_penalised, by_intermediate])
def test_gradients_inside_a_model_are_the_tape_s_to_the_bit(loss: Loss) -> None:
    assert_same_bits(*both(loss, {"w": array(3, 4), "b": array(3, seed=1)}))


def test_gradients_inside_a_model_are_those_of_torch() -> None:
    found, _ = both(penalised, {"w": array(3, 4, dtype=np.float32), "b": array(3, seed=1)})
    x = tensor(5, 4)
    w, b = tensor(3, 4).requires_grad_(), tensor(3, seed=1).requires_grad_()
    loss = (torch.tanh(torch.nn.functional.linear(x, w, b)) ** 2.0).mean()
    by_w, by_b = torch.autograd.grad(loss, [w, b], create_graph=True)
    loss = loss + 0.5 * ((by_w * by_w).sum() + (by_b * by_b).sum())
    for one, other in zip(found, (loss, *torch.autograd.grad(loss, [w, b])), strict=True):
        torch.testing.assert_close(one, other.detach())


def test_zeros_for_an_input_that_the_loss_does_not_read() -> None:
    found, expected = both(lambda ops, p: ops.sum(p["w"]), {"w": array(2), "unused": array(3)})
    assert_same_bits(found, expected)
    assert found[2].tolist() == [0.0] * 3


def test_a_loss_of_one_element_is_a_scalar_on_both_engines() -> None:
    assert_same_bits(*both(lambda ops, p: ops.sum(p["w"] * p["w"], dim=0, keepdim=True), {"w": array(3)}))


# What was asked for, and nothing else


def two_convolutions(ops: Any, p: Mapping[str, Any]) -> Any:
    return ops.sum(ops.conv2d(ops.relu(ops.conv2d(p["image"], p["w1"])), p["w2"]))


IMAGES = {"image": spec(1, 2, 6, 6), "w1": spec(3, 2, 3, 3), "w2": spec(2, 3, 3, 3)}


@pytest.mark.parametrize(
    ("wrt", "by_input", "by_weight", "by_relu"),
    [(["w1", "w2"], 1, 2, 1), (["w2"], 0, 1, 0), (["w1"], 1, 1, 1), (["image"], 2, 0, 1), ([], 0, 0, 0)],
)
def test_nodes_are_added_for_what_was_asked_only(wrt: list[str], by_input: int, by_weight: int, by_relu: int) -> None:
    graph = differentiate(loss_graph(two_convolutions, IMAGES), "loss", wrt)
    counts = ops_of(verify(graph))
    assert (counts["conv2d_input"], counts["conv2d_weight"], counts["relu_backward"]) == (by_input, by_weight, by_relu)
    assert list(graph.outputs) == ["loss", *(f"grad.{name}" for name in wrt)]


def biased_convolution(ops: Any, p: Mapping[str, Any]) -> Any:
    return ops.sum(ops.tanh(ops.conv2d(p["x"], p["w"], p["b"])))


@pytest.mark.parametrize(
    ("wrt", "expected"),
    [
        (["w", "b"], {"conv2d_weight_bias": 1}),
        (["x", "w", "b"], {"conv2d_weight_bias": 1, "conv2d_input": 1}),
        (["w"], {"conv2d_weight": 1}),
        (["x", "w"], {"conv2d_weight": 1, "conv2d_input": 1}),
        (["b"], {}),
    ],
)
def test_weight_and_bias_share_a_node_where_both_are_asked_for(wrt: list[str], expected: dict[str, int]) -> None:
    specs = {"x": spec(2, 2, 5, 5), "w": spec(3, 2, 3, 3), "b": spec(3)}
    counts = ops_of(verify(differentiate(loss_graph(biased_convolution, specs), "loss", wrt)))
    assert {name: n for name, n in counts.items() if name.startswith("conv2d_")} == expected


def test_gradients_of_a_convolution_are_the_tape_s_to_the_bit() -> None:
    parameters = {"x": array(2, 2, 5, 5), "w": array(3, 2, 3, 3, seed=1), "b": array(3, seed=2)}
    assert_same_bits(*both(biased_convolution, parameters))

    def penalty(ops: Any, p: Mapping[str, Any]) -> Any:
        by_w, by_b = ops.gradients(biased_convolution(ops, p), [p["w"], p["b"]])
        return ops.sum(by_w * by_w) + ops.sum(by_b * by_b)

    assert_same_bits(*both(penalty, parameters))


def of_norm(used: str) -> Loss:
    """A loss of what batch norm gives: y, or its statistics, too, or these alone."""

    def loss(ops: Any, p: Mapping[str, Any]) -> Any:
        y, mean, rstd = ops.batch_norm_train(p["x"], p["w"], p["b"])
        y, statistics = ops.sum(ops.tanh(y)), ops.sum(mean * mean * rstd)
        return {"y": y, "statistics": statistics}[used] if used != "all" else y + statistics

    return loss


@pytest.mark.parametrize(
    ("wrt", "used", "expected"),
    [
        (["x", "w", "b"], "y", {"batch_norm_gradients": 1}),
        (["x"], "y", {"batch_norm_backward": 1}),
        (["w", "b"], "y", {}),
        (["x", "w", "b"], "all", {"batch_norm_backward": 1}),
        (["x", "w", "b"], "statistics", {}),
    ],
)
def test_batch_norm_s_gradients_share_a_node_where_all_are_asked_for_and_y_alone_was_used(
    wrt: list[str], used: str, expected: dict[str, int]
) -> None:
    specs = {"x": spec(4, 3, 2, 2), "w": spec(3), "b": spec(3)}
    counts = ops_of(verify(differentiate(loss_graph(of_norm(used), specs), "loss", wrt)))
    del counts["batch_norm_train"]
    assert {name: n for name, n in counts.items() if name.startswith("batch_norm")} == expected


@pytest.mark.parametrize("used", ["y", "all", "statistics"])
def test_batch_norm_s_gradients_are_torch_s_whatever_was_used(used: str) -> None:
    parameters = {"x": array(4, 3, 2, 2), "w": array(3, seed=1), "b": array(3, seed=2)}
    parameters = {name: value.astype(np.float64) for name, value in parameters.items()}
    ours, compiled = both(of_norm(used), parameters)
    assert_same_bits(ours, compiled)
    x, w, b = (torch.tensor(value, requires_grad=True) for value in parameters.values())
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    y = torch.nn.functional.batch_norm(x, None, None, w, b, True)
    parts = {"y": y.tanh().sum(), "statistics": (mean * mean / torch.sqrt(var + 1e-5)).sum()}
    loss = sum(parts.values()) if used == "all" else parts[used]
    wanted = torch.autograd.grad(loss, (x, w, b), allow_unused=True)
    for found, expected in zip(ours[1:], wanted, strict=True):
        torch.testing.assert_close(found, torch.zeros_like(found) if expected is None else expected)


def test_what_stands_behind_the_loss_is_not_differentiated() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        y = ops.tanh(s["x"])
        return {"loss": ops.sum(y), "also": ops.sum(ops.exp(y))}

    graph = differentiate(trace(model, {"x": spec(3)}), "loss", ["x"])
    assert ops_of(graph)["tanh_backward"] == 1
    assert ops_of(graph)["mul"] == 0  # the gradient of exp


def test_gradient_nodes_bear_the_line_that_they_are_the_gradient_of() -> None:
    def loss(ops: Any, p: Mapping[str, Any]) -> Any:
        y = ops.tanh(p["w"])  # the tanh
        y = ops.exp(y)  # the exp
        return ops.sum(y)  # the sum

    graph = differentiate(loss_graph(loss, {"w": spec(3)}), "loss", ["w"])
    lines = [(node.op.name, str(node.where)) for node in graph.nodes]
    assert lines == [
        ("tanh", at("the tanh")),
        ("exp", at("the exp")),
        ("sum", at("the sum")),
        ("full_like", at("the sum")),
        ("reshape", at("the sum")),
        ("broadcast_to", at("the sum")),
        ("mul", at("the exp")),
        ("tanh_backward", at("the tanh")),
    ]


def test_the_graph_that_was_differentiated_is_as_it_was() -> None:
    graph = loss_graph(penalised, {"w": spec(3, 4), "b": spec(3)})
    before = str(graph)
    update(differentiate(graph, "loss", ["w", "b"]), Sgd(lr=0.1), ["w", "b"])
    assert str(graph) == before


# Refusals


def test_names_that_the_graph_does_not_have_are_refused() -> None:
    graph = loss_graph(lambda ops, s: ops.sum(s["x"]), {"x": spec(3)})
    with pytest.raises(EngineError, match=r"no output 'los'; it has \['loss'\]"):
        differentiate(graph, "los", ["x"])
    with pytest.raises(EngineError, match=r"no input 'w'; it has \['x'\]"):
        differentiate(graph, "loss", ["w"])
    with pytest.raises(EngineError, match=r"no output 'grad.x'; it has \['loss'\]"):
        update(graph, Sgd(lr=0.1), ["x"])


def test_a_loss_that_is_not_a_scalar_is_refused() -> None:
    with pytest.raises(EngineError, match=r"the loss is f32\[3\], not a scalar"):
        differentiate(loss_graph(lambda ops, s: s["x"] * 2.0, {"x": spec(3)}), "loss", ["x"])
    with pytest.raises(EngineError, match=rf"the loss is f32\[3\], not a scalar, at {at('not a scalar')}"):
        loss_graph(lambda ops, s: ops.gradients(s["x"], [s["x"]])[0], {"x": spec(3)})  # not a scalar


def test_integers_are_not_differentiated() -> None:
    graph = loss_graph(
        lambda ops, s: ops.sum(ops.embedding(s["w"], s["i"])), {"w": spec(3, 2), "i": spec(2, dtype=torch.int64)}
    )
    with pytest.raises(EngineError, match=r"needs a float dtype, found i64\[2\]"):
        differentiate(graph, "loss", ["w", "i"])


@pytest.mark.parametrize("bad", [3.0, None, array(3)])
def test_gradients_of_what_is_no_symbol_are_refused(bad: Any) -> None:
    for loss in (
        lambda ops, s: ops.gradients(bad, [s["x"]])[0],
        lambda ops, s: ops.gradients(ops.sum(s["x"]), [bad])[0],
    ):
        with pytest.raises(EngineError, match=r"needs symbols of this trace, found .* at test_autodiff"):
            loss_graph(loss, {"x": spec(3)})


# The update


def steps_of_torch(parameters: list[torch.Tensor], target: torch.Tensor, lr: float, momentum: float) -> None:
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
    w, b = parameters
    for _ in range(5):
        optimizer.zero_grad()
        ((torch.tanh(w) * b - target) ** 2.0).sum().backward()
        optimizer.step()


def fit(ops: Any, parameters: Mapping[str, Any], batch: Mapping[str, Any], _key: Any) -> Any:
    return ops.sum((ops.tanh(parameters["w"]) * parameters["b"] - batch["target"]) ** 2.0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimised", [False, True])
def test_steps_are_those_of_torch_and_in_place(momentum: float, optimised: bool) -> None:
    w, b, target = (tensor(3, 4, seed=n, dtype=np.float64) for n in range(3))
    theirs = [w.clone().requires_grad_(), b.clone().requires_grad_()]
    steps_of_torch(theirs, target, 0.05, momentum)

    specs = {"w": Spec.of(w), "b": Spec.of(b)}
    options: dict[str, Any] = {} if optimised else {"passes": ()}
    step = compile_loss(
        fit, specs, {"target": Spec.of(target)}, None, quantity="step", optimizer=Sgd(0.05, momentum), **options
    )
    state = [torch.zeros_like(w), torch.zeros_like(b)]
    owned = [value.data_ptr() for value in (w, b, *state)]
    for _ in range(5):
        _, *updated = step(w, b, target, *state)
        named = dict(zip(list(step.graph.outputs)[1:], updated, strict=True))
        assert [named[n].data_ptr() for n in ("w", "b", "w.velocity", "b.velocity")] == owned
    for one, other in zip((w, b), theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=0.0)


def test_an_update_donates_parameters_and_velocities() -> None:
    graph = differentiate(
        loss_graph(lambda ops, s: ops.sum(s["w"] * s["x"]), {"w": spec(3), "x": spec(3)}), "loss", ["w"]
    )
    stepped = verify(update(graph, Sgd(lr=0.5), ["w"]))
    assert stepped.donated == {"w", "w.velocity"}
    assert list(stepped.inputs) == ["w", "x", "w.velocity"]
    assert list(stepped.outputs) == ["loss", "w", "w.velocity"]


@pytest.mark.parametrize(("parameter", "other"), [("loss", "x"), ("w", "w.velocity")])
def test_an_update_does_not_take_a_name_twice(parameter: str, other: str) -> None:
    def loss(ops: Any, s: Mapping[str, Any]) -> Any:
        return ops.sum(s[parameter] * s[other])

    graph = differentiate(loss_graph(loss, {parameter: spec(3), other: spec(3)}), "loss", [parameter])
    with pytest.raises(EngineError, match="of a parameter or its velocity is taken"):
        update(graph, Sgd(lr=0.5), [parameter])
