"""The CNN of the comparison: two convolutions, pooling, dropout, two dense layers; 1,199,882 parameters.

Sizes and dropout rates follow PyTorch's MNIST example (pytorch/examples, mnist/main.py); the optimiser is that
example's earlier one, SGD with learning rate 0.01 and momentum 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.workload import Arrays, Rng, Workload, conv_parameters, dense_parameters, digit_batch


def init(rng: Rng) -> Arrays:
    """Parameters named as in a torch.nn.Module of the same layers."""
    return {
        **conv_parameters(rng, "conv1", 1, 32, 3),
        **conv_parameters(rng, "conv2", 32, 64, 3),
        **dense_parameters(rng, "fc1", 9216, 128),
        **dense_parameters(rng, "fc2", 128, 10),
    }


def predict(ops: Namespace, params: Mapping[str, Any], image: Any, key: Any) -> Any:
    """Logits (batch, 10) of images (batch, 1, 28, 28)."""
    x = ops.relu(ops.conv2d(image, params["conv1.weight"], params["conv1.bias"]))
    x = ops.relu(ops.conv2d(x, params["conv2.weight"], params["conv2.bias"]))
    x = ops.max_pool2d(x, kernel_size=2)
    x = ops.dropout2d(x, key, rate=0.25, stream=0)
    x = ops.flatten(x, start_dim=1)
    x = ops.relu(ops.linear(x, params["fc1.weight"], params["fc1.bias"]))
    x = ops.dropout(x, key, rate=0.5, stream=1)
    return ops.linear(x, params["fc2.weight"], params["fc2.bias"])


def loss(ops: Namespace, params: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
    """Mean negative log-likelihood of the labels (batch,)."""
    logits = predict(ops, params, batch["image"], key)
    return ops.nll_loss(ops.log_softmax(logits, dim=1), batch["label"])


WORKLOAD = Workload("cnn", init, digit_batch, loss, Sgd(lr=0.01, momentum=0.5), predict=predict, random=True)
