"""Whether a plan gives every value a place of its own for as long as it is needed.

    check_plan(graph)          # raises EngineError naming two values of which one would destroy the other

Written without regard to how plans are made: it goes through the nodes as a run would, and keeps in mind which value
stands where and until when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engines.graph.fused import reads
from engines.graph.ir import Graph, Node, Plan, Var
from engines.graph.lifetimes import bytes_of, standing
from engines.value import EngineError


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `first` to `end` of the arena (`base` None) or of the memory that a value has for itself."""

    base: Var | None
    first: int
    end: int

    def meets(self, other: Range) -> bool:
        """Whether two have a byte in common."""
        return self.base is other.base and self.first < other.end and other.first < self.end


def check_plan(graph: Graph) -> Graph:
    """Follow a graph's plan, if it has one; gives the graph."""
    plan = graph.plan
    if plan is None:
        return graph
    owners = standing(replace(graph, plan=None))
    names = graph.names()
    last = _last_reads(graph, owners)
    ranges: dict[Var, Range] = {}
    held: list[Var] = []
    for position, node in enumerate(graph.nodes):
        for var in (var for var in node.outputs if var not in owners):
            ranges[var] = _range(graph, node, var, plan, owners, ranges)
            for other in (other for other in held if ranges[var].meets(ranges[other])):
                operand = plan.places.get(var)
                over_operand = isinstance(operand, Var) and owners.get(operand, operand) is other
                if last[other] > position or other in node.outputs or not over_operand:
                    raise _refused(graph, node, f"writes {names[var]} over {names[other]}, which is needed still")
            held.append(var)
            last.setdefault(var, position)
        held = [var for var in held if last[var] > position]
    for name, var in graph.outputs.items():
        place = ranges.get(owners.get(var, var))
        if place is not None and place.base is None:
            raise EngineError(
                f"graph {graph.name}: output {name!r} stands in the arena, which the next call overwrites"
            )
    return graph


def _last_reads(graph: Graph, owners: Mapping[Var, Var]) -> dict[Var, int]:
    last: dict[Var, int] = {}
    for position, node in enumerate(graph.nodes):
        last.update((owners.get(given, given), position) for given in reads(node))
    last.update((owners.get(var, var), len(graph.nodes)) for var in graph.outputs.values())
    return last


def _range(
    graph: Graph, node: Node, var: Var, plan: Plan, owners: Mapping[Var, Var], ranges: Mapping[Var, Range]
) -> Range:
    place, size = plan.places.get(var), bytes_of(var)
    if place is None:
        return Range(var, 0, size)
    if isinstance(place, Var):
        found = ranges.get(owners.get(place, place))
        if found is None or place not in node.inputs or found.end - found.first < size:
            raise _refused(graph, node, "writes over what is no operand of its size that a node has made")
        return found
    if place < 0 or place + size > plan.arena_bytes:
        raise _refused(graph, node, f"writes bytes {place} to {place + size} of an arena of {plan.arena_bytes}")
    return Range(None, place, place + size)


def _refused(graph: Graph, node: Node, what: str) -> EngineError:
    return EngineError(f"graph {graph.name}: the plan's {node.op.name} from {node.where} {what}")
