"""Passes alone and in any allowed order: every workload gives what it gives without a pass, on kernels and in C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch

from engines.graph import PIPELINE, Executable, Graph, compile_loss, verify
from engines.graph import passes as passes_module
from engines.graph.compile import run_passes
from engines.graph.fused import FUSED, inline
from engines.graph.passes import AFTER, CHANNELS_LAST, Pass, is_allowed
from engines.ops.random import step_key
from engines.value import Spec
from suites.workloads import STRAIGHT, WORKLOADS, load_workload

ORDERS = 200
"""Random subsets and orders, dealt out over the workloads; those with control flow, which take longer, get few."""

FEW = 3

TEXTS = 4
"""Different sets of regions that are compiled for each workload and test: a C compiler takes its time."""

NAMES = {step.__name__: step for step in CHANNELS_LAST}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other at each of very many small steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Traced(NamedTuple):
    """A step of a workload before any pass, fresh inputs for it, and what it gives."""

    graph: Graph
    inputs: Callable[[], list[torch.Tensor]]
    expected: tuple[torch.Tensor, ...]


@cache
def traced(workload: str) -> Traced:
    model = load_workload(workload)
    task = model.sized(model.quick).task("step", 2)
    given = {**task.parameters, **task.batch, "key": np.asarray(step_key(0, 0))}
    specs = {name: Spec.of(torch.tensor(array)) for name, array in given.items()}
    graph = compile_loss(
        task.loss,
        {name: specs[name] for name in task.parameters},
        {name: specs[name] for name in task.batch},
        specs["key"] if task.random else None,
        quantity="step",
        optimizer=task.optimizer,
        passes=(),
    ).graph

    def inputs() -> list[torch.Tensor]:
        """Parameters start anew, since a step overwrites them; velocities at another number than 0."""
        fresh = {name: torch.tensor(given[name.removesuffix(".velocity")]) for name in graph.inputs}
        return [value * 0.5 if name.endswith(".velocity") else value for name, value in fresh.items()]

    return Traced(graph, inputs, Executable.build(graph)(*inputs()))


def drawn(count: int, seed: int) -> list[tuple[Pass, ...]]:
    """Random subsets of the passes in random orders that are allowed."""
    rng = np.random.default_rng(seed)
    found: list[tuple[Pass, ...]] = []
    while len(found) < count:
        size = rng.integers(1, len(CHANNELS_LAST) + 1)
        order = [CHANNELS_LAST[n] for n in rng.permutation(len(CHANNELS_LAST))[:size]]
        found.append(tuple(arranged(order)))
    return found


def arranged(order: Sequence[Pass]) -> list[Pass]:
    """The same passes, each moved back behind those that it must come after."""
    left, done = list(order), []
    while left:
        names = {step.__name__ for step in left}
        done.append(next(step for step in left if AFTER.get(step.__name__, frozenset()).isdisjoint(names)))
        left.remove(done[-1])
    return done


def regions(graph: Graph) -> frozenset[str]:
    """What of a graph becomes C."""
    return frozenset(str(node.attrs["body"]) for node in graph.nodes if node.op is FUSED)


def check(case: Traced, passes: Sequence[Pass], compiled: set[frozenset[str]]) -> None:
    """Run on kernels, and in C too where its text is known or only few others were compiled."""
    graph = verify(run_passes(case.graph, passes, {}))
    names = ", ".join(step.__name__ for step in passes)
    ways = [(inline(graph), "kernels")]
    if (found := regions(graph)) in compiled or len(compiled) < TEXTS:
        compiled.add(found)
        ways.append((graph, "C"))
    for lowered, kind in ways:
        found = Executable.build(lowered)(*case.inputs())
        for output, ours, expected in zip(graph.outputs, found, case.expected, strict=True):
            where = f"{output} after {names}, on {kind}: "
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6, msg=lambda text, where=where: where + text)


@pytest.mark.parametrize("step", NAMES)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_pass_alone_keeps_what_a_workload_gives(workload: str, step: str) -> None:
    check(traced(workload), [NAMES[step]], set())


@pytest.mark.parametrize("workload", WORKLOADS)
def test_random_passes_in_random_orders_keep_what_a_workload_gives(workload: str) -> None:
    number, compiled = list(WORKLOADS).index(workload), set[frozenset[str]]()
    many = -(-(ORDERS - FEW * (len(WORKLOADS) - len(STRAIGHT))) // len(STRAIGHT))
    for passes in drawn(many if workload in STRAIGHT else FEW, seed=number):
        check(traced(workload), passes, compiled)


def test_rules_name_passes_and_the_pipeline_keeps_them() -> None:
    assert {*AFTER, *(name for names in AFTER.values() for name in names)} <= set(NAMES)
    assert is_allowed(PIPELINE)
    assert is_allowed(CHANNELS_LAST)
    assert all(is_allowed(passes) for passes in drawn(50, seed=1))


def test_an_order_that_a_rule_forbids_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes_module, "AFTER", {"fuse": frozenset({"fold", "cse"})})
    fold, cse, fuse, dce = (NAMES[name] for name in ("fold", "cse", "fuse", "dce"))
    assert [is_allowed(order) for order in ([fold, fuse], [fuse], [fuse, dce, cse], [])] == [True, True, False, True]
