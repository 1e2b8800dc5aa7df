"""Training as one computation: softmax regression by SGD, the loop over steps being part of the program.

Batches of 200, 1000 steps, as in AutoGraph (Moldovan et al., MLSys 2019), on scikit-learn's digits. The gradient of
softmax regression is written out, so the loop is of plain ops: what is compared is the loop. The loss is that of one
more batch after training; its own gradient, by first weights and learning rate, goes back through all of training
(Maclaurin, Duvenaud and Adams, "Gradient-based hyperparameter optimization through reversible learning", 2015).

Knob: `steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.digits import sklearn_digits
from suites.workloads.workload import Arrays, Rng, Size, control_flow, dense_parameters

Values = Mapping[str, Any]
Weights = tuple[Any, Any]
SIZE = {"steps": 1000}
QUICK = {"steps": 100}
PIXELS, CLASSES = 784, 10


def init(_: Size, rng: Rng) -> Arrays:
    """`out.weight`, `out.bias`, and `rate`, the learning rate, (1,)."""
    return {**dense_parameters(rng, "out", PIXELS, CLASSES), "rate": np.array([0.01], np.float32)}


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`image` (digits, 784), `label` (digits,), and `chosen` (steps + 1, batch), which of them make each batch."""
    digits = sklearn_digits()
    count = len(digits.train_labels)
    return {
        "image": digits.train_images.reshape(count, PIXELS),
        "label": digits.train_labels,
        "chosen": rng.integers(0, count, (size["steps"] + 1, batch_size)),
    }


def predict(ops: Namespace, batch: Values, weights: Weights, chosen: Any) -> tuple[Any, Any, Any]:
    """The chosen images, their labels, and log-probabilities."""
    x, label = ops.embedding(batch["image"], chosen), ops.gather(batch["label"], chosen, dim=0)
    return x, label, ops.log_softmax(ops.linear(x, *weights), dim=1)


def learn(ops: Namespace, params: Values, batch: Values, weights: Weights, chosen: Any) -> Weights:
    """Weights after one step: cross-entropy's gradient by the logits is (probabilities - one-hot label) / batch."""
    x, label, found = predict(ops, batch, weights, chosen)
    rows = chosen.shape[0]
    minus_one = ops.full_like(found, shape=(rows, 1), value=-1.0)
    g = ops.scatter_add(ops.exp(found), ops.reshape(label, shape=(rows, 1)), minus_one, dim=1)
    step = params["rate"] * (1.0 / rows)
    by_weight = ops.matmul(ops.transpose(g, dim0=0, dim1=1), x)
    return weights[0] - step * by_weight, weights[1] - step * ops.sum(g, dim=0)


def tested(ops: Namespace, batch: Values, weights: Weights) -> Any:
    """Mean negative log-likelihood on the last batch."""
    _, label, found = predict(ops, batch, weights, batch["chosen"][-1])
    return ops.nll_loss(found, label)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's loop over steps. Nothing is read, so a graph traces every step."""
    weights, chosen = (params["out.weight"], params["out.bias"]), batch["chosen"]
    for t in range(chosen.shape[0] - 1):
        weights = learn(ops, params, batch, weights, chosen[t])
    return tested(ops, batch, weights)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A scan over the steps."""
    weights, _ = ops.scan(
        lambda weights, chosen: (learn(ops, params, batch, weights, chosen), None),
        (params["out.weight"], params["out.bias"]),
        batch["chosen"][:-1],
    )
    return tested(ops, batch, weights)


WORKLOAD = control_flow(
    "in_graph_training", init, batch, {"dynamic": dynamic, "static": static}, SIZE, quick=QUICK, reading=()
)
