"""Control-flow workloads: every formulation on every engine gives what plain PyTorch gives, whatever the knobs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from engines.engine import Array, Task
from engines.ops import KERNELS
from engines.registry import ENGINES, load_engine
from engines.value import EngineError
from suites import test_recursion
from suites.harness.effort import EFFORTS, Effort
from suites.workloads import CONTROL_FLOW, fixed_point, l2hmc, load_workload, moe, tree_lstm
from suites.workloads.cells import probability
from suites.workloads.workload import Workload
from tests.control_references import REFERENCES

Found = dict[str, torch.Tensor]

TINY: Mapping[str, Mapping[str, Any]] = {
    "early_exit": {},
    "many_paths": {"layers": 4, "width": 3, "entropy": 0.5},
    "block_drop": {"blocks": 1, "channels": 2},
    "moe": {"experts": 4, "width": 4, "inner": 3},
    "dynamic_rnn": {"steps": 4, "hidden": 3},
    "lstm_stack": {"layers": 2, "steps": 3, "hidden": 3},
    "rnn_lm": {"steps": 4, "embedding": 3, "hidden": 4, "vocabulary": 7},
    "seq2seq": {"steps": 4, "hidden": 3, "vocabulary": 9},
    "beam_search": {"beam": 3, "steps": 4, "hidden": 3, "vocabulary": 9},
    "tree_lstm": {"leaves": 4, "lanes": 2, "embedding": 3, "hidden": 3, "vocabulary": 9},
    "fixed_point": {"trips": 3, "hidden": 3},
    "l2hmc": {"steps": 2, "hidden": 3},
    "in_graph_training": {"steps": 2},
}
"""Knobs at which every check is quick."""

ENDS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "early_exit": ({"exit_rate": 0.0}, {"exit_rate": 1.0}),
    "many_paths": ({"entropy": 0.0}, {"entropy": 1.0}, {"layers": 1}, {"entropy": 1.0, "alternatives": 1}),
    "block_drop": ({"keep_rate": 0.0}, {"keep_rate": 1.0}, {"blocks": 2}),
    "moe": ({"skew": 0.0}, {"skew": 1.0}, {"experts": 2}),
    "dynamic_rnn": ({"spread": 0.0}, {"spread": 1.0}, {"steps": 1}),
    "lstm_stack": ({"layers": 1}, {"steps": 1}),
    "rnn_lm": ({"spread": 0.0}, {"spread": 1.0}, {"steps": 1}),
    "seq2seq": ({"spread": 0.0}, {"spread": 1.0}, {"steps": 1}),
    "beam_search": ({"spread": 0.0}, {"spread": 1.0}, {"beam": 1}, {"beam": 8}),
    "tree_lstm": ({"spread": 0.0}, {"chain": 1.0}, {"leaves": 1}, {"lanes": 64}, {"leaves": 9, "lanes": 1}),
    "fixed_point": ({"spread": 0.0}, {"trips": 1}),
    "l2hmc": ({"steps": 1},),
    "in_graph_training": ({"steps": 1},),
}
"""Where each knob is turned to its ends; the others stay tiny."""


class Way(NamedTuple):
    """One formulation on one engine."""

    workload: str
    formulation: str
    engine: str


def ways(*engines: str) -> list[Any]:
    """Every formulation on each of these engines that can run it."""
    return [
        pytest.param(Way(name, formulation, engine), id=f"{name}-{formulation}-{engine}")
        for name, workload in CONTROL_FLOW.items()
        for formulation in workload.formulations
        for engine in engines
        if ENGINES[engine].style == "dynamic" or formulation not in workload.reading
    ]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by being shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(name: str, **knobs: Any) -> Workload:
    return load_workload(name).sized({**TINY[name], **knobs})


def task_of(workload: Workload, formulation: str = "static", rows: int = 4, dtype: str = "float64", **how: Any) -> Task:
    return workload.task("loss_and_grad", rows, dtype=dtype, formulation=formulation, **how)


def run(engine: str, task: Task) -> Found:
    """The loss and every gradient; zeros where an engine says that there is none."""
    program = load_engine(engine).prepare(task)
    outputs = program.run(program.place(task.batch, 0))
    gradients = {
        name: torch.zeros_like(program.parameters[name]) if g is None else g for name, g in outputs.gradients.items()
    }
    return {"loss": outputs.loss.detach(), **gradients}


def wanted(name: str, task: Task) -> Found:
    """The same from plain PyTorch."""
    params = {key: torch.tensor(value).requires_grad_() for key, value in task.parameters.items()}
    loss = REFERENCES[name](params, {key: torch.tensor(value) for key, value in task.batch.items()})
    gradients = torch.autograd.grad(loss, [*params.values()], allow_unused=True, materialize_grads=True)
    return {"loss": loss.detach(), **dict(zip(params, gradients, strict=True))}


def check(found: Found, expected: Found, tolerance: float = 1e-9) -> None:
    """Each tensor is off by no more than `tolerance` of its largest element."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(
            found[name].to(value.dtype), value, rtol=0.0, atol=tolerance * scale, msg=lambda m, k=name: f"{k}: {m}"
        )


