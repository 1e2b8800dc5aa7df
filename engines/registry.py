"""Every engine by name, and workloads by theirs. Modules are imported when asked for, their dependencies with them.

engine = load_engine("graph")
task = load_workload("cnn").task("step", 64)

The engines know the suites by this text alone: `NAMED_WORKLOADS` says where a plain name is looked up, and
"package.module:attribute" is taken from wherever it says.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from engines.engine import Engine, Quantity, Style, Task
from engines.value import EngineError


class _Row:
    """Where an engine is defined and how to make it.

    `slow`: it takes many seconds to get ready, whatever the task. `variant_of`: it takes part only where it is asked
    for by name, and then wherever the engine does that it is a variant of. `only_on`: the one kind of device on which
    it is something of its own.
    """

    def __init__(
        self,
        style: Style,
        module: str,
        factory: str,
        *,
        slow: bool = False,
        variant_of: str = "",
        only_on: str = "",
        **options: Any,
    ) -> None:
        self.style = style
        self.slow = slow
        self.variant_of = variant_of
        self.only_on = only_on
        self.module = module
        self.factory = factory
        self.options = options


ENGINES: Mapping[str, _Row] = MappingProxyType(
    {
        "tape": _Row("dynamic", "engines.tape.engine", "TapeEngine"),
        "graph": _Row("static", "engines.graph.engine", "GraphEngine"),
        "graph_replay": _Row(
            "static", "engines.graph.engine", "GraphEngine", name="graph_replay", passes=(), capture=False
        ),
        "graph_channels_last": _Row("static", "engines.graph.engine", "channels_last", variant_of="graph"),
        "torch_eager": _Row("dynamic", "engines.peers.torch_eager", "TorchEager"),
        "torch_compile": _Row("static", "engines.peers.torch_compile", "TorchCompile", slow=True),
        "torch_compile_reduce_overhead": _Row(
            "static", "engines.peers.torch_compile", "reduce_overhead", slow=True, only_on="cuda"
        ),
    }
)
"""Names in the order in which reports list them."""


def check_engine(name: str) -> None:
    """Raises EngineError with the nearest name there is, if there is no engine of this one."""
    if name not in ENGINES:
        close = difflib.get_close_matches(name, ENGINES, n=1)
        raise EngineError(
            f"no engine named {name!r}; there are {', '.join(ENGINES)}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )


def load_engine(name: str) -> Engine:
    """The engine of this name. Raises EngineError if there is none."""
    check_engine(name)
    row = ENGINES[name]
    engine: Engine = getattr(importlib.import_module(row.module), row.factory)(**row.options)
    return engine


NAMED_WORKLOADS = "suites.workloads:WORKLOADS"
"""Where a workload's plain name is looked up: module and mapping."""


class NamedWorkload(Protocol):
    """A model, its first parameters and its batches."""

    def task(self, quantity: Quantity, batch_size: int) -> Task:
        """What an engine is asked to make ready."""
        ...


class UnknownWorkloadError(EngineError):
    """No workload bears this name."""


def load_workload(name: str) -> NamedWorkload:
    """The workload of this name, or at this "module:attribute". Raises UnknownWorkloadError with the nearest name."""
    if ":" in name:
        elsewhere: NamedWorkload = _imported(name)
        return elsewhere
    known: Mapping[str, NamedWorkload] = _imported(NAMED_WORKLOADS)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownWorkloadError(f"no workload named {name!r}; there are {', '.join(known)}{hint}")
    return known[name]


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise UnknownWorkloadError(f"no workload at {path!r}: {error}") from None
