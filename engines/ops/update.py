"""Optimiser updates. They overwrite the storage of the parameters and of the optimiser's state, which they own."""

from __future__ import annotations

import torch

from engines.op import REQUIRED, Op


def _sgd_update(
    parameter: torch.Tensor, velocity: torch.Tensor, gradient: torch.Tensor, *, lr: float, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    velocity.mul_(momentum).add_(gradient)
    parameter.add_(velocity, alpha=-lr)
    return parameter, velocity


OPS = (
    Op(
        "sgd_update",  # v = momentum v + g; p = p - lr v (Sutskever et al., 2013, in torch.optim.SGD's form)
        _sgd_update,
        (None, None, None),
        attrs={"lr": REQUIRED, "momentum": 0.0},
        outputs=2,
        promotes=True,
        donates=(0, 1),
    ),
)
