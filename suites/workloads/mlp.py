"""A multilayer perceptron, 784-512-512-10 with dropout 0.2: the layers of Keras' mnist_mlp example; 669,706 parameters.

Nearly all of its work is matrix products, so it shows what a style costs where kernels leave little to gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.workload import Arrays, Rng, Workload, dense_parameters, digit_batch


def init(rng: Rng) -> Arrays:
    """Parameters named as in a torch.nn.Module of the same layers."""
    return {
        **dense_parameters(rng, "fc1", 784, 512),
        **dense_parameters(rng, "fc2", 512, 512),
        **dense_parameters(rng, "fc3", 512, 10),
    }


def predict(ops: Namespace, params: Mapping[str, Any], image: Any, key: Any) -> Any:
    """Logits (batch, 10) of images (batch, 1, 28, 28)."""
    x = ops.flatten(image, start_dim=1)
    x = ops.relu(ops.linear(x, params["fc1.weight"], params["fc1.bias"]))
    x = ops.dropout(x, key, rate=0.2, stream=0)
    x = ops.relu(ops.linear(x, params["fc2.weight"], params["fc2.bias"]))
    x = ops.dropout(x, key, rate=0.2, stream=1)
    return ops.linear(x, params["fc3.weight"], params["fc3.bias"])


def loss(ops: Namespace, params: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
    """Mean cross-entropy against the labels (batch,)."""
    return ops.cross_entropy(predict(ops, params, batch["image"], key), batch["label"])


WORKLOAD = Workload("mlp", init, digit_batch, loss, Sgd(lr=0.01, momentum=0.9), predict=predict, random=True)
