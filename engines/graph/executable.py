"""An executable: a graph made ready for one set of shapes, dtypes and one device.

    executable = Executable.build(graph)
    (loss, *gradients) = executable(image, label, ...)        # inputs and outputs in the graph's order
    executable.save(path)
    Executable.load(path)(image, label, ...)                  # another process: nothing is traced

A saved file holds the graph as data: JSON, and the bytes of its constants. Loading makes the program anew from the op
table; no code is taken from the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import operator
import os
import struct
import traceback
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.graph.control import OPS as CONTROL_OPS
from engines.graph.control import all_nodes, map_bodies
from engines.graph.fused import FUSED, inline
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.aten import Run
from engines.graph.lower.control import Lowered
from engines.graph.lower.native import native
from engines.op import KERNEL_ERRORS, describe, kernels_only, plain
from engines.ops import TABLE
from engines.value import DTYPE_NAMES, DTYPES, EngineError, Location, Spec

HEADER = {"format": "tape-vs-graph executable", "version": 1}
GRAPH, CONSTANTS, DIGEST = "graph.json", "constants.bin", "sha256"

LOADABLE = {**TABLE, FUSED.name: FUSED, **{op.name: op for op in CONTROL_OPS}}
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


class Executable:
    """A callable made from a graph. `source` is the Python text that runs, `code` the C text that it calls, if any."""

    def __init__(self, graph: Graph, lowered: Lowered, run: Run, code: str = "") -> None:
        self.graph = graph
        self.source = "\n\n".join(lowered.sources)
        self.code = code
        self._lowered = lowered
        self._needs_guard = True  # against torch's autograd, which takes notice of kernels alone
        self._run = run
        self._expected = [
            (name, torch.Size(var.spec.shape), var.spec.dtype, torch.device(var.spec.device))
            for name, var in graph.inputs.items()
        ]

    @classmethod
    def build(cls, graph: Graph) -> Executable:
        """Lower a graph: fused regions to C where that can be compiled, all else to the kernels."""
        functions, code = native(graph)

        def flat(part: Graph) -> Graph:
            return inline(part, lambda node: node.attrs["body"] not in functions)

        lowered = Lowered(functions=dict(functions))
        run = lowered.add(flat(map_bodies(graph, flat)))
        executable = cls(graph, lowered, run, code)
        executable._needs_guard = not all(node.attrs.get("body") in functions for node in all_nodes(graph))
        return executable

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on tensors in the order of `graph.inputs`; gives those of `graph.outputs`. Raises EngineError."""
        if len(inputs) != len(self._expected):
            raise EngineError(f"{self.graph.name}: takes {len(self._expected)} inputs, found {len(inputs)}")
        for given, (name, shape, dtype, device) in zip(inputs, self._expected, strict=True):
            alike = isinstance(given, torch.Tensor) and given.shape == shape and given.dtype is dtype
            if not alike or given.device != device:
                wanted, found = self.graph.inputs[name].spec, describe(given)
                raise EngineError(f"{self.graph.name}: input {name!r} is compiled for {wanted}, found {found}")
        try:
            if not self._needs_guard:
                return self._run(*inputs)
            with kernels_only():
                return self._run(*inputs)
        except KERNEL_ERRORS as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> EngineError:
        """What a kernel refused at run time, with the user's line that asked for it."""
        places = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        found = [node for code, line in places if (node := self._lowered.node_at(code, line)) is not None]
        if not found:
            return EngineError(f"{self.graph.name}: {error}")
        node = found[-1]  # the innermost
        return EngineError(f"{node.op.name}: {error}; in the graph {self.graph.name}, from {node.where}")

    def run_named(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same with inputs and outputs by name."""
        missing = [name for name in self.graph.inputs if name not in inputs]
        if missing:
            raise EngineError(f"{self.graph.name}: input {missing[0]!r} is missing, found {sorted(inputs)}")
        return dict(zip(self.graph.outputs, self(*(inputs[name] for name in self.graph.inputs)), strict=True))

    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all. Raises OSError where that cannot be done, and leaves nothing behind."""
        stored = io.BytesIO()
        document = json.dumps(_document(self.graph, stored)).encode()
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

    @classmethod
    def load(cls, path: Path) -> Executable:
        """Read what `save` wrote. Raises ExecutableError for any other file."""
        document, constants = _read(path)
        try:
            return cls.build(_graph(document["graph"], constants))
        except GRAPH_ERRORS as error:
            raise ExecutableError(f"{path}: not a graph that can run here: {error!r}") from None


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
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


def _document(graph: Graph, constants: io.BytesIO) -> dict[str, Any]:
    return {
        **HEADER,
        "torch": torch.__version__,
        "graph": _graph_data(graph, constants),
    }


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
    return Graph(str(data["name"]), inputs, tuple(nodes), outputs, fixed, frozenset(data["donated"]))


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
