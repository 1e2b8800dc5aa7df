"""Every engine by name. An engine's module is imported when it is asked for, a peer's dependencies with it.

engine = load_engine("graph")
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from engines.engine import Engine, Style
from engines.value import EngineError


class _Row:
    """Where an engine is defined and how to make it."""

    def __init__(self, style: Style, module: str, factory: str, **options: Any) -> None:
        self.style = style
        self.module = module
        self.factory = factory
        self.options = options


ENGINES: Mapping[str, _Row] = MappingProxyType(
    {
        "tape": _Row("dynamic", "engines.tape.engine", "TapeEngine"),
        "graph": _Row("static", "engines.graph.engine", "GraphEngine"),
        "graph_replay": _Row("static", "engines.graph.engine", "GraphEngine", name="graph_replay", passes=()),
        "torch_eager": _Row("dynamic", "engines.peers.torch_eager", "TorchEager"),
    }
)
"""Names in the order in which reports list them."""


def load_engine(name: str) -> Engine:
    """The engine of this name. Raises EngineError with the nearest name there is."""
    if name not in ENGINES:
        close = difflib.get_close_matches(name, ENGINES, n=1)
        raise EngineError(
            f"no engine named {name!r}; there are {', '.join(ENGINES)}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    row = ENGINES[name]
    engine: Engine = getattr(importlib.import_module(row.module), row.factory)(**row.options)
    return engine
