"""Triton lowering: the fused regions of a graph on CUDA as kernels, called from the generated Python.

    functions, source = on_gpu(graph)       # one function for each fused node's body, and the kernels' text
    outputs = functions[body](x, y)         # as its kernels would give, within rounding

A region becomes one kernel, or a few: a long one is cut into pieces, and sums that keep different dimensions have a
kernel each, which computes again what it needs. Without Triton, or where it refuses, there are no functions and the
graph runs on its kernels; that is said once.
"""

from __future__ import annotations

import hashlib
import linecache
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from engines.graph.control import all_nodes
from engines.graph.domain import domain
from engines.graph.fused import FUSED, interpret
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower import loops
from engines.graph.lower.compiler import say_once
from engines.graph.lower.native import Function, is_sound, updated_inputs
from engines.graph.lower.triton_formulas import ROWS, UPDATES
from engines.graph.lower.triton_kernel import Kernel, Nest, added_up, updated
from engines.graph.lower.triton_prelude import PRELUDE
from engines.graph.lower.walk import SUMS, Shape, goes_over, kept_shape, strides_in
from engines.op import kernels_only
from engines.value import EngineError, Spec

LONGEST = 64
"""Nodes of one kernel: what lives longer than a piece goes through memory rather than through spilled registers."""

MOST_UPDATES = 16
"""Parameters of one kernel."""


def on_gpu(graph: Graph) -> tuple[Mapping[Graph, Function], str]:
    """What each body of a fused node is as a function of its inputs, and the source that they come from."""
    bodies = dict.fromkeys(node.attrs["body"] for node in all_nodes(graph) if node.op is FUSED and is_sound(node))
    planned = {body: list(kernels(body)) for body in bodies if fits(body)}
    if not planned:
        return {}, ""
    module = Module()
    names = {body: module.add(f"fused_{number}", plan) for number, (body, plan) in enumerate(planned.items())}
    source = str(module)
    try:
        functions = load(source)
        made = {
            body: bound(
                [Launch(functions[name], kernel) for name, kernel in zip(names[body], plan, strict=True)],
                body,
                f"fused_{number}",
            )
            for number, (body, plan) in enumerate(planned.items())
        }
    except Exception as error:  # whatever Triton, its compiler or the driver raise, the kernels are there
        reason = str(error).strip().splitlines() or [type(error).__name__]
        say_once(f"Triton cannot be used: {reason[0]}: fused regions run as single kernels")
        return {}, source
    return made, source


def fits(body: Graph) -> bool:
    """Whether a region can be written here: alike nodes on one device, nothing read before it is whole."""
    domains = {domain(node) for node in body.nodes}
    sums = {var for node in body.nodes if node.op.name in SUMS for var in node.outputs}
    made = [var for node in body.nodes for var in node.outputs]
    results = list(body.outputs.values())
    whole = len(set(results)) == len(results) and set(results) <= set(made)
    apart = sums.isdisjoint(i for node in body.nodes for i in node.inputs if isinstance(i, Var))
    return len(domains) == 1 and None not in domains and not body.constants and whole and apart and loops.fits(body)


# From a region to kernels


def kernels(body: Graph) -> Iterator[Kernel]:
    """The kernels of a region, in the order in which they run."""
    if body.nodes[0].op.name in UPDATES:
        by_dtype: dict[torch.dtype, list[Node]] = {}
        for node in body.nodes:
            by_dtype.setdefault(node.outputs[0].spec.dtype, []).append(node)
        for nodes in by_dtype.values():
            yield from (updated(nodes[start : start + MOST_UPDATES]) for start in range(0, len(nodes), MOST_UPDATES))
        return
    last = {var: number for number, node in enumerate(body.nodes) for var in node.inputs if isinstance(var, Var)}
    results = set(body.outputs.values())
    for start in range(0, len(body.nodes), LONGEST):
        piece = body.nodes[start : start + LONGEST]
        made = [var for node in piece for var in node.outputs]
        yield from _piece(piece, [var for var in made if var in results or last.get(var, -1) >= start + LONGEST])


def _piece(nodes: Sequence[Node], wanted: Sequence[Var]) -> Iterator[Kernel]:
    """A kernel for what is wanted of all elements and the first kind of sum, and one for each other kind."""
    shape, dtype = goes_over(nodes[0])
    nodes = _needed(nodes, set(wanted))
    kinds: dict[Shape, list[Node]] = {}
    by_rows = any(node.op.name in ROWS for node in nodes)
    for node in nodes:
        if node.op.name in SUMS:
            kind = () if by_rows else strides_in(shape, kept_shape(node, shape))
            kinds.setdefault(kind, []).append(node)
    sums = list(kinds.values()) or [[]]
    divisors = {node.outputs[0]: _divisor(node, shape) for group in sums for node in group}
    stored = [var for node in nodes if node.op.name not in SUMS for var in node.outputs if var in wanted]
    for number, group in enumerate(sums):
        kept = [] if number else stored
        nest = Nest(_needed(nodes, {*kept, *(node.outputs[0] for node in group)}), shape, dtype, kept, divisors)
        yield nest.whole()
        yield from (added_up(node, parts, divisors[node.outputs[0]]) for node, parts in nest.parts.items())


