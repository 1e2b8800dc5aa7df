"""Lowering of control flow: each sub-graph becomes a straight-line function, called by the node's loop or branch.

lowered = Lowered(functions={body: c_function})     # what to call for regions
run = lowered.add(graph)                            # and for control nodes, as they are found
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from engines.graph.control import CONTROL, execute
from engines.graph.ir import Graph, Node
from engines.graph.lower.aten import FIRST_NODE_LINE, Run, lower

Function = Callable[..., Any]


@dataclass
class Lowered:
    """Functions made from a graph and its sub-graphs, innermost first: their text, and the nodes on their lines."""

    sources: list[str] = field(default_factory=list)
    nodes: dict[CodeType, tuple[Node, ...]] = field(default_factory=dict)
    functions: dict[Any, Function] = field(default_factory=dict)

    def add(self, graph: Graph) -> Run:
        """Lower a graph, its sub-graphs first."""
        for node in graph.nodes:
            if node.op in CONTROL and node.attrs["body"] not in self.functions:
                self.functions[node.attrs["body"]] = self._called(node)
        source, run = lower(graph, self.functions)
        self.sources.append(source)
        self.nodes[run.__code__] = graph.nodes
        return run

    def _called(self, node: Node) -> Function:
        runs = [self.add(part) for part in node.attrs["body"]]

        def call(*operands: Any) -> tuple[Any, ...]:
            return execute(node, runs, operands)

        call.__name__ = f"{node.op.name}_{len(self.functions)}"
        return call

    def node_at(self, code: CodeType, line: int) -> Node | None:
        """The node that stands on a line of one of the functions."""
        nodes = self.nodes.get(code, ())
        return nodes[line - FIRST_NODE_LINE] if 0 <= line - FIRST_NODE_LINE < len(nodes) else None
