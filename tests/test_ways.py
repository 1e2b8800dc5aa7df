"""Ways to run a model whose course depends on data: who runs which formulation, and a graph made for one structure."""

from __future__ import annotations

import numpy as np
import pytest

from engines.registry import load_engine
from suites import test_branches, test_loops, test_recursion, ways
from suites.harness.agreement import check
from suites.harness.cell import Cell
from suites.harness.effort import EFFORTS
from suites.harness.formulated import Formulated
from suites.harness.row import Row
from suites.workloads import load_workload

TREES = Cell(
    "recursion",
    "tree_lstm",
    "loss_and_grad",
    2,
    knobs=(("embedding", 4), ("hidden", 4), ("lanes", 4), ("leaves", 4), ("vocabulary", 10)),
)


@pytest.mark.parametrize(
    ("name", "engine", "formulation"),
    [
        ("tape", "tape", "dynamic"),
        ("torch_eager", "torch_eager", "dynamic"),
        ("graph", "graph", "static"),
        ("graph+unrolled", "graph", "unrolled"),
        ("tape+static", "tape", "static"),
    ],
)
def test_a_way_names_its_engine_and_its_formulation(name, engine, formulation):
    who = ways.contender(name)
    assert (who.name, who.engine, who.formulation) == (name, engine, formulation)
    assert Row(who.label, formulation=who.formulation).extra_info(TREES)["formulation"] == formulation


@pytest.mark.parametrize("suite", [test_branches, test_loops, test_recursion], ids=lambda suite: suite.__name__)
@pytest.mark.parametrize("effort", EFFORTS.values(), ids=lambda effort: effort.name)
def test_every_row_of_a_suite_can_be_made(suite, effort):
    """Each engine is there, each workload has the formulation and the knobs."""
    for cell in suite.cells(effort, "cpu"):
        assert dict(cell.knobs).items() <= cell.model.size.items()
        for name in suite.engines(cell, effort) if hasattr(suite, "engines") else suite.ENGINES:
            assert isinstance(ways.contender(name).load(cell), Formulated)


def test_an_unknown_formulation_is_refused_by_name():
    with pytest.raises(ValueError, match=r"tree_lstm: formulations are dynamic, levels, static; found 'flat'"):
        ways.contender("graph+flat").load(TREES)


def test_a_graph_of_a_formulation_that_reads_is_made_for_one_structure():
    made = ways.contender("graph+levels").load(TREES)
    assert not check(made.prepare(TREES.checked_task()), TREES).wrong
    program = made.prepare(TREES.task())
    other = TREES.model.batch(np.random.default_rng(5), 2)
    mixed = {**TREES.task().batch, "left": other["left"], "right": other["right"]}
    first, second = (program.run(program.place(batch, 0)).loss for batch in (TREES.task().batch, mixed))
    assert float(first) == float(second), "left and right are part of what the graph was made for"


def test_what_runs_is_the_formulation_asked_for():
    workload = load_workload("many_paths").sized({"layers": 2, "width": 4})
    task = workload.task("forward", 2)
    counts = {}
    for formulation in ("static", "masked"):
        program = Formulated(load_engine("graph_replay"), workload, formulation).prepare(task)
        counts[formulation] = {node.op.name for node in program.executable.graph.nodes}
    assert "cond" in counts["static"]
    assert "cond" not in counts["masked"]
    assert "where" in counts["masked"]
