"""Executables on disk: a graph as data, and what has to be the same where it is used.

    write(path, graph, code)          # whole or not at all
    graph, check = read(path)         # raises ExecutableError for any file that cannot be used here

A file holds JSON, the bytes of constants, and a digest of both. The JSON says under which format, torch and processor
it was made: choices among kernels were timed there, and numbers may round another way elsewhere, so that another one is
refused. No code is in a file, and none is ever taken from one. What became C is written again from the graph, which is
checked as any other input, and its library is looked up in this machine's cache, whose key is the C text, the compiler
with its flags, and the processor's features; where there is none, it is compiled. The file keeps the digest of the C
text that ran when it was saved: a version of this package that writes other C for the same graph is refused too.
"""

from __future__ import annotations

import hashlib
import io
import json
import operator
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.graph.control import OPS as CONTROL_OPS
from engines.graph.formulations import OPS as OTHER_FORMULATIONS
from engines.graph.fused import FUSED
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.compiler import cpu_features
from engines.graph.nhwc import OPS as NHWC_OPS
from engines.graph.picked import OPS as PICKED_OPS
from engines.graph.plan_memory import plan_memory
from engines.op import plain
from engines.ops import TABLE
from engines.value import DTYPE_NAMES, DTYPES, EngineError, Location, Spec

HEADER = {"format": "tape-vs-graph executable", "version": 2}
GRAPH, CONSTANTS, DIGEST = "graph.json", "constants.bin", "sha256"

LOADABLE = {
    **TABLE,
    FUSED.name: FUSED,
    **{op.name: op for op in (*CONTROL_OPS, *OTHER_FORMULATIONS, *NHWC_OPS, *PICKED_OPS)},
}
"""Every op that a saved graph may name."""

FILE_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, LookupError, ValueError, RuntimeError)
"""What zipfile raises for a file that is none, is cut short, or asks for what is not there."""

GRAPH_ERRORS = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    AssertionError,
    SyntaxError,
)
"""What a document that is no graph leads to, or one for a device that torch does not have here."""


class ExecutableError(EngineError):
    """A saved executable that cannot be used here: says which file, what was found and what was expected."""


def write(path: Path, graph: Graph, code: str) -> None:
    """Write a graph, and the digest of its C text, to `path`, whole or not at all. Raises OSError."""
    stored = io.BytesIO()
    document = json.dumps({**HEADER, **_here(), "code": _digest(code), "graph": _graph_data(graph, stored)}).encode()
    constants = stored.getvalue()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(unfinished, "w") as file:
            file.writestr(GRAPH, document)
            file.writestr(CONSTANTS, constants)
            file.writestr(DIGEST, hashlib.sha256(document + constants).hexdigest())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> tuple[Graph, Callable[[str], None]]:
    """The graph in a file, and a check of the C text that is made of it now. Both raise ExecutableError."""
    document, constants = _contents(path)
    here = _here()
    for what, found in ((key, document.get(key)) for key in here):
        if found != here[what]:
            raise ExecutableError(f"{path}: made for another {what}: {_difference(found, here[what])}; build it again")
    try:
        graph = _graph(document["graph"], constants)
    except GRAPH_ERRORS as error:
        raise ExecutableError(f"{path}: not a graph that can run here: {error!r}") from None

    def check_code(code: str) -> None:
        if _digest(code) != document.get("code"):
            found = f"sha256 {_digest(code)[:12]}, it was saved with {str(document.get('code'))[:12]!r}"
            raise ExecutableError(f"{path}: made by another version: its regions become C of {found}; build it again")

    return graph, check_code


def _here() -> dict[str, Any]:
    """What must be the same where a file is made and where it is used."""
    return {"torch": torch.__version__.partition("+")[0], "processor": cpu_features().splitlines()}


def _difference(found: Any, expected: Any) -> str:
    """Two versions, or of two processors their first lines that differ, cut to the words that do."""
    if not isinstance(found, list) or not isinstance(expected, list):
        return f"found {found!r}, expected {expected!r}"
    lines = zip_longest(map(str, found), expected, fillvalue="nothing")
    theirs, ours = next((pair for pair in lines if pair[0] != pair[1]), ("", ""))
    only = (" ".join(word for word in a.split() if word not in b.split()) for a, b in ((theirs, ours), (ours, theirs)))
    return "found {!r}, expected {!r}".format(*(words[:80] for words in only))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _contents(path: Path) -> tuple[dict[str, Any], bytes]:
    """The checked contents of a file."""
    try:
        with zipfile.ZipFile(path) as file:
            document, constants, digest = (file.read(name) for name in (GRAPH, CONSTANTS, DIGEST))
    except FileNotFoundError:
        raise ExecutableError(f"{path}: no such file") from None
    except FILE_ERRORS as error:
        raise ExecutableError(f"{path}: not an executable, or a truncated one: {error}") from None
    found = hashlib.sha256(document + constants).hexdigest()
    if found != digest.decode(errors="replace"):
        raise ExecutableError(f"{path}: altered: its contents have sha256 {found[:12]}, it says {digest[:12]!r}")
    try:
        parsed = json.loads(document)
        header = {key: parsed[key] for key in HEADER}
    except (ValueError, KeyError, TypeError) as error:
        raise ExecutableError(f"{path}: not an executable: {error!r}") from None
    if header != HEADER:
        raise ExecutableError(f"{path}: found {header}, expected {HEADER}")
    return parsed, constants


