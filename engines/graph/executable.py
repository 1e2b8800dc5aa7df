"""An executable: a graph made ready for one set of shapes, dtypes and one device.

    executable = Executable.build(graph)
    (loss, *gradients) = executable(image, label, ...)        # inputs and outputs in the graph's order
    executable.save(path)
    Executable.load(path)(image, label, ...)                  # another process: nothing is traced

A saved file holds the graph as data (`stored.py`). Loading makes the program anew from the op table; no code is taken
from the file.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engines.graph.checked import checked
from engines.graph.control import all_nodes, map_bodies
from engines.graph.fused import FUSED, inline
from engines.graph.ir import Graph
from engines.graph.lifetimes import Memory
from engines.graph.lower.aten import Run, slots
from engines.graph.lower.control import Lowered
from engines.graph.lower.cuda_graph import Captured, CudaRecorder
from engines.graph.lower.frames import Frames
from engines.graph.lower.native import Function, native
from engines.graph.lower.triton import on_gpu
from engines.graph.plan_memory import plan_memory
from engines.graph.stored import GRAPH_ERRORS, ExecutableError, read, write
from engines.op import KERNEL_ERRORS, describe, kernels_only
from engines.ops.finite import Finite
from engines.value import EngineError, Spec

__all__ = ["Executable", "ExecutableError"]


def device_of(graph: Graph) -> torch.device:
    """Where a graph runs: where its inputs are."""
    return next((torch.device(var.spec.device) for var in graph.inputs.values()), torch.device("cpu"))


def _checker(specs: Sequence[Spec]) -> Callable[..., bool]:
    """Whether inputs have these shapes and dtypes, on these devices.

    Made from source text, as in `collections.namedtuple`: a loop over the specs takes half as long again, at each call.
    """
    names = [f"x{i}" for i in range(len(specs))]
    tests: list[str] = []
    scope: dict[str, Any] = {}
    for x, spec in zip(names, specs, strict=True):
        scope |= {f"shape_{x}": torch.Size(spec.shape), f"dtype_{x}": spec.dtype}
        scope[f"device_{x}"] = torch.device(spec.device)
        here = f"{x}.is_cpu" if spec.device == "cpu" else f"{x}.device == device_{x}"  # is_cpu makes no new object
        tests.append(f"{x}.shape == shape_{x} and {x}.dtype is dtype_{x} and {here}")
    exec(f"def alike({', '.join(names)}):\n    return {' and '.join(tests) or True}", scope)  # noqa: S102
    checker: Callable[..., bool] = scope["alike"]
    return checker


def regions_of(graph: Graph) -> tuple[Mapping[Any, Function], str]:
    """What each body of a fused node is as a function of its inputs, in C or Triton, and the source of all."""
    return on_gpu(graph) if device_of(graph).type == "cuda" else native(graph)


def left_to_kernels(graph: Graph, functions: Mapping[Any, Function], code: str) -> int:
    """How many regions and whole loops run on the kernels because nothing would compile their code."""
    if functions or not code:
        return 0
    return sum(node.op is FUSED or bool(node.attrs.get("whole")) for node in all_nodes(graph))


class Executable:
    """A callable made from a graph. `source` is the Python text that runs, `code` the C or Triton that it calls.

    `regions_on_kernels` is how many regions would run as `code`, had that been compiled.
    """

    def __init__(
        self, graph: Graph, lowered: Lowered, run: Run, code: str = "", *, regions_on_kernels: int = 0
    ) -> None:
        self.graph = graph
        self.source = "\n\n".join(lowered.sources)
        self.code = code
        self.regions_on_kernels = regions_on_kernels
        self._lowered = lowered
        self._captured: Captured | None = None
        self._looks_at_values = False
        self._needs_guard = True  # against torch's autograd, which takes notice of kernels alone
        self._run = run
        self._runs = graph  # as it was lowered
        self.frames = Frames((), 0)
        self._are_as_compiled = _checker([var.spec for var in graph.inputs.values()])

    @classmethod
    def build(cls, graph: Graph) -> Executable:
        """Lower a graph: fused regions to C or Triton where that can be compiled, all else to the kernels."""
        functions, code = regions_of(graph)

        def flat(part: Graph) -> Graph:
            return inline(part, lambda node: node.attrs["body"] not in functions)

        lowered = Lowered(functions=dict(functions))
        runs = flat(map_bodies(graph, flat, but=functions))
        if graph.plan is not None:
            runs = plan_memory(runs)  # which has other nodes where no C stands for a region
        run = lowered.add(runs)
        executable = cls(graph, lowered, run, code, regions_on_kernels=left_to_kernels(graph, functions, code))
        executable._runs = runs
        executable.frames = Frames(slots(runs), 0 if runs.plan is None else runs.plan.arena_bytes)
        executable._needs_guard = not all(node.attrs.get("body") in functions for node in all_nodes(graph))
        return executable

    @classmethod
    def checked(cls, graph: Graph, what: Finite = True) -> Executable:
        """Run node by node, through regions and sub-graphs; the first NaN or infinity is a NotFiniteError."""
        executable = cls(graph, Lowered(), checked(graph, what))
        executable._looks_at_values = True
        return executable

    def as_cuda_graph(self, held: Collection[str] = ()) -> Executable:
        """On CUDA, launch all of it as one CUDA graph from now on; elsewhere nothing changes. Gives the same object.

        `held` names inputs that are the same tensors at every call, as parameters are: they are read where they lie.
        """
        device = device_of(self.graph)
        if device.type == "cuda" and self._captured is None and not self._looks_at_values:
            self._run = self._captured = Captured(self._run, self.graph, held, CudaRecorder(device))
            self._needs_guard = True  # inputs are copied
        return self

    @property
    def cuda_graphs(self) -> int:
        """How many CUDA graphs stand for its launches: one, or none where it is not captured."""
        return int(self._captured is not None and self._captured.refusal is None)

    def prepare(self, *inputs: torch.Tensor) -> None:
        """Do now what the first call with such inputs would do once: capture a CUDA graph, if there is to be one."""
        if self._captured is not None:
            with kernels_only():
                self._captured.capture(*inputs)

    def counters(self) -> dict[str, int]:
        """Exact facts of a call's memory, in bytes or as a number of results; `regions_on_kernels`, if there are any.

        `bound_bytes` is the largest sum of values alive at once, `planned_bytes` what the plan needs, `arena_bytes` how
        much of that is kept from call to call; `own_results` get memory of their own at each call. A CUDA graph keeps
        all that it works in; torch's allocator counts `arena_kept_bytes` of it as in use between calls.
        """
        memory, plan = Memory.of(self._runs), self._runs.plan
        lost = {"regions_on_kernels": self.regions_on_kernels} if self.regions_on_kernels else {}
        if plan is None:
            captured = {} if self._captured is None else self._captured.memory()
            return {"bound_bytes": memory.peak_bytes, "own_results": len(memory.lives), **captured, **lost}
        return {
            "bound_bytes": memory.peak_bytes,
            "planned_bytes": plan.peak_bytes,
            "arena_bytes": plan.arena_bytes,
            "own_results": len(memory.lives.keys() - plan.places.keys()),
            **lost,
        }

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on tensors in the order of `graph.inputs`; gives those of `graph.outputs`. Raises EngineError."""
        try:
            alike = self._are_as_compiled(*inputs)
        except (AttributeError, TypeError):  # something else than a tensor, or too few or many
            alike = False
        if not alike:
            raise self._mismatch(inputs)
        frame = self.frames.take()
        try:
            if not self._needs_guard:
                return self._run(*frame, *inputs)
            with kernels_only():
                return self._run(*frame, *inputs)
        except KERNEL_ERRORS as error:
            raise self._refusal(error) from None
        finally:
            self.frames.give_back(frame)

    def _mismatch(self, inputs: Sequence[object]) -> EngineError:
        """Which input is not what this was compiled for."""
        expected = self.graph.inputs
        if len(inputs) != len(expected):
            return EngineError(f"{self.graph.name}: takes {len(expected)} inputs, found {len(inputs)}")
        name, given = next(
            (name, given)
            for (name, var), given in zip(expected.items(), inputs, strict=True)
            if not isinstance(given, torch.Tensor) or Spec.of(given) != var.spec
        )
        wanted, found = expected[name].spec, describe(given)
        return EngineError(f"{self.graph.name}: input {name!r} is compiled for {wanted}, found {found}")

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
        write(path, self.graph, self.code)

    @classmethod
    def load(cls, path: Path) -> Executable:
        """Read what `save` wrote. Raises ExecutableError for any other file, and for one made elsewhere."""
        graph, check_code = read(path)
        try:
            executable = cls.build(graph)
        except GRAPH_ERRORS as error:
            raise ExecutableError(f"{path}: not a graph that can run here: {error!r}") from None
        check_code(executable.code)
        return executable
