"""A network with a side exit: what it is sure of leaves early, the rest goes on.

B-LeNet of BranchyNet (Teerapittayanon, McDanel and Kung, "BranchyNet: Fast inference via early exiting from deep neural
networks", ICPR 2016): an exit after the first of three convolutions; an image leaves there if the entropy of what the
exit says is under a threshold. The loss sums what each exit says of the images that reach it.

Knob: `exit_rate`, the share of each batch that leaves early. So that it can be set while weights are trained, the batch
gives each image a threshold that every entropy is under, or none; the decision is still taken on the computed entropy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import share, zeros
from suites.workloads.workload import (
    Arrays,
    Rng,
    Size,
    control_flow,
    conv_parameters,
    dense_parameters,
    digit_batch,
)

Values = Mapping[str, Any]
SIZE = {"exit_rate": 0.5}
CLASSES = 10


def init(_: Size, rng: Rng) -> Arrays:
    """Named by where they stand; as in the source, pooling rounds sizes up."""
    return {
        **conv_parameters(rng, "stem", 1, 5, 5),
        **conv_parameters(rng, "exit.conv", 5, 10, 3),
        **dense_parameters(rng, "exit.out", 640, CLASSES),
        **conv_parameters(rng, "conv1", 5, 10, 5),
        **conv_parameters(rng, "conv2", 10, 20, 5),
        **dense_parameters(rng, "hidden", 720, 84),
        **dense_parameters(rng, "out", 84, CLASSES),
    }


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """A batch of digits, and `threshold` (batch,)."""
    leaves = share(rng, batch_size, size["exit_rate"])
    threshold = np.where(leaves, 2.0 * math.log(CLASSES), -1.0).astype(np.float32)
    return {**digit_batch(rng, batch_size), "threshold": threshold}


def conv(ops: Namespace, params: Values, name: str, x: Any, padding: int) -> Any:
    """A convolution with bias."""
    return ops.conv2d(x, params[f"{name}.weight"], params[f"{name}.bias"], padding=padding)


def dense(ops: Namespace, params: Values, name: str, x: Any) -> Any:
    """A dense layer."""
    return ops.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def first_exit(ops: Namespace, params: Values, image: Any) -> tuple[Any, Any]:
    """Features (batch, 5, 30, 30), and the exit's log-probabilities (batch, 10)."""
    features = conv(ops, params, "stem", image, 3)
    x = ops.relu(ops.max_pool2d(features, kernel_size=2))
    x = ops.relu(ops.max_pool2d(conv(ops, params, "exit.conv", x, 1), kernel_size=2, padding=1))
    return features, ops.log_softmax(dense(ops, params, "exit.out", ops.flatten(x, start_dim=1)), dim=1)


def rest(ops: Namespace, params: Values, features: Any) -> Any:
    """Log-probabilities (rows, 10) of the last exit."""
    x = ops.relu(ops.max_pool2d(features, kernel_size=2))
    x = ops.relu(ops.max_pool2d(conv(ops, params, "conv1", x, 3), kernel_size=2, padding=1))
    x = ops.relu(ops.max_pool2d(conv(ops, params, "conv2", x, 3), kernel_size=2, padding=1))
    x = dense(ops, params, "hidden", ops.flatten(x, start_dim=1))
    return ops.log_softmax(dense(ops, params, "out", x), dim=1)


def leaves(ops: Namespace, log_probabilities: Any, batch: Values) -> Any:
    """Whether each image leaves at the first exit, (batch,)."""
    return -ops.sum(ops.exp(log_probabilities) * log_probabilities, dim=1) < batch["threshold"]


def wrong(ops: Namespace, log_probabilities: Any, label: Any) -> Any:
    """Negative log-likelihood of each row, (rows,)."""
    picked = ops.gather(log_probabilities, ops.reshape(label, shape=(-1, 1)), dim=1)
    return -ops.reshape(picked, shape=(-1,))


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """The rows that stay are picked out, and only they go on."""
    features, early = first_exit(ops, params, batch["image"])
    total = ops.sum(wrong(ops, early, batch["label"]))
    gone = leaves(ops, early, batch)
    count = len(gone.tolist())
    staying = count - sum(gone.tolist())
    if staying:
        rows = ops.argsort(gone, dim=0)[:staying]
        flat = ops.embedding(ops.flatten(features, start_dim=1), rows)
        late = rest(ops, params, ops.reshape(flat, shape=(staying, *features.shape[1:])))
        total = total + ops.sum(wrong(ops, late, ops.gather(batch["label"], rows, dim=0)))
    return total / count


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """The rest of the network runs for the whole batch, or not at all."""
    features, early = first_exit(ops, params, batch["image"])
    gone = leaves(ops, early, batch)
    late = ops.cond(
        ops.all(gone),
        lambda _: zeros(ops, early),
        lambda features: ops.sum(ops.where(gone, 0.0, wrong(ops, rest(ops, params, features), batch["label"]))),
        features,
    )
    return (ops.sum(wrong(ops, early, batch["label"])) + late) / gone.shape[0]


def masked(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """The rest of the network always runs, for the whole batch."""
    features, early = first_exit(ops, params, batch["image"])
    gone = leaves(ops, early, batch)
    late = ops.where(gone, 0.0, wrong(ops, rest(ops, params, features), batch["label"]))
    return ops.sum(wrong(ops, early, batch["label"]) + late) / gone.shape[0]


WORKLOAD = control_flow(
    "early_exit", init, batch, {"dynamic": dynamic, "static": static, "masked": masked}, SIZE, quick={}
)
