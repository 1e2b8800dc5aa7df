"""A graph on its way: as traced, differentiated, after each pass that changed it, then its source and C."""

from __future__ import annotations

import linecache
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch

from engines.engine import Task, place_arrays, place_batch
from engines.graph import PIPELINE, Executable, Graph, Symbol, Var, differentiate, trace, update
from engines.graph.control import all_nodes
from engines.graph.lower.prelude import PRELUDE
from engines.graph.passes import CHANNELS_LAST, Pass
from engines.op import Namespace
from engines.show.drawing import Box
from engines.value import EngineError, Location, Spec

WHERE = re.compile(r"# (\S+:\d+)$")
"""The comment in generated source that names the user's line."""


def show_graph(task: Task, passes: Sequence[Pass] = PIPELINE) -> tuple[str, list[Box]]:
    """All stages as text, and the graph that runs as boxes. Raises EngineError."""
    parts, graph = [], None
    for title, stage in _stages(task, passes):
        change = "" if graph is None else f", {_change(graph, stage)}"
        if stage is graph:
            parts.append(f"== {title}: nothing to do")
        else:
            parts.append(f"== {title}: {len(stage.nodes)} nodes{change}\n\n{stage}")
        graph = stage
    assert graph is not None
    executable, places = Executable.build(graph), _places(graph)
    parts.append("\n".join(["== source\n", *_with_lines(executable.source, places)]))
    if executable.code:
        parts.append(
            "\n".join(["== C source, without what every file begins with\n", *_c_lines(executable.code, places)])
        )
    return "\n\n".join(parts) + "\n", _boxes(graph)


def show_channels_last(task: Task) -> tuple[str, list[Box]]:
    """The same through the passes of `CHANNELS_LAST`."""
    return show_graph(task, CHANNELS_LAST)


def _stages(task: Task, passes: Sequence[Pass]) -> Iterator[tuple[str, Graph]]:
    graph = _traced(task)
    yield "traced", graph
    if task.quantity != "forward":
        graph = differentiate(graph, "loss", list(task.parameters))
        yield "differentiated", graph
    if task.quantity == "step":
        if task.optimizer is None:
            raise EngineError("show: quantity 'step' needs an optimizer, found None")
        graph = update(graph, task.optimizer, list(task.parameters))
        yield "with the update", graph
    for step in passes:
        graph = step(graph)
        yield f"after {step.__name__}", graph


def _traced(task: Task) -> Graph:
    parameters = place_arrays(task.parameters, task.device)
    placed = place_batch(task, task.batch, key=0)
    key: Mapping[str, torch.Tensor] = {} if placed.key is None else {"key": placed.key}
    specs = {name: Spec.of(value) for name, value in {**parameters, **placed.batch, **key}.items()}

    def model(ops: Namespace, symbols: dict[str, Symbol]) -> dict[str, Symbol]:
        ours = {name: symbols[name] for name in parameters}
        theirs = {name: symbols[name] for name in placed.batch}
        return {"loss": task.loss(ops, ours, theirs, symbols["key"] if key else None)}

    return trace(model, specs, name=task.loss.__module__.rpartition(".")[2])


def _change(before: Graph, after: Graph) -> str:
    """What a step added and took away, by op."""
    old, new = (Counter(node.op.name for node in graph.nodes) for graph in (before, after))
    added = [f"+{count} {name}" for name, count in sorted((new - old).items())]
    gone = [f"-{count} {name}" for name, count in sorted((old - new).items())]
    return ", ".join(added + gone) or "same ops"


def _places(graph: Graph) -> Mapping[str, Location]:
    """The user's lines that nodes come from, those inside regions and branches included, by how they are written."""
    nodes = [*all_nodes(graph)]
    parts = [part for node in nodes if isinstance(body := node.attrs.get("body"), Graph) for part in body.nodes]
    return {str(node.where): node.where for node in (*nodes, *parts)}


def _line(where: str, places: Mapping[str, Location]) -> str:
    place = places[where]
    return f"{where}: {linecache.getline(place.file, place.line).strip()}"


def _with_lines(source: str, places: Mapping[str, Location]) -> Iterator[str]:
    """Generated source, each line of the user's above what came of it."""
    last = ""
    for line in source.splitlines():
        found = WHERE.search(line)
        where = found.group(1) if found else ""
        if where != last and where in places:
            yield f"    # {_line(where, places)}"
        last = where
        yield line


def _c_lines(code: str, places: Mapping[str, Location]) -> Iterator[str]:
    """Generated C, the user's lines above each function of a region."""
    for line in code.replace(PRELUDE, "").strip().splitlines():
        wheres = line.removeprefix("// ").split(", ")
        if line.startswith("// ") and all(where in places for where in wheres):
            yield from (f"// {_line(where, places)}" for where in wheres)
        else:
            yield line


def _boxes(graph: Graph) -> list[Box]:
    names = graph.names()
    read = {i for node in graph.nodes for i in node.inputs if isinstance(i, Var)}
    makers: dict[Var, str] = {var: names[var] for var in (*graph.inputs.values(), *graph.constants)}
    boxes = [Box(names[var], names[var], str(var.spec)) for var in makers if var in read]
    for node in graph.nodes:
        key = names[node.outputs[0]]
        reads = dict.fromkeys(makers[i] for i in node.inputs if isinstance(i, Var))
        makers.update(dict.fromkeys(node.outputs, key))
        boxes.append(Box(key, f"{key} {node.op.name}", f"{node.outputs[0].spec}  {node.where}", tuple(reads)))
    return boxes
