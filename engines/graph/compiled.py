"""A loss function that compiles itself as shapes come: the cache of executables, and the policy that says what to make.

step = Compiled(model.loss, quantity="step", optimizer=Sgd(lr=0.01))
loss = step(parameters, batch, key)["loss"]       # compiles at the first call, and again for each new shape
few = Compiled(model.loss, policy=Bucket(), varying=(Varying("length", (("tokens", 1),), most=64),))
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch

from engines.engine import LossFunction, Quantity, Varying
from engines.graph.compile import Build, compile_loss, graph_of_loss
from engines.graph.executable import Executable
from engines.graph.ir import Graph
from engines.graph.passes import PIPELINE, Pass
from engines.graph.shapes.cache import Cache
from engines.graph.shapes.fit import Fitted, fit
from engines.graph.shapes.policy import Exact, Policy, Symbolic
from engines.graph.shapes.probes import Sizes
from engines.graph.shapes.symbolic import SymbolicExecutable, symbolic
from engines.optim import Sgd
from engines.value import EngineError, Spec

Tensors = Mapping[str, torch.Tensor]


class Call(NamedTuple):
    """What one call is given: parameters, the batch made to fit, the key."""

    parameters: Tensors
    fitted: Fitted
    key: torch.Tensor | None

    @property
    def tensors(self) -> Tensors:
        """All inputs by name."""
        key = {} if self.key is None else {"key": self.key}
        return {**self.parameters, **self.fitted.batch, **key}


class Compiled:
    """A loss function with an executable for each set of shapes and dtypes it has met, as far as `policy` allows.

    Called with torch tensors on one device; for a step, `parameters` also holds the velocities, and both are updated
    in place. `varying` says which sizes of a batch may change: those alone does a policy round up or leave open.
    `build` lowers what is not symbolic. `phases` adds up the seconds spent compiling, by name. Raises EngineError.
    """

    def __init__(
        self,
        loss: LossFunction,
        *,
        quantity: Quantity = "loss_and_grad",
        optimizer: Sgd | None = None,
        passes: Sequence[Pass] = PIPELINE,
        build: Build = Executable.build,
        policy: Policy | None = None,
        varying: Sequence[Varying] = (),
        phases: dict[str, float] | None = None,
    ) -> None:
        self._loss = loss
        self._quantity: Quantity = quantity
        self._optimizer = optimizer
        self._passes = passes
        self._build = build
        self._policy: Policy = Exact() if policy is None else policy
        self._varying = tuple(varying)
        self._open = {place for each in varying for place in each.places} if self._is_symbolic else set()
        self.phases = {} if phases is None else phases
        self.executables: Cache[Executable | SymbolicExecutable] = Cache(self._policy.capacity)
        self._useful_elements = self._padded_elements = self._regions_on_kernels = 0

    @property
    def _is_symbolic(self) -> bool:
        return isinstance(self._policy, Symbolic)

    @property
    def counters(self) -> dict[str, int]:
        """Executables made, found and dropped, those held now, and the elements of varying entries, padding apart.

        With them `regions_on_kernels` of all that were made, if there are any.
        """
        cache = self.executables
        lost = {"regions_on_kernels": self._regions_on_kernels} if self._regions_on_kernels else {}
        return {
            "compilations": cache.made,
            "hits": cache.hits,
            "evictions": cache.evicted,
            "executables": len(cache),
            "useful_elements": self._useful_elements,
            "padded_elements": self._padded_elements,
            **lost,
        }

    def __call__(self, parameters: Tensors, batch: Tensors, key: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The outputs by name."""
        call = Call(parameters, fit(self._policy, self._varying, batch), key)
        executable = self._executable(call)
        self._useful_elements += call.fitted.useful_elements
        self._padded_elements += call.fitted.padded_elements
        if isinstance(executable, SymbolicExecutable):
            return executable.run_named(call.tensors, call.fitted.sizes)
        return executable.run_named(call.tensors)

    def prepare(self, parameters: Tensors, batch: Tensors, key: torch.Tensor | None) -> Graph:
        """Have the executable for such a batch made, and give its graph."""
        return self._executable(Call(parameters, fit(self._policy, self._varying, batch), key)).graph

    def _executable(self, call: Call) -> Executable | SymbolicExecutable:
        return self.executables.get(self._signature(call.tensors), lambda: self._compile(call))

    def _signature(self, tensors: Tensors) -> Hashable:
        """What an executable is made for: name, dtype, device and sizes of each input, but for those left open."""
        return tuple(
            (
                name,
                value.dtype,
                value.device,
                tuple(None if (name, dimension) in self._open else size for dimension, size in enumerate(value.shape))
                if self._open
                else value.shape,
            )
            for name, value in tensors.items()
        )

    def _compile(self, call: Call) -> Executable | SymbolicExecutable:
        weights = {name: Spec.of(v) for name, v in call.parameters.items() if not name.endswith(".velocity")}
        batch = {name: Spec.of(v) for name, v in call.fitted.batch.items()}
        key = None if call.key is None else Spec.of(call.key)
        if self._is_symbolic and self._varying:
            return self._compile_symbolic(weights, batch, key)
        executable = compile_loss(
            self._loss,
            weights,
            batch,
            key,
            quantity=self._quantity,
            optimizer=self._optimizer,
            passes=self._passes,
            build=self._build,
            phases=self.phases,
        )
        self._regions_on_kernels += executable.regions_on_kernels
        if self._policy.masks:
            self._check_masks(executable.graph)
        return executable

    def _compile_symbolic(
        self, weights: Mapping[str, Spec], batch: Mapping[str, Spec], key: Spec | None
    ) -> SymbolicExecutable:
        sizes = {place: each.name for each in self._varying for place in each.places}

        def build(wanted: Sizes) -> Graph:
            return graph_of_loss(
                self._loss,
                weights,
                {name: _resized(spec, name, sizes, wanted) for name, spec in batch.items()},
                key,
                quantity=self._quantity,
                optimizer=self._optimizer,
                phases=self.phases,
            )

        specs = [("", spec) for spec in weights.values()] + list(batch.items())
        others = {size for name, s in specs for d, size in enumerate(s.shape) if (name, d) not in sizes}
        return symbolic(build, self._varying, frozenset(others), self._passes, self.phases)

    def _check_masks(self, graph: Graph) -> None:
        """Refuse a model that takes no notice of which elements are padding: its loss would count them."""
        read = {operand for node in graph.nodes for operand in node.inputs}
        for each in self._varying:
            if graph.inputs[each.mask] not in read:
                raise EngineError(
                    f"{self._policy.name}: the loss {graph.name} does not depend on {each.mask!r}, so that padding "
                    f"along {each.name} would count; mask with it, from {graph.nodes[-1].where}"
                )


def _resized(spec: Spec, name: str, sizes: Mapping[tuple[str, int], str], wanted: Sizes) -> Spec:
    """A batch entry's spec where the sizes are the wanted ones."""
    shape = (
        wanted[sizes[name, dimension]] if (name, dimension) in sizes else size
        for dimension, size in enumerate(spec.shape)
    )
    return spec._replace(shape=tuple(shape))