def _needed(nodes: Sequence[Node], wanted: set[Var]) -> list[Node]:
    """The nodes without which something wanted would not come about."""
    found = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            found.append(node)
            wanted.update(i for i in node.inputs if isinstance(i, Var))
    return found[::-1]


def _divisor(node: Node, shape: Shape) -> float:
    """What a sum is divided by."""
    if node.op.name == "nll_loss":
        return float(shape[0])
    return math.prod(shape) / math.prod(node.outputs[0].spec.shape) if node.op.name == "mean" else 1.0


# From kernels to a function


class Module:
    """The text of a module of kernels: those that read alike stand there once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, name: str, plan: Sequence[Kernel]) -> list[str]:
        """Add a region's kernels; gives the name of each."""
        numbered = [name] if len(plan) == 1 else [f"{name}_{number}" for number in range(len(plan))]
        return [self._names.setdefault(kernel.text("_"), each) for each, kernel in zip(numbered, plan, strict=True)]

    def __str__(self) -> str:
        texts = [text.replace("def _(", f"def {name}(", 1) for text, name in self._names.items()]
        return "\n\n\n".join([PRELUDE.strip(), *texts, ""])


def load(source: str) -> Mapping[str, Any]:
    """The functions of a module of kernels. Raises ImportError without Triton."""
    file = f"<triton {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # Triton compiles from text
    scope: dict[str, Any] = {"__name__": file}
    # The text is ours, made above from op names of the table, sizes and names of files without control characters.
    exec(compile(source, file, "exec"), scope)  # noqa: S102
    return scope


class Launch(NamedTuple):
    """A loaded kernel, and how it is launched."""

    function: Any
    kernel: Kernel


def _loaded(compiled: Any, device: torch.device) -> None:
    """Load a compiled kernel: a first launch would, and then it is late to refuse, and forbidden in a capture."""
    if device.type == "cuda":
        getattr(compiled, "_init_handles", lambda: None)()


def is_elsewhere(device: torch.device) -> bool:
    """Whether this is a GPU other than the current one, where Triton would launch."""
    return device.type == "cuda" and device.index not in {None, torch.cuda.current_device()}


def bound(launches: Sequence[Launch], body: Graph, name: str) -> Function:
    """Kernels as one function of tensors. They are compiled here, not at the first call."""
    overwritten = updated_inputs(body)
    given, results = list(body.inputs.values()), list(body.outputs.values())
    device = torch.device(given[0].spec.device if given else results[0].spec.device)
    made = [var for var in results if var not in overwritten]
    between = [v for launch in launches for v in launch.kernel.values if v not in {*given, *results}]
    places = {var: number for number, var in enumerate([*given, *made, *dict.fromkeys(between)])}
    places |= overwritten
    fresh = [(var.spec.shape, var.spec.dtype) for var in [*made, *dict.fromkeys(between)]]
    steps = []
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for function, kernel in launches:
            numbers = [torch.tensor(n, dtype=kernel.dtype, device=device) for n in [kernel.numbers] if n]
            dtypes = [var.spec.dtype for var in kernel.values] + [tensor.dtype for tensor in numbers]
            _loaded(function.warmup(*dtypes, grid=(kernel.programs,), num_warps=kernel.warps), device)
            steps.append((function[(kernel.programs,)], [places[v] for v in kernel.values], numbers, kernel.warps))
    handed_out = [places[var] for var in results]
    checked = False

    def check(tensors: Sequence[torch.Tensor]) -> None:
        """Kernels trust the shapes that they were made for. They are the same at every call: one look is enough."""
        nonlocal checked
        for tensor, var in zip(tensors, given, strict=True):
            if Spec.of(tensor) != var.spec:
                where = body.nodes[-1].where
                raise EngineError(f"{name}: a region takes {var.spec}, found {Spec.of(tensor)}; from {where}")
        checked = True

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not checked:
            check(tensors)
        if not all(tensor.is_contiguous() for tensor in tensors):
            if body.donated:
                with kernels_only():
                    return interpret(tensors, body=body)
            tensors = tuple(tensor.contiguous() for tensor in tensors)
        memory = [*tensors, *(torch.empty(shape, dtype=dtype, device=device) for shape, dtype in fresh)]
        with torch.cuda.device(device) if is_elsewhere(device) else nullcontext():
            for launch, chosen, numbers, warps in steps:
                launch(*[memory[place] for place in chosen], *numbers, num_warps=warps)
        return tuple(memory[place] for place in handed_out)

    call.__name__ = name
    return call
