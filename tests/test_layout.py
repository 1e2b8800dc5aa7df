"""Channels-last regions: which nodes they hold, where values are converted, and that nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from engines.__main__ import main
from engines.graph import PIPELINE, Executable, Graph, differentiate, trace, verify
from engines.graph.compile import run_passes
from engines.graph.engine import GraphEngine
from engines.graph.fused import inline
from engines.graph.nhwc import INWARD, NHWC, OUTWARD
from engines.graph.passes import CHANNELS_LAST, Pass, layout, plan_memory, pool
from engines.ops import TABLE
from engines.ops.random import step_key
from engines.registry import load_engine
from engines.value import Spec
from suites.harness.contender import everyone, variants
from suites.workloads import load_workload
from tests.programs import assert_same_bits, run, spec, tensor, text, traced
from tests.test_orders import arranged
from tests.test_random_graphs import judged

Model = Callable[..., Any]
IMAGE, WEIGHT, BIAS = spec(2, 3, 8, 8), spec(4, 3, 3, 3), spec(4)


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def laid_out(model: Model, *specs: Any) -> Graph:
    return verify(layout(traced(model, *specs)))


def assert_close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Each near for its size: sums are taken in another order."""
    assert len(found) == len(expected)
    for ours, other in zip(found, expected, strict=True):
        assert ours.shape == other.shape
        size = float(other.abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5 * size + 1e-7)


# Before and after


def block(ops: Any, x: Any, w: Any, b: Any) -> Any:
    y = ops.relu(ops.conv2d(ops.tanh(x), w, b, padding=1))
    return ops.sum(ops.max_pool2d(y * ops.sigmoid(y), kernel_size=2), dim=1)


def test_a_region_is_converted_at_its_edges_alone() -> None:
    before = """
        graph f(x: f32[2,3,8,8], y: f32[4,3,3,3], z: f32[4]) {
          %0: f32[2,3,8,8] = tanh(x)
          %1: f32[2,4,8,8] = conv2d(%0, y, z, padding=1)
          %2: f32[2,4,8,8] = relu(%1)
          %3: f32[2,4,8,8] = sigmoid(%2)
          %4: f32[2,4,8,8] = mul(%2, %3)
          %5: f32[2,4,4,4], %6: i64[2,4,4,4] = max_pool2d_with_indices(%4, kernel_size=2)
          %7: f32[2,4,4] = sum(%5, dim=1)
          return out=%7
        }
    """
    after = """
        graph f(x: f32[2,3,8,8], y: f32[4,3,3,3], z: f32[4]) {
          %0: f32[2,3,8,8] = tanh(x)
          %1: f32[2,8,8,3] = to_nhwc(%0)
          %2: f32[4,3,3,3] = to_nhwc(y)
          %3: f32[2,8,8,4] = conv2d_nhwc(%1, %2, z, padding=1)
          %4: f32[2,8,8,4] = relu(%3)
          %5: f32[2,8,8,4] = sigmoid(%4)
          %6: f32[2,8,8,4] = mul(%4, %5)
          %7: f32[2,4,4,4], %8: i64[2,4,4,4] = max_pool2d_with_indices_nhwc(%6, kernel_size=2)
          %9: f32[2,4,4] = sum(%7, dim=(3,))
          return out=%9
        }
    """
    graph = traced(block, IMAGE, WEIGHT, BIAS)
    assert text(graph) == dedent(before).strip()
    changed = verify(layout(graph))
    assert text(changed) == dedent(after).strip()
    assert layout(changed) is changed
    inputs = [tensor(*given.shape, seed=seed) for seed, given in enumerate((IMAGE, WEIGHT, BIAS))]
    assert_close(run(changed, *inputs), run(graph, *inputs))


def test_conversions_that_meet_cancel_and_a_value_is_converted_once_each_way() -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        first = ops.conv2d(s["x"], s["w"], padding=1)
        second = ops.conv2d(first, s["w"], padding=1)
        return {"loss": ops.sum(second[:, :, :3]), "first": first}

    graph = trace(model, {"x": spec(2, 3, 8, 8), "w": spec(3, 3, 3, 3)})
    changed = verify(layout(differentiate(graph, "loss", ["x", "w"])))
    names = {var: name for name, var in changed.inputs.items()}
    inward = [names.get(node.inputs[0], "between") for node in changed.nodes if node.op is INWARD]  # type: ignore[arg-type]
    assert inward == ["x", "w", "between"]  # the last is the gradient that comes back from the slice
    outward = [node.outputs[0] for node in changed.nodes if node.op is OUTWARD]
    assert len(outward) == len(set(outward)) == 4  # first, second, and both gradients
    assert {changed.outputs[name] for name in ("first", "grad.x", "grad.w")} < set(outward)


