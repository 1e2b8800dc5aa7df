"""Loops that become C as a whole: marked, so that a lowering need not go back to Python for every trip.

    scan { small and plain ops }     -> scan(whole=True) { ... }

Same outputs within rounding: what `lower/whole.py` writes adds up in another order than the kernels.
"""

from __future__ import annotations

from dataclasses import replace

from engines.graph.control import CONTROL, LOOPS
from engines.graph.ir import Graph, Node
from engines.graph.lower.whole import fits, whole


def enclose(graph: Graph) -> Graph:
    """Mark the outermost loops that C can take whole."""
    nodes = tuple(_marked(node) if node.op in CONTROL else node for node in graph.nodes)
    same = all(new is old for new, old in zip(nodes, graph.nodes, strict=True))
    return graph if same else graph.with_nodes(nodes)


def _marked(node: Node) -> Node:
    if node.attrs.get("whole"):
        return node
    if node.op in LOOPS and fits(node) and whole("loop", node) is not None:
        return replace(node, attrs={**node.attrs, "whole": True})
    bodies: tuple[Graph, ...] = node.attrs["body"]
    marked = tuple(map(enclose, bodies))
    if all(new is old for new, old in zip(marked, bodies, strict=True)):
        return node
    return replace(node, attrs={**node.attrs, "body": marked})
