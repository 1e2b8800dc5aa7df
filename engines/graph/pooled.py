"""Which nodes around a max-pool are computed as one: the gradients of a plain convolution that feeds it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engines.graph.ir import Node, Var

POOL, BACK = "max_pool2d_with_indices", "max_pool2d_backward"
GRADIENTS = frozenset({"conv2d_weight", "conv2d_weight_bias", "conv2d_input"})


def is_small(var: Var) -> bool:
    """Four dimensions of float32 on a processor: what is written in C."""
    return var.spec.device == "cpu" and var.spec.dtype == torch.float32 and 0 not in var.spec.shape


def are_sparse_gradients(back: Node, readers: Sequence[Node]) -> bool:
    """Whether a max-pool's gradient is read by gradients of a plain convolution only, one by weight, one by input."""
    kinds = [node.op.name == "conv2d_input" for node in readers if node.op.name in GRADIENTS]
    whole = len(kinds) == len(readers) == len(set(kinds)) > 0
    return whole and all(node.inputs[0] is back.outputs[0] and _is_plain(node) for node in readers)


def _is_plain(node: Node) -> bool:
    """A convolution without stride, padding, dilation or groups."""
    wanted = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    found = {name: (v, v) if isinstance(v := node.attrs[name], int) else tuple(v) for name in wanted}
    return found == wanted and node.attrs["groups"] == 1
