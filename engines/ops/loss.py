"""Softmax and the losses built on it."""

from __future__ import annotations

from typing import Any

import torch

from engines.op import REQUIRED, Namespace, Op, direct, of_sizes

log_softmax_backward_data = direct(torch.ops.aten._log_softmax_backward_data.default)
softmax_backward_data = direct(torch.ops.aten._softmax_backward_data.default)
nll_loss_backward_data = direct(torch.ops.aten.nll_loss_backward.default)
MEAN = 1  # as torch's kernels number what is done with a sum
NEVER_IGNORED = -(1 << 31)  # torch skips labels equal to ignore_index (-100 by default); for us each must be a class


def _softmax_backward(g: torch.Tensor, y: torch.Tensor, *, dim: int) -> Any:
    return softmax_backward_data(g, y, dim, g.dtype)


def _log_softmax_backward(g: torch.Tensor, y: torch.Tensor, *, dim: int) -> Any:
    return log_softmax_backward_data(g, y, dim, g.dtype)


def _softmax_backward_y(ops: Namespace, c: Any, _out: Any, g: Any, y: Any, *, dim: int) -> Any:
    """y (g - sum(g y)) by y, contracted with c."""
    return c * (g - ops.sum(g * y, dim=dim, keepdim=True)) - g * ops.sum(c * y, dim=dim, keepdim=True)


def _log_softmax_backward_g(ops: Namespace, c: Any, _out: Any, _g: Any, y: Any, *, dim: int) -> Any:
    """g - exp(y) sum(g) by g, contracted with c."""
    return c - ops.sum(c * ops.exp(y), dim=dim, keepdim=True)


def _log_softmax_backward_y(ops: Namespace, c: Any, _out: Any, g: Any, y: Any, *, dim: int) -> Any:
    return -c * ops.exp(y) * ops.sum(g, dim=dim, keepdim=True)


def _nll_loss(log_probabilities: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    if log_probabilities.ndim != 2:
        raise ValueError(f"log-probabilities must be (batch, classes), found {tuple(log_probabilities.shape)}")
    return torch.nn.functional.nll_loss(log_probabilities, label, ignore_index=NEVER_IGNORED)


def _nll_loss_backward(g: torch.Tensor, label: torch.Tensor, *, shape: tuple[int, int]) -> torch.Tensor:
    x, count = of_sizes(shape, g), g.new_full((), max(shape[0], 1))
    gradient: torch.Tensor = nll_loss_backward_data(g, x, label, None, MEAN, NEVER_IGNORED, count)
    return gradient


OPS = (
    Op(
        "softmax",
        torch.softmax,
        (lambda ops, g, out, _x, dim: ops.softmax_backward(g, out, dim=dim),),
        attrs={"dim": REQUIRED},
    ),
    Op(
        "softmax_backward",
        _softmax_backward,
        (lambda ops, c, _out, _g, y, dim: ops.softmax_backward(c, y, dim=dim), _softmax_backward_y),
        attrs={"dim": REQUIRED},
    ),
    Op(
        "log_softmax",
        torch.log_softmax,
        (lambda ops, g, out, _x, dim: ops.log_softmax_backward(g, out, dim=dim),),
        attrs={"dim": REQUIRED},
    ),
    Op(
        "log_softmax_backward",
        _log_softmax_backward,
        (_log_softmax_backward_g, _log_softmax_backward_y),
        attrs={"dim": REQUIRED},
    ),
    Op(
        "nll_loss",  # the mean of -log_probabilities[i, label[i]]
        _nll_loss,
        (lambda ops, g, _out, x_shape, label: ops.nll_loss_backward(g, label, shape=x_shape), None),
    ),
    Op(
        "nll_loss_backward",
        _nll_loss_backward,
        (lambda ops, c, _out, _g, label, shape: ops.nll_loss(c, label), None),
        attrs={"shape": REQUIRED},
    ),
)


def cross_entropy(ops: Namespace, logits: Any, label: Any) -> Any:
    """Mean cross-entropy of logits (batch, classes) against labels (batch,), int64."""
    return ops.nll_loss(ops.log_softmax(logits, dim=1), label)


COMPOSITES = (cross_entropy,)
