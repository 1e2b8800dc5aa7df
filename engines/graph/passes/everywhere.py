"""Passes inside sub-graphs: what a pass does to a graph it does to every branch and body first.

    cond(p) { then { x * 1 } ... }     -> cond(p) { then { x } ... }

Inside, inputs count as donated: nothing that was a copy of one may become a view of it, since whoever has the result
relies on its being a value of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

from engines.graph.control import map_bodies
from engines.graph.ir import Graph


def everywhere(step: Callable[[Graph], Graph]) -> Callable[[Graph], Graph]:
    """A pass that goes into sub-graphs too, innermost first."""

    def inside(body: Graph) -> Graph:
        owned = replace(body, donated=frozenset(body.inputs))
        changed = step(owned)
        return body if changed is owned else replace(changed, donated=frozenset())

    @wraps(step)
    def both(graph: Graph) -> Graph:
        return step(map_bodies(graph, inside))

    return both