def test_one_channel_or_one_pixel_is_no_work_to_convert() -> None:
    def model(ops: Any, x: Any, w: Any) -> Any:
        y = ops.conv2d(x, w)
        return ops.sum(y * ops.sigmoid(ops.mean(y, dim=(2, 3), keepdim=True)), dim=(2, 3))

    graph = laid_out(model, spec(2, 1, 4, 4), spec(5, 1, 3, 3))
    assert ops_of(graph)[:3] == ["reshape", "reshape", "conv2d_nhwc"]
    assert [node.attrs["shape"] for node in graph.nodes[:2]] == [(2, 4, 4, 1), (5, 3, 3, 1)]
    assert graph.nodes[3].attrs == {"dim": (1, 2), "keepdim": True}


def test_a_weight_that_does_not_change_is_converted_when_the_graph_is_compiled(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = traced(lambda ops, x: ops.conv2d(x, weight), IMAGE)
    changed = verify(layout(graph))
    assert ops_of(changed) == [INWARD.name, "conv2d_nhwc", OUTWARD.name]
    (constant,) = (changed.constants[var] for var in changed.nodes[1].inputs if var in changed.constants)
    assert torch.equal(constant, torch.tensor(weight).permute(0, 2, 3, 1))
    assert constant.is_contiguous()
    executable = Executable.build(verify(run_passes(changed, PIPELINE, {})))
    executable.save(tmp_path / "saved")
    x = tensor(2, 3, 8, 8)
    assert_close(executable(x), run(graph, x))
    assert_same_bits(Executable.load(tmp_path / "saved")(x), executable(x))


def test_a_weight_that_changes_between_calls_is_read_anew() -> None:
    graph = traced(lambda ops, x, w: ops.conv2d(x, w), IMAGE, WEIGHT)
    executable, plain = Executable.build(layout(graph)), Executable.build(graph)
    x, w = tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)
    executable(x, w)
    w.numpy()[...] *= 2.0  # which torch takes no notice of
    assert_close(executable(x, w), plain(x, w))


def neighbours(ops: Any, x: Any, y: Any, z: Any) -> Any:
    return ops.relu(ops.conv2d(x, y)) + z + ops.tanh(z)


def test_a_neighbour_stays_outside_where_it_would_bring_more_to_convert() -> None:
    graph = laid_out(neighbours, IMAGE, WEIGHT, spec(2, 4, 6, 6))
    assert ops_of(graph) == ["to_nhwc", "to_nhwc", "conv2d_nhwc", "to_nchw", "relu", "add", "tanh", "add"]


