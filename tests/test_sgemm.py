"""The yardstick of rates: what a task is counted as, and a product that is the product."""

from __future__ import annotations

import pytest
import torch

from engines.registry import load_engine
from suites import test_rate
from suites.harness.cell import Cell
from suites.harness.effort import EFFORTS
from suites.sgemm import ORDER, SGEMM, flops, load
from suites.workloads import load_workload

BATCH = 3
CONVOLUTIONS = (26 * 26 * 32 * 1 * 9, 24 * 24 * 64 * 32 * 9)
PRODUCTS = (9216 * 128, 128 * 10)
"""Multiplications of one image in the CNN, layer by layer."""


def test_forward_counts_each_sum_twice_its_multiplications():
    task = load_workload("cnn").task("forward", BATCH)
    assert flops(task) == 2 * BATCH * (sum(CONVOLUTIONS) + sum(PRODUCTS))


def test_each_gradient_counts_as_much_again_and_nobody_asks_for_that_of_the_images():
    task = load_workload("cnn").task("loss_and_grad", BATCH)
    assert flops(task) == 2 * BATCH * (3 * (sum(CONVOLUTIONS) + sum(PRODUCTS)) - CONVOLUTIONS[0])


def test_elementwise_ops_count_nothing():
    assert flops(load_workload("chain").task("loss_and_grad", 1)) == 0


def test_the_product_is_the_product_and_says_how_much_it_is():
    cell = Cell("rate", "cnn", "forward", BATCH)
    program = load(cell, SGEMM).prepare(cell.task())
    assert program.counters == {"order": ORDER, "flops": 2 * ORDER**3, "task_flops": flops(cell.task())}
    found = program.run(program.place(cell.task().batch, 0)).loss
    left, right = program._operands
    torch.testing.assert_close(found.double(), left.double() @ right.double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("effort", EFFORTS.values(), ids=lambda effort: effort.name)
def test_every_engine_of_the_suite_is_there_and_only_the_product_goes_unchecked(effort):
    for cell in test_rate.cells(effort, "cpu"):
        who = [test_rate.contender(name) for name in test_rate.engines(cell, effort)]
        assert [it.name for it in who if it.yardstick] == [SGEMM]
        assert all(load_engine(it.name).name == it.name for it in who if not it.yardstick)
