"""Optimisation passes: plain functions from graph to graph, each giving back its argument if it changed nothing.

    for step in PIPELINE:
        graph = step(graph)

To add a pass: one file here, one name in `PIPELINE`, its golden text in tests/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from engines.graph.ir import Graph
from engines.graph.passes.choose import choose
from engines.graph.passes.choose_kernels import choose_kernels
from engines.graph.passes.cse import cse
from engines.graph.passes.dce import dce
from engines.graph.passes.enclose import enclose
from engines.graph.passes.fold import fold
from engines.graph.passes.fuse import fuse
from engines.graph.passes.gather import gather
from engines.graph.passes.hoist import hoist
from engines.graph.passes.layout import layout
from engines.graph.passes.narrow import narrow
from engines.graph.passes.order import order as order
from engines.graph.passes.pick import pick
from engines.graph.passes.pool import pool
from engines.graph.passes.prune import prune
from engines.graph.passes.rematerialise import rematerialise as rematerialise
from engines.graph.passes.simplify import simplify
from engines.graph.plan_memory import plan_memory

Pass = Callable[[Graph], Graph]

PIPELINE: tuple[Pass, ...] = (
    simplify,
    narrow,
    fold,
    cse,
    hoist,
    choose,
    prune,
    gather,
    pick,
    pool,
    fuse,
    enclose,
    choose_kernels,
    dce,
    plan_memory,
)
"""Every pass, in order. Simplify comes before fold because it recognises a `full_like`, which fold makes a constant.
Narrow comes before fold because it makes small what fold may then compute, and leaves broadcasts behind that nobody
reads. Hoist comes after cse, so that what moves out is there once, and before fuse, which would tie it to what stays.
Fuse comes after all that look at single nodes, but for the choice of kernels, which takes what is left by it and by
enclose: a loop with a kernel so chosen cannot become C as a whole. A plan is of the nodes that run, so it comes last:
another pass after it drops it where it changes a node. Not here, for they cost time: `order` and
`rematerialise(budget_bytes)`, for those who need the memory, and `layout`."""

CHANNELS_LAST: tuple[Pass, ...] = tuple(
    step for each in PIPELINE for step in ((each, layout) if each is pool else (each,))
)
"""The same with `layout`: behind pool, whose rules are about images as they are, and whose regions C does best on a
processor; ahead of fuse, which takes what is elementwise in either order. Not the usual one: on a processor a
convolution by Winograd, or one as it is that need not be converted, outweighs what torch gains by the other order."""

AFTER: Mapping[str, frozenset[str]] = MappingProxyType({})
"""Which passes a pass must come after, by name, where both are used: a rule of what is right, not of what finds most.
Whatever is not ruled out here is allowed: any pass may be left out, and any two may change places."""


def is_allowed(passes: Sequence[Pass]) -> bool:
    """Whether passes stand in an order that `AFTER` allows."""
    names = [step.__name__ for step in passes]
    return all(AFTER.get(name, frozenset()).isdisjoint(names[place:]) for place, name in enumerate(names))
