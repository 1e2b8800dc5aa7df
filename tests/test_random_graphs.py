"""Random graphs of 5 to 200 ops, and their gradients, through every pass and lowering: their results stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.graph import PIPELINE, Executable, Graph, verify
from engines.graph.compile import run_passes
from engines.graph.fused import inline
from engines.graph.passes import Pass
from tests.programs import ALL_STEPS, Program, on_graph, program_of
from tests.test_orders import arranged

VALUES = st.integers(0, 1000)
STEPS = st.tuples(st.integers(0, len(ALL_STEPS) - 1), st.tuples(VALUES, VALUES))
PROGRAMS = st.integers(3, 100).flatmap(lambda count: st.lists(STEPS, min_size=count, max_size=count)).map(program_of)
"""A step is one op or a few, so that these graphs have 5 to 200 before they are differentiated."""

ORDERS = st.permutations(PIPELINE).map(arranged)

judged = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


def compare(graph: Graph, program: Program, expected: Sequence[torch.Tensor]) -> None:
    """Each output is near for its size: sums may be taken in another order."""
    found = Executable.build(graph)(*program.inputs())
    for name, ours, other in zip(graph.outputs, found, expected, strict=True):
        size = float(other.nan_to_num(0.0, 0.0, 0.0).abs().max())
        torch.testing.assert_close(
            ours, other, rtol=1e-4, atol=1e-5 * size + 1e-7, equal_nan=True, msg=lambda text, name=name: name + text
        )


@settings(judged, max_examples=12)
@given(PROGRAMS)
def test_every_pass_alone(program: Program) -> None:
    plain = on_graph(program)
    expected = plain(*program.inputs())
    for step in PIPELINE:
        compare(inline(step(plain.graph)), program, expected)


@settings(judged, max_examples=12)
@given(PROGRAMS, ORDERS)
def test_all_passes_in_any_allowed_order_on_kernels_and_in_c(program: Program, order: Sequence[Pass]) -> None:
    plain = on_graph(program)
    expected = plain(*program.inputs())
    graph = verify(run_passes(plain.graph, order, {}))
    for lowered in (inline(graph), graph):
        compare(lowered, program, expected)
