"""What a loop region goes over, and which nodes may join one: those computed element by element, or row by row.

domain(node)     # Domain(shape=(64, 128), dtype=torch.float32, device='cpu'), or None for a node that must stand alone
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from engines.graph.ir import Node, Operand, Var

FLOATS = (torch.float32, torch.float64)

DEVICES = ("cpu", "cuda")
"""Kinds of devices for which regions can be lowered."""

BINARY = frozenset({"add", "sub", "mul", "div", "maximum", "minimum"})
SLOPES = frozenset({"tanh_backward", "sigmoid_backward", "relu_backward"})
UNARY = frozenset({"neg", "abs", "sign", "exp", "sqrt", "tanh", "sigmoid", "relu"})
COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})
CHOICES = frozenset({"where", "logical_not", "cast"})
BROADCASTING = BINARY | SLOPES | COMPARISONS | {"where"}
SOURCES = frozenset({"full_like", "dropout_mask"})
ROWWISE = frozenset({"log_softmax", "log_softmax_backward", "softmax", "softmax_backward", "nll_loss_backward"})
REDUCTIONS = frozenset({"sum", "mean", "sum_to", "nll_loss"})
UPDATES = frozenset({"sgd_update"})

MAPS = BROADCASTING | UNARY | CHOICES | SOURCES | ROWWISE | {"power"}
"""Ops with one result for each element of a region, or for each of its rows."""

ALONE = UPDATES | {"dropout_mask"}
"""Ops whose kernel goes over its elements several times, so that a region gains even without a neighbour."""

EXPONENTS = (0.5, 2.0, 3.0, -0.5, -1.0, -2.0)
"""Exponents that are a few multiplications, divisions or a root, as in torch's own kernel."""

LARGEST_SUM = 16384
"""Elements of the largest reduction: each thread keeps them all."""

LONGEST_ROW = 16384
"""Elements of the longest row that is kept in a thread's own memory."""


class Domain(NamedTuple):
    """What a region goes over: a shape (None for updates, each of a shape of its own) in one dtype on one device."""

    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    device: str


Domains = Mapping[Node, Domain | None]


def domain(node: Node) -> Domain | None:
    """What a node that may join a region goes over; None for any other."""
    name = node.op.name
    devices = {var.spec.device for var in _values(node)}
    device = devices.pop() if len(devices) == 1 else ""
    if not device.startswith(DEVICES) or any(math.prod(var.spec.shape) == 0 for var in _values(node)):
        return None
    if name in UPDATES:
        return Domain(None, None, device) if node.outputs[0].spec.dtype in FLOATS else None
    if name not in MAPS and name not in REDUCTIONS:
        return None
    if not RULES.get(name, _is_plain)(node):
        return None
    shape = _shape(node.inputs[0]) if name in REDUCTIONS else node.outputs[0].spec.shape
    dtypes = {var.spec.dtype for var in _values(node) if var.spec.dtype.is_floating_point}
    if len(dtypes) != 1 or not dtypes <= set(FLOATS):
        return None
    return Domain(shape, dtypes.pop(), device)


def _values(node: Node) -> list[Var]:
    return [i for i in (*node.inputs, *node.outputs) if isinstance(i, Var)]


def _shape(operand: Operand) -> tuple[int, ...]:
    return operand.spec.shape if isinstance(operand, Var) else ()


def _is_plain(node: Node) -> bool:
    """All values are floats or truth values, and none is missing."""
    kinds = all(var.spec.dtype in (*FLOATS, torch.bool) for var in _values(node))
    return kinds and all(isinstance(i, (Var, int, float)) for i in node.inputs)


def _is_power(node: Node) -> bool:
    base, exponent = node.inputs
    return isinstance(base, Var) and isinstance(exponent, (int, float)) and float(exponent) in EXPONENTS


def _is_cast(node: Node) -> bool:
    (given,) = node.inputs
    return isinstance(given, Var) and given.spec.dtype == torch.bool and node.outputs[0].spec.dtype in FLOATS


def _is_truth(node: Node) -> bool:
    """logical_not, which has a float type only if its input has."""
    (given,) = node.inputs
    return isinstance(given, Var) and given.spec.dtype in FLOATS


def _is_sum(node: Node) -> bool:
    (given,), (out,) = node.inputs, node.outputs
    if not isinstance(given, Var) or given.spec.dtype != out.spec.dtype:
        return False
    return (
        given.spec.dtype in FLOATS and math.prod(out.spec.shape) <= LARGEST_SUM and given.spec.shape != out.spec.shape
    )


def _is_row(node: Node) -> bool:
    shape = node.outputs[0].spec.shape
    return len(shape) == 2 and shape[1] <= LONGEST_ROW and node.attrs["dim"] in (1, -1) and _is_plain(node)


def _is_picked(node: Node) -> bool:
    """nll_loss and its gradient: rows, and a label for each."""
    shape = _shape(node.inputs[0]) if node.op.name == "nll_loss" else node.outputs[0].spec.shape
    given, label = node.inputs
    short = len(shape) == 2 and shape[1] <= LONGEST_ROW
    return short and isinstance(given, Var) and isinstance(label, Var) and label.spec.dtype == torch.int64


RULES: Mapping[str, Callable[[Node], bool]] = {
    "power": _is_power,
    "cast": _is_cast,
    "logical_not": _is_truth,
    "dropout_mask": lambda node: node.outputs[0].spec.dtype in FLOATS,
    "full_like": lambda node: node.outputs[0].spec.dtype in FLOATS,
    "sum": _is_sum,
    "mean": _is_sum,
    "sum_to": _is_sum,
    "log_softmax": _is_row,
    "log_softmax_backward": _is_row,
    "softmax": _is_row,
    "softmax_backward": _is_row,
    "nll_loss": _is_picked,
    "nll_loss_backward": _is_picked,
}
"""Ops with conditions of their own."""