LEFT_ALONE: dict[str, tuple[Model, tuple[Any, ...]]] = {
    "no convolution": (lambda ops, x: ops.avg_pool2d(ops.relu(x), kernel_size=2), (IMAGE,)),
    "an image without a batch": (lambda ops, x, w: ops.conv2d(x, w), (spec(3, 8, 8), WEIGHT)),
    "no image": (lambda ops, x, w: ops.conv2d(x, w), (spec(0, 3, 8, 8), WEIGHT)),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_no_image_of_a_convolution_is_left_alone(name: str) -> None:
    model, specs = LEFT_ALONE[name]
    graph = traced(model, *specs)
    assert layout(graph) is graph


SUMS: dict[str, tuple[Mapping[str, Any], bool]] = {
    "all": ({}, True),
    "pixels": ({"dim": (2, 3)}, True),
    "all but channels": ({"dim": (0, -2, -1)}, True),
    "channels": ({"dim": 1}, True),
    "channels, kept": ({"dim": 1, "keepdim": True}, True),
    "rows": ({"dim": 2}, False),  # channels would come last
    "rows, kept": ({"dim": 2, "keepdim": True}, True),
    "the batch": ({"dim": (0,)}, False),
}


@pytest.mark.parametrize("op", ["sum", "mean"])
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_goes_over_the_same_elements(name: str, op: str) -> None:
    attrs, joins = SUMS[name]
    graph = traced(lambda ops, x, w: getattr(ops, op)(ops.conv2d(x, w), **attrs), IMAGE, spec(5, 3, 3, 2))
    changed = verify(layout(graph))
    assert (ops_of(changed).index("conv2d_nhwc") + 1 == ops_of(changed).index(op)) == joins
    inputs = tensor(2, 3, 8, 8), tensor(5, 3, 3, 2)
    assert_close(run(changed, *inputs), run(graph, *inputs))


# The ops themselves

ATTRS: dict[str, list[Mapping[str, Any]]] = {
    "conv2d": [{}, {"stride": 2, "padding": (1, 0)}, {"dilation": 2}, {"groups": 2}],
    "max_pool2d_with_indices": [{"kernel_size": 2}, {"kernel_size": (3, 2), "stride": 1, "padding": 1}],
    "avg_pool2d": [{"kernel_size": 2}, {"kernel_size": 3, "stride": (2, 1), "padding": 1}],
    "batch_norm_train": [{}, {"eps": 0.1}],
}


def cases(channels: int, dtype: torch.dtype) -> list[tuple[str, list[torch.Tensor], Mapping[str, Any]]]:
    """Every op with operands and attributes."""

    def rand(*shape: int) -> torch.Tensor:
        return tensor(*shape, seed=len(found)).to(dtype)

    found: list[tuple[str, list[torch.Tensor], Mapping[str, Any]]] = []
    x = rand(2, channels, 9, 8)
    for attrs in ATTRS["conv2d"]:
        if channels % attrs.get("groups", 1):
            continue
        w = rand(6, channels // attrs.get("groups", 1), 3, 3)
        g = torch.randn_like(torch.conv2d(x, w, **attrs))
        found += [
            ("conv2d", [x, w, rand(6)], attrs),
            ("conv2d_input", [g, w], {**attrs, "shape": tuple(x.shape)}),
            ("conv2d_weight", [g, x], {**attrs, "shape": tuple(w.shape)}),
            ("conv2d_weight_bias", [g, x], {**attrs, "shape": tuple(w.shape)}),
        ]
    for name, back in (("max_pool2d_with_indices", "max_pool2d_backward"), ("avg_pool2d", "avg_pool2d_backward")):
        for attrs in ATTRS[name]:
            results = TABLE[name].run([x], TABLE[name].complete(attrs))
            found += [(name, [x], attrs), (back, [*results], {**attrs, "shape": tuple(x.shape)})]
    for attrs in ATTRS["batch_norm_train"]:
        _, mean, rstd = TABLE["batch_norm_train"].run([x, None, None], TABLE["batch_norm_train"].complete(attrs))
        found += [
            ("batch_norm_train", [x, mean, rstd], attrs),
            ("batch_norm_backward", [rand(*x.shape), x, mean, rstd], {}),
            ("batch_norm_gradients", [rand(*x.shape), x, mean, rstd, mean], {}),
        ]
    return found


class Formats(TorchDispatchMode):
    """Notes of each native call that computes something whether it takes and gives channels-last images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **kwargs or {})
        if any(word in str(function) for word in ("conv", "pool", "batch_norm")):
            tensors = [t for t in (*args[:2], *(out if isinstance(out, tuple) else (out,))) if torch.is_tensor(t)]
            images = [t for t in tensors if t.dim() == 4 and 0 not in t.stride()]
            self.last.append(all(t.is_contiguous(memory_format=torch.channels_last) for t in images))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 4])
def test_ops_on_channels_last_images_are_those_of_the_table(channels: int, dtype: torch.dtype) -> None:
    tried = set()
    for name, operands, given_attrs in cases(channels, dtype):
        attrs = TABLE[name].complete(given_attrs)
        expected = TABLE[name].run(operands, attrs)
        turned = [INWARD.kernel(t) if t.dim() == 4 else t for t in operands]
        with Formats() as formats:
            found = NHWC[name].run(turned, attrs)
        assert all(formats.last), name
        assert len(formats.last) == 1, name
        assert all(t.is_contiguous() for t in found), name
        assert_close([OUTWARD.kernel(t) if t.dim() == 4 else t for t in found], expected)
        tried.add(name)
    assert tried == set(NHWC)


@pytest.mark.parametrize("op", [INWARD, OUTWARD], ids=str)
def test_a_conversion_never_gives_a_view(op: Any) -> None:
    for shape in ((2, 3, 4, 5), (2, 1, 4, 1), (1, 1, 1, 1)):
        x = tensor(*shape)
        assert op.kernel(x).data_ptr() != x.data_ptr()
        assert op.kernel(x).is_contiguous()


# Whole networks


@pytest.mark.parametrize("quantity", ["forward", "loss_and_grad", "step"])
@pytest.mark.parametrize("name", ["cnn", "lenet5"])
def test_a_network_gives_what_it_gives_and_can_be_saved(name: str, quantity: Any, tmp_path: Path) -> None:
    task = load_workload(name).task(quantity, 3)

    def outputs(passes: Sequence[Pass]) -> tuple[list[torch.Tensor], Any]:
        program = GraphEngine(passes=passes).prepare(task)
        placed = program.place(task.batch, step_key(0, 0))
        found = [program.run(placed) for _ in range(2)][-1]  # a step of what the first has updated
        return [found.loss, *found.gradients.values(), *program.parameters.values()], program

    expected, _ = outputs(())
    found, program = outputs(CHANNELS_LAST)
    assert_close(found, expected)
    graph = program.executable.graph
    assert "conv2d" not in ops_of(inline(graph))
    program.executable.save(tmp_path / "saved")
    assert text(Executable.load(tmp_path / "saved").graph) == text(graph)


def test_on_a_gpu_nothing_is_converted_between_convolutions_and_their_pooling() -> None:
    model, tensors = load_workload("cnn"), {"key": torch.tensor(step_key(0, 0))}
    task = model.task("loss_and_grad", 2)
    tensors |= {name: torch.tensor(value) for name, value in {**task.parameters, **task.batch}.items()}

    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"loss": task.loss(ops, s, s, s["key"])}

    specs = {name: Spec.of(value)._replace(device="cuda:0") for name, value in tensors.items()}
    graph = differentiate(trace(loss, specs), "loss", list(task.parameters))
    found = ops_of(verify(run_passes(graph, (pool, layout), {})))
    assert [name for name in found if "conv" in name or "pool" in name or name.startswith("to_n")] == [
        "conv2d_nhwc",
        "to_nhwc",  # the second weight
        "conv2d_nhwc",
        "max_pool2d_with_indices_nhwc",
        "to_nchw",
        "to_nhwc",
        "max_pool2d_backward_nhwc",
        "conv2d_weight_bias_nhwc",
        "conv2d_input_nhwc",
        "conv2d_weight_bias_nhwc",
        "to_nchw",  # its gradient
    ]


def test_a_planned_step_gives_the_same_bits_though_its_arena_is_full_of_nan() -> None:
    task = load_workload("lenet5").task("step", 3)
    found = []
    for passes in (CHANNELS_LAST, tuple(step for step in CHANNELS_LAST if step is not plan_memory)):
        program = GraphEngine(passes=passes).prepare(task)
        losses = []
        for step in range(3):
            losses.append(program.run(program.place(task.batch, step_key(0, step))).loss)
            program.executable.frames.fill(float("nan"))
        found.append([*losses, *program.parameters.values()])
    assert_same_bits(*found)


def test_inputs_may_lie_in_any_order() -> None:
    graph = run_passes(traced(block, IMAGE, WEIGHT, BIAS), CHANNELS_LAST, {})
    inputs = [tensor(*given.shape, seed=seed) for seed, given in enumerate((IMAGE, WEIGHT, BIAS))]
    expected = Executable.build(graph)(*inputs)
    last = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    turned = [t.mT.contiguous().mT if t.dim() == 4 else t for t in inputs]
    for given_inputs in (last, turned):
        assert_close(Executable.build(graph)(*given_inputs), expected)


# Chosen by name


def test_the_engine_of_this_name_has_the_pass_and_takes_part_only_where_asked_for() -> None:
    name = "graph_channels_last"
    task = load_workload("lenet5").task("forward", 2)
    program = load_engine(name).prepare(task)
    assert [node.op for node in program.executable.graph.nodes].count(NHWC["conv2d"]) == 2  # type: ignore[attr-defined]
    assert name not in everyone("cpu", slow=True)
    assert variants(["tape", name], everyone("cpu", slow=False)) == (name,)
    assert variants([name], ["tape"]) == variants([], ["graph"]) == ()


def test_it_can_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "lenet5", "--engine", "graph_channels_last", "--batch", "2"]) == 0
    shown = capsys.readouterr().out
    (change,) = (line for line in shown.splitlines() if line.startswith("== after layout: "))
    assert "+2 conv2d_nhwc" in change
    assert re.search(r"f32\[2,24,24,6\] = conv2d_nhwc\(.*# lenet5\.py:\d+", shown)


# Random graphs: images (2, 3, 6, 6) and weights that keep their shape

SIZE = (2, 3, 6, 6)


def _halved(ops: Any, a: Any) -> Any:
    small = ops.max_pool2d(a, kernel_size=2)
    return ops.concat([small, small, small, small], dim=3)[:, :, :, :6] * ops.sum(small) + a


STEPS: tuple[Callable[..., Any], ...] = (
    lambda ops, p, a: ops.conv2d(a, p["w"], p["b"], padding=1),
    lambda ops, p, a: ops.conv2d(a, p["w"], padding=1),
    lambda ops, p, a: ops.conv2d(a, p["v"]),
    lambda ops, p, a: ops.relu(a),
    lambda ops, p, a: ops.tanh(a),
    lambda ops, p, a: a * 0.5 + 1.0,
    lambda ops, p, a: a * ops.reshape(p["b"], shape=(1, -1, 1, 1)),
    lambda ops, p, a: ops.batch_norm(a, p["b"], p["b"]),
    lambda ops, p, a: ops.max_pool2d(a, kernel_size=3, stride=1, padding=1),
    lambda ops, p, a: ops.avg_pool2d(a, kernel_size=3, stride=1, padding=1),
    lambda ops, p, a: a - ops.mean(a, dim=(2, 3), keepdim=True),
    lambda ops, p, a: a * ops.sigmoid(ops.mean(a, dim=1, keepdim=True)),
    lambda ops, p, a: ops.permute(ops.tanh(ops.permute(a, dims=(0, 1, 3, 2))), dims=(0, 1, 3, 2)),
    lambda ops, p, a: ops.reshape(ops.reshape(a, shape=(2, -1)) * 0.5, shape=SIZE),
    lambda ops, p, a: ops.dropout2d(a, p["key"], rate=0.25),
    lambda ops, p, a: ops.stop_gradient(a) * a,
    lambda ops, p, a, b: ops.tanh(a) + b,
    lambda ops, p, a, b: ops.where(a > b, a, ops.tanh(b)),
    lambda ops, p, a, b: ops.tanh(a) * ops.sigmoid(b),
)
"""Steps of a random program, each from images to one of the same shape."""

VALUES = st.integers(0, 1000)
PROGRAMS = st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.tuples(VALUES, VALUES)), min_size=2, max_size=30)
ORDERS = st.permutations(CHANNELS_LAST).map(arranged)
SPECS = {"x": spec(*SIZE), "w": spec(3, 3, 3, 3), "v": spec(3, 3, 1, 1), "b": spec(3), "key": spec(dtype=torch.int64)}
INPUTS = [tensor(*given.shape, seed=n) * 0.5 for n, given in enumerate(SPECS.values()) if given.dtype.is_floating_point]


def program_of(steps: Sequence[tuple[int, tuple[int, int]]]) -> Graph:
    """Loss and gradients of these steps, each of earlier values, counted round."""

    def model(ops: Any, p: Mapping[str, Any]) -> Mapping[str, Any]:
        values = [p["x"], ops.conv2d(p["x"], p["w"], p["b"], padding=1)]
        for number, chosen in steps:
            step = STEPS[number]
            wanted = step.__code__.co_argcount - 2
            values.append(step(ops, p, *(values[c % len(values)] for c in chosen[:wanted])))
        return {"loss": ops.mean(ops.tanh(values[-1]) * values[-2]), "image": values[-1]}

    return differentiate(trace(model, SPECS), "loss", ["x", "w", "b"])


@settings(judged, max_examples=15)
@given(PROGRAMS, ORDERS)
def test_random_networks_alone_and_in_any_allowed_order(
    steps: Sequence[tuple[int, tuple[int, int]]], order: Sequence[Pass]
) -> None:
    plain = program_of(steps)
    inputs = [*INPUTS, torch.tensor(step_key(0, 0))]
    expected = Executable.build(plain)(*inputs)
    alone = verify(layout(plain))
    assert layout(alone) is alone
    assert not {"conv2d", "conv2d_input"} & set(ops_of(alone))
    ordered = verify(run_passes(plain, order, {}))
    usual = verify(run_passes(plain, CHANNELS_LAST, {}))
    for graph in (alone, inline(ordered), ordered, usual):
        assert_close(Executable.build(graph)(*inputs), expected)