def test_every_workload_is_tried() -> None:
    assert list(CONTROL_FLOW) == list(TINY) == list(ENDS) == list(REFERENCES)
    for workload in CONTROL_FLOW.values():
        assert {"dynamic", "static", *workload.reading} <= set(workload.formulations)
        assert set(workload.quick) <= set(workload.size)
        assert set(workload.structure) <= set(workload.batch(np.random.default_rng(0), 2))


@pytest.mark.parametrize("way", ways("torch_eager", "tape", "graph_replay", "graph"))
def test_every_formulation_gives_what_plain_torch_gives(way: Way) -> None:
    workload = tiny(way.workload)
    task = task_of(workload, way.formulation)
    exact = wanted(way.workload, task)
    assert sum(bool(torch.any(value != 0)) for value in exact.values()) > len(exact) / 2, "zeros show nothing"
    check(run(way.engine, task), exact)
    if way.engine != "graph" or way.formulation == "static":
        check(run(way.engine, task_of(workload, way.formulation, dtype="float32")), exact, 2e-4)


@pytest.mark.parametrize(
    ("name", "knobs", "rows"),
    [
        pytest.param(name, knobs, rows, id=f"{name}-{knobs}-{rows}")
        for name, ends in ENDS.items()
        for knobs, rows in [*((knobs, 3) for knobs in ends), ({}, 1)]
    ],
)
def test_formulations_agree_at_the_ends_of_every_knob(name: str, knobs: Mapping[str, Any], rows: int) -> None:
    workload = tiny(name, **knobs)
    exact = wanted(name, task_of(workload, rows=rows))
    for formulation in workload.formulations:
        check(run("tape", task_of(workload, formulation, rows)), exact)
    check(run("graph_replay", task_of(workload, "static", rows)), exact)


