"""Workloads: the sizes that they claim, the same numbers on every engine and as a torch.nn.Module."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.engine import Quantity
from engines.graph.fused import inline
from engines.ops import KERNELS
from engines.ops.random import step_key
from engines.registry import load_engine
from engines.value import EngineError
from suites.harness.agreement import judge, relative_error, results
from suites.harness.cell import Cell
from suites.harness.contender import everyone
from suites.workloads import STRAIGHT, WORKLOADS, UnknownWorkloadError, load_workload
from suites.workloads.modules import MODULES, load_parameters

IMAGES = ("cnn", "lenet5", "mlp")
QUANTITIES: tuple[Quantity, ...] = ("forward", "loss_and_grad", "step")


def run(engine: str, workload: str, quantity: Quantity, *, dtype: str = "float32", steps: int = 1, batch_size: int = 3):
    """Everything that a few steps give: losses, the last gradients and parameters, as float64 arrays by name."""
    task = load_workload(workload).task(quantity, batch_size, dtype=dtype)
    program = load_engine(engine).prepare(task)
    found = {}
    for step in range(steps):
        outputs = program.run(program.place(task.batch, step_key(0, step)))
        found[f"loss{step}"] = outputs.loss
        found |= {f"grad.{name}": g for name, g in outputs.gradients.items()}
    found |= program.parameters
    return {name: value.detach().numpy().copy() for name, value in found.items()}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("workload", STRAIGHT)
def test_tape_and_replayed_graph_are_equal_to_the_bit(workload, quantity):
    tape, replay = (run(engine, workload, quantity, steps=3) for engine in ("tape", "graph_replay"))
    assert tape.keys() == replay.keys()
    for name in tape:
        np.testing.assert_array_equal(tape[name], replay[name], err_msg=name)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("workload", STRAIGHT)
@pytest.mark.parametrize("engine", ["tape", "graph", "graph_replay"])
def test_every_engine_is_as_near_to_float64_as_torch_is(engine, workload, quantity):
    reference = run("torch_eager", workload, quantity, dtype="float64")
    eager = run("torch_eager", workload, quantity)
    ours = run(engine, workload, quantity)
    assert ours.keys() == reference.keys()
    for name, wanted in reference.items():
        error = relative_error(ours[name].astype(np.float64), wanted)
        assert error < 1e-5, name
        assert error <= 2 * relative_error(eager[name].astype(np.float64), wanted) + 1e-7, name


@pytest.mark.parametrize("workload", [name for name in WORKLOADS if name not in STRAIGHT])
def test_with_control_flow_in_it_a_graph_is_as_near_to_float64_as_torch_is(workload):
    size = load_workload(workload).quick or {}
    cell = Cell("loops", workload, "loss_and_grad", 3, knobs=tuple(sorted(size.items())))
    wide = replace(cell, dtype="float64")
    ours = results(load_engine("graph").prepare(cell.task()), cell)
    reference = results(load_engine("torch_eager").prepare(wide.task()), wide)
    assert ours.keys() == reference.keys()
    assert max(relative_error(ours[name], wanted) for name, wanted in reference.items()) < 1e-5
    assert judge(ours, cell).verdict == "agrees"


def test_a_step_moves_every_parameter_and_a_wrong_learning_rate_would_show():
    task = load_workload("cnn").task("step", 3)
    before, after = task.parameters, run("tape", "cnn", "step")
    gradients = run("tape", "cnn", "loss_and_grad")
    for name, start in before.items():
        np.testing.assert_allclose(after[name], start - 0.01 * gradients[f"grad.{name}"], rtol=1e-6, atol=1e-7)
        assert not np.array_equal(after[name], start)


@pytest.mark.parametrize(("workload", "count"), [("cnn", 1_199_882), ("lenet5", 44_426), ("mlp", 669_706)])
def test_sizes_are_those_of_the_papers(workload, count):
    parameters = load_workload(workload).init(np.random.default_rng(0))
    assert sum(array.size for array in parameters.values()) == count
    assert sum(p.numel() for p in MODULES[workload]().parameters()) == count
    assert {name: array.shape for name, array in parameters.items()} == {
        name: tuple(p.shape) for name, p in MODULES[workload]().named_parameters()
    }


@pytest.mark.parametrize("workload", IMAGES)
@pytest.mark.parametrize("engine", everyone("cpu", slow=False))
def test_a_plain_module_with_the_same_weights_gives_the_same_numbers(engine, workload):
    model = load_workload(workload)
    task = model.task("loss_and_grad", 5)
    task = type(task)(**{**vars(task), "random": False})
    program = load_engine(engine).prepare(task)
    ours = program.run(program.place(task.batch, 0))

    module = load_parameters(MODULES[workload](), task.parameters).eval()
    image, label = (torch.tensor(task.batch[name]) for name in ("image", "label"))
    loss = torch.nn.functional.nll_loss(module(image), label)
    loss.backward()

    torch.testing.assert_close(ours.loss.detach(), loss.detach(), rtol=1e-6, atol=1e-7)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(ours.gradients[name], parameter.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        torch.log_softmax(model.predict(KERNELS, program.parameters, image, None), 1).detach(), module(image).detach()
    )


def test_dropout_draws_the_module_s_distribution_and_a_new_mask_each_step():
    task = load_workload("cnn").task("forward", 8)
    program = load_engine("tape").prepare(task)
    losses = {float(program.run(program.place(task.batch, step_key(0, step))).loss) for step in range(4)}
    assert len(losses) == 4
    again = program.run(program.place(task.batch, step_key(0, 2)))
    assert float(again.loss) in losses


@pytest.mark.parametrize(("name", "depth"), [("chain", 60), ("chain_wide", None), ("chain_tree", None)])
def test_chains_have_the_number_of_ops_that_they_claim(name, depth):
    task = load_workload(name).sized({"ops": 60, "elements": 2}).task("forward", 1)
    program = load_engine("graph_replay").prepare(task)
    elementwise = program.counters["nodes"] - 1  # the closing sum
    assert math.isclose(elementwise, 60, abs_tol=1)
    graph = program.executable.graph
    level = dict.fromkeys(graph.inputs.values(), 0)
    for node in graph.nodes:
        level[node.outputs[0]] = 1 + max(level.get(i, 0) for i in node.inputs if hasattr(i, "spec"))
    deepest = max(level.values()) - 1
    assert deepest == depth if depth else deepest < 60
    if name == "chain_tree":
        assert deepest <= math.ceil(math.log2(60)) + 1


@pytest.mark.parametrize("name", ["chain", "chain_wide", "chain_tree"])
def test_no_pass_can_shorten_a_chain(name):
    task = load_workload(name).sized({"ops": 60, "elements": 2}).task("forward", 1)
    optimised, replayed = (load_engine(name).prepare(task).executable for name in ("graph", "graph_replay"))
    assert len(inline(optimised.graph).nodes) == len(replayed.graph.nodes)


def test_the_same_seed_gives_the_same_parameters_and_batch_another_seed_others():
    first, again, other = (load_workload("lenet5").task("step", 4, seed=seed) for seed in (0, 0, 1))
    for name in first.parameters:
        np.testing.assert_array_equal(first.parameters[name], again.parameters[name])
        assert not np.array_equal(first.parameters[name], other.parameters[name])
    np.testing.assert_array_equal(first.batch["image"], again.batch["image"])


def test_bad_requests_say_what_was_found_and_what_there_is():
    with pytest.raises(UnknownWorkloadError, match=r"no workload named 'lenet'.*cnn, lenet5.*did you mean 'lenet5'"):
        load_workload("lenet")
    with pytest.raises(EngineError, match=r"no engine named 'tapes'.*did you mean 'tape'"):
        load_engine("tapes")
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, found 0"):
        load_workload("cnn").task("step", 0)
    with pytest.raises(ValueError, match=r"knobs are \['elements', 'ops'\], found \['opps'\]"):
        load_workload("chain").sized({"opps": 3})
    with pytest.raises(ValueError, match=r"knobs are none, found"):
        load_workload("cnn").sized({"ops": 3})
    with pytest.raises(ValueError, match=r"workload cnn: formulations are static; found 'dynamic'"):
        load_workload("cnn").task("step", 1, formulation="dynamic")


@pytest.mark.parametrize("engine", ["tape", "graph"])
def test_a_label_out_of_range_is_an_error_that_names_the_op(engine):
    task = load_workload("lenet5").task("loss_and_grad", 2)
    program = load_engine(engine).prepare(task)
    batch = {**task.batch, "label": np.array([3, 10])}
    with pytest.raises(EngineError, match=r"nll_loss: Target 10 is out of bounds.* (workload|loss|lenet5).py:\d+"):
        program.run(program.place(batch, 0))


@pytest.mark.parametrize("engine", everyone("cpu", slow=False))
def test_nan_in_the_data_is_not_hidden(engine):
    task = load_workload("lenet5").task("loss_and_grad", 2)
    program = load_engine(engine).prepare(task)
    image = task.batch["image"].copy()
    image[0, 0, 0, 0] = np.nan
    outputs = program.run(program.place({**task.batch, "image": image}, 0))
    assert math.isnan(float(outputs.loss))