def _graph_data(graph: Graph, constants: io.BytesIO) -> dict[str, Any]:
    numbers: dict[Var, int] = {}
    for var in (*graph.inputs.values(), *graph.constants, *(v for node in graph.nodes for v in node.outputs)):
        numbers[var] = len(numbers)
    stored = []
    for tensor in graph.constants.values():
        stored.append(constants.tell())
        constants.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {
        "name": graph.name,
        "inputs": list(graph.inputs),
        "donated": sorted(graph.donated),
        "planned": graph.plan is not None,
        "constants": stored,
        "specs": [_spec_data(var.spec) for var in numbers],
        "nodes": [_node_data(node, numbers, constants) for node in graph.nodes],
        "outputs": {name: numbers[var] for name, var in graph.outputs.items()},
    }


def _spec_data(spec: Spec) -> list[Any]:
    return [list(spec.shape), DTYPE_NAMES[spec.dtype], spec.device]


def _node_data(node: Node, numbers: Mapping[Var, int], constants: io.BytesIO) -> list[Any]:
    inputs = [[numbers[i]] if isinstance(i, Var) else i for i in node.inputs]
    attrs = {k: _attr_data(v, constants) for k, v in node.attrs.items()}
    return [node.op.name, inputs, attrs, [numbers[v] for v in node.outputs], list(node.where)]


def _attr_data(value: Any, constants: io.BytesIO) -> Any:
    """An attribute as JSON takes it: a sub-graph as a graph, a node's body of several as a list of them."""
    if isinstance(value, Graph):
        return _graph_data(value, constants)
    return [_attr_data(part, constants) for part in value] if isinstance(value, tuple) else value


def _graph(data: Mapping[str, Any], constants: bytes) -> Graph:
    """A graph from its stored form; raises one of GRAPH_ERRORS for what is unknown, undefined or of the wrong kind."""
    variables = [Var(_spec(*stored)) for stored in data["specs"]]
    first = len(data["inputs"])
    inputs = dict(zip(data["inputs"], variables[:first], strict=True))
    fixed = {
        variables[first + i]: _tensor(variables[first + i].spec, constants, offset)
        for i, offset in enumerate(data["constants"])
    }
    known = {*inputs.values(), *fixed}
    nodes = []
    for stored in data["nodes"]:
        nodes.append(_node(stored, variables, known, constants))
        known.update(nodes[-1].outputs)
    outputs = {name: _operand([number], variables, known) for name, number in data["outputs"].items()}
    graph = Graph(str(data["name"]), inputs, tuple(nodes), outputs, fixed, frozenset(data["donated"]))
    return plan_memory(graph) if data.get("planned") else graph  # made anew: a stored one would have to be checked


def _spec(shape: Any, dtype: Any, device: Any) -> Spec:
    return Spec(tuple(operator.index(size) for size in shape), DTYPES[dtype], str(torch.device(device)))


def _node(data: Any, variables: list[Var], known: set[Var], constants: bytes) -> Node:
    name, inputs, attrs, results, (file, line) = data
    op = LOADABLE[name]
    if set(attrs) != set(op.attrs):
        raise ValueError(f"{name}: attributes {sorted(attrs)}, expected {sorted(op.attrs)}")
    if not op.variadic and len(inputs) != len(op.vjps):
        raise ValueError(f"{name}: {len(inputs)} inputs, expected {len(op.vjps)}")
    outputs = tuple(variables[v] for v in results)
    if op.outputs not in {None, len(outputs)} or not known.isdisjoint(outputs):
        raise ValueError(f"{name}: outputs {results}, expected {op.outputs or 'any number'} not yet defined")
    operands = tuple(_operand(i, variables, known) for i in inputs)
    return Node(
        op, operands, {key: _attr(attrs[key], constants) for key in op.attrs}, outputs, Location(str(file), int(line))
    )


def _attr(stored: Any, constants: bytes) -> Any:
    if isinstance(stored, Mapping):
        return _graph(stored, constants)
    return tuple(_attr(part, constants) for part in stored) if isinstance(stored, list) else plain(stored)


def _operand(stored: Any, variables: list[Var], known: set[Var]) -> Any:
    if stored is None or isinstance(stored, (bool, int, float)):
        return stored
    (number,) = stored
    if variables[number] not in known:
        raise ValueError(f"value {number} is used before it is defined")
    return variables[number]


def _tensor(spec: Spec, constants: bytes, offset: int) -> torch.Tensor:
    count = spec.dtype.itemsize
    for size in spec.shape:
        count *= size
    data = torch.tensor(np.frombuffer(constants, np.uint8, count, offset))
    return data.view(spec.dtype).reshape(spec.shape).to(spec.device)
