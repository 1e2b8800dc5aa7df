"""Every workload by name, each in a file of its own.

    workload = load_workload("cnn")
    task = workload.task("step", batch_size=64)

To add a workload: one file here, one line in `STRAIGHT`, `CONTROL_FLOW` or `STREAMS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from suites.workloads import (
    beam_search,
    block_drop,
    chain,
    cnn,
    dynamic_rnn,
    early_exit,
    fixed_point,
    in_graph_training,
    l2hmc,
    lenet5,
    lstm_stack,
    many_paths,
    mlp,
    moe,
    rnn_lm,
    scalars,
    seq2seq,
    shape_stream,
    tree_lstm,
)
from suites.workloads.workload import Workload

STRAIGHT: Mapping[str, Workload] = MappingProxyType(
    {w.name: w for w in (cnn.WORKLOAD, lenet5.WORKLOAD, mlp.WORKLOAD, *chain.WORKLOADS, scalars.WORKLOAD)}
)
"""Workloads that run the same ops for every batch."""

CONTROL_FLOW: Mapping[str, Workload] = MappingProxyType(
    {
        module.WORKLOAD.name: module.WORKLOAD
        for module in (
            early_exit,
            many_paths,
            block_drop,
            moe,
            dynamic_rnn,
            lstm_stack,
            rnn_lm,
            seq2seq,
            beam_search,
            tree_lstm,
            fixed_point,
            l2hmc,
            in_graph_training,
        )
    }
)
"""Workloads whose course depends on data or runs in loops, each in several formulations."""

STREAMS: Mapping[str, Workload] = MappingProxyType({w.name: w for w in shape_stream.WORKLOADS})
"""Workloads whose batches change in size."""

WORKLOADS: Mapping[str, Workload] = MappingProxyType({**STRAIGHT, **CONTROL_FLOW, **STREAMS})
"""Names in the order in which reports list them."""


class UnknownWorkloadError(LookupError):
    """No workload bears this name."""


def load_workload(name: str) -> Workload:
    """The workload of this name. Raises UnknownWorkloadError with the nearest name there is."""
    if name not in WORKLOADS:
        close = difflib.get_close_matches(name, WORKLOADS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownWorkloadError(f"no workload named {name!r}; there are {', '.join(WORKLOADS)}{hint}")
    return WORKLOADS[name]