@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    task = task_of(tiny(name), "dynamic", rows=2)
    gradients, rng, step = run("tape", task), np.random.default_rng(0), 1e-6

    def loss(parameter: str, value: Array) -> float:
        changed = replace(task, parameters={**task.parameters, parameter: value}, quantity="forward")
        return float(run("tape", changed)["loss"])

    for parameter, value in task.parameters.items():
        direction = rng.standard_normal(value.shape)
        ends = [loss(parameter, value + sign * step * direction) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float((gradients[parameter].numpy() * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7), (
            parameter
        )


@pytest.mark.parametrize(
    ("name", "formulation"), [(name, f) for name, workload in CONTROL_FLOW.items() for f in workload.reading]
)
def test_a_graph_refuses_to_read_a_value_and_names_the_line(name: str, formulation: str) -> None:
    with pytest.raises(EngineError, match=rf"is symbolic: .* at {name}\.py:\d+: ") as caught:
        load_engine("graph").prepare(task_of(tiny(name), formulation))
    assert re.search(r"tolist|while", str(caught.value))


@pytest.mark.parametrize(
    ("name", "formulation"),
    [
        (name, formulation)
        for name, workload in CONTROL_FLOW.items()
        for formulation in workload.reading
        if workload.structure
    ],
)
def test_with_its_structure_known_a_dynamic_formulation_becomes_a_graph(name: str, formulation: str) -> None:
    workload = tiny(name)
    exact = wanted(name, task_of(workload))
    check(run("graph_replay", task_of(workload, formulation, structure_known=True)), exact)


# How long loops may be, and how deep trees


def looped(name: str, trips: int) -> Task:
    """A task whose loop makes exactly so many trips."""
    task = task_of(tiny(name, **({"steps": 1000} if name == "seq2seq" else {})), rows=2)
    if name == "seq2seq":
        length = np.array([trips, trips // 2])
        target = np.where(np.arange(1, 1001)[:, None] >= length, 0, task.batch["target"])
        return replace(task, batch={**task.batch, "length": length, "target": target})
    epsilon = np.array(-1.0 if trips else math.inf)
    return replace(task, batch={**task.batch, "epsilon": epsilon, "most": np.array(max(trips, 1))})


@pytest.mark.parametrize("trips", [0, 1, 7, 1000])
@pytest.mark.parametrize("name", ["fixed_point", "seq2seq"])
def test_loops_of_any_length_agree(name: str, trips: int) -> None:
    task = looped(name, trips)
    exact = wanted(name, task)
    formulations = load_workload(name).formulations
    check(run("tape", replace(task, loss=formulations["dynamic"])), exact)
    check(run("tape", task), exact)
    check(run("graph_replay", task), exact)
    if name == "fixed_point":
        check(run("graph_replay", replace(task, loss=formulations["recomputed"])), exact)
        check(run("tape", replace(task, loss=formulations["recomputed"])), exact)


@pytest.mark.parametrize(("leaves", "chain"), [(1, 0.0), (2, 0.0), (37, 0.0), (256, 0.0), (256, 1.0)])
def test_trees_of_any_shape_agree(leaves: int, chain: float) -> None:
    rows = 1 if leaves > 100 else 2
    workload = tiny("tree_lstm", leaves=leaves, chain=chain, lanes=8, hidden=2, spread=0.1)
    exact = wanted("tree_lstm", task_of(workload, rows=rows))
    for formulation in workload.formulations:
        check(run("tape", task_of(workload, formulation, rows)), exact)
    check(run("graph_replay", task_of(workload, rows=rows)), exact)


# What knobs and sizes do


def drawn(name: str, rows: int, seed: int = 0, **knobs: Any) -> Mapping[str, Array]:
    return load_workload(name).sized(knobs).batch(np.random.default_rng(seed), rows)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_the_exit_rate_is_the_share_of_rows_that_leave(rate: float) -> None:
    assert (drawn("early_exit", 8, exit_rate=rate)["threshold"] > 0).sum() == 8 * rate
    alone = [drawn("early_exit", 1, seed, exit_rate=rate)["threshold"][0] > 0 for seed in range(200)]
    assert np.mean(alone) == pytest.approx(rate, abs=0.1)


@pytest.mark.parametrize(("entropy", "rarer"), [(0.0, 0.0), (1.0, 0.5), (0.5, 0.110028), (0.8112781, 0.25)])
def test_entropy_is_that_of_each_branch(entropy: float, rarer: float) -> None:
    assert probability(entropy) == pytest.approx(rarer, abs=1e-5)
    paths = [drawn("many_paths", 1, seed, layers=10, width=1, entropy=entropy)["path"] for seed in range(200)]
    assert 1 - np.mean(paths) == pytest.approx(rarer, abs=0.05)


def test_a_branch_has_at_most_one_bit() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1 bit, found 1.5"):
        drawn("many_paths", 1, entropy=1.5)


@pytest.mark.parametrize("name", ["dynamic_rnn", "seq2seq", "rnn_lm", "beam_search"])
def test_spread_is_how_far_lengths_lie_apart(name: str) -> None:
    for spread, shortest in ((0.0, 20), (0.5, 10), (1.0, 1 if name in {"rnn_lm", "beam_search"} else 0)):
        found = drawn(name, 500, steps=20, hidden=1, spread=spread)["length"]
        assert (found.min(), found.max()) == (shortest, 20)


@pytest.mark.parametrize(("skew", "least", "most"), [(0.0, 0.2, 0.3), (1.0, 1.0, 1.0)])
def test_skew_is_how_unequally_experts_are_liked(skew: float, least: float, most: float) -> None:
    workload = load_workload("moe").sized({"skew": skew, "width": 4, "inner": 1})
    task = task_of(workload, rows=2000)
    values = [{key: torch.tensor(value) for key, value in part.items()} for part in (task.parameters, task.batch)]
    expert, _ = moe.route(KERNELS, *values)
    assert least <= float((expert < 2).sum()) / expert.numel() <= most  # two of eight


def test_trips_are_from_1_to_64_and_8_on_average() -> None:
    trips = []
    for seed in range(300):
        task = load_workload("fixed_point").sized({"hidden": 16}).task("forward", 2, dtype="float64", seed=seed)
        params, batch = (
            {key: torch.tensor(value) for key, value in part.items()} for part in (task.parameters, task.batch)
        )
        carry = fixed_point.start(KERNELS, params, batch)
        while fixed_point.goes_on(KERNELS, batch, carry):
            carry = fixed_point.trip(KERNELS, params, carry)
        trips.append(int(carry["trips"]))
    assert 1 <= min(trips) <= 2
    assert 30 <= max(trips) <= 64
    assert np.mean(trips) == pytest.approx(8, abs=1.5)


@pytest.mark.parametrize(("chain", "deepest"), [(0.0, range(8, 30)), (1.0, range(63, 64))])
def test_a_chain_is_as_deep_as_a_tree_can_be(chain: float, deepest: range) -> None:
    nodes: list[tree_lstm.Node] = []
    root = tree_lstm.grow(np.random.default_rng(0), 64, chain, nodes)
    assert len(nodes) == root + 1 == 127
    assert nodes[root][0] in deepest
    for lanes in (1, 8, 1000):
        found = drawn("tree_lstm", 3, leaves=64, chain=chain, lanes=lanes)
        assert found["trips"] <= len(found["first"])
        assert found["count"].sum() == found["bounds"][-1] - found["bounds"][1]


@pytest.mark.parametrize("effort", EFFORTS.values(), ids=EFFORTS)
def test_a_bushy_level_fills_the_lanes_of_every_cell_that_is_measured(effort: Effort) -> None:
    """Lanes without a node cost as much as others, and would be held against the graph."""
    for cell in test_recursion.cells(effort, "cpu"):
        lanes = cell.model.size["lanes"]
        if dict(cell.knobs).get("chain", 0.0) == 0.0:
            assert cell.task().batch["count"].max() == lanes


def test_sizes_are_those_of_the_papers() -> None:
    """ResNet-32 has 0.46 million parameters (He et al., 2016); MagPy's decoder and stack have LSTMs of 256."""

    def size(name: str) -> int:
        return sum(array.size for array in load_workload(name).init(np.random.default_rng(0)).values())

    assert size("block_drop") == 464_154
    assert size("lstm_stack") == 10 * 4 * 256 * (256 + 256 + 1)
    assert size("seq2seq") == 3797 * (256 + 257) + 4 * 256 * 513
    assert size("in_graph_training") == 7851


def test_running_backward_undoes_running_forward() -> None:
    workload = load_workload("l2hmc").sized({"hidden": 4})
    task = task_of(workload, rows=6)
    params, batch = ({k: torch.tensor(v) for k, v in part.items()} for part in (task.parameters, task.batch))
    state = l2hmc.start(KERNELS, batch)
    for backward in (False, True):
        if backward:
            order = {"mask": 1.0 - batch["mask"].flip(0), "time": batch["time"].flip(0)}
            batch = {**batch, "forward": ~batch["forward"], **order}
        for mask, time in zip(batch["mask"], batch["time"], strict=True):
            state = l2hmc.leapfrog(KERNELS, params, batch, state, mask, time)
    torch.testing.assert_close(state[0], batch["x"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state[1], batch["v"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state[2], torch.zeros(6, 1, dtype=torch.float64), rtol=0, atol=1e-9)
