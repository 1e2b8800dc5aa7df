"""Recompute as a contender: the marked chain is the chain, with less alive at the peak."""

from __future__ import annotations

import numpy as np
import pytest

from engines.ops.random import step_key
from suites.harness.allocator import traced
from suites.harness.cell import Cell
from suites.recompute import BASE, RECOMPUTING, load


@pytest.mark.parametrize("ops", [1, 9, 10, 64])
def test_the_marked_chain_gives_the_same_bits(ops):
    cell = Cell("recompute", "chain", "loss_and_grad", knobs=(("elements", 5), ("ops", ops)))
    plain, marked = (run(cell, name)[1] for name in (BASE, RECOMPUTING))
    np.testing.assert_array_equal(plain.loss.numpy(), marked.loss.numpy())
    np.testing.assert_array_equal(plain.gradients["x"].numpy(), marked.gradients["x"].numpy())


def test_in_marked_parts_less_is_alive_at_the_peak_and_more_is_run():
    cell = Cell("recompute", "chain", "loss_and_grad", knobs=(("elements", 1000), ("ops", 64)))
    plain, marked = (run(cell, name)[0] for name in (BASE, RECOMPUTING))
    assert max(marked.live_bytes) < 0.5 * max(plain.live_bytes)
    assert marked.allocations > 1.2 * plain.allocations


def run(cell, name):
    program = load(cell, name).prepare(cell.task())
    placed = program.place(cell.task().batch, step_key(0, 0))
    return traced(lambda: program.run(placed), "cpu")
