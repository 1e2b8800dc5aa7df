"""A sub-graph there and back, and what its way back makes anew rather than having it kept.

way = way.with_moves(inputs)       # or way.all_again(), which keeps nothing
way.kept()
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from engines.graph.ir import Graph, Node, Var, storage

WORTH_PICKING_AGAIN = 16 * 1024
"""Elements from which on rows of a table are picked once more on the way back: fewer cost less to keep than a call."""


@dataclass
class Way:
    """A sub-graph differentiated: its own nodes, those of the way back, and the gradients that come of it."""

    there: tuple[Node, ...]
    back: tuple[Node, ...]
    found: dict[Var, Var]

    def read(self) -> list[Var]:
        """What the way back reads and does not make."""
        made = {var for node in self.back for var in node.outputs}
        read = [i for node in self.back for i in node.inputs if isinstance(i, Var)]
        return [v for v in dict.fromkeys([*read, *self.found.values()]) if v not in made]

    def kept(self) -> list[Var]:
        """What the way back reads of the way there."""
        made = {var for node in self.there for var in node.outputs}
        return [var for var in self.read() if var in made]

    def with_moves(self, given: Iterable[Var]) -> Way:
        """The way back making anew what but views or moves what is given, rather than having it kept."""
        owners = storage(Graph("", {}, self.there, {}))
        moved, makers = set(given), {var: node for node in self.there for var in node.outputs}
        for node in self.there:
            if _picks_rows(node) and all(i in moved for i in node.inputs):
                moved.update(node.outputs)
            moved.update(var for var in node.outputs if owners.get(var) in moved)
        again: dict[Node, None] = {}
        waiting = [var for var in self.kept() if var in moved]
        while waiting:
            node = makers[waiting.pop()]
            again[node] = None
            waiting += [i for i in node.inputs if isinstance(i, Var) and i in makers and makers[i] not in again]
        nodes = tuple(node for node in self.there if node in again)
        return Way(self.there, (*nodes, *self.back), self.found)

    def all_again(self) -> Way:
        """The way back with all in front of it that it needs of the way there, so that nothing made there is kept."""
        needed, nodes = set(self.read()), []
        for node in reversed(self.there):
            if any(var in needed for var in node.outputs):
                needed.update(i for i in node.inputs if isinstance(i, Var))
                nodes.append(node)
        return Way(self.there, (*reversed(nodes), *self.back), self.found)


def _picks_rows(node: Node) -> bool:
    """Whether a node picks so many rows that to keep them would cost more than to pick them once more."""
    return node.op.name == "embedding" and math.prod(node.outputs[0].spec.shape) >= WORTH_PICKING_AGAIN
