"""Optimisers, written in ops: the same text updates a tape's parameters and becomes part of a graph.

sgd = Sgd(lr=0.01, momentum=0.5)
parameters, velocity = sgd.update(ops, parameters, velocity, gradients)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engines.op import Namespace


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent with momentum, as torch.optim.SGD defines it."""

    lr: float
    momentum: float = 0.0

    def state(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The velocity before the first step: zeros of the parameters' shapes."""
        return {name: torch.zeros_like(value) for name, value in parameters.items()}

    def update(
        self, ops: Namespace, parameters: Mapping[str, Any], velocity: Mapping[str, Any], gradients: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters and velocity after one step, in the storage of those given."""
        stepped = {
            name: ops.sgd_update(parameters[name], velocity[name], gradients[name], lr=self.lr, momentum=self.momentum)
            for name in parameters
        }
        return {name: pair[0] for name, pair in stepped.items()}, {name: pair[1] for name, pair in stepped.items()}
